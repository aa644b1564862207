//! What the cluster knows: every owner's facts, merged without a leader, and indexed for those who derive from it.
//!
//! An owner alone writes its facts ([`Catalog::write`]); everybody else takes them up as deltas ([`Catalog::apply`])
//! or whole states ([`Catalog::apply_full`]), in any order and any number of times. Joining states is commutative,
//! associative and idempotent, so hosts that heard the same end up the same, whatever was lost in between.
//!
//! Nothing here does I/O or reads a clock.
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod changes;
mod definitions;
mod delta;
mod entry;
pub mod facts;
mod index;
mod names;
mod owner;
mod query;
mod reassert;
#[cfg(test)]
pub(crate) mod tests;
mod write;

pub use changes::Changes;
pub use definitions::{NetworkRecord, ServiceRecord};
pub use delta::{Applied, Delta, Full, Outcome, Update};
pub use entry::Entry;
pub use owner::{OwnerState, TOMBSTONE_AGE_MS, TOMBSTONES_MAX};
pub use write::{ENTRY_BYTES_MAX, WriteError};

use crate::model::{Head, NodeId, Stamp};
use index::Index;

/// Everybody's facts. Serialises as a list of [`Full`] states.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    owners: BTreeMap<NodeId, OwnerState>,
    index: Index,
}

impl Catalog {
    /// Takes up what an owner wrote, if it continues what is known of it.
    pub fn apply(&mut self, delta: Delta) -> Applied {
        let have = self.head(delta.owner);
        if delta.incarnation < have.incarnation {
            return Applied { changes: Changes::default(), outcome: Outcome::Stale };
        }
        if delta.incarnation > have.incarnation && delta.base == 0 {
            let head = delta.reaches();
            return self.apply_full(Full { owner: delta.owner, head, floor: 0, entries: delta.entries });
        }
        if delta.incarnation > have.incarnation || delta.base > have.version {
            return Applied { changes: Changes::default(), outcome: Outcome::Gap { have } };
        }
        if delta.incarnation == have.incarnation && delta.head <= have.version {
            return Applied { changes: Changes::default(), outcome: Outcome::Known };
        }
        let mut changes = Changes::default();
        let state = self.owners.entry(delta.owner).or_default();
        for (key, held) in owner::holdable(delta.entries, delta.head) {
            state.put(delta.owner, key, held, &mut self.index, &mut changes);
        }
        state.reach(delta.head);
        self.settle_removals(&mut changes);
        Applied { changes, outcome: Outcome::Current }
    }

    /// Takes up all of an owner's facts: joined to what is known of the same incarnation, in the place of an earlier one.
    pub fn apply_full(&mut self, full: Full) -> Applied {
        let have = self.head(full.owner);
        if full.head.incarnation < have.incarnation {
            return Applied { changes: Changes::default(), outcome: Outcome::Stale };
        }
        let mut changes = Changes::default();
        let head = full.head;
        let state = self.owners.entry(full.owner).or_default();
        if full.head.incarnation > have.incarnation {
            state.replace(full, &mut self.index, &mut changes);
        } else {
            state.join(full, &mut self.index, &mut changes);
        }
        self.settle_removals(&mut changes);
        let known = head <= have && changes.is_empty();
        Applied { changes, outcome: if known { Outcome::Known } else { Outcome::Current } }
    }

    /// Either, as the answer to a pull brings it.
    pub fn apply_update(&mut self, update: Update) -> Applied {
        match update {
            Update::Delta(delta) => self.apply(delta),
            Update::Full(full) => self.apply_full(full),
        }
    }

    /// Joins all that another catalog knows.
    pub fn merge(&mut self, other: &Self) -> Changes {
        let mut changes = Changes::default();
        for (owner, state) in &other.owners {
            changes.extend(self.apply_full(state.full(*owner)).changes);
        }
        changes
    }

    /// Answers a pull for any owner that is known here: the least that brings the asker, who stands at `have`, up to
    /// date. `None` if there is nothing newer here.
    pub fn delta_since(&self, owner: NodeId, have: Head) -> Option<Update> {
        self.owners.get(&owner)?.since(owner, have)
    }

    /// How far each owner is known.
    pub fn heads(&self) -> BTreeMap<NodeId, Head> {
        self.owners.iter().map(|(owner, state)| (*owner, state.head())).collect()
    }

    /// How far one owner is known; the default, before everything, if it is not.
    pub fn head(&self, owner: NodeId) -> Head {
        self.owners.get(&owner).map(OwnerState::head).unwrap_or_default()
    }

    /// Of whom somebody else knows more. Removed nodes are left out: nothing of theirs is needed.
    pub fn behind(&self, heads: &BTreeMap<NodeId, Head>) -> Vec<NodeId> {
        let behind =
            |(owner, head): &(&NodeId, &Head)| **head > self.head(**owner) && !self.is_removed(**owner);
        heads.iter().filter(behind).map(|(owner, _)| *owner).collect()
    }

    /// Drops all that is known of an owner, for one that is removed: others may know it still, and only what is
    /// removed is not pulled again.
    pub fn forget(&mut self, owner: NodeId) -> Changes {
        let mut changes = Changes::default();
        if let Some(state) = self.owners.remove(&owner) {
            for (key, stored) in state.all() {
                self.index.change(owner, key, stored, &entry::Stored::Gone, &mut changes);
            }
        }
        self.settle_removals(&mut changes);
        changes
    }

    /// Forgets tombstones older than [`TOMBSTONE_AGE_MS`]; to be called about once an hour with milliseconds of a
    /// clock that does not go back. Each host may do so at its own time.
    pub fn forget_tombstones(&mut self, now_ms: u64) {
        for state in self.owners.values_mut() {
            state.forget_tombstones(now_ms);
        }
    }

    /// The greatest logical time seen in any stamp.
    pub fn clock(&self) -> u64 {
        self.index.clock
    }

    /// Takes note of a logical time that was seen elsewhere, for example before a restart.
    pub fn raise_clock(&mut self, clock: u64) {
        self.index.clock = self.index.clock.max(clock);
    }

    /// A stamp later than all seen, which counts as seen from now on.
    pub fn next_stamp(&mut self, node: NodeId) -> Stamp {
        self.index.clock = self.index.clock.saturating_add(1);
        Stamp { clock: self.index.clock, node }
    }

    /// Takes nodes out of the index, or back into it, whose removal was asserted or withdrawn.
    fn settle_removals(&mut self, changes: &mut Changes) {
        for (node, by, says) in std::mem::take(&mut self.index.pending) {
            let was = self.is_removed(node);
            let asserters = self.index.removed.entry(node).or_default();
            if says {
                asserters.insert(by);
            } else {
                asserters.remove(&by);
            }
            if asserters.is_empty() {
                self.index.removed.remove(&node);
            }
            changes.hosts.insert(node);
            let is = self.is_removed(node);
            let Some(state) = self.owners.get(&node) else { continue };
            for (key, stored) in state.all().filter(|_| was != is) {
                match is {
                    true => self.index.take(node, key, stored, changes),
                    false => self.index.give(node, key, stored, changes),
                }
            }
        }
    }
}

impl Serialize for Catalog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.owners.iter().map(|(owner, state)| state.full(*owner)))
    }
}

impl<'de> Deserialize<'de> for Catalog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut catalog = Self::default();
        for full in Vec::<Full>::deserialize(deserializer)? {
            catalog.apply_full(full);
        }
        Ok(catalog)
    }
}
