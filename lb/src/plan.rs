//! The decision: what the next transaction of a table is. Pure; no I/O, no clock.
use std::collections::BTreeMap;

use crate::address::Address;
use crate::element::{Chain, Element, Endpoint};
use crate::mirror::{Entry, Mirror, PortEntry};
use crate::slots::{Shares, step};
use crate::transaction::Transaction;
use crate::wanted::{Scope, Wanted, WantedVip};

/// The next transaction, and what has to wait for a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<A> {
    /// What to commit now.
    pub transaction: Transaction<A>,
    /// VIPs that need a further step after it.
    pub unsettled: Vec<A>,
    /// Something is left to do after it.
    pub pending: bool,
}

/// Plans the next transaction from what the table holds towards what is wanted. `None` = there is no usable table:
/// it is made anew.
pub fn plan<A: Address>(wanted: &Wanted<A>, mirror: Option<&Mirror<A>>) -> Plan<A> {
    let empty = Mirror::default();
    let mut transaction = Transaction { rebuild: mirror.is_none(), ..Transaction::default() };
    let mirror = mirror.unwrap_or(&empty);
    difference(&mirror.redirects, &wanted.redirects, &mut transaction, |at, port| Element::Redirect {
        at,
        port,
    });
    let back = |(at, port): (&Endpoint<A>, &u16)| (Endpoint { port: *port, ..*at }, at.port);
    let answers: BTreeMap<Endpoint<A>, u16> = wanted.redirects.iter().map(back).collect();
    difference(&mirror.answers, &answers, &mut transaction, |at, port| Element::Answer { at, port });
    difference(&mirror.ranges, &wanted.ranges, &mut transaction, |first, (last, own)| Element::Range {
        first,
        last,
        own,
    });
    let mut unsettled = Vec::new();
    let mut visit = |vip: A, wanted: Option<&WantedVip<A>>| {
        if !plan_vip(vip, mirror.vips.get(&vip), wanted, &mut transaction) {
            unsettled.push(vip);
        }
    };
    match &wanted.scope {
        Scope::Some(vips) => vips.iter().for_each(|(vip, wanted)| visit(*vip, wanted.as_ref())),
        Scope::All(vips) => {
            let surplus = mirror.vips.keys().filter(|vip| !vips.contains_key(vip));
            surplus.for_each(|vip| visit(*vip, None));
            vips.iter().for_each(|(vip, wanted)| visit(*vip, Some(wanted)));
        }
    }
    let unused = plan_chains(mirror, &mut transaction, unsettled.is_empty());
    let pending = unused || !unsettled.is_empty();
    Plan { transaction, unsettled, pending }
}

/// Adds the chains that the transaction's elements go to; deletes unused ones once nothing else is left to do, so
/// that nobody can still be on the way to them. Says whether some are left to delete.
fn plan_chains<A: Address>(mirror: &Mirror<A>, transaction: &mut Transaction<A>, settled: bool) -> bool {
    let idle = settled && transaction.is_empty();
    let needed = transaction.add.iter().filter_map(Element::chain).chain(mirror.spoilt.iter().copied());
    let mut add: Vec<Chain> =
        needed.chain(Chain::fixed()).filter(|chain| !mirror.chains.contains(chain)).collect();
    // Base chains last: what they go to is there first.
    add.sort_unstable_by(|a, b| b.cmp(a));
    add.dedup();
    transaction.add_chains = add;
    let present = mirror.chains.iter().chain(&mirror.spoilt);
    let unused = present.filter(|chain| !chain.is_fixed() && !mirror.users.contains_key(chain));
    if idle {
        transaction.delete_chains = unused.copied().collect();
        transaction.add_chains.retain(|chain| !transaction.delete_chains.contains(chain));
        return false;
    }
    // An element deleted now may have been a chain's last; whoever comes back finds out.
    unused.count() > 0 || transaction.delete.iter().any(|element| element.chain().is_some())
}

