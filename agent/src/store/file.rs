//! The database's file: made as a whole, or refused as it is.
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Builder, Database, DatabaseError, StorageError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::untouched::Untouched;
use super::{Boxed, CACHE_BYTES, FACTS, HEADS, LAYOUT, LOCAL, META, StoreError};

/// As much as many verbs write.
const ROOM_BYTES: usize = 1 << 18;

/// Opens the file, or makes one where there is none.
pub(super) fn open(directory: &Path, path: &Path) -> Result<Database, StoreError> {
    let failed = |source: Boxed| StoreError::Open { path: path.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(|e| failed(e.into()))?;
    if !path.try_exists().map_err(|e| failed(e.into()))? {
        make(directory, path)?;
    }
    // For root alone: it holds promises and facts.
    restrict(directory).map_err(|e| failed(e.into()))?;
    open_checked(path)
}

/// Opens the file once all of it has been found to be as it was written. An empty one is damaged: it never was so before
/// it got its name.
fn open_checked(path: &Path) -> Result<Database, StoreError> {
    // What the disk has changed since would be read as something else, or as less.
    let checked = guarded(path, || {
        let mut database = builder().create_with_backend(Untouched::open(path)?)?;
        database.check_integrity()
    })?;
    match checked {
        Ok(true) => open_existing(path),
        Ok(false) => Err(damaged(path, "its checksums do not fit")),
        Err(error) => Err(named(path, error)),
    }
}

/// Opens the file as it is, with what a kill has cut short taken back.
pub(super) fn open_existing(path: &Path) -> Result<Database, StoreError> {
    guarded(path, || builder().open(path))?.map_err(|error| named(path, error))
}

/// Under another name, until it is whole on disk: a crash in between leaves none that could be taken for a damaged one.
pub(super) fn make(directory: &Path, path: &Path) -> Result<(), StoreError> {
    let new = path.with_extension("redb.new");
    let failed = |source: Boxed| StoreError::Open { path: path.to_owned(), source };
    let created = match guarded(&new, || builder().create(&new)).and_then(|it| it.map_err(|e| named(path, e)))
    {
        // What a crash left of another attempt.
        Err(StoreError::Damaged { .. }) => {
            std::fs::remove_file(&new).map_err(|e| failed(e.into()))?;
            builder().create(&new).map_err(|error| named(path, error))?
        }
        created => created?,
    };
    create_tables(&created).map_err(failed)?;
    // Ours while it has its name: nobody else opens it before. Nor does it take the place of one that another start made.
    match renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(StoreError::InUse { path: path.to_owned() }),
        Err(error) => return Err(failed(io::Error::from(error).into())),
    }
    drop(created);
    std::fs::File::open(directory).and_then(|it| it.sync_all()).map_err(|e| failed(e.into()))
}

/// Whether more than a little could be written beside the file.
pub(super) fn has_room(path: &Path) -> bool {
    let probe = path.with_extension("redb.probe");
    let written = std::fs::write(&probe, vec![0; ROOM_BYTES]);
    // Where it could be written it can be removed.
    written.and(std::fs::remove_file(&probe)).is_ok()
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn create_tables(database: &Database) -> Result<(), Boxed> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("layout", serde_json::to_vec(&LAYOUT)?.as_slice())?;
    transaction.open_table(FACTS)?;
    transaction.open_table(HEADS)?;
    transaction.open_table(LOCAL)?;
    transaction.commit()?;
    Ok(())
}

/// The library takes some of what it reads for granted, and panics where that is not so.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| damaged(path, text_of(&*panic)))
}

/// As [`guarded`], of work with a database that is open.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, Boxed>) -> Result<T, Boxed> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(text_of(&*panic).into()))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be read")
}

fn named(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::Storage(StorageError::Corrupted(reason)) => damaged(path, &reason),
        DatabaseError::Storage(StorageError::Io(error)) if is_damage(error.kind()) => {
            damaged(path, &error.to_string())
        }
        error => StoreError::Open { path: path.to_owned(), source: error.into() },
    }
}

fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn restrict(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
}
