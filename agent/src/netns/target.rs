//! What an operator names as "the container's namespace", and where its life can be watched.
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::{Error, Inode, Namespace, processes};

/// Where ip-netns(8) keeps named namespaces; the second is the older spelling, a directory of its own on few hosts.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// A namespace as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A namespace file, by absolute path.
    Path(PathBuf),
    /// A name of ip-netns(8).
    Name(String),
    /// Whatever namespace a process is in, as numbered in the agent's process namespace.
    Pid(u32),
    /// The agent's own.
    Host,
}

/// A namespace that was found, and where its end will show.
#[derive(Debug)]
pub struct Resolved {
    /// Holds it open.
    pub namespace: Namespace,
    /// For [`super::Watcher::watch`].
    pub place: Place,
}

/// Where a namespace's end shows.
#[derive(Debug)]
pub enum Place {
    /// It ends when the path no longer shows it. `root` is the root directory in whose view the path is meant,
    /// where that is not ours; it keeps that view's mounts in sight after the process that named it has ended.
    Path {
        /// Open for its place only (`O_PATH`).
        root: Option<OwnedFd>,
        /// Absolute.
        path: PathBuf,
    },
    /// It ends when no process is left in it; this one is looked at first.
    Process {
        /// In the agent's process namespace.
        pid: u32,
        /// Readable once the process has ended.
        pidfd: OwnedFd,
    },
    /// The agent's own: it does not end before the agent.
    Host,
}

impl Target {
    /// Reads the argument of `--netns`: `host`, a path, or a name under `/run/netns`.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::RelativePath`].
    pub fn from_argument(text: &str) -> Result<Self, Error> {
        if text == "host" {
            return Ok(Self::Host);
        }
        if text.contains('/') {
            let path = PathBuf::from(text);
            return if path.is_absolute() { Ok(Self::Path(path)) } else { Err(Error::RelativePath { path }) };
        }
        check_name(text)?;
        Ok(Self::Name(text.to_owned()))
    }
}

/// Finds the namespace that a process which talks to us (`peer`, by SO_PEERCRED) means by `target`.
///
/// Paths are looked up in the peer's view of the file system first, then in ours. A target that turns out to be the
/// agent's own namespace has [`Place::Host`], however it was named.
///
/// # Errors
/// What is wrong with the target.
pub fn resolve(target: &Target, peer: Option<u32>) -> Result<Resolved, Error> {
    let found = match target {
        Target::Host => return Ok(Resolved { namespace: Namespace::current()?, place: Place::Host }),
        Target::Pid(pid) => at_process(*pid)?,
        Target::Path(path) if !path.is_absolute() => return Err(Error::RelativePath { path: path.clone() }),
        Target::Path(path) => match pid_of_path(path) {
            Some(pid) => at_path_of_process(path, pid, peer)?,
            None => at_path(path, peer)?,
        },
        Target::Name(name) => at_name(name, peer)?,
    };
    host_if_ours(found)
}

/// The namespace of the process that talks to us. It ends when no process is left in it.
///
/// # Errors
/// [`Error::NoProcess`] when it has ended meanwhile.
pub fn of_peer(pid: u32) -> Result<Resolved, Error> {
    host_if_ours(at_process(pid)?)
}

/// Where the end of a namespace shows that an earlier agent had attached as `target`, and that was found again by a
/// descriptor the holder kept ([`Namespace::of_socket`]). `root` is that of [`Place::Path`], if it was kept too.
///
/// `None` when it has ended meanwhile: its path shows something else, or no process is left in it. The first process
/// may have ended, and its number be another's; any other one in the namespace will do.
pub fn resume(namespace: &Namespace, target: &Target, root: Option<OwnedFd>) -> Option<Place> {
    let path = match target {
        Target::Host => return (Namespace::current().ok()? == *namespace).then_some(Place::Host),
        Target::Pid(pid) => return resume_process(namespace, *pid),
        Target::Path(path) => match pid_of_path(path) {
            Some(pid) => return resume_process(namespace, pid),
            None => path.clone(),
        },
        Target::Name(name) => {
            let found = NAMED.map(|directory| Path::new(directory).join(name)).into_iter();
            return found
                .filter(|path| shows(None, path, namespace))
                .map(|path| Place::Path { root: None, path })
                .next();
        }
    };
    shows(root.as_ref().map(AsFd::as_fd), &path, namespace).then_some(Place::Path { root, path })
}

fn shows(root: Option<BorrowedFd<'_>>, path: &Path, namespace: &Namespace) -> bool {
    // Exact, because the namespace is held here and so its inode cannot be another's.
    open_place(root, path).is_ok_and(|place| Inode::of(place).is_ok_and(|inode| inode == namespace.inode()))
}

fn resume_process(namespace: &Namespace, first: u32) -> Option<Place> {
    let inode = namespace.inode();
    let others = || processes::occupied(&[inode].into()).into_values();
    let candidates = std::iter::once(first).chain(std::iter::once_with(others).flatten());
    candidates.filter_map(|pid| Some(Place::Process { pid, pidfd: follow(pid, inode)? })).next()
}

