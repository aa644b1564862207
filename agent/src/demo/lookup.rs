//! A look-up as a container's own program makes it: one question over UDP to 127.0.0.11 (RFC 1035, section 4).
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::netns::Namespace;

/// The resolver of every attached container.
const RESOLVER: ([u8; 4], u16) = ([127, 0, 0, 11], 53);
const LIMIT: Duration = Duration::from_secs(2);
/// Without EDNS no answer over UDP is longer.
const BYTES_MAX: usize = 512;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

/// What the resolver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// `NOERROR`, `NXDOMAIN`, or another code's number.
    pub(super) code: String,
    /// IPv4 addresses, in the answer's order.
    pub(super) addresses: Vec<Ipv4Addr>,
}

impl Reply {
    /// As one line.
    pub(super) fn show(&self) -> String {
        if self.addresses.is_empty() {
            return self.code.clone();
        }
        self.addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join("  ")
    }
}

/// Asks for the IPv4 addresses of a name from inside a namespace.
///
/// # Errors
/// What the socket said; `InvalidData` for an answer that is no answer.
pub(super) fn look_up(namespace: &Namespace, name: &str) -> io::Result<Reply> {
    let id = rand::random();
    let question = question(id, name).ok_or_else(|| io::Error::other(format!("{name} is no name")))?;
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(SocketAddr::from(RESOLVER))?;
        socket.send(&question)?;
        let mut bytes = [0; BYTES_MAX];
        let length = socket.recv(&mut bytes)?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no answer to the question");
        read(&bytes[..length], id).ok_or_else(invalid)
    };
    namespace.run(ask).map_err(io::Error::other)?
}

/// A question for A records, recursion desired; `None` for what cannot be a name.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    Some(message)
}

/// Reads the answer with this id; `None` for another's, or what is cut off.
fn read(message: &[u8], id: u16) -> Option<Reply> {
    let flags = word(message, 2)?;
    if word(message, 0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let code = match flags & 0xf {
        0 => "NOERROR".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        code => format!("code {code}"),
    };
    let (questions, answers) = (word(message, 4)?, word(message, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(message, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        at = after_name(message, at)?;
        let (kind, length) = (word(message, at)?, usize::from(word(message, at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (TYPE_A, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    Some(Reply { code, addresses })
}

/// Where the name at `at` ends; a pointer ends it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
