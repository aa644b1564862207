//! How an owner writes its own facts.
use std::collections::BTreeMap;
use std::io;

use super::entry::{Entry, Held, Stored};
use super::facts::{Key, Value};
use super::{Catalog, Changes, Delta};
use crate::model::NodeId;

/// Bytes of JSON that one entry may take.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024;

/// Why nothing of a batch was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An entry would be too large to travel well.
    #[error("the entry {key:?} takes {bytes} bytes, more than {ENTRY_BYTES_MAX}")]
    TooLarge {
        /// The entry.
        key: Key,
        /// Its size.
        bytes: usize,
    },
    /// A value is of another kind than its key.
    #[error("the value for the entry {key:?} is of another kind")]
    Mismatch {
        /// The entry.
        key: Key,
    },
    /// The owner has not begun an incarnation: [`Catalog::restart`] comes first.
    #[error("the owner {owner} has not begun an incarnation")]
    Unstarted {
        /// The owner.
        owner: NodeId,
    },
}

impl Catalog {
    /// Begins an incarnation of an owner, which keeps its facts. To be called with an incarnation greater than any
    /// before, before the first write; a lower one is ignored.
    pub fn restart(&mut self, owner: NodeId, incarnation: u64) {
        let state = self.owners.entry(owner).or_default();
        if incarnation > state.head().incarnation {
            state.restart(incarnation);
        }
    }

    /// Writes an owner's facts, `None` to withdraw one: all of the batch or, on an error, nothing. A value equal to
    /// what stands is no write; a batch without writes gives a delta that [`is_empty`](Delta::is_empty). A batch is
    /// one version, and of two values for one key the last counts.
    pub fn write(
        &mut self,
        owner: NodeId,
        batch: Vec<(Key, Option<Value>)>,
    ) -> Result<(Delta, Changes), WriteError> {
        let Some(state) = self.owners.get_mut(&owner).filter(|state| state.head().incarnation > 0) else {
            return Err(WriteError::Unstarted { owner });
        };
        let mut writes = Vec::with_capacity(batch.len());
        for (key, value) in batch.into_iter().collect::<BTreeMap<_, _>>() {
            let entry = Entry { key, version: u64::MAX, value };
            let bytes = json_bytes(&entry);
            if bytes > ENTRY_BYTES_MAX {
                return Err(WriteError::TooLarge { key: entry.key, bytes });
            }
            let Some(stored) = Stored::new(&entry.key, entry.value.clone()) else {
                return Err(WriteError::Mismatch { key: entry.key });
            };
            if *state.stored(&entry.key) != stored {
                writes.push((entry, stored));
            }
        }
        let base = state.head().version;
        let version = base.saturating_add(u64::from(!writes.is_empty()));
        let mut changes = Changes::default();
        let mut entries = Vec::with_capacity(writes.len());
        for (entry, stored) in writes {
            let held = Held { version, stored };
            state.put(owner, entry.key.clone(), held, &mut self.index, &mut changes);
            entries.push(Entry { version, ..entry });
        }
        state.reach(version);
        let incarnation = state.head().incarnation;
        self.settle_removals(&mut changes);
        Ok((Delta { owner, incarnation, base, head: version, entries }, changes))
    }
}

/// Size as JSON, without keeping the text.
fn json_bytes(entry: &Entry) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, entry) {
        Ok(()) => count.0,
        // Cannot happen: no map in an entry has keys that JSON lacks. Too large to write is the safe answer.
        Err(_) => usize::MAX,
    }
}
