//! A small world in which everything collides: three owners, two networks, few names and addresses.
use std::net::IpAddr;

use proptest::prelude::*;

use crate::catalog::facts::*;
use crate::catalog::{Catalog, Full};
use crate::model::{Name, NodeId, Stamp};

pub(crate) const OWNERS: u64 = 3;
pub(crate) const HOSTS: usize = 3;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId(id)
}

pub(crate) fn stamp(clock: u64, id: u64) -> Stamp {
    Stamp { clock, node: node(id) }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn host(underlay: &str, underlay_mtu: u32) -> Value {
    Value::Host(HostFact {
        name: "host".into(),
        number: 1,
        address: address(underlay),
        gossip_port: 7946,
        vxlan_port: 4789,
        former_vxlan_ports: Vec::new(),
        underlay_mtu,
        agent_version: "0.1.0".into(),
        narrow: Default::default(),
        routes: Vec::new(),
    })
}

pub(crate) fn network(revision: Stamp, subnet: &str) -> NetworkDefinition {
    NetworkDefinition {
        revision,
        removed: false,
        vni: 4096,
        subnets: vec![subnet.parse().unwrap()],
        internal: false,
        encrypted: false,
        mtu: None,
    }
}

pub(crate) fn service(revision: Stamp, vip: &str) -> ServiceDefinition {
    let settings = ServiceSettings::default();
    ServiceDefinition { revision, removed: false, vips: vec![address(vip)], settings }
}

pub(crate) fn attachment(addresses: &[&str], since: Stamp) -> Value {
    Value::Attachment(AttachmentFact {
        addresses: addresses.iter().map(|text| address(text)).collect(),
        mac: "02:00:00:00:00:01".into(),
        aliases: Vec::new(),
        since,
        succeeds: Vec::new(),
    })
}

pub(crate) fn replica(addresses: &[&str], health: Health) -> Value {
    let addresses = addresses.iter().map(|text| address(text)).collect();
    Value::Replica(ReplicaFact { addresses, weight: 100, health })
}

pub(crate) fn network_key(network: &str, born: Stamp) -> Key {
    Key::Network { name: name(network), born }
}

pub(crate) fn service_key(network: &str, service: &str, born: Stamp) -> Key {
    Key::Service { network: name(network), name: name(service), born }
}

pub(crate) fn attachment_key(network: &str, attachment: &str) -> Key {
    Key::Attachment { network: name(network), name: name(attachment) }
}

pub(crate) fn replica_key(network: &str, service: &str, attachment: &str) -> Key {
    Key::Replica { network: name(network), service: name(service), attachment: name(attachment) }
}

pub(crate) type Write = (Key, Option<Value>);

/// Any write of an owner, honest or a blunder.
pub(crate) fn write() -> impl Strategy<Value = Write> {
    (0..20u8, 0..2usize, 0..3usize, 0..3usize, 0..4u64, 0..4u8).prop_map(|(kind, net, a, b, clock, gone)| {
        let network_name = ["alpha", "beta"][net];
        let subnet = ["10.0.0.0/24", "10.0.0.0/16", "10.0.1.0/24"][b];
        let addresses: &[&str] = [&["10.0.0.2"][..], &["10.0.0.3", "10.0.0.4"], &["10.0.1.2"]][b];
        let born = stamp(clock % 2 + 1, 1 + (a as u64) % 2);
        let revision = stamp(clock + 3, 1 + (b as u64));
        let box_name = ["web", "db", "cache"][a];
        let service_name = ["pay", "mail", "pay"][b];
        let (key, value) = match kind {
            0 => (Key::Host, host(["192.0.2.1", "2001:db8::1", "192.0.2.3"][a], 1400 + u32::from(gone))),
            1 => (Key::Removed { node: node(clock % OWNERS + 1) }, Value::Removed),
            2 => (Key::Claim(ClaimKey::Vni { vni: 7 }), Value::Claim),
            3..=5 => {
                let removed = clock == 3;
                let it = NetworkDefinition { removed, ..network(revision, subnet) };
                (network_key(network_name, born), Value::Network(it))
            }
            6..=8 => {
                let vip = ["10.0.0.200", "10.0.0.201", "10.9.0.1"][a];
                let it = ServiceDefinition { removed: clock == 3, ..service(revision, vip) };
                (service_key(network_name, service_name, born), Value::Service(it))
            }
            9..=14 => (
                attachment_key(network_name, box_name),
                attachment(addresses, stamp(clock, clock % OWNERS + 1)),
            ),
            _ => {
                let health = [Health::Starting, Health::Serving, Health::Failing, Health::Serving]
                    [usize::try_from(clock).unwrap()];
                (replica_key(network_name, service_name, box_name), replica(addresses, health))
            }
        };
        (key, (gone > 0).then_some(value))
    })
}

pub(crate) fn batch() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(write(), 1..6)
}

/// All that is held, tombstones included.
pub(crate) fn states(catalog: &Catalog) -> Vec<Full> {
    catalog.owners().map(|(owner, state)| state.full(owner)).collect()
}

/// All that is held but tombstones and floors, which each host forgets in its own time.
pub(crate) fn live(catalog: &Catalog) -> Vec<Full> {
    let live = |mut full: Full| {
        full.floor = 0;
        full.entries.retain(|entry| entry.value.is_some());
        full
    };
    states(catalog).into_iter().map(live).collect()
}

/// The index must be the one that the entries alone give.
pub(crate) fn assert_indexed(catalog: &Catalog) {
    let mut again = Catalog::default();
    for full in live(catalog).into_iter().rev() {
        again.apply_full(full);
    }
    assert_eq!(again.index.hosts, catalog.index.hosts);
    assert_eq!(again.index.networks, catalog.index.networks);
    assert_eq!(again.index.claims, catalog.index.claims);
    assert_eq!(again.index.removed, catalog.index.removed);
    assert!(catalog.index.pending.is_empty());
}
