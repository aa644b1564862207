//! Tells when what a path shows may have changed: by a writing in place, a rename, a link that leads elsewhere.
#![allow(unsafe_code)] // AsyncFd has its caller vouch for the descriptor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Links that are followed from one file to the next; more are left to the looking.
const LINKS_MAX: usize = 8;

/// Listens to the directories that the path leads through, link by link, and to the file at its end.
pub(super) struct Watch {
    events: AsyncFd<OwnedFd>,
    /// Directories by the number of their watch, and the name in each that matters.
    names: Vec<(i32, OsString)>,
    whole: bool,
}

impl Watch {
    /// Listens from here on.
    ///
    /// # Errors
    /// No inotify instance is left, or a directory of none of the links can be listened to.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        let file = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let (mut names, mut at) = (Vec::new(), path.to_owned());
        let mut whole = false;
        for _ in 0..LINKS_MAX {
            let (Some(directory), Some(name)) = (at.parent().map(Path::to_owned), at.file_name()) else {
                break;
            };
            match inotify::add_watch(&file, &directory, in_directory()) {
                Ok(watch) => names.push((watch, name.to_owned())),
                Err(_) if !names.is_empty() => break,
                Err(errno) => return Err(errno.into()),
            }
            match std::fs::read_link(&at) {
                Ok(target) => at = directory.join(target),
                Err(_) => {
                    whole = true;
                    break;
                }
            }
        }
        // A file that is mounted over the path is written to in another directory. There may be none.
        let _none = inotify::add_watch(&file, path, in_file());
        // SAFETY: an OwnedFd is open and the same descriptor until it is dropped.
        let events = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?;
        Ok(Self { events, names, whole })
    }

    /// Whether every directory is listened to.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Waits for an event that matters. Cancelled, it has taken none.
    pub(super) async fn event(&mut self) {
        loop {
            // It fails with the runtime only.
            let Ok(mut ready) = self.events.readable().await else { return };
            let matters = matters(ready.get_inner(), &self.names);
            ready.clear_ready();
            if matters {
                return;
            }
        }
    }
}

/// Takes all events that wait, and tells whether one of them matters.
fn matters(file: &OwnedFd, names: &[(i32, OsString)]) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(file, &mut buffer);
    let mut matters = false;
    // Any error means that no event is left; what was lost is found by looking.
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        let other = |name| !names.iter().any(|(watch, wanted)| *watch == event.wd() && wanted == name);
        // The end of a watch is told after what ended it.
        let end = event.events().contains(ReadFlags::IGNORED);
        matters |= !end && !name.is_some_and(other);
    }
    matters
}

fn in_directory() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | in_file()
        | WatchFlags::ONLYDIR
}

fn in_file() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}
