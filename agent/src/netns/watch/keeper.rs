//! The watcher's thread: waits for events and decides what they mean.
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::super::target::{follow, open_place};
use super::super::{Error, Inode, Place, processes};
use super::directories::{Directories, Hint};
use super::{Cause, Death, LOOK_INTERVAL, Request};

const TOKEN_WAKE: u64 = 0;
const TOKEN_DIRECTORIES: u64 = 1;
/// Slots count upwards from here and are never used again.
const SLOT_FIRST: u64 = 2;
/// Events taken at once.
const EVENTS_MAX: usize = 64;
/// Scans of `/proc` after one process has ended, when those found ended meanwhile too; after that the next wake-up
/// goes on.
const SCANS_MAX: usize = 3;

pub(super) struct Keeper {
    requests: Receiver<Request>,
    wake: Arc<OwnedFd>,
    deaths: mpsc::Sender<Death>,
    epoll: OwnedFd,
    directories: Directories,
    watched: HashMap<u64, Watched>,
    slots: HashMap<u64, u64>,
    slot_next: u64,
    look_at: Instant,
}

struct Watched {
    id: u64,
    inode: Inode,
    sign: Sign,
}

enum Sign {
    Path {
        root: Option<OwnedFd>,
        path: PathBuf,
        directory: Option<i32>,
    },
    /// The descriptor is open for as long as its end is listened for.
    Process {
        pid: u32,
        _pidfd: OwnedFd,
    },
}

impl Keeper {
    pub(super) fn new(
        requests: Receiver<Request>,
        wake: Arc<OwnedFd>,
        deaths: mpsc::Sender<Death>,
    ) -> Result<Self, Error> {
        let failed = |what| move |source: io::Error| Error::Watch { what, source };
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed("no epoll")(errno.into()))?;
        let directories = Directories::new().map_err(failed("no inotify"))?;
        for (file, token) in [(wake.as_fd(), TOKEN_WAKE), (directories.as_fd(), TOKEN_DIRECTORIES)] {
            epoll::add(&epoll, file, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
                .map_err(|errno| failed("epoll is full")(errno.into()))?;
        }
        let (watched, slots) = (HashMap::new(), HashMap::new());
        let look_at = Instant::now();
        Ok(Self {
            requests,
            wake,
            deaths,
            epoll,
            directories,
            watched,
            slots,
            slot_next: SLOT_FIRST,
            look_at,
        })
    }

    /// Until the watcher is dropped, or nobody listens to deaths.
    pub(super) fn run(mut self) {
        loop {
            let tokens = self.wait();
            if !self.take_requests() {
                return;
            }
            let mut dead = Vec::new();
            if tokens.contains(&TOKEN_DIRECTORIES) {
                match self.directories.read() {
                    Hint::Slots(slots) => dead.extend(slots.iter().filter_map(|slot| self.look(*slot))),
                    Hint::All => self.look_at = Instant::now(),
                }
            }
            if self.look_at <= Instant::now() {
                let slots: Vec<u64> = self.watched.keys().copied().collect();
                dead.extend(slots.into_iter().filter_map(|slot| self.look(slot)));
                self.look_at = Instant::now() + LOOK_INTERVAL;
            }
            dead.extend(self.follow_others(tokens));
            for (slot, cause) in dead {
                if !self.report(slot, cause) {
                    return;
                }
            }
        }
    }

    fn wait(&self) -> Vec<u64> {
        let looks = self.watched.values().any(|watched| matches!(watched.sign, Sign::Path { .. }));
        let left = self.look_at.saturating_duration_since(Instant::now());
        let timeout =
            looks.then(|| Timespec { tv_sec: 0, tv_nsec: left.min(LOOK_INTERVAL).subsec_nanos().into() });
        let mut events = Vec::with_capacity(EVENTS_MAX);
        // Interrupted means: nothing yet; the loop comes back.
        let _interrupted =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
        events.iter().map(|event| event.data.u64()).collect()
    }

