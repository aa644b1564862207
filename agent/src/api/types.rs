//! What travels over the API: requests, answers, errors. The command line is its only client.
//!
//! JSON over HTTP/1.1 on a unix socket (0600). Routes are listed in [`super::routes`].
#![expect(missing_docs, reason = "fields are named after the flags and columns that carry them")]
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::catalog::facts::{Balance, Check, PortSetting, ServiceMode};
use crate::model::{Name, NodeId};

/// How a verb waits: it returns when its effect holds on every live host that has the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Milliseconds to wait for the other hosts; 0 = do not wait (`--no-wait`).
    pub milliseconds: u64,
}

impl Default for Wait {
    fn default() -> Self {
        Self { milliseconds: 2_000 }
    }
}

/// `network create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkCreate {
    pub name: String,
    #[serde(default)]
    pub subnets: Vec<IpNetwork>,
    /// Which IPv6 subnet it gets besides.
    #[serde(default)]
    pub six: DefaultSix,
    #[serde(default)]
    pub encrypted: bool,
    #[serde(default)]
    pub internal: bool,
    pub mtu: Option<u32>,
    pub vni: Option<u32>,
    #[serde(default)]
    pub wait: Wait,
}

/// Whether a network gets an IPv6 subnet of the cluster's own range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultSix {
    /// It does not.
    #[default]
    None,
    /// Beside one of IPv4, which is the one that was given or a default one.
    Beside,
    /// And none of IPv4.
    Only,
}

/// Which namespace is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A path, a name below /run/netns, or `host`; a relative path is the caller's.
    Netns(String),
    /// The network namespace of a process, as the caller numbers it.
    Pid(u32),
    /// A container of an engine, by name or id.
    Container(String),
    /// The namespace of the calling process.
    Caller,
}

/// `attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    pub name: String,
    pub network: Option<String>,
    pub place: Place,
    pub ip: Option<IpAddr>,
    pub mac: Option<String>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub default_route: bool,
    #[serde(default)]
    pub wait: Wait,
}

/// `detach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detach {
    pub name: String,
    pub network: Option<String>,
    #[serde(default)]
    pub wait: Wait,
}

/// Settings of a service as typed: what is `None` was not given and keeps its value (or default).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub ports: Option<Vec<PortSetting>>,
    pub aliases: Option<Vec<Name>>,
    pub mode: Option<ServiceMode>,
    pub balance: Option<Balance>,
    pub check: Option<Check>,
    /// Run no check any more; `check` is then not looked at.
    #[serde(default)]
    pub no_check: bool,
}

/// `register`. Registering again lays what is given over what stands: what is not given keeps its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Register {
    pub service: String,
    pub network: Option<String>,
    /// An attachment's name; else `place`; else the caller's namespace; else the only attachment there is.
    pub on: Option<String>,
    pub place: Option<Place>,
    /// 0 to 256; `None`: 1, or what it was.
    pub weight: Option<u16>,
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub wait: Wait,
}

/// `deregister`: one replica with `on`, else the whole service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deregister {
    pub service: String,
    pub network: Option<String>,
    pub on: Option<String>,
    #[serde(default)]
    pub wait: Wait,
}

/// `service set`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceSet {
    pub service: String,
    pub network: Option<String>,
    pub settings: Settings,
    #[serde(default)]
    pub wait: Wait,
}

/// `drain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drain {
    pub service: String,
    pub network: Option<String>,
    pub on: String,
    #[serde(default)]
    pub wait: Wait,
}

/// What a changing verb did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// One line per change, in words; empty: nothing changed.
    pub changed: Vec<String>,
    /// Things worth knowing that are no failure.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Hosts where the effect does not hold yet; not empty: exit 4.
    #[serde(default)]
    pub laggards: Vec<Laggard>,
    /// The object after the change, as its `inspect` shows it.
    pub object: Option<serde_json::Value>,
}

/// A host that is behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Laggard {
    pub host: String,
    pub reason: String,
}

/// A refusal or failure: what is wrong, where, and what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// What to do next; one line per step.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Exit 1: refused, nothing changed.
    Refused,
    /// Exit 2: the request is incomplete or ambiguous.
    Usage,
    /// Exit 4: timed out.
    TimedOut,
}

