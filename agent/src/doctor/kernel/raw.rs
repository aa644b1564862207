//! One netlink request to a family that no crate here speaks, and its acknowledgement.
use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Longest wait for an answer; the kernel queues it before the send returns.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// Answers are few; more than this is somebody else's conversation.
const DATAGRAMS_MAX: usize = 16;

/// Appends an attribute, padded to 4 bytes.
pub(super) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Sends one request in the calling thread's namespace and waits for its acknowledgement.
///
/// # Errors
/// The kernel's refusal; `TimedOut` or `WouldBlock` without an answer.
pub(super) fn request(protocol: i32, kind: u16, body: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(REQUEST | ACK).to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    socket.send(&message)?;
    let mut datagram = vec![0; 32 << 10];
    for _ in 0..DATAGRAMS_MAX {
        let length = (&socket).read(&mut datagram)?;
        if let Some(errno) = acknowledgement(&datagram[..length]) {
            return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The error number of the first NLMSG_ERROR, 0 for success; other messages are passed over.
pub(super) fn acknowledgement(mut bytes: &[u8]) -> Option<i32> {
    while bytes.len() >= HEADER_BYTES {
        let length = usize::try_from(u32::from_ne_bytes(bytes.first_chunk().copied()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..)?.first_chunk().copied()?);
        if kind == NLMSG_ERROR {
            let code = i32::from_ne_bytes(bytes.get(HEADER_BYTES..)?.first_chunk().copied()?);
            return Some(code.saturating_neg());
        }
        // A length shorter than its own header would stand still.
        bytes = bytes.get(length.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}
