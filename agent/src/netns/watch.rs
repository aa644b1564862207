//! Tells when a watched namespace has ended, from outside and without keeping it alive.
//!
//! One thread waits for all: pidfds tell of processes, inotify of names that go or change, and every 250 ms each
//! path is looked at, because an unmount alone makes no event. While a handle into the namespace is held elsewhere
//! its inode is not given out again, so comparing inodes is exact.
mod directories;
mod keeper;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rustix::event::EventfdFlags;
use tokio::sync::mpsc;

use super::{Error, Inode, Place};
use keeper::Keeper;

/// Longest time until the end of a path is noticed, when no event told of it.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Requests that may wait for the thread; more wait in the caller.
const REQUESTS_MAX: usize = 1024;

/// A namespace has ended. It is told once per watch, which is then over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// As given to [`Watcher::watch`].
    pub id: u64,
    /// How it showed.
    pub cause: Cause,
}

/// How a namespace's end showed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages name.
pub enum Cause {
    /// The last process that was followed has ended and no other is in the namespace.
    #[error("no process is left in it since process {pid} ended")]
    Empty { pid: u32 },
    /// Unmounted, unlinked or moved away.
    #[error("{} is gone", path.display())]
    Gone { path: PathBuf },
    /// The path shows something else.
    #[error("{} is another namespace now", path.display())]
    Replaced { path: PathBuf },
}

/// Watches any number of namespaces (made for a thousand) with one thread, which ends when this is dropped.
pub struct Watcher {
    requests: SyncSender<Request>,
    wake: Arc<OwnedFd>,
}

enum Request {
    Watch { id: u64, inode: Inode, place: Place },
    Unwatch { id: u64 },
}

impl Watcher {
    /// Starts the thread. It waits where `deaths` is full, and ends when its receiver is gone.
    ///
    /// # Errors
    /// [`Error::Watch`] or [`Error::Thread`], out of descriptors or threads.
    pub fn start(deaths: mpsc::Sender<Death>) -> Result<Self, Error> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::Watch { what: "no event descriptor", source: errno.into() })?;
        let wake = Arc::new(wake);
        let (requests, inbox) = sync_channel(REQUESTS_MAX);
        let keeper = Keeper::new(inbox, Arc::clone(&wake), deaths)?;
        let builder = std::thread::Builder::new().name("netns-watch".to_owned());
        builder.spawn(move || keeper.run()).map_err(|source| Error::Thread { source })?;
        Ok(Self { requests, wake })
    }

    /// Watches a namespace under a number of the caller's choice; a watch under the same number is replaced. One
    /// that has ended already is told of at once. [`Place::Host`] never ends.
    ///
    /// # Errors
    /// [`Error::Watch`] when the thread has ended.
    pub fn watch(&self, id: u64, inode: Inode, place: Place) -> Result<(), Error> {
        self.send(Request::Watch { id, inode, place })
    }

    /// Ends a watch; unknown numbers are no error. A death that was already told stays in the channel.
    ///
    /// # Errors
    /// [`Error::Watch`] when the thread has ended.
    pub fn unwatch(&self, id: u64) -> Result<(), Error> {
        self.send(Request::Unwatch { id })
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        let ended =
            |_| Error::Watch { what: "its thread has ended", source: io::ErrorKind::BrokenPipe.into() };
        self.requests.send(request).map_err(ended)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _full = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The thread finds the channel closed: a sender that nobody holds takes the place of ours.
        self.requests = sync_channel(0).0;
        self.wake();
    }
}
