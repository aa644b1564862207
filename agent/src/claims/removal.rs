//! `node rm`: a majority of those who remain agrees, their tables are merged, everybody adopts them.
use std::collections::{BTreeMap, BTreeSet};

use super::message::{Entry, Leaving, Reply, Request};
use super::view::{View, removal_majority};
use crate::catalog::facts::ClaimKey;
use crate::model::NodeId;

/// How a removal came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalOutcome {
    /// Agreed. Apply it ([`super::Promises::remove`] with this table), publish the fact, and send [`Removal::announcements`]
    /// until each is answered.
    Agreed {
        /// The merged promises of those who agreed.
        table: Vec<Entry>,
    },
    /// Too few agreed. Send [`Removal::retractions`] until each is answered: who agreed promises nothing meanwhile, and
    /// says so as `leaving` in [`Reply::StaleView`].
    NoMajority {
        /// How many agreed.
        answered: usize,
        /// How many would have been enough.
        needed: usize,
        /// Who did not agree or not answer.
        silent: Vec<NodeId>,
        /// What members have said of members and removals that the remover did not count; try again with that.
        newer: Option<View>,
    },
}

/// What a step asks of its caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalStep {
    /// Send these; a request to this node itself goes to its own [`super::Promises`].
    pub send: Vec<(NodeId, Request)>,
    /// Then act on this.
    pub outcome: Option<RemovalOutcome>,
}

/// A running removal.
///
/// Agreeing freezes a member: it promises nothing, in the old count or the new one, until the removal is applied there. So
/// every claim that had a majority of the old members is in the table of somebody who agreed, and everybody who counts
/// the new members has adopted it. Two equal halves that remove each other's hosts at once both succeed: see [`removal_majority`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Removal {
    leaving: Leaving,
    view: View,
    newer: Option<View>,
    agreed: BTreeSet<NodeId>,
    tables: BTreeMap<(ClaimKey, NodeId), u64>,
    done: bool,
    failed: bool,
}

impl Removal {
    /// Starts to remove a member on behalf of `leaving.remover`, which may be the member itself (`leave`). Write `leaving`
    /// down before sending; after a restart that finds it, send [`Removal::retractions`] of a new start, or go on.
    pub fn start(leaving: Leaving, view: View) -> (Self, RemovalStep) {
        let Leaving { member, remover, attempt } = leaving;
        let removed = view.removed().collect::<Vec<_>>();
        let view = View::new(view.members().chain([member]), removed);
        let removal = Self {
            leaving,
            view,
            newer: None,
            agreed: BTreeSet::new(),
            tables: BTreeMap::new(),
            done: false,
            failed: false,
        };
        let ask = Request::Remove { member, remover, attempt, view: removal.view.numbers() };
        let send = removal.others().map(|node| (node, ask.clone())).collect();
        (removal, RemovalStep { send, outcome: None })
    }

    /// Takes in a reply.
    pub fn on_reply(&mut self, from: NodeId, reply: &Reply) -> RemovalStep {
        if let Reply::StaleView { key: None, members, pending, removed, .. } = reply {
            let known = self.newer.as_ref().unwrap_or(&self.view);
            let gone = known.removed().chain(removed.iter().map(|m| m.number)).collect::<Vec<_>>();
            let counted = pending.iter().copied().chain(known.members()).chain(members.iter().copied());
            self.newer = Some(View::new(counted.collect::<Vec<_>>(), gone));
        }
        let Reply::Agreed { attempt, table } = reply else { return RemovalStep::default() };
        let asked = *attempt == self.leaving.attempt && self.others().any(|node| node == from);
        if self.failed && asked {
            // Overtaken by its own retraction: what it froze must not stay frozen.
            let thaw = self.retractions().into_iter().filter(|(to, _)| *to == from).collect();
            return RemovalStep { send: thaw, outcome: None };
        }
        if self.done || !asked {
            return RemovalStep::default();
        }
        self.agreed.insert(from);
        for entry in table {
            let held = self.tables.entry((entry.key.clone(), entry.claimant)).or_insert(entry.attempt);
            *held = (*held).max(entry.attempt);
        }
        if self.agreed.len() < self.needed() {
            return RemovalStep::default();
        }
        self.done = true;
        RemovalStep { send: Vec::new(), outcome: Some(RemovalOutcome::Agreed { table: self.table() }) }
    }

    /// The time is over.
    pub fn on_deadline(&mut self) -> RemovalStep {
        if self.done {
            return RemovalStep::default();
        }
        self.done = true;
        self.failed = true;
        let silent = self.others().filter(|node| !self.agreed.contains(node)).collect();
        let outcome = RemovalOutcome::NoMajority {
            answered: self.agreed.len(),
            needed: self.needed(),
            silent,
            newer: self.newer.clone(),
        };
        RemovalStep { send: Vec::new(), outcome: Some(outcome) }
    }

    /// What tells the remaining members, once agreed.
    pub fn announcements(&self) -> Vec<(NodeId, Request)> {
        let told = Request::Removed { member: self.leaving.member, table: self.table() };
        self.others().map(|node| (node, told.clone())).collect()
    }

    /// What thaws those who agreed, after a removal that failed.
    pub fn retractions(&self) -> Vec<(NodeId, Request)> {
        let Leaving { member, remover, attempt } = self.leaving;
        self.others().map(|node| (node, Request::Keep { member, remover, attempt })).collect()
    }

    fn table(&self) -> Vec<Entry> {
        let entries = self.tables.iter();
        entries
            .map(|((key, claimant), &attempt)| Entry { key: key.clone(), claimant: *claimant, attempt })
            .collect()
    }

    fn needed(&self) -> usize {
        removal_majority(self.view.len())
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.view.members().map(|m| m.node).filter(|node| *node != self.leaving.member.node)
    }
}
