//! Packets with file descriptors beside them, over a connected SEQPACKET socket (unix(7), SCM_RIGHTS).
#![allow(unsafe_code)] // SO_PEERCRED: rustix's value cannot say that a peer is in a process namespace we do not see.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::FILES_MAX;
use super::message::BYTES_MAX;

/// A packet as it came in; an empty one means that the other side has closed.
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
    /// The kernel cut bytes off, or descriptors: too many, or none left in this process.
    pub(super) cut: bool,
}

pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 8 file descriptors"));
    }
    let (data, flags) = ([IoSlice::new(bytes)], flags | SendFlags::NOSIGNAL);
    // A signal is no answer: sockets with a time-out are interrupted even by those that restart calls (signal(7)).
    retry_on_intr(|| rustix::net::sendmsg(&socket, &data, &mut control, flags))?;
    Ok(())
}

pub(super) fn receive(socket: impl AsFd) -> io::Result<Packet> {
    let mut bytes = vec![0; BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    })?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    bytes.truncate(received.bytes);
    let cut = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Packet { bytes, files, cut })
}

/// Whether the other side runs as the same user as we do.
pub(super) fn is_same_user(socket: impl AsFd) -> io::Result<bool> {
    Ok(peer(socket)?.uid == rustix::process::geteuid().as_raw())
}

/// The process that began to listen, of a listener or of a connection made to one; 0 if it is of another process namespace.
pub fn listening_process(socket: impl AsFd) -> io::Result<i32> {
    Ok(peer(socket)?.pid)
}

fn peer(socket: impl AsFd) -> io::Result<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&peer)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, the size of `peer`.
    let result = unsafe {
        let value = (&raw mut peer).cast::<libc::c_void>();
        let socket = socket.as_fd().as_raw_fd();
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(peer)
}
