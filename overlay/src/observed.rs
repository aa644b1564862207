//! What a namespace holds, as far as the overlay cares: plain values.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use netfilter::Family;

use crate::{Mac, TAG};

/// One namespace as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Links by name, foreign ones too.
    pub links: BTreeMap<String, Link>,
    /// Addresses by link, without IPv6 link-local ones.
    pub addresses: BTreeSet<(String, IpNetwork)>,
    /// Default routes of the main table, foreign ones too.
    pub routes: BTreeSet<Route>,
    /// Permanent neighbours by link and address.
    pub neighbours: BTreeMap<(String, IpAddr), Mac>,
    /// The VXLAN device's own table: where a MAC lives; the zero MAC floods.
    pub tunnels: BTreeSet<(Mac, SocketAddr)>,
    /// The bridge's table without local entries: port, and whether the entry is static.
    pub forwarding: BTreeMap<Mac, (String, bool)>,
    /// Where frames to a MAC go without the bridge's help, by the name of the link; the zero MAC stands for all that
    /// are not local. A link that is gone has no name: "".
    pub ways: BTreeMap<Mac, String>,
    /// Sysctls below /proc/sys that the overlay may want; absent files are left out.
    pub sysctls: BTreeMap<String, String>,
    /// Our nf_tables tables.
    pub tables: BTreeMap<Family, TableState>,
    /// Packets that our rules dropped, by the rules' label; see `fence`.
    pub drops: BTreeMap<String, u64>,
    /// What other tools do to forwarded packets.
    pub forward_hook: ForwardHook,
    /// MACs that addresses had before they were last removed: memory of the reconciler, never of the kernel. An
    /// address that comes back with another MAC is announced.
    pub former: BTreeMap<IpAddr, Mac>,
}

/// What of a namespace only [`Look::All`](crate::Look::All) reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    ways: BTreeMap<Mac, String>,
    tables: BTreeMap<Family, TableState>,
    drops: BTreeMap<String, u64>,
    forward_hook: ForwardHook,
}

impl Observed {
    /// Takes out what only [`Look::All`](crate::Look::All) reads.
    pub(crate) fn take_tables(&mut self) -> Tables {
        Tables {
            ways: std::mem::take(&mut self.ways),
            tables: std::mem::take(&mut self.tables),
            drops: std::mem::take(&mut self.drops),
            forward_hook: std::mem::take(&mut self.forward_hook),
        }
    }

    /// Puts it back.
    pub(crate) fn put_tables(&mut self, kept: Tables) {
        Tables { ways: self.ways, tables: self.tables, drops: self.drops, forward_hook: self.forward_hook } =
            kept;
    }
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// What it is.
    pub kind: LinkKind,
    /// Alias; ours begin with [`TAG`].
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its MAC; `None` for links without.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// IPv6 is on, and it has no addresses but those that it was given. Read of our links in the host's and in
    /// containers' namespaces, and of containers' `lo`; else false of veths, which may become ours, and true of others.
    pub takes_six: bool,
    /// Of a tunnel of ours: checksums of what it carries are left to the device below. True of other links.
    pub offload: bool,
    /// Name of the bridge it is a port of.
    pub controller: Option<String>,
    /// Bridge port flags, where it is a port.
    pub port: Option<PortFlags>,
    /// Index of the other end of a veth pair, in that end's namespace.
    pub peer_index: Option<u32>,
}

impl Link {
    /// Whether the link carries our tag.
    pub fn is_ours(&self) -> bool {
        self.alias.as_deref().is_some_and(|alias| alias.starts_with(TAG))
    }

    /// Whether the link is one end of a pair that nobody has begun to use. What has one of our names and is like this is
    /// ours: the kernel makes pairs without aliases (rtnl_create_link), and an agent may end before it has set one.
    pub fn is_new_pair(&self) -> bool {
        self.kind == LinkKind::Veth && self.alias.is_none() && !self.up && self.controller.is_none()
    }
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// A bridge, and whether it snoops multicast.
    Bridge {
        /// `mcast_snooping`.
        snooping: bool,
    },
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// Anything else.
    Other,
}

/// Settings of a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: u32,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    /// Learns from what it receives; never wanted.
    pub learning: bool,
}

/// Flags of a bridge port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Learns source MACs.
    pub learning: bool,
    /// Gets frames to unknown unicast MACs.
    pub unicast_flood: bool,
    /// Neighbour requests that the bridge can answer are not sent there.
    pub neighbour_suppression: bool,
}

impl PortFlags {
    /// As a fresh port has them.
    pub const FRESH: Self = Self { learning: true, unicast_flood: true, neighbour_suppression: false };
    /// Of the VXLAN device: unknown unicast may still be flooded, so that a frame gets through while the tables
    /// of two hosts differ for an instant.
    pub const TUNNEL: Self = Self { learning: false, unicast_flood: true, neighbour_suppression: true };
    /// Of an attachment: no frame that is not its own.
    pub const ATTACHMENT: Self = Self { learning: false, unicast_flood: false, neighbour_suppression: false };
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Outgoing link; `None` where the kernel names none (multipath, blackhole).
    pub link: Option<String>,
    /// IPv6.
    pub six: bool,
    /// Metric. IPv6 knows no 0: the kernel makes it 1024.
    pub metric: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Routing protocol number; ours is [`crate::ROUTE_PROTOCOL`].
    pub protocol: u8,
}

/// One of our tables as the kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableState {
    /// Chains by name.
    pub chains: BTreeMap<String, ChainState>,
    /// Elements by set; maps are left out.
    pub sets: BTreeMap<String, BTreeSet<Vec<u8>>>,
}

/// A chain as the kernel holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainState {
    /// Priority.
    pub priority: i32,
    /// Policy.
    pub drop_by_default: bool,
    /// The device whose packets it sees.
    pub device: Option<String>,
    /// The rules' comments, in order; each holds its rule's fingerprint.
    pub rules: Vec<String>,
}

/// Other tools' forward chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardHook {
    /// Families whose table "filter" has a chain DOCKER-USER: ip, ip6.
    pub docker_user: BTreeSet<Family>,
    /// Those of them where our rules in it are there, whole and at the front.
    pub exceptions: BTreeSet<Family>,
    /// Chains that drop forwarded packets and that nothing of ours can exempt us from: "ip filter FORWARD".
    pub blocking: Vec<(Family, String)>,
}
