//! What can be done to a namespace: plain data, names instead of indexes.
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use netfilter::Family;

use crate::rule::{Chain, Table};
use crate::{Mac, PortFlags, Route, Space};

/// One operation in its namespace, for an object whose status it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What fails if this fails.
    pub object: Object,
    /// Where.
    pub space: Space,
    /// What.
    pub op: Op,
}

/// What an operation is for. Its text is stable: `host`, `network blue`, `attachment blue/web1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// The host's own namespace.
    Host,
    /// A network on this host.
    Network(String),
    /// What the ways to other hosts are tried through.
    Paths,
    /// An attachment on this host: network and name.
    Attachment(String, String),
    /// An attachment on another host: network and MAC.
    Remote(String, Mac),
    /// Something of ours that is wanted no more: its alias or name.
    Leftover(String),
}

impl Object {
    /// The network whose failure this object need not repeat.
    pub(crate) fn parent(&self) -> Option<Self> {
        match self {
            Self::Attachment(network, _) | Self::Remote(network, _) => Some(Self::Network(network.clone())),
            Self::Host | Self::Network(_) | Self::Paths | Self::Leftover(_) => None,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "host"),
            Self::Network(network) => write!(f, "network {network}"),
            Self::Paths => write!(f, "paths"),
            Self::Attachment(network, name) => write!(f, "attachment {network}/{name}"),
            Self::Remote(network, mac) => write!(f, "remote {network}/{mac}"),
            Self::Leftover(name) => write!(f, "leftover {name}"),
        }
    }
}

/// The other end of a veth pair that is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its namespace.
    pub space: Space,
    /// Its name there.
    pub name: String,
    /// Its MAC; random if `None`.
    pub mac: Option<Mac>,
}

