//! Which names in which directories tell of a watched path.
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::super::target::open_place;

/// One inotify watch per directory, however many names in it are of interest.
pub(super) struct Directories {
    file: OwnedFd,
    names: HashMap<i32, HashMap<OsString, Vec<u64>>>,
}

/// Which paths to look at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    Slots(Vec<u64>),
    /// Events were lost, or a directory itself has gone.
    All,
}

impl Directories {
    pub(super) fn new() -> std::io::Result<Self> {
        let file = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { file, names: HashMap::new() })
    }

    /// Starts to listen for a path. Where that is impossible (limits, no directory) the caller's own looking must do.
    pub(super) fn add(&mut self, slot: u64, root: Option<&OwnedFd>, path: &Path) -> Option<i32> {
        let name = path.file_name()?;
        let directory = open_place(root.map(AsFd::as_fd), path.parent()?).ok()?;
        let shown = format!("/proc/thread-self/fd/{}", directory.as_raw_fd());
        let interest = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let directory = inotify::add_watch(&self.file, shown, interest).ok()?;
        self.names.entry(directory).or_default().entry(name.to_owned()).or_default().push(slot);
        Some(directory)
    }

    pub(super) fn remove(&mut self, slot: u64, directory: i32, path: &Path) {
        let Some(names) = self.names.get_mut(&directory) else { return };
        let Some(name) = path.file_name() else { return };
        if let Some(slots) = names.get_mut(name) {
            slots.retain(|&other| other != slot);
            if slots.is_empty() {
                names.remove(name);
            }
        }
        if names.is_empty() {
            self.names.remove(&directory);
            // It fails when the directory has gone, which removed the watch.
            let _gone = inotify::remove_watch(&self.file, directory);
        }
    }

    /// Reads all events that wait.
    pub(super) fn read(&mut self) -> Hint {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.file, &mut buffer);
        let (mut slots, mut all) = (Vec::new(), false);
        // Any error means that no event is left; what was lost is found by looking.
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            match name.filter(|_| !event.events().contains(ReadFlags::QUEUE_OVERFLOW)) {
                Some(name) => {
                    slots.extend(self.names.get(&event.wd()).and_then(|n| n.get(name)).into_iter().flatten())
                }
                None => all = true,
            }
        }
        if all { Hint::All } else { Hint::Slots(slots) }
    }
}

impl AsFd for Directories {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
