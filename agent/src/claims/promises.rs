//! One member's promises: what it has given away, and whom it counts.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::conflict::{Place, Places, conflicts};
use super::message::{Entry, Leaving, Member, Persist, Reply, Request};
use crate::catalog::facts::ClaimKey;
use crate::model::{Name, NodeId};

/// The most promises a member keeps, about 40 MB of them; beyond it every claim is refused with [`Reply::Full`].
pub const PROMISES_MAX: usize = 262_144;

/// What one member has promised, durable. A change is applied here and returned as [`Persist`]: write those down
/// before the reply leaves, or a restart forgets a promise that somebody relies on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Snapshot", into = "Snapshot")]
pub struct Promises {
    me: NodeId,
    number: Option<u32>,
    members: BTreeMap<u32, NodeId>,
    removed: BTreeMap<u32, NodeId>,
    leaving: BTreeSet<Leaving>,
    /// By remover, the latest of its attempts that it said to be over: a request to remove may be overtaken by that word, and
    /// nobody would ever thaw what it froze.
    over: BTreeMap<NodeId, u64>,
    /// A joiner may adopt promises of one key to several claimants; it then refuses everybody until all but one withdraw.
    held: BTreeMap<ClaimKey, BTreeMap<NodeId, u64>>,
}

impl Promises {
    /// The state of a node that has promised nothing and is no member.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            number: None,
            members: BTreeMap::new(),
            removed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            over: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// The state that these changes lead to, in the order they were written.
    pub fn restore(me: NodeId, changes: impl IntoIterator<Item = Persist>) -> Self {
        let mut promises = Self::new(me);
        for change in changes {
            promises.apply(&change);
        }
        promises
    }

    /// Answers a request. The changes are already made here; write them durably before the reply leaves.
    pub fn handle(&mut self, request: Request, places: &dyn Places) -> (Reply, Vec<Persist>) {
        match request {
            Request::Promise { key, claimant, attempt, view } => {
                match self.refusal(&key, claimant, attempt, &view, places) {
                    Some(reply) => (reply, Vec::new()),
                    None => self.promise(key, claimant, attempt),
                }
            }
            Request::Withdraw { key, claimant, attempt } => {
                // An older attempt's withdrawal may arrive long after a newer attempt was promised.
                let exact = self.attempt_of(&key, claimant) == Some(attempt);
                let release = exact.then(|| Persist::Release { key: key.clone(), claimant });
                (Reply::Withdrawn { key, attempt }, self.write(release))
            }
            // Only the claimant's books can answer: see `answer_check`.
            Request::Check { key, attempt } => (Reply::NotReady { key, attempt }, Vec::new()),
            Request::Remove { member, remover, attempt, view } => {
                self.agree_removal(Leaving { member, remover, attempt }, &view)
            }
            Request::Keep { member, remover, attempt } => {
                let leaving = Leaving { member, remover, attempt };
                let news = self.leaving.contains(&leaving) || !self.is_over(&leaving);
                let over = news.then_some(Persist::Staying(leaving));
                (Reply::Kept, self.write(over))
            }
            Request::Removed { member, table } => (Reply::Applied, self.remove(member, &table)),
        }
    }

    /// Founds a cluster: this node takes number 1, asking nobody. Only for `run --init` on an empty state directory.
    pub fn found(&mut self) -> Vec<Persist> {
        self.write([Persist::Joined(Member { number: 1, node: self.me })])
    }

    /// Makes this node a member, after its claim of `number` was confirmed with these members counted and these tables
    /// collected. Write the changes in one transaction with the confirmed claim.
    pub fn join(
        &mut self,
        number: u32,
        members: impl IntoIterator<Item = Member>,
        adopted: &[Entry],
    ) -> Vec<Persist> {
        let known = members.into_iter().map(Persist::Member);
        let mut changes = self.write(known.collect::<Vec<_>>());
        changes.extend(self.adopt(adopted));
        changes.extend(self.write([Persist::Joined(Member { number, node: self.me })]));
        changes
    }

    /// Notes that a member is confirmed, as its facts say. Number 0 is nobody's: a host without a number yet.
    pub fn note_member(&mut self, member: Member) -> Vec<Persist> {
        let known = member.number == 0
            || self.members.get(&member.number) == Some(&member.node)
            || self.removed.contains_key(&member.number);
        self.write((!known).then_some(Persist::Member(member)))
    }

