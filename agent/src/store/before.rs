//! What rows were before a transaction: put back when it has failed.
//!
//! A transaction that failed may be in the file all the same: where only the last sync failed all of it is written, and
//! counts as soon as the file is opened again.
use std::collections::BTreeMap;

use redb::{ReadableTable, Table, WriteTransaction};

use super::{Boxed, FACTS, HEADS, LOCAL, META, Writes};

/// Rows as they were; `None` where there was none. Bounded by the transaction that changed them.
#[derive(Debug, Default)]
pub(super) struct Before {
    facts: BTreeMap<(u64, Vec<u8>), Option<Vec<u8>>>,
    heads: BTreeMap<u64, Option<Vec<u8>>>,
    meta: BTreeMap<String, Option<Vec<u8>>>,
    local: BTreeMap<String, Option<Vec<u8>>>,
}

impl Before {
    /// Of the rows that `writes` changes.
    pub(super) fn of(transaction: &WriteTransaction, writes: &Writes) -> Result<Self, Boxed> {
        let mut before = Self::default();
        let facts = transaction.open_table(FACTS)?;
        for owner in &writes.replaced_owners {
            for row in facts.range((*owner, &[][..])..=(*owner, &[0xff; 16][..]))? {
                let (key, entry) = row?;
                before.facts.insert((*owner, key.value().1.to_vec()), Some(entry.value().to_vec()));
            }
        }
        for (owner, key) in writes.facts.keys() {
            let entry = facts.get((*owner, key.as_slice()))?.map(|it| it.value().to_vec());
            before.facts.insert((*owner, key.clone()), entry);
        }
        let heads = transaction.open_table(HEADS)?;
        for owner in writes.heads.keys() {
            before.heads.insert(*owner, heads.get(*owner)?.map(|it| it.value().to_vec()));
        }
        let (meta, local) = (transaction.open_table(META)?, transaction.open_table(LOCAL)?);
        for (key, _) in &writes.meta {
            before.meta.insert(key.clone(), text_row(&meta, key)?);
        }
        for (key, _) in &writes.local {
            before.local.insert(key.clone(), text_row(&local, key)?);
        }
        Ok(before)
    }

    /// Makes all of them what they were.
    pub(super) fn put_back(&self, transaction: &WriteTransaction) -> Result<(), Boxed> {
        let mut facts = transaction.open_table(FACTS)?;
        for ((owner, key), entry) in &self.facts {
            match entry {
                Some(entry) => facts.insert((*owner, key.as_slice()), entry.as_slice())?,
                None => facts.remove((*owner, key.as_slice()))?,
            };
        }
        let mut heads = transaction.open_table(HEADS)?;
        for (owner, head) in &self.heads {
            match head {
                Some(head) => heads.insert(*owner, head.as_slice())?,
                None => heads.remove(*owner)?,
            };
        }
        put_back_text(&mut transaction.open_table(META)?, &self.meta)?;
        put_back_text(&mut transaction.open_table(LOCAL)?, &self.local)
    }
}

fn text_row(table: &Table<'_, &str, &[u8]>, key: &str) -> Result<Option<Vec<u8>>, Boxed> {
    Ok(table.get(key)?.map(|it| it.value().to_vec()))
}

fn put_back_text(
    table: &mut Table<'_, &str, &[u8]>,
    rows: &BTreeMap<String, Option<Vec<u8>>>,
) -> Result<(), Boxed> {
    for (key, value) in rows {
        match value {
            Some(value) => table.insert(key.as_str(), value.as_slice())?,
            None => table.remove(key.as_str())?,
        };
    }
    Ok(())
}
