//! What this host keeps over restarts: identity, its own facts, the last known catalog, promises and
//! the local side of its attachments.
//!
//! One embedded database (redb) in the state directory. What others rely on (own facts, promises,
//! incarnations) is durable before it is spoken of; what can be had again from peers is written behind.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

mod before;
mod error;
mod file;
#[cfg(test)]
mod tests;
mod untouched;

use before::Before;
pub use error::StoreError;

/// Single values: identity, incarnation, promises, sysctls to restore.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Facts: owner and key → version and value.
const FACTS: TableDefinition<'_, (u64, &[u8]), &[u8]> = TableDefinition::new("facts");
/// Owners' heads.
const HEADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("heads");
/// Local attachments: `network/name` → record.
const LOCAL: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("local");

/// Layout of the tables; a store of a later layout is refused, never guessed at.
const LAYOUT: u32 = 1;

/// Pages kept in memory. The store is read once, at the start, and written in the order of keys, so a cache saves
/// nothing; redb's own bound of 1 GiB kept the whole catalog a second time.
const CACHE_BYTES: usize = 4 << 20;

/// Between two looks whether a disk that has failed works again: each opens the file anew, which reads much of it.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the error constructors below short.
type Boxed = Box<dyn std::error::Error + Send + Sync>;

/// The embedded database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failure, until it is opened again: the library does nothing more on a file that failed once.
    database: RwLock<Option<Database>>,
    /// Why a write failed, until there is room again.
    failing: Mutex<Option<Failing>>,
    /// What the last transaction found, if it failed when it was to become durable: it may be in the file all the same.
    before: Mutex<Option<Before>>,
}

#[derive(Debug)]
struct Failing {
    reason: String,
    /// When it was last looked whether there is room again.
    probed: Option<Instant>,
}

/// One entry as stored: an owner, its key and its (version, value), both JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFact {
    /// Whose fact.
    pub owner: u64,
    /// JSON of the key.
    pub key: Vec<u8>,
    /// JSON of version and value.
    pub entry: Vec<u8>,
}

/// A row as it is read; all of it JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredRow<'a> {
    /// How far an owner is known.
    Head {
        /// Whose.
        owner: u64,
        /// As it was put.
        head: &'a [u8],
    },
    /// An owner's fact.
    Fact {
        /// Whose.
        owner: u64,
        /// Of what.
        key: &'a [u8],
        /// Version and value.
        entry: &'a [u8],
    },
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub struct Writes {
    /// Facts to put: owner and JSON of the key → JSON of version and value. Of two for one key the last counts, so
    /// that what waits for a disk that refuses is bounded by what there is to know.
    pub facts: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    /// Owners whose facts are all replaced by `facts`.
    pub replaced_owners: Vec<u64>,
    /// Heads to put, JSON.
    pub heads: BTreeMap<u64, Vec<u8>>,
    /// Meta values to put, JSON.
    pub meta: Vec<(String, Vec<u8>)>,
    /// Local attachments to put (JSON) or, with `None`, to remove.
    pub local: Vec<(String, Option<Vec<u8>>)>,
}

impl Writes {
    /// Puts a meta value.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn put_meta<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), StoreError> {
        self.meta.push((key.to_owned(), encode(key, value)?));
        Ok(())
    }

    /// Puts a local record, or removes it.
    ///
    /// # Errors
    /// When the record cannot be written as JSON.
    pub fn put_local<T: Serialize>(&mut self, key: &str, value: Option<&T>) -> Result<(), StoreError> {
        let value = value.map(|value| encode(key, value)).transpose()?;
        self.local.push((key.to_owned(), value));
        Ok(())
    }
}

/// JSON of a value, with the error of a write.
///
/// # Errors
/// When the value has a map key that JSON does not allow.
pub fn encode<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|source| StoreError::Write { what: what.to_owned(), source: source.into() })
}

