//! Network namespaces: the one module that changes a thread's namespace.
//!
//! Sockets and netlink handles are opened here, inside the namespace they belong to, and handed out; a socket
//! stays in the namespace it was opened in whatever thread uses it later. No other module calls `setns`.
//!
//! Every handle into a namespace (a [`Namespace`], a socket, a [`Netlink`]) keeps the kernel from freeing it.
//! So a namespace's end is seen from outside, by a [`Watcher`], and whoever holds handles then drops them all.
mod enter;
mod legacy;
mod monitor;
mod probes;
mod processes;
mod socket;
mod target;
#[cfg(test)]
mod tests;
mod trials;
mod watch;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use legacy::LegacyTables;
pub use monitor::{Changed, Concern, Monitor};
pub use probes::{ProbeSockets, TunnelTap};
pub use processes::{inode_of, members, occupied};
pub use socket::{Netlink, ResolverSockets, connect_in};
pub use target::{Place, Resolved, Target, of_peer, resolve, resume};
pub use trials::Opening;
pub use watch::{Cause, Death, Watcher};

/// The file system type of namespace files (include/uapi/linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace, held open. Clones share one file descriptor.
///
/// Two values are equal when they mean the same namespace.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    file: OwnedFd,
    cookie: u64,
    inode: Inode,
}

/// What a namespace's file is in nsfs. It is given out again once the namespace is freed, so it identifies one
/// only while somebody holds it; the cookie identifies one for as long as the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inode {
    /// Device number of nsfs.
    pub device: u64,
    /// Inode number within it.
    pub number: u64,
}

