//! The services as last declared: what a new declaration changes, found by comparing pointers.
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::wanted::{problems, servable, usable};
use crate::{Problem, Service, Vips};

/// The services as last declared.
#[derive(Debug, Default)]
pub(crate) struct Services {
    declared: Vec<Arc<Service>>,
    /// The service of each VIP.
    pub(crate) by_vip: Vips,
    /// What is wrong with each service, by name; services without fault have no entry.
    problems: BTreeMap<String, Vec<Problem>>,
    contested: bool,
}

/// What was declared, and what is declared instead.
pub(crate) type Pair = (Option<Arc<Service>>, Option<Arc<Service>>);

/// What a declaration changed.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// VIPs whose service is another one now, or none.
    pub(crate) vips: Vec<IpAddr>,
    /// Every VIP may have changed hands: two services claim, or claimed, the same one.
    pub(crate) everything: bool,
    /// The services that differ.
    pub(crate) pairs: Vec<Pair>,
}

impl Services {
    /// Takes the new declaration. Both are expected sorted by name; in any other order the result is the same and
    /// only costs more.
    pub(crate) fn declare(&mut self, services: &[Arc<Service>]) -> Change {
        let pairs = self.pairs(services);
        let contested_before = self.contested;
        let mut change = Change { pairs, ..Change::default() };
        for old in change.pairs.iter().filter_map(|(old, _)| old.as_ref()) {
            self.problems.remove(&old.name);
            for vip in &old.vips {
                change.vips.push(*vip);
                self.by_vip.replace(*vip, old, None);
            }
        }
        for new in change.pairs.iter().filter_map(|(_, new)| new.as_ref()) {
            change.vips.extend_from_slice(&new.vips);
            self.claim(new);
        }
        change.vips.sort_unstable();
        change.vips.dedup();
        if (self.contested || contested_before) && !change.pairs.is_empty() {
            self.settle();
            change.everything = true;
        }
        change
    }

    /// What is wrong with the services.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Sets aside what is the same pointer at both ends, which is nearly everything, and walks the rest of both
    /// lists side by side by name.
    fn pairs(&mut self, services: &[Arc<Service>]) -> Vec<Pair> {
        let same = |(old, new): &(&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(old, new);
        let prefix = self.declared.iter().zip(services).take_while(same).count();
        let (old, new) = (&self.declared[prefix..], &services[prefix..]);
        let suffix = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
        let new = &new[..new.len() - suffix];
        let range = prefix..self.declared.len() - suffix;
        let old: Vec<Arc<Service>> = self.declared.splice(range, new.iter().map(Arc::clone)).collect();
        self.walk(old, new)
    }

    fn walk(&mut self, old: Vec<Arc<Service>>, new: &[Arc<Service>]) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let (mut old, mut new) = (old.into_iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return pairs,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => std::cmp::Ordering::Equal,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (&before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
                (Some(before), Some(after)) if before == after => self.adopt_pointer(before, after),
                _ => pairs.push((before, after.map(Arc::clone))),
            }
        }
    }

    /// Another pointer to an equal service: nothing changes but whom the index points to.
    fn adopt_pointer(&mut self, before: &Arc<Service>, after: &Arc<Service>) {
        for vip in &after.vips {
            self.by_vip.replace(*vip, before, Some(after));
        }
    }

    /// Enters the service for its VIPs, unless another one has them.
    fn claim(&mut self, service: &Arc<Service>) {
        let mut found = problems(service);
        for vip in service.vips.iter().filter(|vip| usable(**vip) && servable(service)) {
            let owner = self.by_vip.claim(*vip, service);
            if !Arc::ptr_eq(owner, service) {
                self.contested = true;
                let reason = format!("its VIP {vip} is also one of {}, which keeps it", owner.name);
                found.push(Problem { object: service.name.clone(), reason });
            }
        }
        if !found.is_empty() {
            self.problems.insert(service.name.clone(), found);
        }
    }

    /// Gives every contested VIP to the service whose name comes first, whatever the order of events was.
    fn settle(&mut self) {
        self.by_vip.clear();
        self.problems.clear();
        self.contested = false;
        let mut services = self.declared.clone();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut seen = HashSet::new();
        for service in &services {
            if seen.insert(Arc::as_ptr(service)) {
                self.claim(service);
            }
        }
    }
}
