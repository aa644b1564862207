//! What the overlay of this host shall hold: plain values, given whole each time.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network};
use netfilter::Family;

/// Everything this host's overlay shall hold. May be given again at no cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// This host in the underlay.
    pub host: Host,
    /// Networks present on this host, by name.
    pub networks: BTreeMap<String, Network>,
    /// What the ways to other hosts are tried through.
    pub paths: Option<Paths>,
}

impl Desired {
    /// Whether there is nothing for which the host needs a fence.
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.paths.is_none()
    }
}

/// A tunnel without a network, in a namespace of its own ([`Space::Paths`]): what is sent through it goes the way of all
/// networks' frames (device, fence, port, outer source, checksums), and the other hosts' kernels answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// VXLAN network identifier, of all hosts the same and no network's.
    pub vni: u32,
    /// MTU in bytes: as much as this host's underlay lets through.
    pub mtu: u32,
    /// This host inside, out of 10.0.0.0/8.
    pub address: Ipv4Addr,
    /// The other hosts inside, and where they are on the underlay.
    pub peers: BTreeMap<Ipv4Addr, IpAddr>,
}

/// This host in the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Outer source address of our tunnels (VXLAN `local`).
    pub address: IpAddr,
    /// UDP port that tunnels receive on.
    pub vxlan_port: u16,
    /// UDP ports that they received on before: what peers still send there is taken all the same.
    pub former_ports: BTreeSet<u16>,
    /// Where peers receive on another port than `vxlan_port`.
    pub other_ports: BTreeMap<IpAddr, u16>,
    /// Further UDP ports to which nothing but tunnels sends: those that peers receive on, or did lately.
    pub guarded_ports: BTreeSet<u16>,
    /// Addresses of every known peer; never our own. Only they may send to our tunnels.
    pub peers: BTreeSet<IpAddr>,
    /// Pool of the /31 link addresses between the host's namespace and those of its networks.
    pub link_pool: Ipv4Network,
    /// Checksums of what the tunnels carry are left to the underlay's device, as the kernel does by itself. Off where such
    /// a device damages them.
    pub offload: bool,
}

impl Host {
    /// Where the tunnels of a host receive.
    pub(crate) fn vtep(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.other_ports.get(&address).copied().unwrap_or(self.vxlan_port))
    }
}

/// One network on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// VXLAN network identifier, 1 to 2^24 - 1.
    pub vni: u32,
    /// Subnets with their anycast gateway address.
    pub subnets: Vec<Subnet>,
    /// Inner MTU in bytes: the same on every host of the network.
    pub mtu: u32,
    /// No egress, no gateway.
    pub internal: bool,
    /// Index of this network's /31 in the link pool; host-local, stable, unused when internal.
    pub link_index: u16,
    /// VTEPs of the other hosts that have the network: head-end replication of broadcast and multicast.
    pub flood: BTreeSet<IpAddr>,
    /// Attachments on other hosts. Of two that claim one address or MAC the later one stands, and an attachment
    /// of this host before both.
    pub remotes: Arc<Vec<Arc<Remote>>>,
    /// Attachments on this host, by name.
    pub attachments: Arc<BTreeMap<String, Attachment>>,
}

impl Network {
    /// Whether it has an IPv6 subnet.
    pub(crate) fn has_six(&self) -> bool {
        self.subnets.iter().any(|subnet| subnet.cidr.is_ipv6())
    }

    /// Whether packets of an IP family leave it through the host.
    pub(crate) fn leaves_by(&self, family: Family) -> bool {
        let six = family == Family::Ip6;
        !self.internal && self.subnets.iter().any(|subnet| subnet.cidr.is_ipv6() == six)
    }
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub cidr: IpNetwork,
    /// Gateway: same address and MAC on every host, answered locally.
    pub gateway: IpAddr,
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An attachment on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// Underlay address of its host.
    pub vtep: IpAddr,
}

/// An attachment on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The namespace that gets the link.
    pub space: Space,
    /// Addresses with the subnet's prefix length, at most one per family.
    pub addresses: Vec<IpNetwork>,
    /// MAC of the link inside the namespace.
    pub mac: Mac,
    /// Whether a default route is wanted there.
    pub default_route: DefaultRoute,
    /// Metric of that route: order of attachment.
    pub metric: u32,
    /// Whether the link's name keeps out of the way of an engine that names links of its own there, eth0 and on: svc0 and on.
    pub apart: bool,
}

/// When an attachment brings a default route. A foreign one is never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRoute {
    /// Never (the host's own namespace, internal networks).
    Never,
    /// Only if the namespace has no default route of somebody else's when ours would be added. Ours then stays,
    /// whatever others add later: taking it away would cut its connections.
    IfNone,
    /// Always, beside whatever is there, by its metric.
    Always,
}

/// A network namespace that the overlay works in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// The host's.
    Host,
    /// The one that holds a network's bridge and VXLAN device.
    Network(String),
    /// The one in which the ways to other hosts are tried.
    Paths,
    /// A container's, by cookie (SO_NETNS_COOKIE).
    Container(u64),
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "the host's namespace"),
            Self::Network(name) => write!(f, "the namespace of network {name}"),
            Self::Paths => write!(f, "the namespace of paths"),
            Self::Container(cookie) => write!(f, "the container namespace with cookie {cookie}"),
        }
    }
}
