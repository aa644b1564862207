//! What the cluster knows, as plain values: facts, definitions and claims.
//!
//! Values travel and rest as JSON, so that a field added later does not stop an older host.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::model::{Name, NodeId, Stamp};

/// What an entry is about; unique within its owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The owner itself.
    Host,
    /// The owner's assertion of a network's definition; `born` tells two creations of one name apart.
    Network {
        /// The network.
        name: Name,
        /// Its creation.
        born: Stamp,
    },
    /// The owner's assertion of a service's definition.
    Service {
        /// The network it is on.
        network: Name,
        /// The service.
        name: Name,
        /// Its creation.
        born: Stamp,
    },
    /// An attachment on the owner.
    Attachment {
        /// The network it is on.
        network: Name,
        /// The attachment.
        name: Name,
    },
    /// A replica of a service on one of the owner's attachments.
    Replica {
        /// The network of both.
        network: Name,
        /// The service.
        service: Name,
        /// The attachment.
        attachment: Name,
    },
    /// Something unique that the owner holds for good.
    Claim(ClaimKey),
    /// The owner says that a node has been removed and will not return.
    Removed {
        /// The node.
        node: NodeId,
    },
}

/// The value of an entry; its variant matches its [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// For [`Key::Host`].
    Host(HostFact),
    /// For [`Key::Network`].
    Network(NetworkDefinition),
    /// For [`Key::Service`].
    Service(ServiceDefinition),
    /// For [`Key::Attachment`].
    Attachment(AttachmentFact),
    /// For [`Key::Replica`].
    Replica(ReplicaFact),
    /// For [`Key::Claim`]; the key says it all.
    Claim,
    /// For [`Key::Removed`]; the key says it all.
    Removed,
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFact {
    /// Name for people; not unique.
    pub name: String,
    /// Node number, settled at join; gives the host block `number` of every network.
    pub number: u32,
    /// Underlay address: VTEP and gossip.
    pub address: IpAddr,
    /// UDP and TCP port of the cluster's frames.
    pub gossip_port: u16,
    /// UDP port that its tunnels of clear networks receive on.
    pub vxlan_port: u16,
    /// Where they received before, the latest last, while it is not known that everybody sends to the new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_vxlan_ports: Vec<u16>,
    /// Smallest MTU in bytes of the routes to its peers.
    pub underlay_mtu: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// Hosts to which the path carries less than both ends' underlay: what was measured, in bytes inside the tunnel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub narrow: BTreeMap<NodeId, u32>,
    /// Where its routes lead beside the default: what a network without a subnet of its own keeps clear of. Of many the
    /// largest.
    #[serde(default)]
    pub routes: Vec<IpNetwork>,
}

/// A network, as every host that uses it asserts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDefinition {
    /// Of two revisions of one birth the greater stands.
    pub revision: Stamp,
    /// A tombstone: the network was removed.
    pub removed: bool,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// At most one per family.
    pub subnets: Vec<IpNetwork>,
    /// No default route and no egress.
    pub internal: bool,
    /// Its frames travel under ESP.
    pub encrypted: bool,
    /// An upper bound that the operator set, in bytes.
    pub mtu: Option<u32>,
}

/// A service, as every host that uses it asserts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDefinition {
    /// Of two revisions of one birth the greater stands.
    pub revision: Stamp,
    /// A tombstone: the service was deregistered.
    pub removed: bool,
    /// VIPs that this birth brought, at most one per family. They never move.
    pub vips: Vec<IpAddr>,
    /// What was declared of it.
    pub settings: ServiceSettings,
}

/// What an operator declares of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// How its name is answered.
    pub mode: ServiceMode,
    /// Declared ports; none means all.
    pub ports: Vec<PortSetting>,
    /// Further names.
    pub aliases: Vec<Name>,
    /// How new flows are spread.
    pub balance: Balance,
    /// How its replicas are checked, if they are.
    pub check: Option<Check>,
}

/// How a service's name is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceMode {
    /// By the VIP.
    #[default]
    Vip,
    /// By the addresses of the serving replicas.
    Dnsrr,
}

/// How new flows are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// To any replica, by weight.
    #[default]
    Random,
    /// By the client's address.
    Hash,
    /// To the replica with the fewest connections.
    LeastConn,
}

/// A declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortSetting {
    /// At the VIP.
    pub public: u16,
    /// At the replica.
    pub target: u16,
    /// Of both.
    pub protocol: Protocol,
}

/// The transport of a declared port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

/// A health check, run by the replica's host inside the replica's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// Milliseconds between two checks, 100 to 3,600,000.
    pub interval_ms: u64,
    /// Milliseconds until a check counts as failed.
    pub timeout_ms: u64,
    /// Time-outs in a row until the replica stops serving; a refused connect fails at once.
    pub failures: u32,
}

