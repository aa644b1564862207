//! Facts as rows of the store, and back.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::facts::{Key, Value};
use crate::catalog::{Catalog, Entry, Full, Update};
use crate::model::{Head, NodeId};
use crate::store::{Store, StoreError, StoredFact, Writes};

/// A row's value.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    version: u64,
    value: Option<Value>,
}

/// An owner's head and the version below which tombstones may be missing.
#[derive(Debug, Serialize, Deserialize)]
struct HeadRow {
    head: Head,
    floor: u64,
}

/// Whose facts an update brings.
pub fn owner_of(update: &Update) -> NodeId {
    match update {
        Update::Delta(delta) => delta.owner,
        Update::Full(full) => full.owner,
    }
}

/// The rows of an update that was applied to `catalog`.
pub fn of_update(update: &Update) -> Writes {
    let mut writes = Writes::default();
    let (owner, entries) = match update {
        Update::Delta(delta) => (delta.owner, &delta.entries),
        Update::Full(full) => {
            writes.replaced_owners.push(full.owner.0);
            (full.owner, &full.entries)
        }
    };
    for entry in entries {
        let row = Row { version: entry.version, value: entry.value.clone() };
        if let (Ok(key), Ok(entry)) = (serde_json::to_vec(&entry.key), serde_json::to_vec(&row)) {
            writes.facts.insert((owner.0, key), entry);
        }
    }
    writes
}

/// Adds the row of an owner's head as the catalog has it.
pub fn put_head(catalog: &Catalog, owner: NodeId, writes: &mut Writes) {
    let floor = catalog.owner(owner).map_or(0, crate::catalog::OwnerState::floor);
    if let Ok(row) = serde_json::to_vec(&HeadRow { head: catalog.head(owner), floor }) {
        writes.heads.insert(owner.0, row);
    }
}

/// Appends `more` to `writes`, keeping the order that a replaced owner needs.
pub fn append(writes: &mut Writes, more: Writes) {
    for owner in more.replaced_owners {
        writes.facts.retain(|(of, _), _| *of != owner);
        if !writes.replaced_owners.contains(&owner) {
            writes.replaced_owners.push(owner);
        }
    }
    writes.facts.extend(more.facts);
    writes.heads.extend(more.heads);
    writes.meta.retain(|(name, _)| !more.meta.iter().any(|(newer, _)| newer == name));
    writes.meta.extend(more.meta);
    writes.local.extend(more.local);
}

/// Of the rows of a store those that nobody needs any more: withdrawals up to their owner's floor, as the store has it
/// (a reader that is further behind gets the whole state), and what has no head. What cannot be read stays.
pub fn forgettable(facts: Vec<StoredFact>, heads: &[(u64, Vec<u8>)]) -> Vec<StoredFact> {
    let floor = |head: &[u8]| serde_json::from_slice::<HeadRow>(head).map_or(0, |head| head.floor);
    let floors: BTreeMap<u64, u64> = heads.iter().map(|(owner, head)| (*owner, floor(head))).collect();
    let needless = |fact: &StoredFact| {
        let Some(floor) = floors.get(&fact.owner) else { return true };
        let row = serde_json::from_slice::<Row>(&fact.entry);
        row.is_ok_and(|row| row.value.is_none() && row.version <= *floor)
    };
    facts.into_iter().filter(needless).collect()
}

/// The catalog as it was last saved, and what could not be read.
///
/// # Errors
/// When the database cannot be read at all.
pub fn load(store: &Store) -> Result<(Catalog, Vec<String>), StoreError> {
    let (facts, heads) = store.facts()?;
    let mut unreadable = Vec::new();
    let mut fulls = BTreeMap::<u64, Full>::new();
    for (owner, row) in heads {
        match serde_json::from_slice::<HeadRow>(&row) {
            Ok(row) => {
                let entries = Vec::new();
                fulls.insert(owner, Full { owner: NodeId(owner), head: row.head, floor: row.floor, entries });
            }
            Err(error) => unreadable.push(format!("head of {}: {error}", NodeId(owner))),
        }
    }
    for fact in facts {
        let Some(full) = fulls.get_mut(&fact.owner) else { continue };
        match (serde_json::from_slice::<Key>(&fact.key), serde_json::from_slice::<Row>(&fact.entry)) {
            (Ok(key), Ok(row)) => full.entries.push(Entry { key, version: row.version, value: row.value }),
            (Err(error), _) | (_, Err(error)) => {
                let key = String::from_utf8_lossy(&fact.key).into_owned();
                unreadable.push(format!("fact {key} of {}: {error}", NodeId(fact.owner)));
            }
        }
    }
    let mut catalog = Catalog::default();
    for full in fulls.into_values() {
        catalog.apply_full(full);
    }
    Ok((catalog, unreadable))
}

#[cfg(test)]
mod tests;