/// Deletes and adds so that the elements of one kind become the wanted ones.
fn difference<A, K: Ord + Copy, V: PartialEq + Copy>(
    present: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    transaction: &mut Transaction<A>,
    element: impl Fn(K, V) -> Element<A>,
) {
    let stale = present.iter().filter(|(key, value)| wanted.get(key) != Some(value));
    transaction.delete.extend(stale.map(|(key, value)| element(*key, *value)));
    let missing = wanted.iter().filter(|(key, value)| present.get(key) != Some(value));
    transaction.add.extend(missing.map(|(key, value)| element(*key, *value)));
}

/// One step for one VIP. Says whether none is left.
fn plan_vip<A: Address>(
    vip: A,
    entry: Option<&Entry<A>>,
    wanted: Option<&WantedVip<A>>,
    transaction: &mut Transaction<A>,
) -> bool {
    let empty = Entry::default();
    let entry = entry.unwrap_or(&empty);
    let nobody = Shares::new();
    let shares = wanted.map_or(&nobody, |wanted| &wanted.shares);
    let step = step(&entry.slots, entry.linked(), shares);
    for (slot, replica) in &step.write {
        let previous = entry.slots.get(usize::from(*slot)).copied().unwrap_or(A::UNSPECIFIED);
        if previous != A::UNSPECIFIED {
            transaction.delete.push(Element::Slot { vip, slot: *slot, replica: previous });
        }
        transaction.add.push(Element::Slot { vip, slot: *slot, replica: *replica });
    }
    for (slot, replica) in (0_u16..).zip(entry.slots.iter()).skip(usize::from(step.keep)) {
        if *replica != A::UNSPECIFIED {
            transaction.delete.push(Element::Slot { vip, slot, replica: *replica });
        }
    }
    let ports = wanted.map_or(&[][..], |wanted| &wanted.ports);
    link(vip, entry, step.class, ports, transaction);
    step.settled
}

/// Makes the VIP's ways in lead to `class`; 0 = there are none.
fn link<A: Address>(
    vip: A,
    entry: &Entry<A>,
    class: u16,
    ports: &[crate::Port],
    transaction: &mut Transaction<A>,
) {
    let (whole, echo) = if ports.is_empty() { (class, 0) } else { (0, class) };
    replace(entry.class, whole, transaction, |slots| Element::Vip { vip, slots });
    replace(entry.echo, echo, transaction, |slots| Element::Echo { vip, slots });
    if entry.served != (whole > 0) {
        let side = if entry.served { &mut transaction.delete } else { &mut transaction.add };
        side.push(Element::Served { vip });
    }
    let wanted = if class > 0 { ports } else { &[] };
    for port in &entry.ports {
        if !wanted.iter().any(|wanted| (wanted.protocol, wanted.public) == (port.protocol, port.public)) {
            link_port(vip, port, 0, None, transaction);
        }
    }
    for port in wanted {
        let absent = PortEntry { protocol: port.protocol, public: port.public, class: 0, target: None };
        let key = (port.protocol, port.public);
        let present = entry.ports.binary_search_by_key(&key, |port| (port.protocol, port.public));
        let present = present.map_or(&absent, |place| &entry.ports[place]);
        link_port(vip, present, class, Some(port.target), transaction);
    }
}

fn link_port<A: Address>(
    vip: A,
    present: &PortEntry,
    class: u16,
    target: Option<u16>,
    transaction: &mut Transaction<A>,
) {
    let at = Endpoint { address: vip, protocol: present.protocol, port: present.public };
    replace(present.class, class, transaction, |slots| Element::VipPort { at, slots });
    if present.target != target {
        transaction.delete.extend(present.target.map(|port| Element::Target { at, port }));
        transaction.add.extend(target.map(|port| Element::Target { at, port }));
    }
}

/// Deletes the element of the old class and adds that of the new one; 0 = none.
fn replace<A>(old: u16, new: u16, transaction: &mut Transaction<A>, element: impl Fn(u16) -> Element<A>) {
    if old != new {
        transaction.delete.extend((old > 0).then(|| element(old)));
        transaction.add.extend((new > 0).then(|| element(new)));
    }
}

#[cfg(test)]
mod tests;
