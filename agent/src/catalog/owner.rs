//! What is known of one owner: a complete prefix of its history.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::changes::Changes;
use super::delta::{Delta, Full, Update};
use super::entry::{Entry, Held, Stored};
use super::facts::{Key, Value};
use super::index::Index;
use crate::model::{Head, NodeId};

/// Tombstones kept of one owner; beyond it the older half is forgotten.
pub const TOMBSTONES_MAX: usize = 10_000;
/// How long a tombstone is kept, in milliseconds.
pub const TOMBSTONE_AGE_MS: u64 = 24 * 60 * 60 * 1000;
/// Writes listed per owner, 64 bytes each. Who is further behind costs a look at every entry.
const RECENT_MAX: usize = 256;
/// Between two marks of the owner's version, in milliseconds; bounds the marks to 25.
const MARK_INTERVAL_MS: u64 = 60 * 60 * 1000;

/// All that an owner wrote up to its head, less what it withdrew.
///
/// States of one incarnation are prefixes of one history, so the later of two contains the earlier. A key that is
/// absent counts as withdrawn at the floor.
#[derive(Clone, Debug, Default)]
pub struct OwnerState {
    head: Head,
    floor: u64,
    entries: BTreeMap<Key, Held>,
    tombstones: usize,
    /// (time in milliseconds, version then), oldest first.
    marks: VecDeque<(u64, u64)>,
    recent: Recent,
}

/// The keys written last, so that a reader who is little behind is answered without a look at every entry.
#[derive(Clone, Debug, Default)]
struct Recent {
    /// Every write after this version is in the list.
    after: u64,
    writes: VecDeque<(u64, Key)>,
}

impl Recent {
    fn note(&mut self, version: u64, key: &Key) {
        // Room is made first: a list that grows once more has room for twice as many.
        if self.writes.len() >= RECENT_MAX
            && let Some((dropped, _)) = self.writes.pop_front()
        {
            self.after = self.after.max(dropped);
        }
        self.writes.push_back((version, key.clone()));
    }

    fn clear(&mut self, head: u64) {
        *self = Self { after: head, writes: VecDeque::new() };
    }
}

