//! Flows that no VIP can be part of, exempt from connection tracking.
//!
//! A namespace that translates addresses tracks all its flows: 6 % of a stream, a fifth of a connect, and an entry for
//! each. What goes directly between this namespace and an endpoint that is no replica of any service here cannot be a
//! translated flow, nor take the ports of one that begins while it is there, and needs none of it. So a container that serves is spared the entries of
//! nearly all its clients.
//!
//! ```text
//! output:      tcp | udp, saddr @own, daddr not in @tracked, daddr @peers   notrack
//! prerouting:  tcp | udp, daddr @own, saddr not in @tracked, saddr @peers   notrack
//! ```
//!
//! It is a table of its own, owned by our socket and *not* persistent: it goes with the agent, for nobody would take it
//! back then when a firewall comes to stand in the namespace, to which untracked packets are foreign. While there is any
//! other table, there is none of this.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use netfilter::conntrack::{self, STATUS_DESTINATION_NAT, STATUS_SOURCE_NAT, Tuple};
use netfilter::{
    Base, Batch, ChainKind, ElementData, Expression, Hook, HookPoint, Meta, Register, Set, SetData, Table,
    TableFlags,
};

use crate::address::Address;
use crate::rules::{TCP, UDP};
use crate::services::Pair;
use crate::{AddressRange, Service, VipRange};

#[cfg(test)]
mod tests;

/// The name of the table.
pub const TABLE_NAME: &str = "svc-agent-untracked";
/// Before connection tracking (−200), and after fragments were put together (−400).
const PRIORITY: i32 = -300;
/// Replicas, counted for each service of which they are one, up to which flows are exempt; above, a namespace's list of
/// them would be too long.
pub const REPLICAS_MAX: usize = 4_096;
/// Places in the list of those that are tracked, at the least.
const PLACES_MIN: usize = 64;
const KEY: Register = Register::word(0);

/// Which flows are exempt: those between an own address and a peer's that is not tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untracked<A> {
    /// Ranges of endpoints' addresses, by the first: the last.
    pub peers: BTreeMap<A, A>,
    /// This namespace's addresses.
    pub own: BTreeSet<A>,
    /// Addresses whose flows are tracked: replicas, and the own ones.
    pub tracked: BTreeSet<A>,
}

/// One change of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<A> {
    /// It is made, in place of one that may be there, with room for so many tracked addresses.
    Make(Untracked<A>, usize),
    /// Other addresses are tracked.
    Tracked {
        /// These from now on.
        add: Vec<A>,
        /// These no more.
        delete: Vec<A>,
    },
    /// It goes, if it is there.
    Remove,
}

/// What the table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Present<A> {
    /// A change failed; it may or may not have taken effect.
    Unknown,
    /// There is none.
    Absent,
    /// It is there, with room for so many tracked addresses.
    There(Untracked<A>, usize),
}

/// When in a turn a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before new flows are sent to new replicas: only what tracks more.
    Before,
    /// After the flows of replicas that have gone were deleted, and nothing else is left to do.
    After,
}

/// The next change; `None` if nothing is to be changed now. `shape`: what is exempt, `None` for nothing.
pub(crate) fn step<A: Address>(
    present: &Present<A>,
    shape: Option<&Shape<A>>,
    replicas: &Replicas,
    moment: Moment,
) -> Option<Change<A>> {
    let Some(shape) = shape else {
        return (*present != Present::Absent).then_some(Change::Remove);
    };
    let whole = || {
        let replicas = replicas.services.keys().filter_map(|address| A::of(*address));
        let tracked = replicas.chain(shape.own.iter().copied()).collect();
        Untracked { peers: shape.peers.clone(), own: shape.own.clone(), tracked }
    };
    let (there, room) = match (present, moment) {
        (Present::There(there, room), _) => (there, *room),
        (Present::Absent, Moment::Before) => return None,
        (Present::Unknown, Moment::Before) => return Some(Change::Remove),
        (Present::Absent | Present::Unknown, Moment::After) => return Some(make(whole())),
    };
    let changed = || replicas.changed.iter().filter_map(|address| Some((A::of(*address)?, *address)));
    let counted = |address: &IpAddr| replicas.services.contains_key(address);
    let add = changed().filter(|(own, any)| counted(any) && !there.tracked.contains(own));
    let add: Vec<A> = add.map(|(address, _)| address).collect();
    if (&shape.peers, &shape.own) != (&there.peers, &there.own) || there.tracked.len() + add.len() > room {
        let mut whole = whole();
        if moment == Moment::Before {
            whole.tracked.extend(&there.tracked);
        }
        return Some(make(whole));
    }
    let gone =
        |(own, any): &(A, IpAddr)| !counted(any) && !shape.own.contains(own) && there.tracked.contains(own);
    let delete: Vec<A> = match moment {
        Moment::Before => Vec::new(),
        Moment::After => changed().filter(gone).map(|(address, _)| address).collect(),
    };
    (!add.is_empty() || !delete.is_empty()).then_some(Change::Tracked { add, delete })
}

