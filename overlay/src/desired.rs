//! What the overlay of this host shall hold: plain values, given whole each time.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
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
}

/// This host in the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Outer source address of our tunnels (VXLAN `local`).
    pub address: IpAddr,
    /// UDP port of clear networks.
    pub vxlan_port: u16,
    /// Addresses of every known peer; never our own. Only they may send to our tunnels.
    pub peers: BTreeSet<IpAddr>,
    /// Pool of the /31 link addresses between the host's namespace and those of its networks.
    pub link_pool: Ipv4Network,
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
    pub remotes: Vec<Arc<Remote>>,
    /// Attachments on this host, by name.
    pub attachments: BTreeMap<String, Attachment>,
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
    /// A container's, by cookie (SO_NETNS_COOKIE).
    Container(u64),
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "the host's namespace"),
            Self::Network(name) => write!(f, "the namespace of network {name}"),
            Self::Container(cookie) => write!(f, "the container namespace with cookie {cookie}"),
        }
    }
}