impl OwnerState {
    /// How far the owner's facts are known here.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Tombstones up to this version may have been forgotten here.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Entries held, tombstones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tombstones held, at most [`TOMBSTONES_MAX`].
    pub fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// What the owner says under a key.
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.entries.get(key).and_then(|held| held.stored.value())
    }

    /// The keys of everything the owner says and has not withdrawn.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.iter().filter(|(_, held)| !held.stored.is_gone()).map(|(key, _)| key)
    }

    /// The whole state, to travel or rest.
    pub fn full(&self, owner: NodeId) -> Full {
        let entries = self.entries.iter().map(entry).collect();
        Full { owner, head: self.head, floor: self.floor, entries }
    }

    /// The least that brings a reader at `have` here; `None` if it is not behind.
    pub fn since(&self, owner: NodeId, have: Head) -> Option<Update> {
        if have >= self.head {
            return None;
        }
        if have.incarnation != self.head.incarnation || have.version < self.floor {
            return Some(Update::Full(self.full(owner)));
        }
        let entries = self.written_after(have.version);
        let Head { incarnation, version: head } = self.head;
        Some(Update::Delta(Delta { owner, incarnation, base: have.version, head, entries }))
    }

    fn written_after(&self, version: u64) -> Vec<Entry> {
        if version < self.recent.after {
            return self.entries.iter().filter(|(_, held)| held.version > version).map(entry).collect();
        }
        let written = self.recent.writes.iter().filter(|(at, _)| *at > version);
        let keys: BTreeSet<&Key> = written.map(|(_, key)| key).collect();
        keys.into_iter().filter_map(|key| self.entries.get_key_value(key)).map(entry).collect()
    }

    pub(super) fn stored(&self, key: &Key) -> &Stored {
        self.entries.get(key).map_or(&Stored::Gone, |held| &held.stored)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.entries.iter().map(|(key, held)| (key, &held.stored))
    }

    /// Begins an incarnation with the same facts. Readers get it as a whole, so it needs no tombstones.
    pub(super) fn restart(&mut self, incarnation: u64) {
        self.head.incarnation = incarnation;
        self.raise_floor(self.head.version);
        self.marks.clear();
    }

    pub(super) fn reach(&mut self, version: u64) {
        self.head.version = self.head.version.max(version);
        self.bound_tombstones();
    }

    /// Takes one entry of this incarnation unless what stands is newer.
    pub(super) fn put(
        &mut self,
        owner: NodeId,
        key: Key,
        held: Held,
        index: &mut Index,
        changes: &mut Changes,
    ) {
        let Some(old) = self.entries.get_mut(&key) else {
            if held.version <= self.floor {
                return;
            }
            let key = index.intern(key);
            let stored = index.share(owner, &key, held.stored);
            index.change(owner, &key, &Stored::Gone, &stored, changes);
            self.tombstones += usize::from(stored.is_gone());
            self.recent.note(held.version, &key);
            self.entries.insert(key, Held { version: held.version, stored });
            return;
        };
        if !held.beats(old) {
            return;
        }
        old.version = held.version;
        self.recent.note(held.version, &key);
        if old.stored == held.stored {
            return;
        }
        let stored = index.share(owner, &key, held.stored);
        index.change(owner, &key, &old.stored, &stored, changes);
        self.tombstones += usize::from(stored.is_gone());
        self.tombstones -= usize::from(old.stored.is_gone());
        old.stored = stored;
    }

    /// Joins a state of the same incarnation.
    pub(super) fn join(&mut self, full: Full, index: &mut Index, changes: &mut Changes) {
        let owner = full.owner;
        if full.floor > self.floor {
            let named: BTreeSet<&Key> = full.entries.iter().map(|entry| &entry.key).collect();
            self.entries.retain(|key, held| {
                let stays = held.version > full.floor || named.contains(key);
                if !stays {
                    index.change(owner, key, &held.stored, &Stored::Gone, changes);
                }
                stays
            });
        }
        for (key, held) in holdable(full.entries, full.head.version) {
            self.put(owner, key, held, index, changes);
        }
        self.raise_floor(full.floor);
        self.recount();
        self.reach(full.head.version);
        self.recent.clear(self.head.version);
    }

    /// Takes the place of an earlier incarnation as a whole.
    pub(super) fn replace(&mut self, full: Full, index: &mut Index, changes: &mut Changes) {
        let owner = full.owner;
        let mut before = std::mem::take(&mut self.entries);
        let mut entries = Vec::with_capacity(full.entries.len());
        for (key, held) in once_each(full.entries, full.head.version) {
            if held.stored.is_gone() && held.version <= full.floor {
                continue;
            }
            let old = before.remove_entry(&key);
            let (key, old) = match old {
                Some((key, old)) if old.stored == held.stored => {
                    entries.push((key, Held { version: held.version, ..old }));
                    continue;
                }
                Some((key, old)) => (key, old.stored),
                None => (index.intern(key), Stored::Gone),
            };
            let stored = index.share(owner, &key, held.stored);
            index.change(owner, &key, &old, &stored, changes);
            entries.push((key, Held { version: held.version, stored }));
        }
        for (key, old) in &before {
            index.change(owner, key, &old.stored, &Stored::Gone, changes);
        }
        // Built from a sorted list at once its nodes are full; grown one by one they would be half empty.
        self.entries = entries.into_iter().collect();
        self.marks.clear();
        self.head = full.head;
        self.floor = full.floor;
        self.recent.clear(self.head.version);
        self.recount();
        self.bound_tombstones();
    }

    /// Forgets tombstones that are older than [`TOMBSTONE_AGE_MS`]. To be called about once an hour, with a time
    /// in milliseconds that does not go back.
    pub(super) fn forget_tombstones(&mut self, now_ms: u64) {
        if self.marks.back().is_none_or(|(then, _)| now_ms.saturating_sub(*then) >= MARK_INTERVAL_MS) {
            self.marks.push_back((now_ms, self.head.version));
        }
        while let Some((then, version)) = self.marks.front().copied() {
            if now_ms.saturating_sub(then) < TOMBSTONE_AGE_MS {
                break;
            }
            self.raise_floor(version);
            self.marks.pop_front();
        }
    }

    fn bound_tombstones(&mut self) {
        if self.tombstones <= TOMBSTONES_MAX {
            return;
        }
        let gone = self.entries.values().filter(|held| held.stored.is_gone());
        let mut versions: Vec<u64> = gone.map(|held| held.version).collect();
        versions.sort_unstable();
        // Half, so that the scan is paid once in thousands of withdrawals.
        let floor = versions.get(versions.len().saturating_sub(TOMBSTONES_MAX / 2)).copied();
        self.raise_floor(floor.unwrap_or(self.head.version));
    }

    fn raise_floor(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        if self.tombstones > 0 {
            self.entries.retain(|_, held| !held.stored.is_gone() || held.version > floor);
            self.recount();
        }
    }

    fn recount(&mut self) {
        self.tombstones = self.entries.values().filter(|held| held.stored.is_gone()).count();
    }
}

fn entry((key, held): (&Key, &Held)) -> Entry {
    Entry { key: key.clone(), version: held.version, value: held.stored.value() }
}

/// The entries that can be held: an entry beyond its own head, or with a value of another kind than its key, is no
/// honest owner's and is left out on every host alike.
pub(super) fn holdable(entries: Vec<Entry>, head: u64) -> impl Iterator<Item = (Key, Held)> {
    entries.into_iter().filter(move |entry| entry.version <= head).filter_map(|entry| {
        let stored = Stored::new(&entry.key, entry.value)?;
        Some((entry.key, Held { version: entry.version, stored }))
    })
}

/// As [`holdable`], in the order of keys, each at most once.
fn once_each(entries: Vec<Entry>, head: u64) -> Vec<(Key, Held)> {
    let mut list: Vec<(Key, Held)> = holdable(entries, head).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list.dedup_by(|next, kept| {
        let again = next.0 == kept.0;
        if again && next.1.beats(&kept.1) {
            std::mem::swap(next, kept);
        }
        again
    });
    list
}
