//! One claim, from its claimant's side: ask all, count, confirm or withdraw.
use std::collections::{BTreeMap, BTreeSet};

use super::message::{ClaimPersist, ClaimRecord, ClaimState, Entry, Member, Reply, Request};
use super::outcome::{Outcome, StartError};
use super::view::View;
use crate::catalog::facts::ClaimKey;
use crate::model::NodeId;

/// What a step asks of its caller, in this order: write, send, act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Write these durably first.
    pub persist: Vec<ClaimPersist>,
    /// Then send these. A request to this node itself goes to its own [`super::Promises`].
    pub send: Vec<(NodeId, Request)>,
    /// Then act on this. At most one step of a claim has one.
    pub outcome: Option<Outcome>,
}

/// What to do after a restart with a claim that was pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Ask again, in the same attempt.
    Finish,
    /// Give it up.
    Withdraw,
}

/// A running claim. It is given replies and, 1 s after its start, the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claimant {
    me: NodeId,
    record: ClaimRecord,
    view: View,
    promised: BTreeSet<NodeId>,
    taken: BTreeMap<NodeId, Entry>,
    refused: BTreeSet<NodeId>,
    pending: BTreeSet<Member>,
    newer: Option<View>,
    tables: BTreeMap<(ClaimKey, NodeId), u64>,
    withdrawn: BTreeSet<NodeId>,
}

impl Claimant {
    /// Starts a claim. `attempt` must be greater than that of every claim this node has ever started, over restarts
    /// (a durable counter).
    ///
    /// # Errors
    /// [`StartError`]; nothing has been written or sent.
    pub fn start(me: NodeId, key: ClaimKey, attempt: u64, view: View) -> Result<(Self, Step), StartError> {
        if view.is_empty() {
            return Err(StartError::NoMembers);
        }
        if let Some(gap) = view.gap() {
            return Err(StartError::Gap { gap });
        }
        match key {
            ClaimKey::Node { number } if number != view.next_number() => {
                return Err(StartError::NotNext { number, next: view.next_number() });
            }
            ClaimKey::Node { .. } => {}
            _ if !view.counts(me) => return Err(StartError::NotMember),
            _ => {}
        }
        let record = ClaimRecord {
            key,
            attempt,
            state: ClaimState::Pending,
            members: view.members().collect(),
            removed: view.removed().collect(),
        };
        let claimant = Self::of(me, record);
        let step = Step { persist: vec![claimant.put()], send: claimant.asks(), outcome: None };
        Ok((claimant, step))
    }

    /// Takes up a claim again, after a restart, from what was written. A pending one is finished or withdrawn as `how` says; a
    /// withdrawing one goes on withdrawing, whatever `how` says; of a confirmed one nothing is left to do.
    pub fn resume(me: NodeId, record: ClaimRecord, how: Resume) -> (Self, Step) {
        let mut claimant = Self::of(me, record);
        let step = match (claimant.record.state, how) {
            (ClaimState::Pending, Resume::Finish) => Step { send: claimant.asks(), ..Step::default() },
            (ClaimState::Pending, Resume::Withdraw) => claimant.withdraw(None),
            (ClaimState::Withdrawing, _) => Step { send: claimant.withdrawals(), ..Step::default() },
            (ClaimState::Confirmed, _) => Step::default(),
        };
        (claimant, step)
    }

    /// Gives back a key that was confirmed, once nothing uses it any more. `members` are asked besides those that were
    /// counted when it was claimed: members that joined since have adopted the promise.
    pub fn release(
        me: NodeId,
        record: ClaimRecord,
        members: impl IntoIterator<Item = Member>,
    ) -> (Self, Step) {
        let mut record = record;
        for member in members {
            if !record.members.contains(&member) {
                record.members.push(member);
            }
        }
        let mut claimant = Self::of(me, record);
        let step = claimant.withdraw(None);
        (claimant, step)
    }