/// What a check tries at the replica's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A connection is accepted.
    Tcp {
        /// Where.
        port: u16,
    },
    /// A GET is answered with success.
    Http {
        /// Where.
        port: u16,
        /// Begins with a slash.
        path: String,
    },
}

/// An attachment: a container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentFact {
    /// At most one per family.
    pub addresses: Vec<IpAddr>,
    /// `02:…`, lower case.
    pub mac: String,
    /// Further names.
    pub aliases: Vec<Name>,
    /// When it was attached; among equal names on two hosts the later stands. Its node is the owner.
    pub since: Stamp,
    /// Which takeovers it comes from, its own first, then those of whom it took over from; at most [`SUCCEEDS_MAX`]. Who
    /// took a name or an address over has it before any who did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub succeeds: Vec<Succession>,
}

impl AttachmentFact {
    /// Whether it took this name or address over.
    pub fn took(&self, object: &Taken) -> bool {
        self.succeeds.iter().any(|succession| succession.object == *object)
    }
}

/// How many successions an attachment names.
pub const SUCCEEDS_MAX: usize = 16;

/// A takeover that a majority confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Succession {
    /// What was taken over.
    pub object: Taken,
    /// When the attachment was made that was succeeded; its node is the owner.
    pub from: Stamp,
    /// Who took over.
    pub by: NodeId,
    /// In which attempt of its claim.
    pub attempt: u64,
}

/// A replica of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFact {
    /// Its attachment's addresses.
    pub addresses: Vec<IpAddr>,
    /// Share of new flows, 0 to 256.
    pub weight: u16,
    /// Whether it is to get flows.
    pub health: Health,
}

/// Where a replica is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not checked with success yet: gets nothing.
    Starting,
    /// Gets new flows.
    Serving,
    /// Its check fails: no new flows, established ones go on.
    Failing,
    /// Being taken out: no new flows, established ones go on.
    Draining,
}

/// Something that must be unique in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKey {
    /// A node number, from 1; settled in order: number n + 1 needs a majority of 1..=n.
    Node {
        /// From 1.
        number: u32,
    },
    /// A VXLAN network identifier.
    Vni {
        /// 24 bits.
        vni: u32,
    },
    /// A block of a network's region beside the one that every node number has.
    Block {
        /// The network.
        network: Name,
        /// The part of its subnet.
        region: Region,
        /// The block within the region.
        index: u32,
    },
    /// A single address.
    Address {
        /// The network.
        network: Name,
        /// The address.
        address: IpAddr,
    },
    /// A single address of another host's block, which that host granted. Its giver alone could forget it, so members
    /// promise it like any other; it is given back when the attachment that it is for is gone.
    Granted {
        /// The network.
        network: Name,
        /// The address.
        address: IpAddr,
        /// Whose block it lies in.
        by: NodeId,
    },
    /// The right to take a name or an address over from the attachment that was made at `since`, whose host is suspended.
    Takeover {
        /// The network.
        network: Name,
        /// What is taken over.
        object: Taken,
        /// When the attachment was made that had it; its node is the owner.
        since: Stamp,
    },
}

/// What is taken over from an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// Its name.
    Name(Name),
    /// An address of it.
    Address(IpAddr),
}

impl ClaimKey {
    /// Where the claims of one network lie in the order of keys: its blocks, its single addresses, those that were granted.
    pub fn of_network(network: &Name) -> [RangeInclusive<Self>; 3] {
        let block = |region, index| Self::Block { network: network.clone(), region, index };
        let address = |address| Self::Address { network: network.clone(), address };
        let granted = |address, by| Self::Granted { network: network.clone(), address, by: NodeId(by) };
        let (first, last) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::from_bits(u128::MAX).into());
        [
            block(Region::Endpoint, 0)..=block(Region::Vip, u32::MAX),
            address(first)..=address(last),
            granted(first, 0)..=granted(last, u64::MAX),
        ]
    }

    /// Where the claims lie that take a network's names and addresses over.
    pub fn takeovers_of(network: &Name) -> RangeInclusive<Self> {
        let key = |object, since| Self::Takeover { network: network.clone(), object, since };
        let (first, last) =
            (Stamp { clock: 0, node: NodeId(0) }, Stamp { clock: u64::MAX, node: NodeId(u64::MAX) });
        let address = Ipv6Addr::from_bits(u128::MAX).into();
        key(Taken::Name(Name::first()), first)..=key(Taken::Address(address), last)
    }

    /// The network whose block or address is claimed.
    pub fn network(&self) -> Option<&Name> {
        match self {
            Self::Block { network, .. }
            | Self::Address { network, .. }
            | Self::Granted { network, .. }
            | Self::Takeover { network, .. } => Some(network),
            Self::Vni { .. } | Self::Node { .. } => None,
        }
    }
}

/// The two parts of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// The first 7/8.
    Endpoint,
    /// The last 1/8.
    Vip,
}
