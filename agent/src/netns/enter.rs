//! The system calls that change a thread's network namespace, and those that read it.
#![allow(unsafe_code)] // unshare, and two calls that rustix lacks: SO_NETNS_COOKIE and SIOCGSKNS.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::Error;

/// include/uapi/asm-generic/socket.h, since kernel 5.14; libc has no name for it.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// include/uapi/linux/sockios.h, since kernel 4.10.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// Runs `work` on a thread of its own, which ends before this returns.
pub(super) fn on_thread<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        match thread.map_err(|source| Error::Thread { source })?.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Moves the calling thread, which must be one of [`on_thread`]'s.
pub(super) fn join_network(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(file, Some(LinkNameSpaceType::Network))?)
}

/// Gives the calling thread, which must be one of [`on_thread`]'s, a new network namespace.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: NEWNET replaces nothing that Rust code relies on; only FILES would.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// The cookie of the calling thread's namespace.
pub(super) fn cookie_here() -> io::Result<u64> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        let value = (&raw mut cookie).cast::<libc::c_void>();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// A file of the namespace that the socket belongs to.
pub(super) fn namespace_of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: SIOCGSKNS takes no argument and returns a new file descriptor (close-on-exec) or -1.
    unsafe {
        let file = libc::ioctl(socket.as_raw_fd(), SIOCGSKNS);
        if file < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(file)) }
    }
}