fn make<A: Address>(whole: Untracked<A>) -> Change<A> {
    let room = whole.tracked.len().saturating_mul(2).next_power_of_two().max(PLACES_MIN);
    Change::Make(whole, room)
}

impl<A: Address> Untracked<A> {
    /// Whether it is an entry of a flow that goes untracked now, left from when it did not: neither translated nor one that
    /// could be.
    pub fn covers(&self, flow: &conntrack::Flow) -> bool {
        let Tuple { source, destination, protocol, .. } = flow.original;
        let (Some(source), Some(destination)) = (A::of(source), A::of(destination)) else { return false };
        let translated = flow.status & (STATUS_SOURCE_NAT | STATUS_DESTINATION_NAT) != 0;
        let spared = |own: A, peer: A| {
            let in_range = |(first, last): (&A, &A)| *first <= peer && peer <= *last;
            self.own.contains(&own) && !self.tracked.contains(&peer) && self.peers.iter().any(in_range)
        };
        [TCP, UDP].contains(&protocol)
            && !translated
            && (spared(source, destination) || spared(destination, source))
    }
}

impl<A: Address> Present<A> {
    /// Follows a change that took effect.
    pub(crate) fn follow(&mut self, change: Change<A>) {
        match change {
            Change::Make(untracked, room) => *self = Self::There(untracked, room),
            Change::Remove => *self = Self::Absent,
            Change::Tracked { add, delete } => {
                if let Self::There(there, _) = self {
                    there.tracked.extend(add);
                    there.tracked.retain(|address| !delete.contains(address));
                }
            }
        }
    }
}

/// Between whom flows are exempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape<A> {
    peers: BTreeMap<A, A>,
    own: BTreeSet<A>,
}

/// Between whom flows of one family are exempt; `None` for nobody.
pub(crate) fn shape<A: Address>(peers: &[AddressRange], ranges: &[VipRange]) -> Option<Shape<A>> {
    let peers = peers.iter().filter_map(|range| {
        let (first, last) = (A::of(range.first)?, A::of(range.last)?);
        (first <= last).then_some((first, last))
    });
    let mut apart: BTreeMap<A, A> = BTreeMap::new();
    for (first, last) in peers.collect::<BTreeSet<_>>() {
        // The kernel refuses ranges that overlap; they come sorted.
        if apart.last_key_value().is_none_or(|(_, previous)| *previous < first) {
            apart.insert(first, last);
        }
    }
    let own: BTreeSet<A> = ranges.iter().filter_map(|range| A::of(range.own)).collect();
    (!apart.is_empty() && !own.is_empty()).then_some(Shape { peers: apart, own })
}

/// Every address that is a replica of a service, of whatever state.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    /// How many there are, each counted for every service of which it is one.
    count: usize,
    /// By address, of how many services; empty while there are too many.
    services: HashMap<IpAddr, u32>,
    /// Addresses that may have come to be counted, or to be so no more, since the last time that all was settled.
    changed: BTreeSet<IpAddr>,
}

impl Replicas {
    /// Follows a new declaration of the services, of which `all` is the whole.
    pub(crate) fn follow(&mut self, pairs: &[Pair], all: &[Arc<Service>]) {
        let before = self.count;
        let length = |service: &Option<Arc<Service>>| service.as_ref().map_or(0, |it| it.replicas.len());
        for (old, new) in pairs {
            self.count = self.count.saturating_sub(length(old)).saturating_add(length(new));
        }
        if self.are_too_many() {
            self.services = HashMap::new();
            self.changed.clear();
        } else if before > REPLICAS_MAX {
            all.iter().for_each(|service| self.add(service));
        } else {
            for (old, new) in pairs {
                new.iter().for_each(|service| self.add(service));
                old.iter().for_each(|service| self.subtract(service));
            }
        }
    }

    /// Whether no list is kept of them, so that every flow has to be tracked.
    pub(crate) fn are_too_many(&self) -> bool {
        self.count > REPLICAS_MAX
    }

    /// All changes have been made.
    pub(crate) fn settled(&mut self) {
        self.changed.clear();
    }

