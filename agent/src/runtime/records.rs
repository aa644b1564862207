//! Facts as rows of the store, and back.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::facts::{Key, Value};
use crate::catalog::{Catalog, Entry, Full, Update};
use crate::model::{Head, NodeId};
use crate::store::{Store, StoreError, StoredFact, StoredRow, Writes};

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
        if let (Ok(mut key), Ok(mut entry)) = (serde_json::to_vec(&entry.key), serde_json::to_vec(&row)) {
            // Tens of thousands of them may wait for the disk.
            key.shrink_to_fit();
            entry.shrink_to_fit();
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
#[derive(Debug, Default)]
pub struct Forgettable {
    floors: BTreeMap<u64, u64>,
    /// Those found so far.
    pub rows: Vec<StoredFact>,
}

impl Forgettable {
    /// Looks at a row; heads come first.
    pub fn visit(&mut self, row: StoredRow<'_>) {
        match row {
            StoredRow::Head { owner, head } => {
                let floor = serde_json::from_slice::<HeadRow>(head).map_or(0, |head| head.floor);
                self.floors.insert(owner, floor);
            }
            StoredRow::Fact { owner, key, entry } => {
                let needless = self.floors.get(&owner).is_none_or(|floor| {
                    let row = serde_json::from_slice::<Row>(entry);
                    row.is_ok_and(|row| row.value.is_none() && row.version <= *floor)
                });
                if needless {
                    self.rows.push(StoredFact { owner, key: key.to_vec(), entry: entry.to_vec() });
                }
            }
        }
    }
}

/// The catalog as it was last saved, and what could not be read.
///
/// # Errors
/// When the database cannot be read at all.
pub fn load(store: &Store) -> Result<(Catalog, Vec<String>), StoreError> {
    let mut loading = Loading::default();
    store.facts(|row| loading.visit(row))?;
    Ok(loading.finish())
}

/// A catalog on its way out of the store. Facts come owner by owner: each is taken up when the next one begins.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    fulls: BTreeMap<u64, Full>,
    current: Option<u64>,
    catalog: Catalog,
    unreadable: Vec<String>,
}

impl Loading {
    pub(crate) fn visit(&mut self, row: StoredRow<'_>) {
        match row {
            StoredRow::Head { owner, head } => match serde_json::from_slice::<HeadRow>(head) {
                Ok(row) => {
                    let (head, floor, entries) = (row.head, row.floor, Vec::new());
                    self.fulls.insert(owner, Full { owner: NodeId(owner), head, floor, entries });
                }
                Err(error) => self.unreadable.push(format!("head of {}: {error}", NodeId(owner))),
            },
            StoredRow::Fact { owner, key, entry } => self.fact(owner, key, entry),
        }
    }

    fn fact(&mut self, owner: u64, key: &[u8], entry: &[u8]) {
        if self.current != Some(owner) {
            let before = self.current.replace(owner);
            if let Some(full) = before.and_then(|before| self.fulls.remove(&before)) {
                self.catalog.apply_full(full);
            }
        }
        let Some(full) = self.fulls.get_mut(&owner) else { return };
        match (serde_json::from_slice::<Key>(key), serde_json::from_slice::<Row>(entry)) {
            (Ok(key), Ok(row)) => full.entries.push(Entry { key, version: row.version, value: row.value }),
            (Err(error), _) | (_, Err(error)) => {
                // What is left counts as an earlier incarnation's: whoever has this one sends all of it. Of this host's own
                // facts those stand that it has read: its next incarnation takes the place of this one everywhere.
                full.head.incarnation = full.head.incarnation.saturating_sub(1);
                let key = String::from_utf8_lossy(key);
                self.unreadable.push(format!("fact {key} of {}: {error}", NodeId(owner)));
            }
        }
    }

    pub(crate) fn finish(mut self) -> (Catalog, Vec<String>) {
        for full in self.fulls.into_values() {
            self.catalog.apply_full(full);
        }
        (self.catalog, self.unreadable)
    }
}

#[cfg(test)]
mod tests;
