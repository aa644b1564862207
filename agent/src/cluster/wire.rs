//! Layout of what is inside a sealed record. Integers are big-endian; nothing is trusted for its length.
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::NodeId;

#[cfg(test)]
mod tests;

/// Bytes of an [`Envelope`].
pub(super) const ENVELOPE_BYTES: usize = 40;

/// Takes values off the front of foreign bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(super) fn address(&mut self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.bytes::<16>()?).to_canonical();
        let port = self.bytes().map(u16::from_be_bytes)?;
        Some(SocketAddr::new(ip, port))
    }

    /// `Some` if nothing is left over.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

pub(super) fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes.extend(ip.octets());
    bytes.extend(address.port().to_be_bytes());
}

/// Who speaks: a host, a start of its agent, and the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Speaker {
    pub node: NodeId,
    pub incarnation: u64,
    /// Drawn when the process starts; never 0.
    pub boot: u64,
}

impl Speaker {
    pub(super) fn encode(self, bytes: &mut Vec<u8>) {
        for value in [self.node.0, self.incarnation, self.boot] {
            bytes.extend(value.to_be_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { node: NodeId(reader.u64()?), incarnation: reader.u64()?, boot: reader.u64()? })
    }
}

/// What every datagram begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub speaker: Speaker,
    /// The receiver's boot nonce as the speaker knows it; 0 if it does not.
    pub receiver: u64,
    /// Strictly increasing over all datagrams of the process.
    pub counter: u64,
}

impl Envelope {
    pub(super) fn encode(self, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body.len());
        self.speaker.encode(&mut bytes);
        bytes.extend(self.receiver.to_be_bytes());
        bytes.extend(self.counter.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader(bytes);
        let speaker = Speaker::decode(&mut reader)?;
        let envelope = Self { speaker, receiver: reader.u64()?, counter: reader.u64()? };
        Some((envelope, reader.0))
    }
}

/// Body of a hello: what the receiver of a datagram tells its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Counter of the datagram that it answers.
    pub echo: u64,
    /// The newest incarnation of the addressee that the speaker has heard of; 0 for none, [`Hello::REMOVED`] for none
    /// that it will hear of.
    pub newest: u64,
}

impl Hello {
    /// Bytes of a hello with its envelope.
    pub(super) const BYTES: usize = ENVELOPE_BYTES + 16;
    /// In place of an incarnation, which no host comes to: the addressee was removed from the cluster.
    pub(super) const REMOVED: u64 = u64::MAX;

    pub(super) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.echo.to_be_bytes());
        bytes[8..].copy_from_slice(&self.newest.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let hello = Self { echo: reader.u64()?, newest: reader.u64()? };
        reader.end().map(|()| hello)
    }
}

/// Why a request was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many requests of this peer are being handled.
    Busy = 1,
    /// Its body, or its answer's, is above the limit.
    TooLarge = 2,
    /// The handler did not finish.
    Failed = 3,
}

/// A record of an established connection. The dialler asks, the other end answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The beginning of a request or of an answer; `total` bytes in all.
    First { id: u64, total: u32, data: Vec<u8> },
    /// Its continuation.
    More { id: u64, data: Vec<u8> },
    /// Instead of an answer.
    Refused { id: u64, refusal: Refusal },
    /// The answer is not awaited any more.
    Cancel { id: u64 },
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
    /// A gossip message that is too large for a datagram.
    Gossip { data: Vec<u8> },
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(13 + self.data().len());
        match self {
            Self::First { id, total, data } => {
                bytes.push(1);
                bytes.extend(id.to_be_bytes());
                bytes.extend(total.to_be_bytes());
                bytes.extend(data);
            }
            Self::More { id, data } => {
                bytes.push(2);
                bytes.extend(id.to_be_bytes());
                bytes.extend(data);
            }
            Self::Refused { id, refusal } => {
                bytes.push(3);
                bytes.extend(id.to_be_bytes());
                bytes.push(*refusal as u8);
            }
            Self::Cancel { id } => {
                bytes.push(4);
                bytes.extend(id.to_be_bytes());
            }
            Self::Ping => bytes.push(5),
            Self::Pong => bytes.push(6),
            Self::Gossip { data } => {
                bytes.push(7);
                bytes.extend(data);
            }
        }
        bytes
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::First { data, .. } | Self::More { data, .. } | Self::Gossip { data } => data,
            Self::Refused { .. } | Self::Cancel { .. } | Self::Ping | Self::Pong => &[],
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            1 => {
                let (id, total) = (reader.u64()?, reader.u32()?);
                return Some(Self::First { id, total, data: reader.0.to_vec() });
            }
            2 => {
                let id = reader.u64()?;
                return Some(Self::More { id, data: reader.0.to_vec() });
            }
            3 => Self::Refused { id: reader.u64()?, refusal: refusal_from(reader.u8()?)? },
            4 => Self::Cancel { id: reader.u64()? },
            5 => Self::Ping,
            6 => Self::Pong,
            7 => return Some(Self::Gossip { data: reader.0.to_vec() }),
            _ => return None,
        };
        reader.end().map(|()| message)
    }
}

fn refusal_from(byte: u8) -> Option<Refusal> {
    [Refusal::Busy, Refusal::TooLarge, Refusal::Failed].into_iter().find(|refusal| *refusal as u8 == byte)
}
