//! What a host keeps over a crash: the rows that the product would have written, and nothing else.
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::store::{StoreError, StoredRow, Writes};

/// As [`crate::store::Store`], in memory.
#[derive(Default)]
pub(super) struct Disk {
    facts: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    heads: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<String, Vec<u8>>,
    local: BTreeMap<String, Vec<u8>>,
    /// Refuses every write.
    pub(super) full: bool,
}

impl Disk {
    pub(super) fn commit(&mut self, writes: &Writes) -> Result<(), StoreError> {
        if self.full {
            let source = "no space left on device".into();
            return Err(StoreError::Write { what: "a change".to_owned(), source });
        }
        for owner in &writes.replaced_owners {
            self.facts.retain(|(of, _), _| of != owner);
        }
        self.facts.extend(writes.facts.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        self.heads.extend(writes.heads.iter().map(|(owner, head)| (*owner, head.clone())));
        self.meta.extend(writes.meta.iter().map(|(name, value)| (name.clone(), value.clone())));
        for (key, value) in &writes.local {
            match value {
                Some(value) => drop(self.local.insert(key.clone(), value.clone())),
                None => drop(self.local.remove(key)),
            }
        }
        Ok(())
    }

    pub(super) fn meta<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.meta.get(name).map(|value| serde_json::from_slice(value).unwrap())
    }

    pub(super) fn facts(&self, mut visit: impl FnMut(StoredRow<'_>)) {
        for (owner, head) in &self.heads {
            visit(StoredRow::Head { owner: *owner, head });
        }
        for ((owner, key), entry) in &self.facts {
            visit(StoredRow::Fact { owner: *owner, key, entry });
        }
    }

    pub(super) fn local<T: DeserializeOwned>(&self) -> Vec<T> {
        self.local.values().map(|value| serde_json::from_slice(value).unwrap()).collect()
    }
}
