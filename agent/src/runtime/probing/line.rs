//! One thing that was sent, and what comes back.
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netfilter::conntrack::{Transport, Tuple};

use crate::netns::Opening;
use crate::probing::{Outcome, Trial};
use crate::runtime::spaces::resolver_address;

/// Its number among IP's protocols.
const UDP: u8 = 17;
/// An answer to a look-up of one name is no longer without EDNS (RFC 1035, 2.3.4).
const BYTES_MAX: usize = 512;
/// Datagrams read at once; who sends more than that to a port that is open for a moment has guessed it.
const READ_MAX: usize = 16;

/// What was sent, where it has come to nothing yet.
#[derive(Debug)]
pub(super) struct Line {
    /// Which of the target's trials it belongs to.
    pub(super) place: usize,
    /// It goes the same way without redirect or translation.
    pub(super) direct: bool,
    pub(super) outcome: Option<Outcome>,
    /// What its first packet looked like, if it may be tracked.
    pub(super) flow: Option<Tuple>,
    socket: Option<UdpSocket>,
    number: u64,
}

/// How the socket of a trial is opened.
pub(super) fn opening(trial: &Trial, direct: bool) -> Opening {
    match trial {
        // Its answers bear the port of look-ups, whoever asked: a connected socket would not take them.
        Trial::Names { .. } if direct => Opening::Bound(Ipv4Addr::LOCALHOST.into()),
        Trial::Names { .. } => Opening::Connected(resolver_address()),
        Trial::Vip { own, .. } => Opening::Bound(*own),
    }
}

impl Line {
    /// Sends it. `number` tells it from all others.
    pub(super) fn begin(
        trial: &Trial,
        place: usize,
        direct: bool,
        socket: io::Result<UdpSocket>,
        number: u64,
    ) -> Self {
        let sent = socket.and_then(|socket| Ok((send(trial, direct, &socket, number)?, socket)));
        let (flow, socket, outcome) = match sent {
            Ok((flow, socket)) => (flow, Some(socket), None),
            Err(error) => (None, None, Some(of_error(&error))),
        };
        Self { place, direct, outcome, flow, socket, number }
    }

    /// Reads what has come in.
    pub(super) fn receive(&mut self, trial: &Trial) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.outcome.is_none()) else { return };
        let mut buffer = [0; BYTES_MAX];
        for _ in 0..READ_MAX {
            let outcome = match socket.recv(&mut buffer) {
                Ok(length) => judge(trial, &buffer[..length], self.number),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => Some(of_error(&error)),
            };
            if outcome.is_some() {
                (self.outcome, self.socket) = (outcome, None);
                return;
            }
        }
    }
}

fn of_error(error: &io::Error) -> Outcome {
    error.raw_os_error().map_or(Outcome::Unjudged, Outcome::of_errno)
}

/// Answers what was begun, unless such is never tracked.
fn send(trial: &Trial, direct: bool, socket: &UdpSocket, number: u64) -> io::Result<Option<Tuple>> {
    match trial {
        Trial::Names { address, resolver, .. } => {
            let question = dns::probe_question(id(number), *address).ok_or(io::ErrorKind::InvalidInput)?;
            if direct {
                socket.send_to(&question, *resolver)?
            } else {
                socket.send(&question)?
            };
            Ok(None)
        }
        Trial::Vip { vip, own } => {
            let port = socket.local_addr()?.port();
            let destination = if direct { *own } else { *vip };
            socket.send_to(&number.to_be_bytes(), SocketAddr::new(destination, port))?;
            let transport = Transport::Ports { source: port, destination: port };
            Ok(Some(Tuple { source: *own, destination, protocol: UDP, transport }))
        }
    }
}

/// What a datagram says to it, if it is about it.
fn judge(trial: &Trial, datagram: &[u8], number: u64) -> Option<Outcome> {
    match trial {
        Trial::Names { name, .. } => {
            let said = dns::probe_answer(datagram, id(number), name)?;
            Some(said.map_or_else(Outcome::Wrong, |()| Outcome::Passed))
        }
        Trial::Vip { .. } => (datagram == number.to_be_bytes()).then_some(Outcome::Passed),
    }
}

/// Of a query; the socket's port tells the rest.
fn id(number: u64) -> u16 {
    let [.., high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}
