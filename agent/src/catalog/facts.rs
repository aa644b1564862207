//! What the cluster knows, as plain values: facts, definitions and claims.
//!
//! Values travel and rest as JSON, so that a field added later does not stop an older host.
use std::net::IpAddr;

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
    Network { name: Name, born: Stamp },
    /// The owner's assertion of a service's definition.
    Service { network: Name, name: Name, born: Stamp },
    /// An attachment on the owner.
    Attachment { network: Name, name: Name },
    /// A replica of a service on one of the owner's attachments.
    Replica { network: Name, service: Name, attachment: Name },
    /// Something unique that the owner holds for good.
    Claim(ClaimKey),
    /// The owner says that a node has been removed and will not return.
    Removed { node: NodeId },
}

/// The value of an entry; its variant matches its [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    Host(HostFact),
    Network(NetworkDefinition),
    Service(ServiceDefinition),
    Attachment(AttachmentFact),
    Replica(ReplicaFact),
    Claim,
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
    /// VXLAN port of clear networks.
    pub vxlan_port: u16,
    /// Smallest MTU in bytes of the routes to its peers.
    pub underlay_mtu: u32,
    /// Version of the agent.
    pub agent_version: String,
}

/// A network, as every host that uses it asserts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDefinition {
    /// Of two revisions of one birth the greater stands.
    pub revision: Stamp,
    /// A tombstone: the network was removed.
    pub removed: bool,
    pub vni: u32,
    /// At most one per family.
    pub subnets: Vec<IpNetwork>,
    pub internal: bool,
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
    pub settings: ServiceSettings,
}

/// What an operator declares of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSettings {
    pub mode: ServiceMode,
    pub ports: Vec<PortSetting>,
    pub aliases: Vec<Name>,
    pub balance: Balance,
    pub check: Option<Check>,
}

/// How a service's name is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceMode {
    #[default]
    Vip,
    Dnsrr,
}

/// How new flows are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    #[default]
    Random,
    Hash,
    LeastConn,
}

/// A declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortSetting {
    pub public: u16,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A health check, run by the replica's host inside the replica's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub probe: Probe,
    /// Milliseconds between two checks, 100 to 3,600,000.
    pub interval_ms: u64,
    /// Milliseconds until a check counts as failed.
    pub timeout_ms: u64,
    /// Time-outs in a row until the replica stops serving; a refused connect fails at once.
    pub failures: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    Tcp { port: u16 },
    Http { port: u16, path: String },
}

/// An attachment: a container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentFact {
    /// At most one per family.
    pub addresses: Vec<IpAddr>,
    /// `02:…`, lower case.
    pub mac: String,
    pub aliases: Vec<Name>,
    /// When it was attached; among equal names on two hosts the later stands (takeover).
    pub since: Stamp,
}

/// A replica of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFact {
    /// Its attachment's addresses.
    pub addresses: Vec<IpAddr>,
    /// Share of new flows, 0 to 256.
    pub weight: u16,
    pub health: Health,
}

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
    Node { number: u32 },
    /// A VXLAN network identifier.
    Vni { vni: u32 },
    /// A block of a network's region beside the one that every node number has.
    Block { network: Name, region: Region, index: u32 },
    /// A single address.
    Address { network: Name, address: IpAddr },
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