    /// Takes in a reply. Replies to other claims or attempts change nothing here, except that a promise which arrives
    /// after the withdrawal is withdrawn once more.
    pub fn on_reply(&mut self, from: NodeId, reply: &Reply) -> Step {
        if !self.concerns(from, reply) {
            return Step::default();
        }
        if self.record.state == ClaimState::Withdrawing {
            return self.on_reply_withdrawing(from, reply);
        }
        if self.record.state == ClaimState::Confirmed {
            return Step::default();
        }
        match reply {
            Reply::Promised { table, .. } => {
                self.promised.insert(from);
                for entry in table {
                    let held =
                        self.tables.entry((entry.key.clone(), entry.claimant)).or_insert(entry.attempt);
                    *held = (*held).max(entry.attempt);
                }
            }
            Reply::Taken { holder, .. } => {
                self.taken.insert(from, holder.clone());
            }
            Reply::StaleView { members, pending, removed, .. } => {
                self.note_view(from, members, pending, removed)
            }
            Reply::NotReady { .. } | Reply::Full { .. } => {
                self.refused.insert(from);
            }
            Reply::Removed => return self.withdraw(Some(Outcome::Removed)),
            _ => return Step::default(),
        }
        self.decide()
    }

    /// The time is over: whoever has not promised yet does not count.
    pub fn on_deadline(&mut self) -> Step {
        if self.record.state != ClaimState::Pending {
            return Step::default();
        }
        let outcome = self.failure();
        self.withdraw(Some(outcome))
    }

    /// Requests that have not been answered yet, to be sent again: asks while pending, withdrawals while withdrawing.
    /// Withdrawals are sent again until all are acknowledged (the record is then forgotten), also over restarts.
    pub fn unanswered(&self) -> Vec<(NodeId, Request)> {
        let sends = match self.record.state {
            ClaimState::Pending => self.asks(),
            ClaimState::Withdrawing => self.withdrawals(),
            ClaimState::Confirmed => Vec::new(),
        };
        sends.into_iter().filter(|(to, _)| !self.answered(*to)).collect()
    }

    /// Whether nothing is left to be done: confirmed, or all withdrawals acknowledged.
    pub fn finished(&self) -> bool {
        match self.record.state {
            ClaimState::Pending => false,
            ClaimState::Confirmed => true,
            ClaimState::Withdrawing => self.all_withdrawn(),
        }
    }

    /// The record as it stands.
    pub fn record(&self) -> &ClaimRecord {
        &self.record
    }

    /// A member will not return: its acknowledgement is no longer waited for.
    pub fn forget_member(&mut self, node: NodeId) -> Step {
        if self.record.state != ClaimState::Withdrawing {
            return Step::default();
        }
        self.withdrawn.insert(node);
        self.forget_if_done()
    }

    fn of(me: NodeId, record: ClaimRecord) -> Self {
        let view = View::new(record.members.iter().copied(), record.removed.iter().copied());
        Self {
            me,
            record,
            view,
            promised: BTreeSet::new(),
            taken: BTreeMap::new(),
            refused: BTreeSet::new(),
            pending: BTreeSet::new(),
            newer: None,
            tables: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
        }
    }

    /// Whether the reply is from one that was asked, and about this claim in this attempt.
    fn concerns(&self, from: NodeId, reply: &Reply) -> bool {
        let about = match reply {
            Reply::Promised { key, attempt, .. }
            | Reply::Taken { key, attempt, .. }
            | Reply::StaleView { key: Some(key), attempt, .. }
            | Reply::NotReady { key, attempt }
            | Reply::Full { key, attempt }
            | Reply::Withdrawn { key, attempt } => *key == self.record.key && *attempt == self.record.attempt,
            Reply::Removed => true,
            _ => false,
        };
        about && self.record.members.iter().any(|member| member.node == from)
    }

    fn on_reply_withdrawing(&mut self, from: NodeId, reply: &Reply) -> Step {
        match reply {
            Reply::Promised { .. } => {
                self.withdrawn.remove(&from);
                Step { send: vec![(from, self.withdrawal())], ..Step::default() }
            }
            Reply::Withdrawn { .. } | Reply::Removed => {
                self.withdrawn.insert(from);
                self.forget_if_done()
            }
            _ => Step::default(),
        }
    }

