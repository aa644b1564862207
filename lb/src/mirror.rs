//! What a table holds, as last read from the kernel and kept up with every commit.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::address::Address;
use crate::element::{Chain, Element, Endpoint};
use crate::transaction::Transaction;

/// A table's elements, by VIP, and its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror<A: Address> {
    /// Chains that are there with the right rules.
    pub chains: BTreeSet<Chain>,
    /// Chains that are there with other rules than they should have.
    pub spoilt: BTreeSet<Chain>,
    /// All that concerns one VIP.
    pub vips: HashMap<A, Entry<A>>,
    /// Ranges by first address: last address and own address.
    pub ranges: BTreeMap<A, (A, A)>,
    /// Redirects: the port at which it is answered.
    pub redirects: BTreeMap<Endpoint<A>, u16>,
    /// Their ways back: the port that clients use.
    pub answers: BTreeMap<Endpoint<A>, u16>,
    /// How many elements go to each chain; none has no entry.
    pub users: BTreeMap<Chain, u32>,
}

/// All that concerns one VIP. 40 bytes and its slots, for an IPv4 service without declared ports: there is one for each
/// service in each namespace, so its lists have no room to spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// Slots of the class in `vips`; 0 = no element.
    pub class: u16,
    /// Slots of the class in `echo`; 0 = no element.
    pub echo: u16,
    /// Whether it is in `served`.
    pub served: bool,
    /// Whom each slot leads to; [`Address::UNSPECIFIED`] = no element.
    pub slots: Box<[A]>,
    /// Its ports, sorted.
    pub ports: Box<[PortEntry]>,
}

/// What is there for one port of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// IP protocol number.
    pub protocol: u8,
    /// The port that clients use.
    pub public: u16,
    /// Slots of the class in `vip_ports`; 0 = no element.
    pub class: u16,
    /// The port in `targets`, if there is an element.
    pub target: Option<u16>,
}

impl<A> Default for Entry<A> {
    fn default() -> Self {
        Self { class: 0, echo: 0, served: false, slots: Box::default(), ports: Box::default() }
    }
}

impl<A: Address> Default for Mirror<A> {
    fn default() -> Self {
        Self {
            chains: BTreeSet::new(),
            spoilt: BTreeSet::new(),
            vips: HashMap::new(),
            ranges: BTreeMap::new(),
            redirects: BTreeMap::new(),
            answers: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }
}

impl<A: Address> Entry<A> {
    /// The class that new flows may take: every slot below it must be filled.
    pub fn linked(&self) -> u16 {
        self.ports.iter().map(|port| port.class).chain([self.class, self.echo]).max().unwrap_or_default()
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.linked() == 0 && !self.served && self.slots.is_empty() && self.ports.is_empty()
    }

    fn port_mut(&mut self, at: Endpoint<A>) -> &mut PortEntry {
        let place =
            self.ports.binary_search_by_key(&(at.protocol, at.port), |port| (port.protocol, port.public));
        let place = place.unwrap_or_else(|place| {
            let port = PortEntry { protocol: at.protocol, public: at.port, class: 0, target: None };
            resize(&mut self.ports, |ports| ports.insert(place, port));
            place
        });
        &mut self.ports[place]
    }

    fn set_slot(&mut self, slot: u16, replica: A) {
        let slot = usize::from(slot);
        if self.slots.len() <= slot {
            resize(&mut self.slots, |slots| {
                // Ten slots are to take the room of ten, not of the next power of two.
                slots.reserve_exact(slot + 1 - slots.len());
                slots.resize(slot + 1, A::UNSPECIFIED);
            });
        }
        self.slots[slot] = replica;
        if self.slots.last() == Some(&A::UNSPECIFIED) {
            let filled = self.slots.iter().rposition(|replica| *replica != A::UNSPECIFIED);
            resize(&mut self.slots, |slots| slots.truncate(filled.map_or(0, |last| last + 1)));
        }
    }
}

/// Changes the length of a list that has no room to spare.
fn resize<T>(list: &mut Box<[T]>, change: impl FnOnce(&mut Vec<T>)) {
    let mut items = std::mem::take(list).into_vec();
    change(&mut items);
    *list = items.into_boxed_slice();
}

impl<A: Address> Mirror<A> {
    /// A mirror of these elements.
    pub fn from_elements(elements: impl IntoIterator<Item = Element<A>>) -> Self {
        let mut mirror = Self::default();
        elements.into_iter().for_each(|element| mirror.put(&element, true));
        mirror
    }