    fn add(&mut self, service: &Service) {
        for address in service.replicas.iter().flat_map(|replica| replica.addresses.iter()) {
            *self.services.entry(*address).or_default() += 1;
            self.changed.insert(*address);
        }
    }

    fn subtract(&mut self, service: &Service) {
        for address in service.replicas.iter().flat_map(|replica| replica.addresses.iter()) {
            self.changed.insert(*address);
            if let Some(services) = self.services.get_mut(address) {
                *services = services.saturating_sub(1);
                if *services == 0 {
                    self.services.remove(address);
                }
            }
        }
    }
}

const PEERS: &str = "peers";
const OWN: &str = "own";
const TRACKED: &str = "tracked";

pub(crate) const fn table<A: Address>() -> Table<'static> {
    Table { family: A::FAMILY, name: TABLE_NAME }
}

/// The change as netlink messages.
pub(crate) fn encode<A: Address>(change: &Change<A>) -> Batch {
    let table = table::<A>();
    let mut batch = Batch::new();
    match change {
        Change::Remove => batch.destroy_table(table),
        Change::Tracked { add, delete } => {
            batch.delete_elements(table, TRACKED, |list| fill(list, delete.iter()));
            batch.add_elements(table, TRACKED, |list| fill(list, add.iter()));
        }
        Change::Make(untracked, room) => {
            batch.destroy_table(table);
            encode_table(&mut batch, table, untracked, *room);
        }
    }
    batch
}

fn encode_table<A: Address>(batch: &mut Batch, table: Table<'_>, untracked: &Untracked<A>, room: usize) {
    batch.add_table(table, TableFlags { owner: true, persist: false });
    let key = &[A::FIELD];
    let set = |name, interval, size_max| Set { name, key, data: SetData::None, interval, size_max };
    let places = |count: usize| u32::try_from(count).ok();
    batch.add_set(table, &set(PEERS, true, None));
    batch.add_set(table, &set(OWN, false, places(untracked.own.len())));
    batch.add_set(table, &set(TRACKED, false, places(room)));
    batch.add_elements(table, OWN, |list| fill(list, untracked.own.iter()));
    batch.add_elements(table, TRACKED, |list| fill(list, untracked.tracked.iter()));
    batch.add_elements(table, PEERS, |list| {
        let mut bytes = Vec::new();
        let mut write = |address: A| {
            bytes.clear();
            address.write(&mut bytes);
            bytes.clone()
        };
        for (first, last) in &untracked.peers {
            list.push(&write(*first), &ElementData::None);
            if let Some(end) = last.next() {
                list.push_interval_end(&write(end));
            }
        }
    });
    let source = A::DESTINATION_OFFSET - A::FIELD.length;
    for (chain, point, own, peer) in [
        ("output", HookPoint::Output, source, A::DESTINATION_OFFSET),
        ("prerouting", HookPoint::Prerouting, A::DESTINATION_OFFSET, source),
    ] {
        let hook = Hook { kind: ChainKind::Filter, point, priority: PRIORITY, drop_by_default: false };
        batch.add_chain(table, chain, Some(&hook));
        for protocol in [TCP, UDP] {
            batch.add_rule(table, chain, &rule::<A>(protocol, own, peer), None);
        }
    }
}

/// `own` and `peer`: where their addresses stand in the IP header.
fn rule<A: Address>(protocol: u8, own: u32, peer: u32) -> Vec<Expression> {
    let address = |offset| Expression::payload(Base::Network, offset, A::FIELD.length, KEY);
    vec![
        Expression::meta(Meta::TransportProtocol, KEY),
        Expression::equal(KEY, [protocol]),
        address(own),
        Expression::in_set(OWN, KEY),
        address(peer),
        Expression::not_in_set(TRACKED, KEY),
        Expression::in_set(PEERS, KEY),
        Expression::Untracked,
    ]
}

fn fill<'a, A: Address>(list: &mut netfilter::ElementList<'_>, addresses: impl Iterator<Item = &'a A>) {
    let mut bytes = Vec::new();
    for address in addresses {
        bytes.clear();
        address.write(&mut bytes);
        list.push(&bytes, &ElementData::None);
    }
}

/// What tries whether the kernel takes such a table, without leaving anything behind.
pub(crate) fn probe(name: &str) -> Batch {
    use std::net::Ipv4Addr;
    let table = Table { family: netfilter::Family::Ip, name };
    let mut batch = Batch::new();
    let own = BTreeSet::from([Ipv4Addr::LOCALHOST]);
    let peers = BTreeMap::from([(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)]);
    encode_table(&mut batch, table, &Untracked { peers, tracked: own.clone(), own }, PLACES_MIN);
    batch.delete_table(table);
    batch
}
