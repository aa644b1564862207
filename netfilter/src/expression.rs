//! The parts of a rule.
use std::borrow::Cow;

use crate::Family;
use crate::wire::Writer;

mod write;

/// A register: the verdict register, or one of sixteen of 4 bytes that hold values (kernel 4.1 and later).
///
/// A value longer than 4 bytes goes on in the registers that follow; concatenated keys are read that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register(pub(crate) u8);

impl Register {
    /// Value register `word`, 0 to 15 (taken modulo 16), of 4 bytes.
    pub const fn word(word: u8) -> Self {
        Self(word % 16)
    }

    /// The register `words` further, for the next field of a concatenation.
    pub const fn after(self, words: u8) -> Self {
        Self::word(self.0 + words)
    }
}

/// Where a payload's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The link-layer header (Ethernet).
    Link,
    /// The IP header.
    Network,
    /// The TCP, UDP, SCTP or ICMP header.
    Transport,
}

/// What `meta` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meta {
    /// EtherType, 2 bytes in network order.
    Protocol,
    /// Queueing priority, 4 bytes in host order.
    Priority,
    /// Packet mark, 4 bytes in host order.
    Mark,
    /// Index of the incoming interface, 4 bytes in host order.
    IncomingIndex,
    /// Index of the outgoing interface, 4 bytes in host order.
    OutgoingIndex,
    /// Name of the incoming interface, 16 bytes padded with zeros.
    IncomingName,
    /// Name of the outgoing interface, 16 bytes padded with zeros.
    OutgoingName,
    /// User id of the socket that sent the packet, 4 bytes in host order; no match without a socket.
    SocketUser,
    /// NFPROTO of the packet, 1 byte: 2 IPv4, 10 IPv6.
    FamilyNumber,
    /// Transport protocol, 1 byte.
    TransportProtocol,
    /// Name of the bridge the packet came in by, 16 bytes (family bridge).
    IncomingBridge,
    /// PACKET_HOST 0, PACKET_BROADCAST 1, PACKET_MULTICAST 2, PACKET_OTHERHOST 3; 1 byte.
    PacketType,
    /// 1 byte, 1 if the packet came through IPsec.
    SecurityPath,
}

/// What `ct` reads of the packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conntrack {
    /// Bits in host order: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    State,
    /// 1 byte: 0 original, 1 reply.
    Direction,
    /// IPS_* bits in host order: 16 source NAT, 32 destination NAT.
    Status,
    /// Mark of the flow, 4 bytes in host order.
    Mark,
}

/// How `Compare` compares, byte for byte from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Goes on if equal.
    Equal,
    /// Goes on if not equal.
    NotEqual,
    /// Goes on if less.
    Less,
    /// Goes on if less or equal.
    LessOrEqual,
    /// Goes on if greater.
    Greater,
    /// Goes on if greater or equal.
    GreaterOrEqual,
}

/// What happens to a packet. A text in it is the name of a chain of the same table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict<'a> {
    /// Ends this base chain; later ones still see the packet.
    Accept,
    /// Ends it for good.
    Drop,
    /// On to the next rule.
    Continue,
    /// Back to the calling chain; in a base chain its policy.
    Return,
    /// Into the chain, and back at its end.
    Jump(Cow<'a, str>),
    /// Into the chain; its end is the end of the chain that was called last with a jump.
    Goto(Cow<'a, str>),
}

/// Which address `Nat` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nat {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What `Reject` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// An ICMP unreachable message of this code in the packet's own family.
    Icmp(u8),
    /// An RST; the rule must have matched TCP.
    TcpReset,
    /// A code that fits both families (NFT_REJECT_ICMPX_*): 0 no route, 1 port, 2 host, 3 prohibited.
    Any(u8),
}