/// `network ls` and `inspect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkInfo {
    pub name: Name,
    pub vni: u32,
    pub subnets: Vec<IpNetwork>,
    pub gateways: Vec<IpAddr>,
    pub internal: bool,
    pub encrypted: bool,
    /// In force on every host, in bytes.
    pub mtu: u32,
    pub hosts: Vec<String>,
    pub attachments: usize,
    pub services: usize,
    /// Addresses that endpoints and VIPs can have in all, and how many are used.
    pub capacity: BTreeMap<String, Capacity>,
    /// How to enter its namespace on this host, if it is present here.
    pub namespace: Option<String>,
    #[serde(default)]
    pub problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Capacity {
    pub used: u64,
    pub total: u64,
}

/// `attachments`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachmentInfo {
    pub name: Name,
    pub network: Name,
    pub host: String,
    /// On the host that was asked.
    pub local: bool,
    pub addresses: Vec<IpAddr>,
    pub mac: String,
    pub aliases: Vec<Name>,
    /// Name of the link inside the namespace; local attachments only.
    pub interface: Option<String>,
    /// Lines for /etc/resolv.conf where the agent could not write it itself.
    pub resolv_conf: Option<String>,
    pub suspended: bool,
}

/// `service ls` and `inspect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceInfo {
    pub name: Name,
    pub network: Name,
    pub vips: Vec<IpAddr>,
    pub mode: ServiceMode,
    pub ports: Vec<PortSetting>,
    pub aliases: Vec<Name>,
    pub balance: Balance,
    pub check: Option<Check>,
    pub replicas: Vec<ReplicaInfo>,
    #[serde(default)]
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplicaInfo {
    pub attachment: Name,
    pub host: String,
    pub addresses: Vec<IpAddr>,
    pub weight: u16,
    /// `starting`, `serving`, `failing`, `draining`, `suspended` (its host does not answer) or `fenced` (its attachment was
    /// taken over).
    pub state: String,
}

/// `node ls`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    pub name: String,
    pub number: u32,
    pub address: IpAddr,
    /// `live`, `suspended`, `this host`.
    pub state: String,
    pub agent_version: String,
    /// Facts of this node that the asked host holds, `incarnation.version`.
    pub head: String,
    pub attachments: usize,
    pub replicas: usize,
}

/// `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub id: NodeId,
    pub agent_version: String,
    pub cluster: String,
    /// Nothing is behind and nothing fails, anywhere.
    pub ok: bool,
    pub hosts: Vec<HostStatus>,
    /// Things that concern this host as a whole (key complaints, conflicts).
    #[serde(default)]
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    pub id: NodeId,
    pub name: String,
    /// `live`, `suspended`, `unreachable`.
    pub state: String,
    /// Version of its agent, as it said itself.
    #[serde(default)]
    pub agent_version: String,
    /// Owners whose facts it has not applied yet: owner's name, applied, known here.
    pub behind: Vec<Behind>,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Behind {
    pub owner: String,
    pub applied: String,
    pub known: String,
}

/// An object that fails on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `network/payment/vxlan`, `service/payment/payment-api`, …
    pub object: String,
    /// What was tried and what came back.
    pub error: String,
    /// Seconds since it began to fail.
    pub seconds: u64,
    /// How often it was tried; 0 where nothing is tried, or that is not counted.
    pub attempts: u64,
}

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 at every start of the agent.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// `network`, `attachment`, `service`, `replica`, `host`, `problem`, …
    pub subject: String,
    pub message: String,
    /// On whose request: `cli (uid 0, pid 12)`, `host h2`, `agent`.
    pub origin: String,
}

/// `resolve`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resolved {
    pub name: String,
    /// `NOERROR`, `NXDOMAIN`, …; [`Self::FORWARDED`] for a name that is not ours. Nobody was asked for that one.
    pub code: String,
    /// Who decides it, in words.
    pub source: String,
    /// Answer records in presentation form.
    pub records: Vec<String>,
    /// To whom a name that is not ours would be forwarded, the first that answers.
    #[serde(default)]
    pub upstreams: Vec<SocketAddr>,
}

impl Resolved {
    /// The code of a name that is not ours.
    pub const FORWARDED: &'static str = "FORWARDED";
}

/// `version`, of the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    pub agent_version: String,
    pub node: String,
    pub pid: u32,
}

/// `leave`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Left {
    /// What was removed, a line each.
    pub removed: Vec<String>,
}