    fn note_view(&mut self, from: NodeId, members: &[Member], pending: &[Member], removed: &[Member]) {
        self.refused.insert(from);
        self.pending.extend(pending.iter().filter(|m| !self.view.counts(m.node)));
        let known = self.newer.as_ref().unwrap_or(&self.view);
        let gone = known.removed().chain(removed.iter().map(|m| m.number)).collect::<Vec<_>>();
        let counted = known.members().chain(members.iter().copied()).collect::<Vec<_>>();
        self.newer = Some(View::new(counted, gone));
    }

    fn decide(&mut self) -> Step {
        let needed = self.view.majority();
        if self.promised.len() >= needed {
            self.record.state = ClaimState::Confirmed;
            let adopted = std::mem::take(&mut self.tables);
            let adopted = adopted
                .into_iter()
                .map(|((key, claimant), attempt)| Entry { key, claimant, attempt })
                .collect();
            return Step {
                persist: vec![self.put()],
                outcome: Some(Outcome::Confirmed { adopted }),
                ..Step::default()
            };
        }
        let against: BTreeSet<&NodeId> =
            self.taken.keys().chain(&self.refused).filter(|n| !self.promised.contains(n)).collect();
        if self.view.len() - against.len() < needed {
            let outcome = self.failure();
            return self.withdraw(Some(outcome));
        }
        Step::default()
    }

    fn failure(&self) -> Outcome {
        if let Some(view) = &self.newer {
            return Outcome::StaleView {
                view: view.clone(),
                pending: self.pending.iter().copied().collect(),
            };
        }
        let named = |entry: &Entry| self.taken.values().filter(|other| *other == entry).count();
        if let Some(holder) = self.taken.values().max_by_key(|entry| named(entry)) {
            return Outcome::Lost { holder: holder.clone() };
        }
        let others = self.view.members().map(|m| m.node).filter(|node| !self.promised.contains(node));
        let (refused, silent) = others.partition(|node| self.refused.contains(node));
        Outcome::NoMajority { answered: self.promised.len(), needed: self.view.majority(), refused, silent }
    }

    /// Written before the first withdrawal leaves: a restart in between must not finish an attempt that members have
    /// already let go.
    fn withdraw(&mut self, outcome: Option<Outcome>) -> Step {
        self.record.state = ClaimState::Withdrawing;
        self.tables.clear();
        Step { persist: vec![self.put()], send: self.withdrawals(), outcome }
    }

    fn forget_if_done(&self) -> Step {
        let ClaimRecord { key, attempt, .. } = &self.record;
        let forget = ClaimPersist::Forget { key: key.clone(), attempt: *attempt };
        Step { persist: self.all_withdrawn().then_some(forget).into_iter().collect(), ..Step::default() }
    }

    fn all_withdrawn(&self) -> bool {
        self.record.members.iter().all(|member| self.withdrawn.contains(&member.node))
    }

    fn answered(&self, node: NodeId) -> bool {
        match self.record.state {
            ClaimState::Withdrawing => self.withdrawn.contains(&node),
            _ => {
                self.promised.contains(&node)
                    || self.taken.contains_key(&node)
                    || self.refused.contains(&node)
            }
        }
    }

    fn put(&self) -> ClaimPersist {
        ClaimPersist::Put(self.record.clone())
    }

    fn asks(&self) -> Vec<(NodeId, Request)> {
        let ask = Request::Promise {
            key: self.record.key.clone(),
            claimant: self.me,
            attempt: self.record.attempt,
            view: self.view.numbers(),
        };
        self.record.members.iter().map(|member| (member.node, ask.clone())).collect()
    }

    fn withdrawals(&self) -> Vec<(NodeId, Request)> {
        self.record.members.iter().map(|member| (member.node, self.withdrawal())).collect()
    }

    fn withdrawal(&self) -> Request {
        let ClaimRecord { key, attempt, .. } = &self.record;
        Request::Withdraw { key: key.clone(), claimant: self.me, attempt: *attempt }
    }
}