/// One expression of a rule. A rule runs its expressions in order until one does not match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// Loads bytes of the packet; does not match if it is too short.
    Payload {
        /// What `offset` counts from.
        base: Base,
        /// Offset in bytes.
        offset: u32,
        /// Length in bytes.
        length: u32,
        /// First register filled.
        to: Register,
    },
    /// Writes bytes of the packet, and corrects its checksum for them. A UDP checksum of 0, which stands for none, would
    /// become a wrong one.
    PayloadSet {
        /// What `offset` counts from.
        base: Base,
        /// Offset in bytes.
        offset: u32,
        /// Length in bytes.
        length: u32,
        /// First register read.
        from: Register,
        /// Offset of the internet checksum, counted from the same place, in bytes.
        checksum: u32,
    },
    /// Loads a property of the packet.
    Meta {
        /// Which.
        key: Meta,
        /// First register filled.
        to: Register,
    },
    /// Writes a property of the packet: the mark or the priority.
    MetaSet {
        /// Which.
        key: Meta,
        /// Register read.
        from: Register,
    },
    /// Loads a property of the packet's flow.
    Conntrack {
        /// Which.
        key: Conntrack,
        /// Register filled.
        to: Register,
    },
    /// Goes on if the comparison holds.
    Compare {
        /// First register read.
        register: Register,
        /// How.
        operation: Comparison,
        /// What with; its length is the number of bytes compared.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`, over the mask's length.
    Bitwise {
        /// First register read.
        from: Register,
        /// First register written.
        to: Register,
        /// Mask.
        mask: Vec<u8>,
        /// As long as the mask.
        xor: Vec<u8>,
    },
    /// Goes on if the key is an element (or is none, if inverted). A map's data goes into `to`; a verdict map's
    /// verdict is taken if `to` is [`Target::Verdict`].
    Lookup {
        /// Name of the set, which exists already or is added earlier in the batch.
        set: String,
        /// First register of the key.
        key: Register,
        /// Where the data goes.
        to: Target,
        /// Goes on if the key is *not* an element; only without data.
        inverted: bool,
    },
    /// Loads a constant.
    Immediate {
        /// First register filled.
        to: Register,
        /// The constant, at most 16 bytes.
        value: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict<'static>),
    /// Loads a random number of `0..modulus`, 4 bytes in host order.
    Random {
        /// Register filled.
        to: Register,
        /// Greater than 0.
        modulus: u32,
    },
    /// Translates the packet's flow; ends the base chain. Only in chains of type nat.
    Nat {
        /// Which address.
        kind: Nat,
        /// Ip or Ip6.
        family: Family,
        /// First register of the new address.
        address: Register,
        /// Register of the new port, 2 bytes in network order.
        port: Option<Register>,
    },
    /// Translates the source to the outgoing interface's address.
    Masquerade,
    /// Sends the packet out by another device as it is, and is done with it. Only in chains of family netdev.
    Forward {
        /// Register that holds the device's index, in host order. A device that is not there swallows the packet.
        device: Register,
    },
    /// The packet is not tracked. In a chain before connection tracking (priority below -200).
    Untracked,
    /// Counts packets and bytes.
    Counter,
    /// Answers and drops.
    Reject(Answer),
    /// Gives the packet's new flow the time-outs of an object made by `Batch::add_timeout`.
    Timeout {
        /// Name of the object.
        object: String,
    },
}

/// Where a lookup's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Nowhere: the set has no data, or only membership counts.
    None,
    /// Into registers from this one on.
    Register(Register),
    /// It is a verdict, and taken.
    Verdict,
}

impl Expression {
    /// Goes on if the register holds `value`.
    pub fn equal(register: Register, value: impl Into<Vec<u8>>) -> Self {
        Self::Compare { register, operation: Comparison::Equal, value: value.into() }
    }

    /// Goes on unless the register holds `value`.
    pub fn not_equal(register: Register, value: impl Into<Vec<u8>>) -> Self {
        Self::Compare { register, operation: Comparison::NotEqual, value: value.into() }
    }

    /// Loads a property of the packet.
    pub fn meta(key: Meta, to: Register) -> Self {
        Self::Meta { key, to }
    }

    /// Loads bytes of the packet.
    pub fn payload(base: Base, offset: u32, length: u32, to: Register) -> Self {
        Self::Payload { base, offset, length, to }
    }

    /// Goes on if the key is an element of the set.
    pub fn in_set(set: &str, key: Register) -> Self {
        Self::Lookup { set: set.into(), key, to: Target::None, inverted: false }
    }

    /// Goes on if the key is no element of the set.
    pub fn not_in_set(set: &str, key: Register) -> Self {
        Self::Lookup { set: set.into(), key, to: Target::None, inverted: true }
    }

    /// Loads the map's data for the key; goes on if there is some.
    pub fn map(set: &str, key: Register, to: Register) -> Self {
        Self::Lookup { set: set.into(), key, to: Target::Register(to), inverted: false }
    }

    /// Takes the verdict map's verdict for the key, if there is one; else goes on.
    pub fn verdict_map(set: &str, key: Register) -> Self {
        Self::Lookup { set: set.into(), key, to: Target::Verdict, inverted: false }
    }
}

impl Verdict<'_> {
    /// Into the chain; see [`Verdict::Jump`].
    pub fn jump(chain: impl Into<String>) -> Verdict<'static> {
        Verdict::Jump(Cow::Owned(chain.into()))
    }

    /// Into the chain; see [`Verdict::Goto`].
    pub fn goto(chain: impl Into<String>) -> Verdict<'static> {
        Verdict::Goto(Cow::Owned(chain.into()))
    }
}

/// Tells two lists of expressions apart: 64-bit FNV-1a of what is sent to the kernel.
///
/// The kernel gives a rule's expressions back in other words than it was given them, but hands a comment back
/// byte for byte and never changes a rule in place. So a rule whose comment carries this number is the rule
/// that was meant, and an older agent's rule is seen as another one.
pub fn fingerprint(expressions: &[Expression]) -> u64 {
    let mut out = Writer::default();
    expressions.iter().for_each(|expression| expression.write(&mut out));
    out.bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