    /// Applies an agreed removal: the node's promises end, its number leaves the count for good, and the merged tables are
    /// adopted. A fact that says "removed" is not enough to call this: fetch the table from a member that has applied it.
    pub fn remove(&mut self, member: Member, table: &[Entry]) -> Vec<Persist> {
        if self.removed.contains_key(&member.number) {
            return Vec::new();
        }
        // Who is no member yet gets all tables when it becomes one, and is told of no withdrawal until then: a number that
        // somebody else was promised would be counted for ever.
        let table = if self.number.is_some() { table } else { &[] };
        let kept: Vec<Entry> = table.iter().filter(|e| e.claimant != member.node).cloned().collect();
        let mut changes = self.adopt(&kept);
        changes.extend(self.write([Persist::Removed(member)]));
        changes
    }

    /// Whose promises these are.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// This node's number, once it is a member.
    pub fn number(&self) -> Option<u32> {
        self.number
    }

    /// Confirmed members that have not been removed.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        as_members(&self.members)
    }

    /// Members that have been removed.
    pub fn removed(&self) -> impl Iterator<Item = Member> + '_ {
        as_members(&self.removed)
    }

    /// Members whose removal was agreed to and is not yet applied: while there is one, nothing is promised.
    pub fn leaving(&self) -> impl Iterator<Item = Leaving> + '_ {
        self.leaving.iter().copied()
    }

    /// Nodes that were promised a number that is not known to be confirmed.
    pub fn pending(&self) -> impl Iterator<Item = Member> + '_ {
        // Node numbers are the first keys in the order.
        let numbers = self.held.iter().map_while(|(key, holders)| match key {
            ClaimKey::Node { number } => Some((*number, holders)),
            _ => None,
        });
        let unsettled = numbers.filter(|(number, _)| !self.members.contains_key(number));
        unsettled.flat_map(|(number, holders)| holders.keys().map(move |&node| Member { number, node }))
    }

    /// Everything that is promised.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.held.iter().flat_map(|(key, holders)| {
            holders.iter().map(|(&claimant, &attempt)| Entry { key: key.clone(), claimant, attempt })
        })
    }

    /// What is promised of one network's blocks and single addresses.
    pub fn entries_of(&self, network: &Name) -> impl Iterator<Item = (&ClaimKey, NodeId)> + '_ {
        let held = ClaimKey::of_network(network).map(|range| self.held.range(range));
        held.into_iter().flatten().flat_map(|(key, holders)| holders.keys().map(move |node| (key, *node)))
    }

    /// What is promised of a network's names and addresses to who takes them over.
    pub fn takeovers_of(&self, network: &Name) -> impl Iterator<Item = (&ClaimKey, NodeId, u64)> + '_ {
        let held = self.held.range(ClaimKey::takeovers_of(network));
        held.flat_map(|(key, holders)| holders.iter().map(move |(node, attempt)| (key, *node, *attempt)))
    }

    /// To whom this key, or one that stands in its way, is promised; what a claimant looks at before it picks a key.
    pub fn holder(&self, key: &ClaimKey, claimant: NodeId, places: &dyn Places) -> Option<Entry> {
        // What a host granted lies in its own block.
        let passed = |promised: &ClaimKey, node: NodeId| {
            let own = matches!((key, promised), (ClaimKey::Granted { by, .. }, ClaimKey::Block { .. }) if *by == node);
            own || node == claimant
        };
        let other = |promised: &ClaimKey| {
            let mut holders = self.held.get(promised)?.iter().filter(|(node, _)| !passed(promised, **node));
            holders.next().map(|(&node, &attempt)| Entry { key: promised.clone(), claimant: node, attempt })
        };
        let same = other(key);
        if same.is_some() {
            return same;
        }
        let mut members = self.members().filter(|member| member.node != claimant);
        let by_number = members.find(|m| conflicts(key, &ClaimKey::Node { number: m.number }, places));
        if let Some(Member { number, node }) = by_number {
            return Some(Entry { key: ClaimKey::Node { number }, claimant: node, attempt: 0 });
        }
        match key {
            ClaimKey::Node { .. } | ClaimKey::Vni { .. } | ClaimKey::Takeover { .. } => None,
            _ => self.held.keys().filter(|promised| conflicts(key, promised, places)).find_map(other),
        }
    }

    fn refusal(
        &self,
        key: &ClaimKey,
        claimant: NodeId,
        attempt: u64,
        view: &[u32],
        places: &dyn Places,
    ) -> Option<Reply> {
        let key_of = || key.clone();
        if self.removed.values().any(|&node| node == claimant) {
            return Some(Reply::Removed);
        }
        let network_unknown = match key {
            ClaimKey::Address { network, address } | ClaimKey::Granted { network, address, .. } => {
                places.place_of(network, *address) == Place::Unknown
            }
            _ => false,
        };
        if self.number.is_none() || network_unknown {
            return Some(Reply::NotReady { key: key_of(), attempt });
        }
        if let Some(holder) = self.holder(key, claimant, places) {
            return Some(Reply::Taken { key: key_of(), attempt, holder });
        }
        if !self.accepts_view(key, view) {
            return Some(self.stale_view(Some(key_of()), attempt));
        }
        if let Some(newer) = self.attempt_of(key, claimant).filter(|&held| held > attempt) {
            let holder = Entry { key: key_of(), claimant, attempt: newer };
            return Some(Reply::Taken { key: key_of(), attempt, holder });
        }
        let full = self.held.len() >= PROMISES_MAX && !self.held.contains_key(key);
        full.then(|| Reply::Full { key: key_of(), attempt })
    }

    fn promise(&mut self, key: ClaimKey, claimant: NodeId, attempt: u64) -> (Reply, Vec<Persist>) {
        let again = self.attempt_of(&key, claimant) == Some(attempt);
        let entry = Entry { key: key.clone(), claimant, attempt };
        let changes = self.write((!again).then_some(Persist::Promise(entry)));
        let table = match key {
            ClaimKey::Node { .. } => self.entries().filter(|e| e.key != key).collect(),
            _ => Vec::new(),
        };
        (Reply::Promised { key, attempt, table }, changes)
    }

    /// Whether a claimant counts everybody it must: all members and pending numbers that this one knows, none that was
    /// removed, with no gap; and for number n exactly what lies below n.
    fn accepts_view(&self, key: &ClaimKey, view: &[u32]) -> bool {
        let claimed = match key {
            ClaimKey::Node { number } => Some(*number),
            _ => None,
        };
        let pending: Vec<u32> = self.pending().map(|m| m.number).collect();
        let all_counted =
            self.members.keys().chain(&pending).all(|n| Some(*n) == claimed || view.contains(n));
        let none_removed = !view.iter().any(|n| self.removed.contains_key(n));
        let top = claimed.unwrap_or_else(|| view.iter().max().copied().unwrap_or(0).saturating_add(1));
        let settled = |n: &u32| *n < top && *n > 0;
        // Counting instead of walking 1..top: `top` is a foreign number.
        let below =
            view.iter().filter(|n| settled(n)).count() + self.removed.keys().filter(|n| settled(n)).count();
        let sorted = view.is_sorted_by(|a, b| a < b) && view.first() != Some(&0);
        let no_gap = usize::try_from(top).is_ok_and(|top| below + 1 == top);
        let nothing_above = view.last().is_none_or(|&last| last < top);
        let number_unused = claimed.is_none_or(|n| n > 1 && !self.removed.contains_key(&n));
        self.leaving.is_empty()
            && sorted
            && all_counted
            && none_removed
            && no_gap
            && nothing_above
            && number_unused
    }

    fn stale_view(&self, key: Option<ClaimKey>, attempt: u64) -> Reply {
        Reply::StaleView {
            key,
            attempt,
            members: self.members().collect(),
            pending: self.pending().collect(),
            removed: self.removed().collect(),
            leaving: self.leaving.iter().map(|leaving| leaving.member).collect(),
        }
    }

    /// Freezes: from here until the removal is applied nothing is promised, in the old count or the new one.
    fn agree_removal(&mut self, leaving: Leaving, view: &[u32]) -> (Reply, Vec<Persist>) {
        let Leaving { member, attempt, .. } = leaving;
        let agreed = Reply::Agreed { attempt, table: self.entries().collect() };
        if self.removed.contains_key(&member.number) {
            return (agreed, Vec::new());
        }
        let pending: Vec<u32> = self.pending().map(|m| m.number).collect();
        let all_counted = self.members.keys().chain(&pending).all(|n| view.contains(n));
        let stale = view.iter().any(|n| self.removed.contains_key(n));
        // Two removals frozen at once would be merged apart from each other.
        let other = self.leaving.iter().any(|earlier| earlier.member != member);
        let other = other || self.is_over(&leaving);
        let able = self.number.is_some() && member.node != self.me && view.contains(&member.number);
        if !able || !all_counted || stale || other {
            return (self.stale_view(None, attempt), Vec::new());
        }
        let fresh = !self.leaving.contains(&leaving);
        (agreed, self.write(fresh.then_some(Persist::Leaving(leaving))))
    }

    fn is_over(&self, leaving: &Leaving) -> bool {
        self.over.get(&leaving.remover).is_some_and(|over| *over >= leaving.attempt)
    }

    /// Takes over promises that other members have given.
    fn adopt(&mut self, table: &[Entry]) -> Vec<Persist> {
        let fresh = |e: &&Entry| {
            self.attempt_of(&e.key, e.claimant).is_none_or(|held| held < e.attempt)
                && !self.removed.values().any(|&node| node == e.claimant)
        };
        let changes: Vec<Persist> = table.iter().filter(fresh).cloned().map(Persist::Promise).collect();
        self.write(changes)
    }

    fn attempt_of(&self, key: &ClaimKey, claimant: NodeId) -> Option<u64> {
        self.held.get(key)?.get(&claimant).copied()
    }

    fn write(&mut self, changes: impl IntoIterator<Item = Persist>) -> Vec<Persist> {
        let changes: Vec<Persist> = changes.into_iter().collect();
        for change in &changes {
            self.apply(change);
        }
        changes
    }

    fn apply(&mut self, change: &Persist) {
        match change {
            Persist::Promise(Entry { key, claimant, attempt }) => {
                let held = self.held.entry(key.clone()).or_default().entry(*claimant).or_insert(*attempt);
                *held = (*held).max(*attempt);
            }
            Persist::Release { key, claimant } => {
                if let Some(holders) = self.held.get_mut(key) {
                    holders.remove(claimant);
                    if holders.is_empty() {
                        self.held.remove(key);
                    }
                }
            }
            // A joiner may have heard of a removal since it counted.
            Persist::Member(Member { number, .. }) if self.removed.contains_key(number) => {}
            Persist::Member(Member { number, node }) => {
                self.members.insert(*number, *node);
            }
            Persist::Joined(Member { number, node }) => {
                self.number = Some(*number);
                self.members.insert(*number, *node);
            }
            Persist::Leaving(leaving) => {
                self.leaving.retain(|l| l.member != leaving.member || l.remover != leaving.remover);
                self.leaving.insert(*leaving);
            }
            Persist::Staying(leaving) => {
                self.leaving.remove(leaving);
                let over = self.over.entry(leaving.remover).or_insert(leaving.attempt);
                *over = (*over).max(leaving.attempt);
            }
            Persist::Removed(Member { number, node }) => {
                self.members.remove(number);
                self.leaving.retain(|leaving| leaving.member.number != *number);
                self.removed.insert(*number, *node);
                self.over.remove(node);
                self.held.retain(|key, holders| {
                    holders.remove(node);
                    // Nobody can be given the number any more.
                    !holders.is_empty() && *key != (ClaimKey::Node { number: *number })
                });
            }
        }
    }
}