/// What failed, and on which namespace. After any of these the calling thread is in the namespace it was in.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages name.
pub enum Error {
    /// The path could not be opened, in the caller's view of the file system nor in ours.
    #[error("cannot open the network namespace at {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// The path is something else.
    #[error("{} is no network namespace; name one that ip-netns(8) or a container engine has made", path.display())]
    NotANamespace { path: PathBuf },
    /// A relative path means something else to every process.
    #[error("{} is a relative path; give an absolute one, or a name under /run/netns", path.display())]
    RelativePath { path: PathBuf },
    /// The text is neither `host`, nor a path, nor a file name under `/run/netns`.
    #[error(
        "\"{text}\" is no name of a network namespace; give a path, a name under /run/netns, or \"host\""
    )]
    BadName { text: String },
    /// The process is not there, or ended meanwhile.
    #[error("process {pid} does not run")]
    NoProcess { pid: u32 },
    /// The process is there but its namespace cannot be read.
    #[error("cannot read the network namespace of process {pid}")]
    Process { pid: u32, source: io::Error },
    /// A new namespace could not be made.
    #[error("cannot make a network namespace")]
    Create { source: io::Error },
    /// A thread could not enter a namespace.
    #[error("cannot enter network namespace {inode}")]
    Enter { inode: u64, source: io::Error },
    /// A thread could not be started.
    #[error("cannot start a thread for a network namespace")]
    Thread { source: io::Error },
    /// The namespace's identity could not be read.
    #[error("cannot read the identity of a network namespace")]
    Identity { source: io::Error },
    /// A socket could not be opened inside.
    #[error("cannot open {what} in the network namespace with cookie {cookie}")]
    Socket { what: &'static str, cookie: u64, source: io::Error },
    /// The watcher could not be set up, or has ended.
    #[error("cannot watch network namespaces: {what}")]
    Watch { what: &'static str, source: io::Error },
}

impl Namespace {
    /// Makes a namespace that nothing but the returned value keeps alive. Its `lo` is down.
    ///
    /// # Errors
    /// [`Error::Create`] without CAP_SYS_ADMIN, or above `user.max_net_namespaces`.
    pub fn create() -> Result<Self, Error> {
        enter::on_thread(|| {
            enter::unshare_network().map_err(|source| Error::Create { source })?;
            Self::current()
        })?
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Identity`] when `/proc` is not there.
    pub fn current() -> Result<Self, Error> {
        let open =
            rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let file = open.map_err(|errno| Error::Identity { source: errno.into() })?;
        let inode = Inode::of(&file).map_err(|source| Error::Identity { source })?;
        let cookie = enter::cookie_here().map_err(|source| Error::Identity { source })?;
        Ok(Self(Arc::new(Inner { file, cookie, inode })))
    }

    /// The namespace at a path in our own view of the file system.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::NotANamespace`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = target::open_place(None, path)
            .map_err(|errno| Error::Open { path: path.to_owned(), source: errno.into() })?;
        Self::from_place(place.as_fd(), path)
    }

    /// The namespace of a process, as numbered in our own process namespace.
    ///
    /// # Errors
    /// [`Error::NoProcess`] also when the process ends during the call, so a reused number is never followed.
    pub fn of_pid(pid: u32) -> Result<Self, Error> {
        Ok(target::of_process(pid)?.0)
    }

    /// The namespace of an open namespace file.
    ///
    /// # Errors
    /// [`Error::NotANamespace`] for a file of another kind.
    pub fn from_fd(file: OwnedFd) -> Result<Self, Error> {
        let unnamed = || PathBuf::from("the given file descriptor");
        if !is_namespace_file(file.as_fd()) {
            return Err(Error::NotANamespace { path: unnamed() });
        }
        let inode = Inode::of(&file).map_err(|source| Error::Identity { source })?;
        let cookie = enter::on_thread(|| {
            enter::join_network(file.as_fd()).map_err(|source| not_network(source, inode, unnamed()))?;
            enter::cookie_here().map_err(|source| Error::Identity { source })
        })??;
        Ok(Self(Arc::new(Inner { file, cookie, inode })))
    }

    /// The namespace that a socket was opened in; finds it again from nothing but a socket that the holder kept.
    ///
    /// # Errors
    /// [`Error::Identity`] for a file that is no socket, and without CAP_NET_ADMIN (kernel 4.10 and later).
    pub fn of_socket(socket: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::from_fd(enter::namespace_of_socket(socket).map_err(|source| Error::Identity { source })?)
    }

    /// Opens for good what is so far only a place in the file system (`O_PATH`), and was asked for as `path`.
    fn from_place(place: BorrowedFd<'_>, path: &Path) -> Result<Self, Error> {
        let not = || Error::NotANamespace { path: path.to_owned() };
        // Asked before the open: opening a device or a pipe has effects, or waits.
        if !is_namespace_file(place) {
            return Err(not());
        }
        let file = target::reopen(place)
            .map_err(|errno| Error::Open { path: path.to_owned(), source: errno.into() })?;
        Self::from_fd(file).map_err(|error| match error {
            Error::NotANamespace { .. } => not(),
            other => other,
        })
    }

    /// SO_NETNS_COOKIE (kernel 5.14): together with [`boot_id`] it names this namespace and never another.
    pub fn cookie(&self) -> u64 {
        self.0.cookie
    }

    /// The namespace's file in nsfs, which is what `/proc/PID/ns/net` and a bind mount show.
    pub fn inode(&self) -> Inode {
        self.0.inode
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it: about 50 µs more than `work` itself.
    /// The thread ends afterwards, so none is ever left elsewhere. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Enter`]; `work` has not run then.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, Error> {
        enter::on_thread(|| {
            enter::join_network(self.as_fd())
                .map_err(|source| Error::Enter { inode: self.0.inode.number, source })?;
            Ok(work())
        })?
    }

    /// Opens a socket (or anything that belongs to the opener's namespace) inside. `what` names it in the error.
    ///
    /// # Errors
    /// [`Error::Socket`] with what `open` returned.
    pub fn open_socket<T: Send>(
        &self,
        what: &'static str,
        open: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        self.run(open)?.map_err(|source| Error::Socket { what, cookie: self.cookie(), source })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.0.cookie == other.0.cookie
    }
}

impl Eq for Namespace {}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespace(cookie {}, inode {})", self.0.cookie, self.0.inode.number)
    }
}

impl Inode {
    fn of(file: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { device: stat.st_dev, number: stat.st_ino })
    }
}

/// Identifies this boot of the kernel: namespaces, cookies and our tables do not outlive it.
///
/// # Errors
/// What reading `/proc` returned.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn is_namespace_file(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC))
}

/// setns(2) says EINVAL for a namespace file of another type than it was told.
fn not_network(source: io::Error, inode: Inode, path: PathBuf) -> Error {
    if source.raw_os_error() == Some(libc::EINVAL) {
        return Error::NotANamespace { path };
    }
    Error::Enter { inode: inode.number, source }
}