impl Store {
    /// Opens the database in `directory`, creating both.
    ///
    /// # Errors
    /// When the directory cannot be made, another process has the database open, it is damaged, or of a
    /// later layout.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("state.redb");
        let database = file::open(directory, &path)?;
        let store = Self::new(path.clone(), database);
        match store.meta::<u32>("layout")? {
            Some(LAYOUT) => Ok(store),
            Some(found) => Err(StoreError::Layout { path, found }),
            None => Err(StoreError::Damaged { path, reason: "it says nothing of its layout".to_owned() }),
        }
    }

    fn new(path: PathBuf, database: Database) -> Self {
        let database = RwLock::new(Some(database));
        Self { path, database, failing: Mutex::default(), before: Mutex::default() }
    }

    /// Works with the database; after a failure with one that is opened anew, so that a disk that was full is no failure
    /// for ever.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Boxed>) -> Result<T, Boxed> {
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = open.as_ref() else {
            drop(open);
            return self.reopen_and(work);
        };
        let done = file::caught(|| work(database));
        drop(open);
        if done.is_err() {
            close(&mut self.database.write().unwrap_or_else(PoisonError::into_inner));
        }
        done
    }

    fn reopen_and<T>(&self, work: impl FnOnce(&Database) -> Result<T, Boxed>) -> Result<T, Boxed> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have come first.
        if open.is_none() {
            *open = Some(file::open_existing(&self.path)?);
        }
        let Some(database) = open.as_ref() else { return Err("it is not open".into()) };
        let done = file::caught(|| {
            self.put_back(database)?;
            work(database)
        });
        if done.is_err() {
            close(&mut open);
        }
        done
    }

    fn before(&self) -> MutexGuard<'_, Option<Before>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back what a failed transaction may have left in the file. Before anything else is read or written.
    fn put_back(&self, database: &Database) -> Result<(), Boxed> {
        let mut before = self.before();
        if let Some(rows) = before.as_ref() {
            let transaction = database.begin_write()?;
            rows.put_back(&transaction)?;
            transaction.commit()?;
            *before = None;
        }
        Ok(())
    }

    /// A meta value.
    ///
    /// # Errors
    /// When the database cannot be read or the value is not of this type.
    pub fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.read_meta(key).map_err(|source| StoreError::Read { what: format!("\"{key}\""), source })
    }

    fn read_meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Boxed> {
        let found = self.with(|database| {
            let table = database.begin_read()?.open_table(META)?;
            Ok(table.get(key)?.map(|guard| guard.value().to_vec()))
        })?;
        Ok(found.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// Shows all heads, then all facts in the order of owners, as they are at one moment: one by one, because together
    /// they take more memory than the catalog that is made of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn facts(&self, visit: impl FnMut(StoredRow<'_>)) -> Result<(), StoreError> {
        self.read_facts(visit).map_err(|source| StoreError::Read { what: "the facts".to_owned(), source })
    }

    fn read_facts(&self, mut visit: impl FnMut(StoredRow<'_>)) -> Result<(), Boxed> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            for row in transaction.open_table(HEADS)?.iter()? {
                let (owner, head) = row?;
                visit(StoredRow::Head { owner: owner.value(), head: head.value() });
            }
            for row in transaction.open_table(FACTS)?.iter()? {
                let (key, entry) = row?;
                let (owner, key) = key.value();
                visit(StoredRow::Fact { owner, key, entry: entry.value() });
            }
            Ok(())
        })
    }

    /// All local attachments. A record that cannot be read is left out and named in the second list.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn local<T: DeserializeOwned>(&self) -> Result<(Vec<T>, Vec<String>), StoreError> {
        self.read_local().map_err(|source| StoreError::Read { what: "the attachments".to_owned(), source })
    }

    fn read_local<T: DeserializeOwned>(&self) -> Result<(Vec<T>, Vec<String>), Boxed> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let (mut records, mut unreadable) = (Vec::new(), Vec::new());
            for row in transaction.open_table(LOCAL)?.iter()? {
                let (key, value) = row?;
                match serde_json::from_slice(value.value()) {
                    Ok(record) => records.push(record),
                    Err(error) => unreadable.push(format!("{}: {error}", key.value())),
                }
            }
            Ok((records, unreadable))
        })
    }

    /// Writes all or nothing. `durable`: on disk when this returns; else with the next durable write.
    ///
    /// # Errors
    /// When the disk is full or fails. Nothing of it is read from then on, and what was not durable before may be as it
    /// was. Where only the last sync failed it is in the file, until the file can be written again: the first thing that
    /// the next call does, or [`Store::fails`], is to put back what was there.
    pub fn commit(&self, writes: &Writes, durable: bool) -> Result<(), StoreError> {
        self.write(writes, durable, true).map_err(|source| self.failed(source))
    }

    /// Writes what is true whether it is on disk or not, durably. The caller keeps it until this succeeds.
    ///
    /// # Errors
    /// When the disk is full or fails; all or nothing of it is in the file then.
    pub fn save(&self, writes: &Writes) -> Result<(), StoreError> {
        self.write(writes, true, false).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: Boxed) -> StoreError {
        let mut failing = self.failing();
        let probed = failing.as_ref().and_then(|it| it.probed);
        *failing = Some(Failing { reason: chain(&*source), probed });
        StoreError::Write { what: "a change".to_owned(), source }
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something could not be written since there last was room.
    pub fn has_failed(&self) -> bool {
        self.failing().is_some()
    }

    /// Why something could not be written, while there is no room or no way for more. Costs nothing while all is well,
    /// and a few writes once a second while it is not: a small one may pass although the disk is full. These may block.
    pub fn fails(&self, now: Instant) -> Option<String> {
        let reason = {
            let mut failing = self.failing();
            let failing = failing.as_mut()?;
            if failing.probed.is_some_and(|at| now.saturating_duration_since(at) < PROBE_INTERVAL) {
                return Some(failing.reason.clone());
            }
            failing.probed = Some(now);
            failing.reason.clone()
        };
        let mut writes = Writes::default();
        let written = writes.put_meta("layout", &LAYOUT).and_then(|()| self.commit(&writes, true));
        if written.is_ok() && file::has_room(&self.path) {
            *self.failing() = None;
            return None;
        }
        Some(reason)
    }

    fn write(&self, writes: &Writes, durable: bool, revocable: bool) -> Result<(), Boxed> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            if !durable {
                transaction.set_durability(Durability::None)?;
            }
            // Held until this is decided: who writes next must not find it half so.
            let mut pending = self.before();
            if pending.is_some() {
                // One that began before the file was closed: what is to be put back comes first.
                return Err("another write has failed".into());
            }
            let before = if revocable { Some(Before::of(&transaction, writes)?) } else { None };
            put(&transaction, writes)?;
            *pending = before;
            transaction.commit()?;
            *pending = None;
            Ok(())
        })
    }

    /// Deletes rows of facts; those that were written anew since they were read stay.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn forget(&self, rows: &[StoredFact]) -> Result<(), StoreError> {
        self.forget_rows(rows)
            .map_err(|source| StoreError::Write { what: "what is forgotten".to_owned(), source })
    }

    fn forget_rows(&self, rows: &[StoredFact]) -> Result<(), Boxed> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut facts = transaction.open_table(FACTS)?;
                for row in rows {
                    let key = (row.owner, row.key.as_slice());
                    let same = facts.get(key)?.is_some_and(|entry| entry.value() == row.entry);
                    if same {
                        facts.remove(key)?;
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }
}

