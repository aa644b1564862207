//! What must hold whatever goes wrong, and what must hold again soon after nothing does.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::cluster::Cluster;
use crate::catalog::TOMBSTONES_MAX;
use crate::catalog::facts::{AttachmentFact, ClaimKey, Key, Taken, Value};
use crate::claims::{ClaimState, Leaving, Member, Place, conflicts};
use crate::model::{Head, Name, NodeId, Stamp};
use crate::runtime::claiming::steps;
use crate::runtime::state::State;
use crate::view::{Conflict, NetworkView, View};

/// More entries of one owner, or promises, than a run as short as these can have use for.
pub(super) const HELD_MAX: usize = 1_000;

/// What all say of one creation of a name: the greatest revision.
type Births<T> = BTreeMap<(Name, Option<Name>, Stamp), (Stamp, bool, T)>;

fn assert_birth<T>(births: &mut Births<T>, key: (Name, Option<Name>, Stamp), said: (Stamp, bool, T)) {
    match births.get(&key) {
        Some(known) if (known.0, known.1) >= (said.0, said.1) => {}
        _ => drop(births.insert(key, said)),
    }
}

/// An attachment that has an address.
struct Holder {
    at: usize,
    name: Name,
    fact: AttachmentFact,
}

impl Cluster {
    /// Each host that counts and what it knows, or knew when it went down.
    fn look<R>(&self, mut look: impl FnMut(usize, NodeId, &State) -> R) -> Vec<R> {
        let mut seen = Vec::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let host = host.borrow();
            if let Some(state) = host.state().filter(|_| !self.gone.borrow().contains(&host.node)) {
                seen.push(look(at, host.node, state));
            }
        }
        seen
    }

    /// What is unique serves one thing only, at any time.
    pub(super) fn check(&self) {
        self.check_addresses();
        self.check_definitions();
        self.check_claims();
        self.check_bounds();
    }

    fn check_addresses(&self) {
        let mut holders: BTreeMap<(Name, IpAddr), Vec<Holder>> = BTreeMap::new();
        self.look(|at, node, state| {
            let Some(owner) = state.catalog.owner(node) else { return };
            for key in owner.keys() {
                let Key::Attachment { network, name } = key else { continue };
                let Some(Value::Attachment(fact)) = owner.get(key) else { continue };
                for address in &fact.addresses {
                    let holder = Holder { at, name: name.clone(), fact: fact.clone() };
                    holders.entry((network.clone(), *address)).or_default().push(holder);
                }
            }
        });
        for ((network, address), holders) in &holders {
            self.check_holders(network, *address, holders);
        }
    }

    /// An address is given to one, by who holds its block, and taken over by one, from whoever had it before: he is fenced
    /// when he returns. On the other side of a cut it may have been freed and given anew, and is fenced likewise.
    fn check_holders(&self, network: &Name, address: IpAddr, holders: &[Holder]) {
        let object = Taken::Address(address);
        let all = holders.iter().flat_map(|it| &it.fact.succeeds);
        let succeeded: BTreeSet<Stamp> = all.filter(|it| it.object == object).map(|it| it.from).collect();
        let (took, given): (Vec<&Holder>, Vec<&Holder>) =
            holders.iter().partition(|it| it.fact.took(&object));
        let took: Vec<&Holder> = took.into_iter().filter(|it| !succeeded.contains(&it.fact.since)).collect();
        for rivals in [took, given] {
            if rivals.len() > 1 {
                let told: Vec<_> = rivals.iter().map(|it| (it.at, &it.name, &it.fact)).collect();
                self.violated(format!("{address} of {network} serves {told:?}"));
            }
        }
    }

    /// As [`Cluster::check_addresses`], of one.
    pub(super) fn check_address(&self, network: &Name, address: IpAddr) {
        let holders = self.look(|at, node, state| {
            let mut holders = state.catalog.holders(network, address);
            let (name, _) = holders.find(|(_, owner)| *owner == node)?;
            let (_, fact) = state.catalog.attachment(network, name).find(|(owner, _)| *owner == node)?;
            Some(Holder { at, name: name.clone(), fact: AttachmentFact::clone(fact) })
        });
        let holders: Vec<Holder> = holders.into_iter().flatten().collect();
        self.check_holders(network, address, &holders);
    }

    /// VNIs and VIPs, over everything that anybody asserts.
    fn check_definitions(&self) {
        let (mut networks, mut services) = (Births::<u32>::new(), Births::<Vec<IpAddr>>::new());
        self.look(|_, node, state| {
            let Some(owner) = state.catalog.owner(node) else { return };
            for key in owner.keys() {
                match (key, owner.get(key)) {
                    (Key::Network { name, born }, Some(Value::Network(it))) => {
                        let said = (it.revision, it.removed, it.vni);
                        assert_birth(&mut networks, (name.clone(), None, *born), said);
                    }
                    (Key::Service { network, name, born }, Some(Value::Service(it))) => {
                        let said = (it.revision, it.removed, it.vips);
                        let key = (network.clone(), Some(name.clone()), *born);
                        assert_birth(&mut services, key, said);
                    }
                    _ => {}
                }
            }
        });
        let mut vnis: BTreeMap<u32, Name> = BTreeMap::new();
        for ((name, _, _), (_, _, vni)) in networks.iter().filter(|(_, it)| !it.1) {
            let other = vnis.insert(*vni, name.clone());
            if let Some(other) = other.filter(|other| other != name) {
                self.violated(format!("VNI {vni} serves {other} and {name}"));
            }
        }
        let mut vips: BTreeMap<(&Name, IpAddr), (&Name, Stamp)> = BTreeMap::new();
        for ((network, name, born), (_, _, of)) in services.iter().filter(|(_, it)| !it.1) {
            let Some(name) = name else { continue };
            for vip in of {
                if let Some(other) = vips.insert((network, *vip), (name, *born)) {
                    self.violated(format!("VIP {vip} of {network} serves {other:?} and {:?}", (name, born)));
                }
            }
        }
    }

    /// What each host holds by claim.
    fn held(&self) -> Vec<(usize, Vec<ClaimKey>)> {
        self.look(|at, _, state| {
            let confirmed = state.books.claims.values().filter(|it| it.state == ClaimState::Confirmed);
            let mut keys: Vec<ClaimKey> = confirmed.map(|record| record.key.clone()).collect();
            keys.extend(state.books.promises.number().map(|number| ClaimKey::Node { number }));
            (at, keys)
        })
    }

    fn check_claims(&self) {
        let held = self.held();
        for (at, keys) in &held {
            for (other, theirs) in held.iter().filter(|(other, _)| other > at) {
                self.check_pairs((*at, keys), (*other, theirs));
            }
        }
    }

    fn check_pairs(&self, (at, keys): (usize, &[ClaimKey]), (other, theirs): (usize, &[ClaimKey])) {
        let hosts = [self.hosts[at].borrow(), self.hosts[other].borrow()];
        // A host that has left, or lost what it knew, may not know the network any more.
        let place = |network: &Name, address| {
            let states = hosts.iter().filter_map(|host| host.state());
            let mut places = states.map(|state| steps::place_of(state, network, address));
            places.find(|place| *place != Place::Unknown).unwrap_or(Place::Unknown)
        };
        let kind = |key: &ClaimKey| match key {
            ClaimKey::Node { .. } => 0,
            // Who is taken over from may hold what is taken.
            ClaimKey::Takeover { .. } => 1,
            _ => 2,
        };
        // What a host granted lies in its own block.
        let granted = |one: &ClaimKey, other: usize| matches!(one, ClaimKey::Granted { by, .. } if *by == self.hosts[other].borrow().node);
        for one in keys {
            let rivals = theirs.iter().filter(|rival| kind(one) == kind(rival));
            let rivals = rivals.filter(|rival| !granted(one, other) && !granted(rival, at));
            for rival in rivals.filter(|rival| conflicts(one, rival, &place)) {
                self.violated(format!("host {at} holds {one:?} and host {other} holds {rival:?}"));
            }
        }
    }

    /// A claim was confirmed just now.
    pub(super) fn confirmed(&self, at: usize, key: &ClaimKey) {
        self.counts.borrow_mut().claimed += 1;
        self.note(|| format!("host {at} holds {key:?}"));
        for (other, theirs) in self.held().into_iter().filter(|(other, _)| *other != at) {
            self.check_pairs((at, std::slice::from_ref(key)), (other, &theirs));
        }
    }

    fn check_bounds(&self) {
        self.look(|at, _, state| {
            let entries = state.catalog.owners().map(|(_, owner)| owner.len()).max().unwrap_or(0);
            let tombstones = state.catalog.owners().map(|(_, owner)| owner.tombstones()).max().unwrap_or(0);
            let promises = state.books.promises.entries().count();
            let claims = state.books.claims.len();
            if entries.max(promises).max(claims) > HELD_MAX || tombstones > TOMBSTONES_MAX {
                let what = format!("{entries} entries, {promises} promises and {claims} claims");
                self.violated(format!("host {at} holds {what}"));
            }
        });
    }

    /// Whether all live hosts want the same.
    pub(super) fn alike(&self) -> bool {
        self.differences(false).is_empty()
    }

    /// In what live hosts differ: all of it, or that they do.
    pub(super) fn differences(&self, all: bool) -> Vec<String> {
        let live: Vec<usize> = self.live().collect();
        let live_nodes: BTreeSet<NodeId> = live.iter().map(|at| self.hosts[*at].borrow().node).collect();
        let mut differences = Vec::new();
        let mut first: Option<(usize, BTreeMap<NodeId, Head>, View)> = None;
        for at in live {
            let host = self.hosts[at].borrow();
            let Some(state) = host.running.as_ref().map(|running| &running.state) else { continue };
            if !all && !differences.is_empty() {
                return differences;
            }
            if state.books.promises.number().is_none() {
                let counted = if all { self.counted().join("; ") } else { String::new() };
                differences.push(format!("host {at} is no member yet: {counted}"));
            }
            let wrong: Vec<&NodeId> = state.suspended.intersection(&live_nodes).collect();
            if !wrong.is_empty() {
                differences.push(format!("host {at} takes {wrong:?} for suspended, who live"));
            }
            let mut heads = state.catalog.heads();
            heads.retain(|node, _| !state.catalog.is_removed(*node));
            let Some((other, known, view)) = &first else {
                first = Some((at, heads, state.view.clone()));
                continue;
            };
            if heads != *known {
                differences.push(format!("heads: host {other} {known:?}, host {at} {heads:?}"));
            }
            differences.extend(views_differ(*other, view, at, &state.view, all));
        }
        differences
    }

    /// Whom each host counts.
    pub(super) fn counted(&self) -> Vec<String> {
        self.look(|at, _, state| {
            let promises = &state.books.promises;
            let members: Vec<u32> = promises.members().map(|it| it.number).collect();
            let removed: Vec<u32> = promises.removed().map(|it| it.number).collect();
            let pending: Vec<Member> = promises.pending().collect();
            let leaving: Vec<Leaving> = promises.leaving().collect();
            format!("host {at} counts {members:?}, not {removed:?}, pending {pending:?}, leaving {leaving:?}")
        })
    }

    /// What each host has derived step by step is what follows from all that it knows.
    pub(super) fn check_views(&self) {
        self.look(|at, node, state| {
            if state.view != View::build(&state.catalog, &state.suspended, node) && state.derived > 0 {
                self.violated(format!("host {at}: its view is not what its catalog gives"));
            }
            let address = |it: &&Conflict| {
                let Conflict::Address { network, holder, standing, address, .. } = it else { return false };
                let mut facts = state.catalog.attachment(network, holder);
                let holder = facts.find(|(owner, _)| owner == standing);
                !holder.is_some_and(|(_, fact)| fact.took(&Taken::Address(*address)))
            };
            if let Some(conflict) = state.view.conflicts().find(address) {
                self.violated(format!("host {at}: {conflict:?}"));
            }
        });
    }

    /// Claims that were given up and of which not all members have said that they know: none, soon after all are there.
    ///
    /// A promise that was overtaken by its own withdrawal stays in the table: who wants the key clears it.
    pub(super) fn withdrawals(&self) -> Vec<String> {
        let live: Vec<usize> = self.live().collect();
        let open = self.look(|at, _, state| {
            if !live.contains(&at) {
                return Vec::new();
            }
            let open = state.books.claims.values().filter(|it| it.state == ClaimState::Withdrawing);
            open.map(|record| format!("host {at} withdraws {record:?} still")).collect::<Vec<_>>()
        });
        open.into_iter().flatten().collect()
    }
}

pub(super) fn views_differ(one: usize, view: &View, other: usize, others: &View, all: bool) -> Vec<String> {
    // Whether this host has the network is its own affair.
    let shared = |view: &View| -> Vec<NetworkView> {
        let networks = view.networks().values();
        networks.map(|network| shared_part(network)).collect()
    };
    let (ours, theirs) = (shared(view), shared(others));
    if ours == theirs {
        return Vec::new();
    }
    if !all {
        return vec![String::new()];
    }
    vec![format!("views: host {one} {ours:?}, host {other} {theirs:?}")]
}

fn shared_part(network: &NetworkView) -> NetworkView {
    let mut network = network.clone();
    network.local = false;
    network
}