/// The namespace of a process, and the process. The process is held before its namespace is read and looked at
/// again after, so that a reused number is noticed.
pub(super) fn of_process(pid: u32) -> Result<(Namespace, OwnedFd), Error> {
    let pidfd = open_process(pid)?;
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let failed = |errno: Errno| match errno {
        Errno::NOENT | Errno::SRCH => Error::NoProcess { pid },
        errno => Error::Process { pid, source: errno.into() },
    };
    let place = open_place(None, &path).map_err(failed)?;
    let namespace = Namespace::from_place(place.as_fd(), &path)?;
    if has_ended(pidfd.as_fd()) {
        return Err(Error::NoProcess { pid });
    }
    Ok((namespace, pidfd))
}

/// A process to follow, unless it has left the namespace or ended. For the watcher.
pub(super) fn follow(pid: u32, inode: Inode) -> Option<OwnedFd> {
    let pidfd = open_process(pid).ok()?;
    (processes::inode_of(pid) == Some(inode) && !has_ended(pidfd.as_fd())).then_some(pidfd)
}

/// A place in the file system, unopened. With a `root` the path is looked up as if that were `/`.
pub(super) fn open_place(root: Option<BorrowedFd<'_>>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Some(root) = root else { return rustix::fs::openat(CWD, path, flags, Mode::empty()) };
    match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        // IN_ROOT follows no magic link, and /proc/PID/ns/net is one.
        Err(Errno::LOOP | Errno::XDEV) => {
            let relative = path.strip_prefix("/").unwrap_or(path);
            rustix::fs::openat(root, relative, flags, Mode::empty())
        }
        other => other,
    }
}

/// Opens for reading what is so far only a place.
pub(super) fn reopen(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/thread-self/fd/{}", place.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn at_process(pid: u32) -> Result<Resolved, Error> {
    let (namespace, pidfd) = of_process(pid)?;
    Ok(Resolved { namespace, place: Place::Process { pid, pidfd } })
}

fn at_name(name: &str, peer: Option<u32>) -> Result<Resolved, Error> {
    check_name(name)?;
    let [first, second] = NAMED.map(|directory| Path::new(directory).join(name));
    match at_path(&first, peer) {
        // The first is the one to name in the error.
        Err(missing) if is_missing(&missing) => at_path(&second, peer).map_err(|_| missing),
        result => result,
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn at_path(path: &Path, peer: Option<u32>) -> Result<Resolved, Error> {
    let theirs = peer.and_then(|pid| view_of(pid, path));
    let ours = open_place(None, path);
    let (root, place) = match (theirs, ours) {
        (Some((_, place)), Ok(ours)) if same_file(&place, &ours) => (None, place),
        (Some((root, place)), _) => (Some(root), place),
        (None, Ok(place)) => (None, place),
        (None, Err(errno)) => return Err(Error::Open { path: path.to_owned(), source: errno.into() }),
    };
    let namespace = Namespace::from_place(place.as_fd(), path)?;
    Ok(Resolved { namespace, place: Place::Path { root, path: path.to_owned() } })
}

/// `/proc/PID/ns/net` (which engines hand out) means "as long as anything runs in there", not "as long as PID runs".
fn at_path_of_process(path: &Path, pid: u32, peer: Option<u32>) -> Result<Resolved, Error> {
    let found = at_path(path, peer)?;
    // In another process namespace the number means another process; the path then stays a path.
    match at_process(pid) {
        Ok(process) if process.namespace == found.namespace => Ok(process),
        _ => Ok(found),
    }
}

fn pid_of_path(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

/// The path as the peer sees it, with the peer's root. `None` when the peer has ended, or sees nothing there.
fn view_of(peer: u32, path: &Path) -> Option<(OwnedFd, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{peer}/root"), flags, Mode::empty()).ok()?;
    let place = open_place(Some(root.as_fd()), path).ok()?;
    Some((root, place))
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    matches!((Inode::of(one), Inode::of(other)), (Ok(one), Ok(other)) if one == other)
}

fn host_if_ours(found: Resolved) -> Result<Resolved, Error> {
    let ours = Namespace::current()?;
    if found.namespace == ours { Ok(Resolved { namespace: ours, place: Place::Host }) } else { Ok(found) }
}

fn check_name(text: &str) -> Result<(), Error> {
    let bad =
        text.is_empty() || text.len() > 255 || text.contains(['/', '\0']) || text == "." || text == "..";
    if bad { Err(Error::BadName { text: text.chars().take(80).collect() }) } else { Ok(()) }
}

fn open_process(pid: u32) -> Result<OwnedFd, Error> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Error::NoProcess { pid })?;
    rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|errno| match errno {
        // EINVAL, since 6.9 ENOENT: the number of a thread that leads no process.
        Errno::SRCH | Errno::INVAL | Errno::NOENT => Error::NoProcess { pid },
        errno => Error::Process { pid, source: errno.into() },
    })
}

fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut files = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut files, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(ready) if ready > 0)
}
