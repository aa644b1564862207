//! What a ruleset is made of: tables, chains, sets, and their types.

/// What kind of packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// ARP.
    Arp,
    /// Whatever arrives at a device, before anything else looks at it (kernel 4.2 and later).
    Netdev,
    /// Frames that a bridge forwards.
    Bridge,
    /// IPv6.
    Ip6,
}

impl Family {
    /// Its name, as nft(8) writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        }
    }

    /// The kernel's number (NFPROTO_*).
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Inet, Self::Ip, Self::Arp, Self::Netdev, Self::Bridge, Self::Ip6];
        all.into_iter().find(|family| family.number() == number)
    }
}

/// A table's full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Tables of different families may have the same name.
    pub family: Family,
    /// At most 255 bytes.
    pub name: &'a str,
}

/// Flags of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableFlags {
    /// Only the socket that added (or adopted) the table may change it, and `nft flush ruleset` leaves it out
    /// (kernel 5.12 and later). Without `persist` the table goes with the socket.
    pub owner: bool,
    /// The table stays when its owner's socket closes, and another one may adopt it by adding it again with both
    /// flags (kernel 6.9 and later; older ones refuse it with EOPNOTSUPP).
    pub persist: bool,
}

impl TableFlags {
    /// No flags: what every kernel takes.
    pub const PLAIN: Self = Self { owner: false, persist: false };
    /// Both flags.
    pub const OWNED: Self = Self { owner: true, persist: true };

    pub(crate) fn bits(self) -> u32 {
        (u32::from(self.owner) << 1) | (u32::from(self.persist) << 2)
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self { owner: bits & 2 != 0, persist: bits & 4 != 0 }
    }
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Any verdict, no translation.
    Filter,
    /// Sees the first packet of each flow and may translate it.
    Nat,
    /// In the output hook: routes again if the mark or the addresses have changed.
    Route,
}

/// Where packets enter a base chain. Hooks of families ip, ip6, inet and bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// All that arrives.
    Prerouting,
    /// What is for this namespace. In family arp too.
    Input,
    /// What passes through.
    Forward,
    /// What is sent from here. In family arp too.
    Output,
    /// All that leaves.
    Postrouting,
}

/// How a base chain is tied to the packets' path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// What it is for.
    pub kind: ChainKind,
    /// Where packets enter it.
    pub point: HookPoint,
    /// Lower ones run first; dstnat is −100, srcnat 100, filter 0, raw −300.
    pub priority: i32,
    /// Drop what reaches its end; else accept.
    pub drop_by_default: bool,
}

impl HookPoint {
    pub(crate) fn number(self, family: Family) -> u32 {
        match (self, family) {
            // include/uapi/linux/netfilter_arp.h: NF_ARP_IN 0, NF_ARP_OUT 1.
            (Self::Input, Family::Arp) => 0,
            (Self::Output, Family::Arp) => 1,
            (Self::Prerouting, _) => 0,
            (Self::Input, _) => 1,
            (Self::Forward, _) => 2,
            (Self::Output, _) => 3,
            (Self::Postrouting, _) => 4,
        }
    }
}

impl ChainKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// The type of one field of a key or of data: nft's number for it, which only `nft list` reads, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldType {
    /// nft's number (include/datatype.h of nftables), 6 bits.
    pub code: u32,
    /// Length in bytes; in a concatenation each field is padded to 4.
    pub length: u32,
}

impl FieldType {
    /// An IPv4 address.
    pub const IPV4_ADDRESS: Self = Self { code: 7, length: 4 };
    /// An IPv6 address.
    pub const IPV6_ADDRESS: Self = Self { code: 8, length: 16 };
    /// A MAC address.
    pub const MAC_ADDRESS: Self = Self { code: 9, length: 6 };
    /// A transport protocol.
    pub const PROTOCOL: Self = Self { code: 12, length: 1 };
    /// A port, in network order.
    pub const PORT: Self = Self { code: 13, length: 2 };
    /// A packet mark, in host order; the type to list a random number by.
    pub const MARK: Self = Self { code: 19, length: 4 };
    /// An interface's index, in host order.
    pub const INTERFACE_INDEX: Self = Self { code: 20, length: 4 };
    /// An interface's name, padded with zeros.
    pub const INTERFACE_NAME: Self = Self { code: 41, length: 16 };

    const fn padded(self) -> u32 {
        self.length.next_multiple_of(4)
    }
}

/// What a set's elements carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetData<'a> {
    /// Nothing: a set.
    None,
    /// A verdict: a verdict map.
    Verdict,
    /// A value of these fields: a map.
    Value(&'a [FieldType]),
}

/// A named set, map or verdict map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set<'a> {
    /// Its name, unique in the table.
    pub name: &'a str,
    /// The fields of its key, in order; 64 bytes with padding at most.
    pub key: &'a [FieldType],
    /// What its elements carry.
    pub data: SetData<'a>,
    /// Elements are ranges. With one field each range is two elements (start, and an interval end one past its
    /// last key); with several it is one element with `key_end` (kernel 5.6 and later).
    pub interval: bool,
    /// How many elements it may have; one more is refused with ENFILE. The kernel takes a table of fixed size for
    /// such a set, which is looked up in a third of the time (net/netfilter/nft_set_hash.c).
    pub size_max: Option<u32>,
}

/// Type and length of a concatenation, as nft numbers it: 6 bits for each field.
pub(crate) fn concatenate(fields: &[FieldType]) -> (u32, u32) {
    match fields {
        [single] => (single.code, single.length),
        _ => fields
            .iter()
            .fold((0, 0), |(code, length), field| ((code << 6) | field.code, length + field.padded())),
    }
}