    /// `false` once the watcher is gone.
    fn take_requests(&mut self) -> bool {
        // Emptied before the channel is read, so that a request made after that wakes us again.
        let _empty = rustix::io::read(&self.wake, &mut [0u8; 8]);
        loop {
            match self.requests.try_recv() {
                Ok(Request::Watch { id, inode, place }) => self.add(id, inode, place),
                Ok(Request::Unwatch { id }) => self.forget(id),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, id: u64, inode: Inode, place: Place) {
        self.forget(id);
        let slot = self.slot_next;
        let sign = match place {
            Place::Host => return,
            Place::Path { root, path } => {
                let directory = self.directories.add(slot, root.as_ref(), &path);
                // It may have ended before the listening began.
                self.look_at = Instant::now();
                Sign::Path { root, path, directory }
            }
            Place::Process { pid, pidfd } => {
                listen(&self.epoll, slot, &pidfd);
                Sign::Process { pid, _pidfd: pidfd }
            }
        };
        self.slot_next += 1;
        self.watched.insert(slot, Watched { id, inode, sign });
        self.slots.insert(id, slot);
    }

    fn forget(&mut self, id: u64) {
        let Some(slot) = self.slots.remove(&id) else { return };
        match self.watched.remove(&slot).map(|watched| watched.sign) {
            Some(Sign::Path { path, directory: Some(directory), .. }) => {
                self.directories.remove(slot, directory, &path)
            }
            // Closing the descriptor ends the listening too.
            Some(Sign::Path { .. } | Sign::Process { .. }) | None => {}
        }
    }

    fn look(&self, slot: u64) -> Option<(u64, Cause)> {
        let watched = self.watched.get(&slot)?;
        let Sign::Path { root, path, .. } = &watched.sign else { return None };
        verdict(sight(root.as_ref(), path), watched.inode, path).map(|cause| (slot, cause))
    }

    /// For every process that has ended: another one in its namespace is followed, or it is dead.
    fn follow_others(&mut self, tokens: Vec<u64>) -> Vec<(u64, Cause)> {
        let mut ended: Vec<u64> =
            tokens.into_iter().filter(|token| self.watched.contains_key(token)).collect();
        let mut dead = Vec::new();
        for _ in 0..SCANS_MAX {
            if ended.is_empty() {
                break;
            }
            let inodes: HashSet<Inode> = ended.iter().map(|slot| self.watched[slot].inode).collect();
            let occupied = processes::occupied(&inodes);
            ended.retain(|&slot| match self.successor(slot, &occupied) {
                Successor::None(cause) => {
                    dead.push((slot, cause));
                    false
                }
                Successor::Followed => false,
                Successor::EndedToo => true,
            });
        }
        dead
    }

    fn successor(&mut self, slot: u64, occupied: &HashMap<Inode, u32>) -> Successor {
        let Some(watched) = self.watched.get_mut(&slot) else { return Successor::Followed };
        let Sign::Process { pid, .. } = watched.sign else { return Successor::Followed };
        let Some(&next) = occupied.get(&watched.inode) else { return Successor::None(Cause::Empty { pid }) };
        let Some(pidfd) = follow(next, watched.inode) else { return Successor::EndedToo };
        listen(&self.epoll, slot, &pidfd);
        // The descriptor of the ended one is closed by this.
        watched.sign = Sign::Process { pid: next, _pidfd: pidfd };
        Successor::Followed
    }

    /// `false` when nobody listens.
    fn report(&mut self, slot: u64, cause: Cause) -> bool {
        let Some(id) = self.watched.get(&slot).map(|watched| watched.id) else { return true };
        self.forget(id);
        self.deaths.blocking_send(Death { id, cause }).is_ok()
    }
}

/// A pidfd is readable from the process's end on. Level-triggered, so one that has ended tells at once.
fn listen(epoll: &OwnedFd, slot: u64, pidfd: &OwnedFd) {
    if let Err(errno) = epoll::add(epoll, pidfd, epoll::EventData::new_u64(slot), epoll::EventFlags::IN) {
        tracing::warn!(slot, error = %errno, "cannot listen for a process's end");
    }
}

enum Successor {
    Followed,
    EndedToo,
    None(Cause),
}

/// What a path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Shows(Inode),
    Nothing,
    /// It could not be looked at; that is no proof of anything.
    Unknown,
}

fn sight(root: Option<&OwnedFd>, path: &Path) -> Sight {
    let stat = match root {
        Some(root) => open_place(Some(root.as_fd()), path).and_then(rustix::fs::fstat),
        None => rustix::fs::stat(path),
    };
    match stat {
        Ok(stat) => Sight::Shows(Inode { device: stat.st_dev, number: stat.st_ino }),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Sight::Nothing,
        Err(_) => Sight::Unknown,
    }
}

fn verdict(sight: Sight, inode: Inode, path: &Path) -> Option<Cause> {
    match sight {
        Sight::Nothing => Some(Cause::Gone { path: path.to_owned() }),
        // After an unmount the file that was mounted over shows.
        Sight::Shows(other) if other.device != inode.device => Some(Cause::Gone { path: path.to_owned() }),
        Sight::Shows(other) if other != inode => Some(Cause::Replaced { path: path.to_owned() }),
        Sight::Shows(_) | Sight::Unknown => None,
    }
}
