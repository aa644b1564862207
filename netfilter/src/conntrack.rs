//! Flows: listed in a stream, deleted one by one.
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol,
    Tuple as RawTuple,
};

use crate::error::Error;
use crate::socket::{Event, Socket};
use crate::uapi::{ACK, SUBSYSTEM_CONNTRACK};
use crate::wire::{Received, find, number};

/// IPS_SRC_NAT: the source is translated.
pub const STATUS_SOURCE_NAT: u32 = 1 << 4;
/// IPS_DST_NAT: the destination is translated.
pub const STATUS_DESTINATION_NAT: u32 = 1 << 5;
/// IPS_SEEN_REPLY: there was an answer.
pub const STATUS_SEEN_REPLY: u32 = 1 << 1;

const MESSAGE_GET: u16 = 1;
const MESSAGE_DELETE: u16 = 2;
/// IPCTNL_MSG_CT_GET_STATS, and its attributes CTA_STATS_GLOBAL_ENTRIES and CTA_STATS_GLOBAL_MAX_ENTRIES.
const MESSAGE_STATISTICS: u16 = 5;
const ATTRIBUTE_ENTRIES: u16 = 1;
const ATTRIBUTE_ENTRIES_MAX: u16 = 2;
const ATTRIBUTE_ID: u16 = 12;
const ATTRIBUTE_ZONE: u16 = 18;
/// CTA_PROTO_ICMP_ID and CTA_PROTO_ICMPV6_ID; type and code follow each.
const ICMP: [u16; 2] = [4, 7];

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The protocol's own part.
    pub transport: Transport,
}

/// What tells flows between two addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, UDP, SCTP and the like.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of either family.
    Icmp {
        /// Identifier of the echo.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Any other protocol: one flow per pair of addresses.
    None,
}

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As its first packet was sent.
    pub original: Tuple,
    /// As its answers arrive: `reply.source` is whom a translated flow really goes to.
    pub reply: Tuple,
    /// IPS_* bits.
    pub status: u32,
    id: Option<u32>,
    zone: Option<u16>,
}

/// How full a namespace's table of flows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Flows in it.
    pub entries: u32,
    /// How many there may be (net.netfilter.nf_conntrack_max, one number for all namespaces of the machine, each of which
    /// may have so many); `None` before kernel 5.12, 0 for no limit.
    pub limit: Option<u32>,
}

/// Whether the namespace is known to have no flows at all: one round trip.
pub fn is_empty(socket: &mut Socket) -> Result<bool, Error> {
    Ok(ask_usage(socket)?.0 == Some(0))
}

/// Asks how full the namespace's table of flows is: one round trip.
pub fn usage(socket: &mut Socket) -> Result<Usage, Error> {
    let (entries, limit) = ask_usage(socket)?;
    Ok(Usage { entries: entries.unwrap_or_default(), limit })
}

fn ask_usage(socket: &mut Socket) -> Result<(Option<u32>, Option<u32>), Error> {
    let (mut entries, mut limit) = (None, None);
    socket.exchange(
        SUBSYSTEM_CONNTRACK,
        MESSAGE_STATISTICS,
        0,
        ACK,
        |_| {},
        |message| {
            let value = |kind| find(message.attributes(), kind).and_then(number);
            entries = value(ATTRIBUTE_ENTRIES).or(entries);
            limit = value(ATTRIBUTE_ENTRIES_MAX).or(limit);
        },
    )?;
    Ok((entries, limit))
}

/// Lists the flows of a family (2 IPv4, 10 IPv6, 0 both) as `convert` makes them; what it answers `None` for is
/// left out, so that a table of any size costs no more memory than what is wanted of it.
pub fn flows<T>(
    socket: &mut Socket,
    family: u8,
    mut convert: impl FnMut(&Flow) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    socket.dump_each(
        "flows",
        SUBSYSTEM_CONNTRACK,
        MESSAGE_GET,
        family,
        |_| {},
        |event| match event {
            Event::Restart => all.clear(),
            Event::Message(message) => all.extend(Flow::read(&message).and_then(|flow| convert(&flow))),
        },
    )?;
    Ok(all)
}

/// Deletes one flow; `false` if it has ended already. A later flow of the same tuple is left alone: the kernel
/// compares the identity that the listing gave (CTA_ID).
pub fn delete(socket: &mut Socket, flow: &Flow) -> Result<bool, Error> {
    let mut attributes = vec![ConntrackAttribute::CtaTupleOrig(flow.original.write())];
    attributes.extend(flow.id.map(|id| other(ATTRIBUTE_ID, id.to_be_bytes().to_vec())));
    attributes.extend(flow.zone.map(|zone| other(ATTRIBUTE_ZONE, zone.to_be_bytes().to_vec())));
    let message = ConntrackMessage::Delete(attributes);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let family = if flow.original.source.is_ipv4() { 2 } else { 10 };
    let result = socket.exchange(
        SUBSYSTEM_CONNTRACK,
        MESSAGE_DELETE,
        family,
        ACK,
        |out| out.bytes.extend_from_slice(&bytes),
        |_| {},
    );
    match result {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

fn other(kind: u16, value: Vec<u8>) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value))
}

