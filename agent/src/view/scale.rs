//! A synthetic cluster, to measure what deriving costs: `make bench` and the tests use it.
//!
//! The clock and the meter of resident memory are arguments, so nothing here does I/O.
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Liveness, View};
use crate::catalog::facts::{
    AttachmentFact, Health, HostFact, Key, NetworkDefinition, ReplicaFact, ServiceDefinition,
    ServiceSettings, Value,
};
use crate::catalog::{Catalog, Delta, Entry, Full};
use crate::model::{Head, Name, NodeId, Stamp};

/// How large a cluster to make up. All on one network, 10.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// At least 1.
    pub hosts: u32,
    /// Of all hosts together, at least 1, dealt out in turn.
    pub attachments: u32,
    /// Of the network, at least 1.
    pub services: u32,
    /// Of each service, on consecutive attachments; at most the number of attachments.
    pub replicas: u32,
}

impl Size {
    /// 10,000 services of 10 replicas on 1,000 attachments of 10 hosts.
    pub const LARGE: Self = Self { hosts: 10, attachments: 1_000, services: 10_000, replicas: 10 };
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Entries in the catalog.
    pub entries: usize,
    /// Bytes of JSON that a joining host reads.
    pub json_bytes: usize,
    /// To parse and take up all owners' states.
    pub load: Duration,
    /// To derive the view from nothing.
    pub build: Duration,
    /// To take up one change of one replica and bring the view up to date, each round.
    pub changes: Vec<Duration>,
    /// Resident memory in bytes that the catalog added.
    pub catalog_bytes: u64,
    /// Resident memory in bytes that the view added.
    pub view_bytes: u64,
}

/// Makes up a cluster and measures `rounds` changes of one replica's health each. `clock` gives the time since any
/// fixed point, `resident` the process's resident memory in bytes.
///
/// # Errors
/// If a state does not survive its JSON, or a change does not change exactly one service.
pub fn measure(
    size: Size,
    rounds: u32,
    clock: &dyn Fn() -> Duration,
    resident: &dyn Fn() -> u64,
) -> Result<Measured, String> {
    let mut catalog = Catalog::default();
    let (mut load, mut json_bytes) = (Duration::ZERO, 0);
    let before = resident();
    for host in 0..size.hosts {
        let json = serde_json::to_vec(&state(size, host)).map_err(|error| error.to_string())?;
        json_bytes += json.len();
        let started = clock();
        let full: Full = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        catalog.apply_full(full);
        load += clock().saturating_sub(started);
    }
    let loaded = resident();
    let (liveness, this) = (Liveness::default(), node(0));
    let started = clock();
    let mut view = View::build(&catalog, &liveness, this);
    let build = clock().saturating_sub(started);
    let built = resident();
    let mut changes = Vec::new();
    for round in 0..rounds {
        let delta = change(size, &catalog, round);
        let started = clock();
        let applied = catalog.apply(delta);
        let changed = view.update(&catalog, &liveness, this, &applied.changes);
        changes.push(clock().saturating_sub(started));
        if changed.services.len() != 1 || changed.work.services != 1 || changed.work.attachments != 0 {
            return Err(format!("one change of a replica gave {changed:?}"));
        }
    }
    Ok(Measured {
        entries: catalog.owners().map(|(_, state)| state.len()).sum(),
        json_bytes,
        load,
        build,
        changes,
        catalog_bytes: loaded.saturating_sub(before),
        view_bytes: built.saturating_sub(loaded),
    })
}

/// The catalog of the made-up cluster.
pub fn catalog(size: Size) -> Catalog {
    let mut catalog = Catalog::default();
    for host in 0..size.hosts {
        catalog.apply_full(state(size, host));
    }
    catalog
}

/// A change of one replica's health, another replica each round.
pub fn change(size: Size, catalog: &Catalog, round: u32) -> Delta {
    // A prime step, to spread the rounds over the services.
    let service = round.wrapping_mul(7_919) % size.services.max(1);
    let attachment = attachment_of(size, service, round % size.replicas.max(1));
    let owner = node(attachment % size.hosts.max(1));
    let Head { incarnation, version } = catalog.head(owner);
    let key = replica_key(service, attachment);
    let health = match catalog.value(owner, &key) {
        Some(Value::Replica(ReplicaFact { health: Health::Serving, .. })) => Health::Failing,
        _ => Health::Serving,
    };
    let head = version.saturating_add(1);
    let value = Some(replica(attachment, health));
    Delta { owner, incarnation, base: version, head, entries: vec![Entry { key, version: head, value }] }
}

