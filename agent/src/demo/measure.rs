//! Measurements, from inside a namespace.
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::figures::Connections;
use crate::bed;
use crate::netns::Namespace;

/// After that long a connection, datagram or ping has failed.
const LIMIT: Duration = Duration::from_secs(2);
/// ICMP types (RFC 792).
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Who answers `count` new connections, one after the other.
pub(super) fn connections(namespace: &Namespace, to: SocketAddr, count: usize) -> io::Result<Connections> {
    let spread = bed::spread(namespace, to, count, LIMIT).map_err(io::Error::other)?;
    let tried = u64::try_from(count).unwrap_or(u64::MAX);
    Ok(Connections { tried, answered_by: spread.answers, failed: spread.failures.values().sum() })
}

/// Who answers `count` datagrams, each of a flow of its own.
pub(super) fn datagrams(namespace: &Namespace, to: SocketAddr, count: u64) -> Connections {
    let mut counted = Connections { tried: count, ..Connections::default() };
    for _ in 0..count {
        match bed::ask_udp(namespace, to, LIMIT) {
            Ok(answer) => *counted.answered_by.entry(answer.name).or_default() += 1,
            Err(_) => counted.failed += 1,
        }
    }
    counted
}

/// How long connect(2) takes to `vip` and to each of `direct` by turns, `rounds` times each.
///
/// # Errors
/// The first connection that fails.
pub(super) fn latency(
    namespace: &Namespace,
    vip: SocketAddr,
    direct: &[SocketAddr],
    rounds: usize,
) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
    let connect = |to: SocketAddr| -> io::Result<Duration> {
        let started = Instant::now();
        let stream = TcpStream::connect_timeout(&to, LIMIT)?;
        let took = started.elapsed();
        drop(stream);
        Ok(took)
    };
    let measure = || {
        let pairs = direct.iter().cycle().take(rounds).map(|direct| Ok((connect(vip)?, connect(*direct)?)));
        pairs.collect::<io::Result<Vec<_>>>().map(|pairs| pairs.into_iter().unzip())
    };
    namespace.run(measure).map_err(io::Error::other)?
}

/// How long it takes until each of `count` connections is refused.
///
/// # Errors
/// A connection that is not refused.
pub(super) fn refusals(namespace: &Namespace, to: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let refuse = |_| {
        let started = Instant::now();
        match TcpStream::connect_timeout(&to, LIMIT) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(started.elapsed()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("somebody answered")),
        }
    };
    namespace.run(|| (0..count).map(refuse).collect()).map_err(io::Error::other)?
}

/// How long an ICMP echo takes there and back. It takes CAP_NET_RAW in the namespace, as ping(8) does.
///
/// # Errors
/// What the socket said; nothing but an answer from `to` itself counts.
pub(super) fn ping(namespace: &Namespace, to: Ipv4Addr) -> io::Result<Duration> {
    let id: u16 = rand::random();
    let ping = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_read_timeout(Some(LIMIT))?;
        let started = Instant::now();
        socket.send_to(&echo_request(id), &SocketAddrV4::new(to, 0).into())?;
        while started.elapsed() < LIMIT {
            let mut bytes = [0; 256];
            let length = (&socket).read(&mut bytes)?;
            if is_reply(&bytes[..length], to, id) {
                return Ok(started.elapsed());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    };
    namespace.run(ping).map_err(io::Error::other)?
}

/// An echo request with sequence number 1 and no data.
pub(super) fn echo_request(id: u16) -> [u8; 8] {
    let [high, low] = id.to_be_bytes();
    let mut packet = [ECHO_REQUEST, 0, 0, 0, high, low, 0, 1];
    let [high, low] = checksum(&packet).to_be_bytes();
    (packet[2], packet[3]) = (high, low);
    packet
}

/// The internet checksum of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Whether an IPv4 packet is the answer to [`echo_request`] from this address.
pub(super) fn is_reply(packet: &[u8], from: Ipv4Addr, id: u16) -> bool {
    let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let (source, icmp) = (packet.get(12..16), packet.get(header..));
    let ours =
        |icmp: &[u8]| icmp.first() == Some(&ECHO_REPLY) && icmp.get(4..6) == Some(&id.to_be_bytes()[..]);
    header >= 20 && source == Some(&from.octets()[..]) && icmp.is_some_and(ours)
}
