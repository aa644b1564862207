//! What of a round's outcome is to be tried in the namespaces.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Converger;
use crate::probing::Trial;
use crate::runtime::derived;
use crate::runtime::local::LocalAttachment;
use crate::runtime::probing::Target;
use crate::runtime::spaces::resolver_address;

/// What is to be tried, kept while it cannot have changed: with a thousand attachments it is a lot to say each round.
#[derive(Debug, Default)]
pub(super) struct Targets {
    basis: Basis,
    /// For each attachment: without and with its names.
    by_place: Vec<[Option<Arc<Target>>; 2]>,
}

/// What it follows from.
#[derive(Debug, Default, PartialEq, Eq)]
struct Basis {
    local: u64,
    definitions: u64,
    opened: u64,
    domain: String,
}

impl Converger {
    /// Has tried what this round left in force. What is known to fail, and what an earlier agent made and is not looked
    /// after yet, is not tried.
    pub(super) fn show_trials(&mut self) {
        let domain = self.agent.settings.load().domain.clone();
        let opened = *self.agent.opened_revision.borrow();
        let basis = Basis { local: self.local.revision(), definitions: self.definitions, opened, domain };
        let mut known = std::mem::take(&mut self.targets);
        if known.basis != basis {
            known = Targets { basis, by_place: vec![Default::default(); self.local.len()] };
        }
        let domain = &known.basis.domain;
        let mut asked = BTreeSet::new();
        let mut targets = Vec::with_capacity(self.local.len());
        for (record, known) in self.local.iter().zip(&mut known.by_place) {
            if !self.stands(record) {
                continue;
            }
            let first = asked.insert(record.cookie);
            let target =
                known[usize::from(first)].get_or_insert_with(|| Arc::new(self.target(record, domain, first)));
            targets.extend((!target.trials.is_empty()).then(|| Arc::clone(target)));
        }
        self.targets = known;
        self.agent.probed.send_if_modified(|shown| {
            let differs = **shown != targets;
            if differs {
                *shown = Arc::new(targets);
            }
            differs
        });
    }

    /// Whether an attachment of this host does not stand.
    fn is_fenced(&self, record: &LocalAttachment) -> bool {
        !self.fenced.is_empty() && self.fenced.contains_key(&(record.network.clone(), record.name.clone()))
    }

    /// All hosts know it, and all that it needs is there as far as this host can read.
    fn stands(&self, record: &LocalAttachment) -> bool {
        let balanced = |problems: &Vec<(String, String)>| {
            !problems.iter().any(|(object, _)| object.ends_with("/balancer"))
        };
        let view = self.views.get(&record.network).and_then(|view| view.attachments.get(&record.name));
        let known = view.is_some_and(|it| {
            it.owner == self.agent.identity.node
                && record.addresses.iter().all(|address| it.addresses.contains(address))
        });
        known
            && self.spaces.containers.contains_key(&record.cookie)
            && !self.is_fenced(record)
            && !self.adopted.contains(&record.cookie)
            && self.balancer_problems.get(&record.cookie).is_none_or(balanced)
    }

    /// Names are tried once for a namespace, VIPs for each network that it is on.
    fn target(&self, record: &LocalAttachment, domain: &str, first: bool) -> Target {
        let mut trials = Vec::new();
        let resolver = self.spaces.containers.get(&record.cookie).and_then(|it| it.resolver.as_ref());
        if let (true, Some(resolver), Some(address)) = (first, resolver, record.addresses.first()) {
            trials.push(Trial::Names {
                resolver: SocketAddr::new(resolver_address().ip(), resolver.port),
                address: *address,
                name: format!("{}.{}.{domain}", record.name, record.network).to_ascii_lowercase(),
            });
        }
        let vips = self.views.get(&record.network).map(|view| derived::trials(view, &record.addresses));
        trials.extend(vips.into_iter().flatten().map(|(vip, own)| Trial::Vip { vip, own }));
        let object = format!("probe/{}/{}", record.network, record.name);
        Target { cookie: record.cookie, object, trials }
    }
}