/// One host's facts: itself, its attachments and replicas, and the definitions it uses.
fn state(size: Size, host: u32) -> Full {
    let own = |attachment: &u32| attachment % size.hosts.max(1) == host;
    let mut batch = vec![(Key::Host, host_fact(host))];
    let born = Stamp { clock: 1, node: node(0) };
    batch.push((Key::Network { name: network(), born }, network_definition(born)));
    for attachment in (0..size.attachments).filter(own) {
        let key = Key::Attachment { network: network(), name: name("container", attachment) };
        batch.push((key, attachment_fact(attachment)));
    }
    for service in 0..size.services {
        let mut used = false;
        let replicas = (0..size.replicas).map(|replica| attachment_of(size, service, replica));
        for attachment in replicas.filter(own) {
            used = true;
            batch.push((replica_key(service, attachment), replica(attachment, Health::Serving)));
        }
        if used {
            let name = name("service", service);
            let born = Stamp { clock: u64::from(service) + 2, node: node(0) };
            let key = Key::Service { network: network(), name, born };
            batch.push((key, service_definition(service, born)));
        }
    }
    let written =
        |(entry, version): ((Key, Value), u64)| Entry { key: entry.0, version, value: Some(entry.1) };
    let entries: Vec<Entry> = batch.into_iter().zip(1..).map(written).collect();
    let version = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    Full { owner: node(host), head: Head { incarnation: 1, version }, floor: 0, entries }
}

fn node(host: u32) -> NodeId {
    NodeId(u64::from(host) + 1)
}

fn attachment_of(size: Size, service: u32, replica: u32) -> u32 {
    (service.wrapping_mul(size.replicas).wrapping_add(replica)) % size.attachments.max(1)
}

/// A label of letters and digits is a name; the fallback is never reached.
fn name(kind: &str, number: u32) -> Name {
    let text = format!("{kind}-{number}");
    text.parse().unwrap_or_else(|_| network())
}

fn network() -> Name {
    match "default".parse() {
        Ok(name) => name,
        Err(_) => unreachable!("the text is a label"),
    }
}

fn address(offset: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000_u32.saturating_add(offset)))
}

fn replica_key(service: u32, attachment: u32) -> Key {
    let (service, attachment) = (name("service", service), name("container", attachment));
    Key::Replica { network: network(), service, attachment }
}

fn replica(attachment: u32, health: Health) -> Value {
    Value::Replica(ReplicaFact { addresses: vec![address(256 + attachment)], weight: 100, health })
}

fn host_fact(host: u32) -> Value {
    Value::Host(HostFact {
        name: format!("host-{host}"),
        number: host + 1,
        address: IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_0000_u32.saturating_add(host + 1))),
        gossip_port: 7946,
        vxlan_port: 4789,
        former_vxlan_ports: Vec::new(),
        underlay_mtu: 1500,
        agent_version: "0.1.0".to_owned(),
        narrow: Default::default(),
        routes: Vec::new(),
    })
}

fn network_definition(revision: Stamp) -> Value {
    let subnet = ipnetwork::Ipv4Network::new(Ipv4Addr::new(10, 0, 0, 0), 8).into_iter();
    Value::Network(NetworkDefinition {
        revision,
        removed: false,
        vni: 4096,
        subnets: subnet.map(Into::into).collect(),
        internal: false,
        encrypted: false,
        mtu: None,
    })
}

fn attachment_fact(attachment: u32) -> Value {
    let [a, b, c, d] = (256 + attachment).to_be_bytes();
    Value::Attachment(AttachmentFact {
        addresses: vec![address(256 + attachment)],
        mac: format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        aliases: Vec::new(),
        since: Stamp { clock: u64::from(attachment) + 1, node: node(0) },
        succeeds: Vec::new(),
    })
}

fn service_definition(service: u32, revision: Stamp) -> Value {
    let vips = vec![address(0x00e0_0000 + service)];
    Value::Service(ServiceDefinition { revision, removed: false, vips, settings: ServiceSettings::default() })
}
