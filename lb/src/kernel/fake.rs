//! A kernel in memory. It refuses what the real one refuses, and tells where a packet would land.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netfilter::{Error, Family, Refusal, conntrack};

use super::{Contents, Features, Kernel, TableStatus};
use crate::address::Address;
use crate::element::{Chain, Element, Endpoint, Map};
use crate::flows::Stale;
use crate::rules::REFUSED_PROTOCOLS;
use crate::transaction::Transaction;
use crate::untracked::{Change, Untracked};

/// A kernel in memory; clones are the same kernel.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    socket: u32,
}

#[derive(Debug, Default)]
struct State {
    generation: u32,
    handles: u64,
    features: Features,
    tables: BTreeMap<Family, FakeTable>,
    commits: usize,
    sweeps: usize,
    /// Somebody else has a table.
    strangers: bool,
    /// What is not tracked, and the socket that the table goes with.
    untracked: BTreeMap<Family, (u32, Untracked<IpAddr>, usize)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FakeTable {
    handle: u64,
    persist: bool,
    owner: Option<u32>,
    chains: BTreeSet<Chain>,
    spoilt: BTreeSet<Chain>,
    elements: BTreeMap<(Map, Vec<u8>), Element<IpAddr>>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Landing {
    /// To this address, the port unchanged.
    At(IpAddr),
    /// To this address and port; port 0 is a refusal.
    AtPort(IpAddr, u16),
    /// Where it was sent to: no rule concerns it, or an element was missed and the sender will try again.
    Untouched,
}

impl Fake {
    /// An empty namespace with these features.
    pub fn new(features: Features) -> Self {
        let fake = Self::default();
        fake.lock().features = features;
        Self { socket: 1, ..fake }
    }

    /// Another socket of the same namespace, as a restarted agent has; the first one's tables become orphans.
    pub fn reopen(&self) -> Self {
        let socket = self.socket + 1;
        let mut state = self.lock();
        for table in state.tables.values_mut().filter(|table| table.persist) {
            table.owner = None;
        }
        state.untracked.clear();
        state.generation += 1;
        drop(state);
        Self { state: Arc::clone(&self.state), socket }
    }

    /// What `nft flush ruleset` of another process does.
    pub fn flush_ruleset(&self) {
        let mut state = self.lock();
        state.tables.retain(|_, table| table.owner.is_some());
        state.generation += 1;
    }

    /// Another process deletes one element, if the table has no owner.
    pub fn delete_foreign<A: Address>(&self, element: &Element<A>) {
        let mut state = self.lock();
        state.generation += 1;
        let table = state.tables.get_mut(&A::FAMILY).filter(|table| table.owner.is_none());
        table.and_then(|table| table.elements.remove(&key(element)));
    }

    /// Another process changes the rules of a chain, if the table has no owner.
    pub fn spoil_chain<A: Address>(&self, chain: Chain) {
        let mut state = self.lock();
        state.generation += 1;
        if let Some(table) = state.tables.get_mut(&A::FAMILY).filter(|table| table.owner.is_none()) {
            table.chains.remove(&chain);
            table.spoilt.insert(chain);
        }
    }

    /// Something changes in a table that is not ours.
    pub fn touch_ruleset(&self) {
        self.lock().generation += 1;
    }

    /// Somebody else makes a table in the namespace, or removes the last such one.
    pub fn strangers(&self, present: bool) {
        let mut state = self.lock();
        state.strangers = present;
        state.generation += 1;
    }

    /// What is not tracked of a family.
    pub fn untracked<A: Address>(&self) -> Option<Untracked<IpAddr>> {
        self.lock().untracked.get(&A::FAMILY).map(|(_, untracked, _)| untracked.clone())
    }

    /// How many transactions have taken effect.
    pub fn commits(&self) -> usize {
        self.lock().commits
    }

    /// How often stale flows were looked for.
    pub fn sweeps(&self) -> usize {
        self.lock().sweeps
    }

    /// All elements of a family's table, sorted; none without a table.
    pub fn elements<A: Address>(&self) -> Vec<Element<A>> {
        let state = self.lock();
        let table = state.tables.get(&A::FAMILY);
        let mut all: Vec<_> = table
            .map(|table| table.elements.values().filter_map(|element| element.convert(A::of)).collect())
            .unwrap_or_default();
        all.sort_unstable();
        all
    }

    /// The chains of a family's table.
    pub fn chains<A: Address>(&self) -> BTreeSet<Chain> {
        self.lock().tables.get(&A::FAMILY).map(|table| table.chains.clone()).unwrap_or_default()
    }

    /// Every place where a new flow's first packet, sent from the namespace, may land; each as likely as the
    /// others, so a place of two slots comes twice.
    pub fn land<A: Address>(&self, destination: A, protocol: u8, port: u16) -> Vec<Landing> {
        let state = self.lock();
        let Some(table) = state.tables.get(&A::FAMILY) else { return vec![Landing::Untouched] };
        let untouched = vec![Landing::Untouched];
        let address: IpAddr = destination.into();
        let at = Endpoint { address: destination, protocol, port };
        let find = |element: Element<A>| table.elements.get(&key(&element)).copied();
        if let Some(Element::Redirect { port, .. }) = find(Element::Redirect { at, port }) {
            return vec![Landing::AtPort(address, port)];
        }
        if let Some(Element::Vip { slots, .. }) = find(Element::Vip { vip: destination, slots: 0 }) {
            return table.slots(destination, slots, None);
        }
        if find(Element::Served { vip: destination }).is_some() {
            return untouched;
        }
        let target = find(Element::Target { at, port });
        if let Some(Element::VipPort { slots, .. }) = find(Element::VipPort { at, slots: 0 }) {
            return match target {
                Some(Element::Target { port, .. }) => table.slots(destination, slots, Some(port)),
                _ => untouched,
            };
        }
        if target.is_some() {
            return untouched;
        }
        if protocol == A::ICMP
            && let Some(Element::Echo { slots, .. }) = find(Element::Echo { vip: destination, slots: 0 })
        {
            return table.slots(destination, slots, None);
        }
        let refused = table.elements.values().find_map(|element| match element {
            Element::Range { first, last, own } if (*first..=*last).contains(&address) => Some(*own),
            _ => None,
        });
        match refused.filter(|_| REFUSED_PROTOCOLS.contains(&protocol)) {
            Some(own) => vec![Landing::AtPort(own, 0)],
            None => untouched,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeTable {
    fn slots<A: Address>(&self, vip: A, slots: u16, port: Option<u16>) -> Vec<Landing> {
        let place = |slot| {
            let wanted = key(&Element::Slot { vip, slot, replica: vip });
            match (self.elements.get(&wanted), port) {
                (Some(Element::Slot { replica, .. }), None) => Landing::At(*replica),
                (Some(Element::Slot { replica, .. }), Some(port)) => Landing::AtPort(*replica, port),
                _ => Landing::Untouched,
            }
        };
        (0..slots).map(place).collect()
    }

    fn change<A: Address>(&mut self, transaction: &Transaction<A>) -> Result<(), (i32, &'static str)> {
        const ENOENT: i32 = 2;
        const EEXIST: i32 = 17;
        const EBUSY: i32 = 16;
        for chain in &transaction.add_chains {
            self.spoilt.remove(chain);
            self.chains.insert(*chain);
        }
        for element in &transaction.delete {
            self.elements.remove(&key(element)).ok_or((ENOENT, "delete elements"))?;
        }
        for element in &transaction.add {
            if element
                .chain()
                .is_some_and(|chain| !self.chains.contains(&chain) && !self.spoilt.contains(&chain))
            {
                return Err((ENOENT, "add elements"));
            }
            let converted =
                element.convert(|address| Some(address.into())).ok_or((ENOENT, "add elements"))?;
            let previous = self.elements.insert(key(element), converted);
            if previous.is_some_and(|previous| previous != converted) {
                return Err((EEXIST, "add elements"));
            }
        }
        for chain in &transaction.delete_chains {
            if self.elements.values().any(|element| element.chain() == Some(*chain)) {
                return Err((EBUSY, "delete chain"));
            }
            if !self.chains.remove(chain) && !self.spoilt.remove(chain) {
                return Err((ENOENT, "delete chain"));
            }
        }
        Ok(())
    }
}

fn key<A: Address>(element: &Element<A>) -> (Map, Vec<u8>) {
    let mut bytes = Vec::new();
    element.write_key(&mut bytes);
    (element.map(), bytes)
}

fn refused((errno, message): (i32, &'static str)) -> Error {
    let refusal = Refusal { message, object: crate::TABLE_NAME.into(), detail: String::new(), count: 1 };
    Error::Refused { refusal, source: io::Error::from_raw_os_error(errno) }
}

impl Kernel for Fake {
    fn features(&mut self) -> Result<Features, Error> {
        Ok(self.lock().features)
    }

    fn generation(&mut self) -> Result<u32, Error> {
        Ok(self.lock().generation)
    }

    fn table<A: Address>(&mut self) -> Result<Option<TableStatus>, Error> {
        let socket = self.socket;
        Ok(self.lock().tables.get(&A::FAMILY).map(|table| TableStatus {
            handle: table.handle,
            ours: table.owner == Some(socket),
            orphan: table.owner.is_none() && table.persist,
        }))
    }

    fn contents<A: Address>(&mut self, _: Features) -> Result<Option<Contents<A>>, Error> {
        let elements = self.elements::<A>();
        Ok(self.lock().tables.get(&A::FAMILY).map(|table| Contents {
            chains: table.chains.iter().copied().collect(),
            spoilt: table.spoilt.iter().copied().collect(),
            elements,
        }))
    }

    fn commit<A: Address>(
        &mut self,
        transaction: &Transaction<A>,
        features: Features,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        const EPERM: i32 = 1;
        let socket = self.socket;
        let mut state = self.lock();
        if let Some(expected) = generation.filter(|expected| *expected != state.generation) {
            return Err(Error::Changed { expected });
        }
        let mut table = state.tables.get(&A::FAMILY).cloned();
        if table.as_ref().is_some_and(|table| table.owner.is_some_and(|owner| owner != socket)) {
            return Err(refused((EPERM, "add table")));
        }
        if transaction.rebuild {
            let handle = state.handles + 1;
            let owner = features.owned.then_some(socket);
            table = Some(FakeTable { handle, persist: features.owned, owner, ..FakeTable::default() });
        }
        let mut table = table.ok_or_else(|| refused((2, "add chain")))?;
        if transaction.adopt {
            table.owner = Some(socket);
        }
        table.change(transaction).map_err(refused)?;
        state.handles = state.handles.max(table.handle);
        state.tables.insert(A::FAMILY, table);
        state.generation += 1;
        state.commits += 1;
        Ok(())
    }

    fn remove<A: Address>(&mut self) -> Result<(), Error> {
        let mut state = self.lock();
        state.tables.remove(&A::FAMILY);
        state.generation += 1;
        Ok(())
    }

    fn strangers(&mut self) -> Result<bool, Error> {
        Ok(self.lock().strangers)
    }

    fn untrack<A: Address>(&mut self, change: &Change<A>) -> Result<(), Error> {
        const ENOENT: i32 = 2;
        const ENFILE: i32 = 23;
        let mut state = self.lock();
        let any = |address: &A| -> IpAddr { (*address).into() };
        match change {
            Change::Remove => drop(state.untracked.remove(&A::FAMILY)),
            Change::Make(untracked, room) => {
                let peers = untracked.peers.iter().map(|(first, last)| (any(first), any(last))).collect();
                let own = untracked.own.iter().map(any).collect();
                let tracked: BTreeSet<IpAddr> = untracked.tracked.iter().map(any).collect();
                if tracked.len() > *room {
                    return Err(refused((ENFILE, "add elements")));
                }
                let made = (self.socket, Untracked { peers, own, tracked }, *room);
                state.untracked.insert(A::FAMILY, made);
            }
            Change::Tracked { add, delete } => {
                let found = state.untracked.get(&A::FAMILY).cloned();
                let (socket, mut there, room) = found.ok_or_else(|| refused((ENOENT, "add elements")))?;
                if !delete.iter().all(|address| there.tracked.remove(&any(address))) {
                    return Err(refused((ENOENT, "delete elements")));
                }
                there.tracked.extend(add.iter().map(any));
                if there.tracked.len() > room {
                    return Err(refused((ENFILE, "add elements")));
                }
                state.untracked.insert(A::FAMILY, (socket, there, room));
            }
        }
        state.generation += 1;
        Ok(())
    }

    fn delete_untracked<A: Address>(&mut self, _: &Untracked<A>, _: usize) -> Result<usize, Error> {
        Ok(0)
    }

    fn usage(&mut self) -> Result<conntrack::Usage, Error> {
        Ok(conntrack::Usage::default())
    }

    fn delete_flows(&mut self, _: &Stale<'_>, _: usize) -> Result<usize, Error> {
        self.lock().sweeps += 1;
        Ok(0)
    }
}
