//! A file that is read as it is: what is written goes to memory and is forgotten.
//!
//! The library repairs what it opens and checks, and what it has repaired looks whole afterwards. Looked at through this,
//! a damaged file stays damaged, so no later start can take what is left of it for all of it.
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// What is kept in memory of a changed place; the library's page size.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// The file, under the library's own lock, and what has been "written" to it.
#[derive(Debug)]
pub(super) struct Untouched {
    file: FileBackend,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    length: u64,
    /// How far the file's bytes count; zeros follow.
    kept: u64,
    /// By number. Bounded by what a repair rewrites, which is a small part of the file.
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Untouched {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// When it cannot be opened for reading and writing: whoever may only read it cannot use it.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            // The library would make a new database of it.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty").into());
        }
        let changed = Mutex::new(Changed { length, kept: length, blocks: BTreeMap::new() });
        Ok(Self { file: FileBackend::new(file)?, changed })
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Part of a block that has not changed.
    fn read_kept(&self, kept: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let count = usize::try_from(kept.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (there, beyond) = out.split_at_mut(count);
        beyond.fill(0);
        if there.is_empty() { Ok(()) } else { self.file.read(offset, there) }
    }
}

/// The pieces of a range that lie in one block each: block, place in it, how much.
fn pieces(offset: u64, count: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let place = usize::try_from(at % BLOCK_BYTES).unwrap_or_default();
        let size = (BLOCK - place).min(count - done);
        done += size;
        (size > 0).then_some((at / BLOCK_BYTES, place, size))
    })
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changed.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, place, size) in pieces(offset, rest.len()) {
            let (piece, after) = rest.split_at_mut(size);
            match changed.blocks.get(&number) {
                Some(block) => piece.copy_from_slice(&block[place..place + size]),
                None => self.read_kept(changed.kept, number * BLOCK_BYTES + place as u64, piece)?,
            }
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut changed = self.changed();
        if length < changed.length {
            changed.kept = changed.kept.min(length);
            changed.blocks.retain(|number, _| number * BLOCK_BYTES < length);
            let place = usize::try_from(length % BLOCK_BYTES).unwrap_or_default();
            if let Some(block) = changed.blocks.get_mut(&(length / BLOCK_BYTES)) {
                block[place..].fill(0);
            }
        }
        changed.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed();
        let end = offset.checked_add(data.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let mut rest = data;
        for (number, place, size) in pieces(offset, data.len()) {
            let (piece, after) = rest.split_at(size);
            if !changed.blocks.contains_key(&number) {
                let mut block = Box::new([0; BLOCK]);
                self.read_kept(changed.kept, number * BLOCK_BYTES, &mut block[..])?;
                changed.blocks.insert(number, block);
            }
            if let Some(block) = changed.blocks.get_mut(&number) {
                block[place..place + size].copy_from_slice(piece);
            }
            rest = after;
        }
        changed.length = changed.length.max(end);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