fn as_members(map: &BTreeMap<u32, NodeId>) -> impl Iterator<Item = Member> + '_ {
    map.iter().map(|(&number, &node)| Member { number, node })
}

/// How [`Promises`] rests as one JSON value: maps with structured keys are lists there.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    me: NodeId,
    number: Option<u32>,
    members: Vec<Member>,
    removed: Vec<Member>,
    leaving: Vec<Leaving>,
    #[serde(default)]
    over: Vec<(NodeId, u64)>,
    promises: Vec<Entry>,
}

impl From<Promises> for Snapshot {
    fn from(promises: Promises) -> Self {
        Self {
            me: promises.me,
            number: promises.number,
            members: promises.members().collect(),
            removed: promises.removed().collect(),
            leaving: promises.leaving().collect(),
            over: promises.over.iter().map(|(node, attempt)| (*node, *attempt)).collect(),
            promises: promises.entries().collect(),
        }
    }
}

impl From<Snapshot> for Promises {
    fn from(snapshot: Snapshot) -> Self {
        let map = |members: Vec<Member>| members.into_iter().map(|m| (m.number, m.node)).collect();
        let mut promises = Self {
            number: snapshot.number,
            members: map(snapshot.members),
            removed: map(snapshot.removed),
            leaving: snapshot.leaving.into_iter().collect(),
            over: snapshot.over.into_iter().collect(),
            ..Self::new(snapshot.me)
        };
        promises.write(snapshot.promises.into_iter().map(Persist::Promise));
        promises
    }
}