/// One that has failed may panic once more while it ends.
fn close(open: &mut Option<Database>) {
    let closing = || {
        drop(open.take());
        Ok(())
    };
    if let Err(error) = file::caught(closing) {
        tracing::warn!("closing the state database: {error}");
    }
}

/// Everything that is to be written, into a transaction.
fn put(transaction: &WriteTransaction, writes: &Writes) -> Result<(), Boxed> {
    let mut facts = transaction.open_table(FACTS)?;
    for owner in &writes.replaced_owners {
        facts.retain_in((*owner, &[][..])..=(*owner, &[0xff; 16][..]), |_, _| false)?;
    }
    for ((owner, key), entry) in &writes.facts {
        facts.insert((*owner, key.as_slice()), entry.as_slice())?;
    }
    let mut heads = transaction.open_table(HEADS)?;
    for (owner, head) in &writes.heads {
        heads.insert(*owner, head.as_slice())?;
    }
    let mut meta = transaction.open_table(META)?;
    for (key, value) in &writes.meta {
        meta.insert(key.as_str(), value.as_slice())?;
    }
    let mut local = transaction.open_table(LOCAL)?;
    for (key, value) in &writes.local {
        match value {
            Some(value) => local.insert(key.as_str(), value.as_slice())?,
            None => local.remove(key.as_str())?,
        };
    }
    Ok(())
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