impl Flow {
    /// A flow that was not listed by a kernel; deleting it deletes whichever flow has the tuple.
    pub fn new(original: Tuple, reply: Tuple, status: u32) -> Self {
        Self { original, reply, status, id: None, zone: None }
    }

    fn read(message: &Received<'_>) -> Option<Self> {
        let kind = u8::from(ConntrackMessageType::New);
        let ConntrackMessage::New(attributes) =
            ConntrackMessage::parse_with_param(message.attributes(), kind).ok()?
        else {
            return None;
        };
        let (mut original, mut reply, mut status, mut id, mut zone) = (None, None, 0, None, None);
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(parts) => original = Tuple::read(parts),
                ConntrackAttribute::CtaTupleReply(parts) => reply = Tuple::read(parts),
                ConntrackAttribute::CtaStatus(bits) => status = bits.bits(),
                ConntrackAttribute::Other(nla) if nla.kind() == ATTRIBUTE_ID => {
                    id = bytes_of(nla).map(u32::from_be_bytes)
                }
                ConntrackAttribute::Other(nla) if nla.kind() == ATTRIBUTE_ZONE => {
                    zone = bytes_of(nla).map(u16::from_be_bytes);
                }
                _ => {}
            }
        }
        Some(Self { original: original?, reply: reply?, status, id, zone })
    }
}

fn bytes_of<const LENGTH: usize>(nla: &DefaultNla) -> Option<[u8; LENGTH]> {
    if nla.value_len() != LENGTH {
        return None;
    }
    let mut bytes = [0; LENGTH];
    nla.emit_value(&mut bytes);
    Some(bytes)
}

impl Tuple {
    fn read(parts: &[RawTuple]) -> Option<Self> {
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let (mut ports, mut icmp) = ([None; 2], [None; 3]);
        for part in parts {
            match part {
                RawTuple::Ip(addresses) => {
                    for address in addresses {
                        match address {
                            IPTuple::SourceAddress(address) => source = Some(*address),
                            IPTuple::DestinationAddress(address) => destination = Some(*address),
                            _ => {}
                        }
                    }
                }
                RawTuple::Proto(fields) => {
                    for field in fields {
                        match field {
                            ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                            ProtoTuple::SourcePort(port) => ports[0] = Some(*port),
                            ProtoTuple::DestinationPort(port) => ports[1] = Some(*port),
                            ProtoTuple::Other(nla) => read_icmp(nla, &mut icmp),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let transport = match (ports, icmp) {
            ([Some(source), Some(destination)], _) => Transport::Ports { source, destination },
            (_, [Some(id), Some(kind), Some(code)]) => {
                Transport::Icmp { id, kind: u8::try_from(kind).ok()?, code: u8::try_from(code).ok()? }
            }
            _ => Transport::None,
        };
        Some(Self { source: source?, destination: destination?, protocol: protocol?, transport })
    }

    fn write(&self) -> Vec<RawTuple> {
        let addresses =
            vec![IPTuple::SourceAddress(self.source), IPTuple::DestinationAddress(self.destination)];
        let mut fields = vec![ProtoTuple::Protocol(Protocol::from(self.protocol))];
        match self.transport {
            Transport::Ports { source, destination } => {
                fields.extend([ProtoTuple::SourcePort(source), ProtoTuple::DestinationPort(destination)]);
            }
            Transport::Icmp { id, kind, code } => {
                let first = if self.source.is_ipv4() { ICMP[0] } else { ICMP[1] };
                let nla = |kind, value: &[u8]| ProtoTuple::Other(DefaultNla::new(kind, value.to_vec()));
                fields.extend([
                    nla(first, &id.to_be_bytes()),
                    nla(first + 1, &[kind]),
                    nla(first + 2, &[code]),
                ]);
            }
            Transport::None => {}
        }
        vec![RawTuple::Ip(addresses), RawTuple::Proto(fields)]
    }
}

/// Identifier, type and code, under the numbers of either family.
fn read_icmp(nla: &DefaultNla, icmp: &mut [Option<u16>; 3]) {
    for first in ICMP {
        if nla.kind() == first {
            icmp[0] = bytes_of(nla).map(u16::from_be_bytes);
        } else if nla.kind() == first + 1 {
            icmp[1] = bytes_of(nla).map(|[kind]: [u8; 1]| u16::from(kind));
        } else if nla.kind() == first + 2 {
            icmp[2] = bytes_of(nla).map(|[code]: [u8; 1]| u16::from(code));
        }
    }
}
