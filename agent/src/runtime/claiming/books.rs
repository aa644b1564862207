//! This host's claims and promises as they rest in the store.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use tokio::sync::watch;

use crate::catalog::facts::{ClaimKey, Region};
use crate::claims::{ClaimPersist, ClaimRecord, ClaimState, Leaving, Promises};
use crate::model::{Name, NodeId};
use crate::store::{StoreError, Writes};

/// This host's claims and promises, as they rest in the store.
#[derive(Debug)]
pub struct Books {
    /// Promises to others and to this host itself, and the members known.
    pub promises: Promises,
    /// This host's claims by key.
    pub claims: BTreeMap<ClaimKey, ClaimRecord>,
    /// Greatest attempt ever used.
    pub attempt: u64,
    /// Removals that this host began, written down before anybody was asked, until they are agreed or every member
    /// has heard that they are over: who agreed promises nothing until then.
    pub removals: Vec<Leaving>,
    /// Keys that are being claimed right now; who wants one of them waits for the sender's end. Not kept.
    pub running: BTreeMap<ClaimKey, watch::Receiver<()>>,
    /// Where a block is being claimed ahead of need. Not kept.
    pub ahead: BTreeSet<(Name, Region)>,
    /// The greatest node number that anybody asked to be promised here. Those below it that are not known here were
    /// removed while this host was away, and their last mention may have gone with them. Not kept.
    pub heard: u32,
    /// Takeovers and grants whose attachments are being made, and not reserved yet ([`super::Hold`]). Not kept.
    pub taking: BTreeSet<ClaimKey>,
    /// Attempts of `removals` that are still going on. Not kept.
    pub removing: BTreeSet<u64>,
}

/// As [`Books`] rests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    promises: Option<Promises>,
    claims: Vec<ClaimRecord>,
    attempt: u64,
    #[serde(default)]
    removals: Vec<Leaving>,
}

impl Books {
    /// Empty books.
    pub fn new(me: NodeId) -> Self {
        Self {
            promises: Promises::new(me),
            claims: BTreeMap::new(),
            attempt: 0,
            removals: Vec::new(),
            running: BTreeMap::new(),
            ahead: BTreeSet::new(),
            heard: 0,
            taking: BTreeSet::new(),
            removing: BTreeSet::new(),
        }
    }

    /// The books as they were last written. A claim that was cut short is given up: whoever wanted it asks anew, with
    /// a new attempt. That need not be written before its withdrawals leave, as every start does the same.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &crate::store::Store, me: NodeId) -> Result<Self, StoreError> {
        Ok(Self::of(store.meta("claims")?.unwrap_or_default(), me))
    }

    /// As [`Books::load`], from what was kept.
    pub(crate) fn of(saved: Saved, me: NodeId) -> Self {
        let claims = saved.claims.into_iter().map(|record| (record.key.clone(), given_up(record))).collect();
        Self {
            promises: saved.promises.unwrap_or_else(|| Promises::new(me)),
            claims,
            attempt: saved.attempt,
            removals: saved.removals,
            ..Self::new(me)
        }
    }

    /// Adds the books to a transaction.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn save(&self, writes: &mut Writes) -> Result<(), StoreError> {
        let saved = Saved {
            promises: Some(self.promises.clone()),
            claims: self.claims.values().cloned().collect(),
            attempt: self.attempt,
            removals: self.removals.clone(),
        };
        writes.put_meta("claims", &saved)
    }

    /// Takes up what a step of a claim wants written.
    pub fn record(&mut self, changes: Vec<ClaimPersist>) {
        for change in changes {
            match change {
                ClaimPersist::Put(record) => {
                    self.claims.insert(record.key.clone(), record);
                }
                ClaimPersist::Forget { key, attempt } => {
                    if self.claims.get(&key).is_some_and(|record| record.attempt == attempt) {
                        self.claims.remove(&key);
                    }
                }
            }
        }
    }
}

fn given_up(record: ClaimRecord) -> ClaimRecord {
    match record.state {
        ClaimState::Pending => ClaimRecord { state: ClaimState::Withdrawing, ..record },
        ClaimState::Confirmed | ClaimState::Withdrawing => record,
    }
}

#[cfg(test)]
mod tests;
