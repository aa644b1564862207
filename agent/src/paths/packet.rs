//! The bytes of probes and of their answers.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

const IP_BYTES: usize = 20;
const ICMP_BYTES: usize = 8;
const UDP_BYTES: usize = 8;
const VXLAN_BYTES: usize = 8;
const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 24;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ECHO: u8 = 0;
const UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;
const REQUEST: u8 = 8;

/// What a probe carries, and its answer brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Drawn by each agent at its start: nobody else can make an answer.
    pub nonce: u64,
    /// Counts all rounds of this agent.
    pub round: u64,
    /// Bytes of the whole packet inside the tunnel.
    pub size: u32,
}

impl Tag {
    fn bytes(self) -> [u8; TAG_BYTES] {
        let mut bytes = [0; TAG_BYTES];
        bytes[..8].copy_from_slice(&self.nonce.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.round.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.size.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            nonce: u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?),
            round: u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?),
            size: u32::from_be_bytes(bytes.get(16..20)?.try_into().ok()?),
        })
    }
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The other host's own probe, which the kernel answers.
    Request,
    /// To an echo request.
    Echo(Tag),
    /// To a datagram.
    Refusal(Tag),
}

/// An echo request with its IP header (DF set), `tag.size` bytes in all; the kernel fills in what is 0.
pub fn echo(to: Ipv4Addr, tag: Tag) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, ICMP, 0, 0, 0, 0, 0, 0];
    packet.extend(to.octets());
    let mut message = vec![REQUEST, 0, 0, 0, 0, 0, 0, 0];
    message.extend(tag.bytes());
    let size = usize::try_from(tag.size).unwrap_or_default();
    message.resize(size.saturating_sub(IP_BYTES).max(message.len()), 0x5a);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet.extend(message);
    packet
}

/// What a datagram carries.
pub fn datagram(tag: Tag) -> Vec<u8> {
    tag.bytes().to_vec()
}

/// Reads an ICMP message with its IP header; where it came from, and what it is, if it is about probes.
pub fn answer(packet: &[u8]) -> Option<(Ipv4Addr, Answer)> {
    let (from, _, message) = split(packet, ICMP)?;
    let body = message.get(ICMP_BYTES..)?;
    let answer = match (*message.first()?, *message.get(1)?) {
        (REQUEST, _) => Answer::Request,
        (ECHO, _) => Answer::Echo(Tag::read(body)?),
        (UNREACHABLE, PORT_UNREACHABLE) => {
            let (_, to, quoted) = split(body, UDP)?;
            let tag = Tag::read(quoted.get(UDP_BYTES..)?).filter(|_| to == from)?;
            Answer::Refusal(tag)
        }
        _ => return None,
    };
    Some((from, answer))
}

/// Source, destination and content of an IPv4 packet of a protocol.
fn split(packet: &[u8], protocol: u8) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != protocol {
        return None;
    }
    Some((address(12)?, address(16)?, packet.get(usize::from(first & 15) * 4..)?))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Of a tunnel's packet, from its outer IP header on: the underlay's source, and who sent it inside.
pub fn outer_source(packet: &[u8]) -> Option<(IpAddr, Ipv4Addr)> {
    let first = *packet.first()?;
    let (source, header) = match first >> 4 {
        4 => {
            let bytes: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (IpAddr::V4(bytes.into()), usize::from(first & 15) * 4)
        }
        6 => {
            let bytes: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (IpAddr::V6(Ipv6Addr::from(bytes)), 40)
        }
        _ => return None,
    };
    let inner = packet.get(header + UDP_BYTES + VXLAN_BYTES + ETHERNET_BYTES..)?;
    let bytes: [u8; 4] = inner.get(12..16)?.try_into().ok()?;
    Some((source, bytes.into()))
}

/// Lets a packet socket see only what is sent to a tunnel's port with this network identifier (classic BPF, from the outer
/// IP header on).
pub fn tunnel_filter(six: bool, port: u16, vni: u32) -> Vec<SockFilter> {
    // include/uapi/linux/bpf_common.h.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x48;
    const LOAD_WORD: u16 = 0x40;
    const LOAD_INDEX_HEADER: u16 = 0xb1;
    const LOAD_INDEX: u16 = 0x01;
    const AND: u16 = 0x54;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SNAP_BYTES: u32 = 128;
    let (protocol, header) = if six {
        (6, SockFilter::new(LOAD_INDEX, 0, 0, 40))
    } else {
        (9, SockFilter::new(LOAD_INDEX_HEADER, 0, 0, 0))
    };
    vec![
        SockFilter::new(LOAD_BYTE, 0, 0, protocol),
        SockFilter::new(JUMP_EQUAL, 0, 7, UDP.into()),
        header,
        SockFilter::new(LOAD_HALF, 0, 0, 2),
        SockFilter::new(JUMP_EQUAL, 0, 4, port.into()),
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(AND, 0, 0, 0xffff_ff00),
        SockFilter::new(JUMP_EQUAL, 0, 1, vni << 8),
        SockFilter::new(RETURN, 0, 0, SNAP_BYTES),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