/// An operation. Adding what exists already, or deleting what does not, is an error of the kernel that
/// the reconciler resolves by looking again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a file below /proc/sys.
    SetSysctl {
        /// Path below /proc/sys.
        key: String,
        /// Text.
        value: String,
    },
    /// Makes a bridge, down.
    AddBridge {
        /// Name.
        name: String,
        /// MAC.
        mac: Mac,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Makes a VXLAN device, down, whose UDP socket is in this namespace and whose link is in another.
    AddVxlan {
        /// Where the link goes.
        link_space: Space,
        /// Name.
        name: String,
        /// Network identifier.
        vni: u32,
        /// Outer source address.
        local: IpAddr,
        /// UDP destination port.
        port: u16,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Makes a veth pair, both ends down.
    AddVeth {
        /// Name in this namespace.
        name: String,
        /// MTU of both ends in bytes.
        mtu: u32,
        /// The other end.
        peer: Peer,
    },
    /// Deletes a link; a veth's other end goes with it.
    DeleteLink {
        /// Name.
        name: String,
    },
    /// Deletes many links at once, and the other ends of those that are veths. The kernel waits for its readers when a link
    /// goes: here once for all of them.
    DeleteLinks {
        /// Names.
        names: BTreeSet<String>,
    },
    /// Sets the alias.
    SetAlias {
        /// Link.
        name: String,
        /// Text, up to 255 bytes.
        alias: String,
    },
    /// Sets the MTU.
    SetMtu {
        /// Link.
        name: String,
        /// Bytes.
        mtu: u32,
    },
    /// Sets the MAC.
    SetMac {
        /// Link.
        name: String,
        /// MAC.
        mac: Mac,
    },
    /// Leaves checksums of what a tunnel carries to the device below it, or does not.
    SetOffload {
        /// VXLAN device.
        name: String,
        /// Whether it leaves them.
        on: bool,
    },
    /// Brings a link up.
    SetUp {
        /// Link.
        name: String,
    },
    /// Takes a link down.
    SetDown {
        /// Link.
        name: String,
    },
    /// Lets a link have IPv6 addresses, and none but those that it is given and the link-local one made of its MAC:
    /// IPv6 on, router advertisements not taken, no duplicate address detection.
    TakeSix {
        /// Link.
        name: String,
    },
    /// Makes a link a port of a bridge.
    SetController {
        /// Link.
        name: String,
        /// Bridge.
        controller: String,
    },
    /// Switches a bridge's multicast snooping off.
    StopSnooping {
        /// Bridge.
        name: String,
    },
    /// Sets a bridge port's flags.
    SetPort {
        /// Link.
        name: String,
        /// Flags.
        flags: PortFlags,
    },
    /// Adds an address (IPv6 without duplicate address detection).
    AddAddress {
        /// Link.
        name: String,
        /// Address and prefix length.
        address: IpNetwork,
    },
    /// Deletes an address.
    DeleteAddress {
        /// Link.
        name: String,
        /// Address and prefix length.
        address: IpNetwork,
    },
    /// Adds a default route, or replaces ours.
    SetRoute {
        /// The route.
        route: Route,
        /// One of ours with this metric is there and is replaced; else a foreign one of equal metric is an error.
        replace: bool,
    },
    /// Deletes a default route of ours.
    DeleteRoute {
        /// The route.
        route: Route,
    },
    /// Adds or replaces a permanent neighbour.
    SetNeighbour {
        /// Link.
        name: String,
        /// Address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
    },
    /// Deletes a neighbour.
    DeleteNeighbour {
        /// Link.
        name: String,
        /// Address.
        address: IpAddr,
    },
    /// Adds or replaces where a MAC lives; the zero MAC gets one more.
    SetTunnel {
        /// VXLAN device.
        name: String,
        /// MAC.
        mac: Mac,
        /// Underlay address and port.
        vtep: SocketAddr,
    },
    /// Deletes where a MAC lives.
    DeleteTunnel {
        /// VXLAN device.
        name: String,
        /// MAC.
        mac: Mac,
        /// Underlay address and port.
        vtep: SocketAddr,
    },
    /// Adds or replaces a static entry of the bridge.
    SetForwarding {
        /// Port.
        port: String,
        /// MAC.
        mac: Mac,
    },
    /// Deletes an entry of the bridge.
    DeleteForwarding {
        /// Port.
        port: String,
        /// MAC.
        mac: Mac,
    },
    /// Writes a whole table in one transaction, in place of what is there.
    SetTable {
        /// The table.
        table: Table,
    },
    /// Adds and deletes elements of a set in one transaction.
    ChangeElements {
        /// The table's family.
        family: Family,
        /// Set.
        set: String,
        /// Keys that are not there.
        add: BTreeSet<Vec<u8>>,
        /// Keys that are there.
        delete: BTreeSet<Vec<u8>>,
    },
    /// Writes a chain with its rules in one transaction, in place of what is there.
    SetChain {
        /// The table's family.
        family: Family,
        /// Name.
        name: String,
        /// The chain.
        chain: Chain,
    },
    /// Deletes a chain with its rules.
    DeleteChain {
        /// The table's family.
        family: Family,
        /// Name.
        name: String,
    },
    /// Sends frames to a MAC past the bridge, in place of where they went; the zero MAC is the tunnel.
    SetWay {
        /// MAC.
        mac: Mac,
        /// Link.
        port: String,
    },
    /// Leaves frames to a MAC to the bridge again.
    DeleteWay {
        /// MAC.
        mac: Mac,
    },
    /// Deletes a table.
    DeleteTable {
        /// Its family.
        family: Family,
    },
    /// Puts our rules at the front of DOCKER-USER, in place of what is left of them.
    SetForwardException {
        /// Of whose table "filter": ip or ip6.
        family: Family,
    },
    /// Takes our rules out of DOCKER-USER.
    DeleteForwardException {
        /// Of whose table "filter": ip or ip6.
        family: Family,
    },
    /// Tells the local ports who has an address now (gratuitous ARP, unsolicited neighbour advertisement).
    Announce {
        /// Bridge.
        name: String,
        /// Address.
        address: IpAddr,
        /// Its MAC.
        mac: Mac,
    },
}

impl Op {
    /// Independent of its neighbours in the plan, so that many may be in flight at once.
    pub(crate) fn is_bulk(&self) -> bool {
        matches!(
            self,
            Self::SetNeighbour { .. }
                | Self::DeleteNeighbour { .. }
                | Self::SetTunnel { .. }
                | Self::DeleteTunnel { .. }
                | Self::SetForwarding { .. }
                | Self::DeleteForwarding { .. }
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSysctl { key, value } => write!(f, "set sysctl {key} to {value}"),
            Self::AddBridge { name, .. } => write!(f, "add bridge {name}"),
            Self::AddVxlan { name, vni, .. } => write!(f, "add VXLAN device {name} with VNI {vni}"),
            Self::AddVeth { name, peer, .. } => write!(f, "add veth pair {name} and {}", peer.name),
            Self::DeleteLink { name } => write!(f, "delete link {name}"),
            Self::DeleteLinks { names } => write!(f, "delete {} links", names.len()),
            Self::SetAlias { name, .. } => write!(f, "tag link {name}"),
            Self::SetMtu { name, mtu } => write!(f, "set MTU of {name} to {mtu}"),
            Self::SetMac { name, mac } => write!(f, "set MAC of {name} to {mac}"),
            Self::SetOffload { name, on } => {
                write!(f, "switch checksum offload of {name} {}", if *on { "on" } else { "off" })
            }
            Self::SetUp { name } => write!(f, "bring {name} up"),
            Self::SetDown { name } => write!(f, "take {name} down"),
            Self::TakeSix { name } => write!(f, "let {name} have IPv6 addresses"),
            Self::SetController { name, controller } => write!(f, "make {name} a port of {controller}"),
            Self::StopSnooping { name } => write!(f, "stop multicast snooping of {name}"),
            Self::SetPort { name, .. } => write!(f, "set bridge port flags of {name}"),
            Self::AddAddress { name, address } => write!(f, "add address {address} to {name}"),
            Self::DeleteAddress { name, address } => write!(f, "delete address {address} of {name}"),
            Self::SetRoute { route, .. } => write!(f, "set default route {}", Via(route)),
            Self::DeleteRoute { route } => write!(f, "delete default route {}", Via(route)),
            Self::SetNeighbour { address, mac, .. } => write!(f, "set neighbour {address} to {mac}"),
            Self::DeleteNeighbour { address, .. } => write!(f, "delete neighbour {address}"),
            Self::SetTunnel { mac, vtep, .. } => write!(f, "send {mac} to host {vtep}"),
            Self::DeleteTunnel { mac, vtep, .. } => write!(f, "stop sending {mac} to host {vtep}"),
            Self::SetForwarding { port, mac } => write!(f, "forward {mac} to port {port}"),
            Self::DeleteForwarding { port, mac } => write!(f, "stop forwarding {mac} to port {port}"),
            Self::SetTable { table } => write!(f, "write {:?} table", table.family),
            Self::ChangeElements { set, add, delete, .. } => {
                write!(f, "add {} and delete {} elements of set {set}", add.len(), delete.len())
            }
            Self::SetChain { name, .. } => write!(f, "write chain {name}"),
            Self::DeleteChain { name, .. } => write!(f, "delete chain {name}"),
            Self::SetWay { mac, port } => write!(f, "pass {mac} to {port}"),
            Self::DeleteWay { mac } => write!(f, "stop passing {mac}"),
            Self::DeleteTable { family } => write!(f, "delete {family:?} table"),
            Self::SetForwardException { family } => {
                write!(f, "put our rules into DOCKER-USER ({family:?})")
            }
            Self::DeleteForwardException { family } => {
                write!(f, "take our rules out of DOCKER-USER ({family:?})")
            }
            Self::Announce { address, mac, .. } => write!(f, "announce {address} at {mac}"),
        }
    }
}

struct Via<'a>(&'a Route);

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { link, gateway, metric, .. } = self.0;
        if let Some(gateway) = gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "on {} metric {metric}", link.as_deref().unwrap_or("no link"))
    }
}
