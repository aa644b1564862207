//! This host's claims and promises as they rest in the store.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::facts::ClaimKey;
use crate::claims::{ClaimPersist, ClaimRecord, Promises};
use crate::model::NodeId;
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
}

/// As [`Books`] rests.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    promises: Option<Promises>,
    claims: Vec<ClaimRecord>,
    attempt: u64,
}

impl Books {
    /// Empty books.
    pub fn new(me: NodeId) -> Self {
        Self { promises: Promises::new(me), claims: BTreeMap::new(), attempt: 0 }
    }

    /// The books as they were last written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &crate::store::Store, me: NodeId) -> Result<Self, StoreError> {
        let saved: Saved = store.meta("claims")?.unwrap_or_default();
        let promises = saved.promises.unwrap_or_else(|| Promises::new(me));
        let claims = saved.claims.into_iter().map(|record| (record.key.clone(), record)).collect();
        Ok(Self { promises, claims, attempt: saved.attempt })
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