    /// Follows a transaction that took effect.
    pub fn apply(&mut self, transaction: &Transaction<A>) {
        if transaction.rebuild {
            *self = Self::default();
        }
        for chain in &transaction.add_chains {
            self.spoilt.remove(chain);
            self.chains.insert(*chain);
        }
        transaction.delete.iter().for_each(|element| self.put(element, false));
        transaction.add.iter().for_each(|element| self.put(element, true));
        for chain in &transaction.delete_chains {
            self.chains.remove(chain);
            self.spoilt.remove(chain);
        }
    }

    /// Every element, in no particular order.
    pub fn elements(&self) -> Vec<Element<A>> {
        let mut all = Vec::new();
        self.vips.iter().for_each(|(vip, entry)| entry.elements(*vip, &mut all));
        all.extend(self.ranges.iter().map(|(first, (last, own))| Element::Range {
            first: *first,
            last: *last,
            own: *own,
        }));
        all.extend(self.redirects.iter().map(|(at, port)| Element::Redirect { at: *at, port: *port }));
        all.extend(self.answers.iter().map(|(at, port)| Element::Answer { at: *at, port: *port }));
        all
    }

    fn put(&mut self, element: &Element<A>, present: bool) {
        if let Some(chain) = element.chain() {
            self.count(chain, present);
        }
        let class = |slots: u16| if present { slots } else { 0 };
        let vip = match *element {
            Element::Range { first, last, own } => {
                if present {
                    self.ranges.insert(first, (last, own))
                } else {
                    self.ranges.remove(&first)
                };
                return;
            }
            Element::Redirect { at, port } => {
                if present {
                    self.redirects.insert(at, port)
                } else {
                    self.redirects.remove(&at)
                };
                return;
            }
            Element::Answer { at, port } => {
                if present {
                    self.answers.insert(at, port)
                } else {
                    self.answers.remove(&at)
                };
                return;
            }
            Element::Vip { vip, .. } | Element::Served { vip } | Element::Echo { vip, .. } => vip,
            Element::Slot { vip, .. } => vip,
            Element::VipPort { at, .. } | Element::Target { at, .. } => at.address,
        };
        let entry = self.vips.entry(vip).or_default();
        match *element {
            Element::Vip { slots, .. } => entry.class = class(slots),
            Element::Echo { slots, .. } => entry.echo = class(slots),
            Element::Served { .. } => entry.served = present,
            Element::Slot { slot, replica, .. } => {
                entry.set_slot(slot, if present { replica } else { A::UNSPECIFIED })
            }
            Element::VipPort { at, slots } => entry.port_mut(at).class = class(slots),
            Element::Target { at, port } => entry.port_mut(at).target = present.then_some(port),
            Element::Range { .. } | Element::Redirect { .. } | Element::Answer { .. } => {}
        }
        if !present {
            let used = |port: &PortEntry| port.class != 0 || port.target.is_some();
            if !entry.ports.iter().all(used) {
                resize(&mut entry.ports, |ports| ports.retain(used));
            }
            if entry.is_empty() {
                self.vips.remove(&vip);
            }
        }
    }

    fn count(&mut self, chain: Chain, present: bool) {
        let users = self.users.entry(chain).or_default();
        *users = if present { users.saturating_add(1) } else { users.saturating_sub(1) };
        if *users == 0 {
            self.users.remove(&chain);
        }
    }
}

impl<A: Address> Entry<A> {
    /// Its elements, each as the kernel has it.
    pub fn elements(&self, vip: A, out: &mut Vec<Element<A>>) {
        out.extend((self.class > 0).then_some(Element::Vip { vip, slots: self.class }));
        out.extend((self.echo > 0).then_some(Element::Echo { vip, slots: self.echo }));
        out.extend(self.served.then_some(Element::Served { vip }));
        for (slot, replica) in (0_u16..).zip(self.slots.iter()) {
            let element = Element::Slot { vip, slot, replica: *replica };
            out.extend((*replica != A::UNSPECIFIED).then_some(element));
        }
        for port in &self.ports {
            let at = Endpoint { address: vip, protocol: port.protocol, port: port.public };
            out.extend((port.class > 0).then_some(Element::VipPort { at, slots: port.class }));
            out.extend(port.target.map(|port| Element::Target { at, port }));
        }
    }
}
