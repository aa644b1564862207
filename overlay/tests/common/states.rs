//! States that may be wanted of a host with three networks and three containers, drawn at random.
#![allow(dead_code)] // Each test binary uses its part.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use overlay::{Attachment, DefaultRoute, Desired, Host, Mac, Network, Paths, Remote, Space, Subnet};
use proptest::prelude::*;

pub(crate) const NETWORKS: [&str; 3] = ["amber", "blue", "coral"];
const CONTAINERS: [u64; 3] = [11, 12, 13];

pub(crate) fn spaces() -> Vec<Space> {
    let networks = NETWORKS.iter().map(|name| Space::Network((*name).to_owned()));
    [Space::Host, Space::Paths].into_iter().chain(networks).chain(CONTAINERS.map(Space::Container)).collect()
}

fn address(network: u8, host: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(10, 20 + network, host, last).into()
}

/// The last network has both families.
fn addresses(network: u8, last: u8) -> Vec<IpAddr> {
    let six = Ipv6Addr::new(0xfd00, 0x20, 0, u16::from(network), 0, 0, 1, last.into());
    let six = (network == 2).then_some(IpAddr::V6(six));
    std::iter::once(address(network, 1, last)).chain(six).collect()
}

fn with_length(address: IpAddr) -> IpNetwork {
    IpNetwork::new(address, if address.is_ipv4() { 16 } else { 64 }).unwrap()
}

fn subnets(network: u8) -> Vec<Subnet> {
    let subnet = |gateway: IpAddr| {
        let network = with_length(gateway).network();
        Subnet { cidr: IpNetwork::new(network, with_length(gateway).prefix()).unwrap(), gateway }
    };
    let six = Ipv6Addr::new(0xfd00, 0x20, 0, u16::from(network), 0, 0, 0, 1);
    let six = (network == 2).then_some(IpAddr::V6(six));
    std::iter::once(address(network, 0, 1)).chain(six).map(subnet).collect()
}

fn vtep(host: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, host).into()
}

fn attachment(network: u8) -> impl Strategy<Value = (String, Attachment)> {
    (0..4_u8, 0..4_usize, 0..2_u8, 1..6_u8, 0..3_u8).prop_map(move |(name, place, mac, last, route)| {
        let space = CONTAINERS.get(place).map_or(Space::Host, |cookie| Space::Container(*cookie));
        let default_route = match (route, &space) {
            (0, _) | (_, Space::Host) => DefaultRoute::Never,
            (1, _) => DefaultRoute::IfNone,
            _ => DefaultRoute::Always,
        };
        // One namespace has each attachment name once per network, so that metrics differ.
        let attachment = Attachment {
            space,
            addresses: addresses(network, 10 + last).into_iter().map(with_length).collect(),
            mac: Mac([2, 1, network, mac, name, last]),
            default_route,
            metric: u32::from(network) * 10 + u32::from(name),
            apart: name == 1,
        };
        (format!("web{name}"), attachment)
    })
}

fn remote(network: u8) -> impl Strategy<Value = Arc<Remote>> {
    (1..8_u8, 0..2_u8, 2..5_u8).prop_map(move |(last, mac, host)| {
        // Some claim a local attachment's address.
        let mac = Mac([2, 2, network, mac, 0, last]);
        Arc::new(Remote { mac, addresses: addresses(network, 8 + last), vtep: vtep(host) })
    })
}

pub(crate) fn network(number: u8) -> impl Strategy<Value = Network> {
    (
        1..4_u32,
        prop::sample::select(vec![1400_u32, 1450]),
        any::<bool>(),
        prop::collection::btree_set((2..5_u8).prop_map(vtep), 0..3),
        prop::collection::vec(remote(number), 0..5),
        prop::collection::vec(attachment(number), 0..4),
    )
        .prop_map(move |(vni, mtu, internal, flood, remotes, attachments)| Network {
            vni: vni + 10 * u32::from(number),
            subnets: subnets(number),
            mtu,
            internal,
            link_index: 0,
            flood,
            remotes: remotes.into(),
            attachments: Arc::new(attachments.into_iter().collect()),
        })
}

fn paths() -> impl Strategy<Value = Paths> {
    let peers = prop::collection::btree_map(
        (2..5_u8).prop_map(|n| Ipv4Addr::new(10, 0, 0, n)),
        (2..5_u8).prop_map(vtep),
        0..3,
    );
    (prop::sample::select(vec![1400_u32, 1450]), 1..3_u8, peers).prop_map(|(mtu, own, peers)| Paths {
        vni: 99,
        mtu,
        address: Ipv4Addr::new(10, 0, 1, own),
        peers,
    })
}

/// Where this host receives, where it did before, and where others do.
fn ports() -> impl Strategy<Value = (u16, BTreeSet<u16>, BTreeMap<IpAddr, u16>)> {
    let port = || prop::sample::select(vec![4789_u16, 4790]);
    let others = prop::collection::btree_map((2..5_u8).prop_map(vtep), port(), 0..3);
    (port(), any::<bool>(), others).prop_map(|(port, changed, others)| {
        let former = if port == 4789 { 4790 } else { 4789 };
        let other_ports = others.into_iter().filter(|(_, other)| *other != port).collect();
        (port, changed.then_some(former).into_iter().collect(), other_ports)
    })
}

pub(crate) fn desired() -> impl Strategy<Value = Desired> {
    let networks = (
        prop::option::of(network(0)),
        prop::option::of(network(1)),
        prop::option::of(network(2)),
        0..3_u16,
        any::<bool>(),
        prop::collection::btree_set((2..5_u8).prop_map(vtep), 0..3),
        ports(),
        prop::option::of(paths()),
        any::<bool>(),
    );
    networks.prop_map(|(amber, blue, coral, shift, swap, peers, ports, paths, offload)| {
        let all = [amber, blue, coral].into_iter().zip(NETWORKS).enumerate();
        let mut networks: BTreeMap<String, Network> = BTreeMap::new();
        for (number, (network, name)) in all {
            let Some(mut network) = network else { continue };
            network.link_index = (u16::try_from(number).unwrap() + shift) % 3;
            networks.insert(name.to_owned(), network);
        }
        // Two networks that change places meet on the way.
        if swap && let [Some(a), Some(b)] = networks.get_disjoint_mut(["amber", "blue"]) {
            std::mem::swap(&mut a.vni, &mut b.vni);
        }
        let link_pool = "169.254.64.0/20".parse().unwrap();
        let (vxlan_port, former_ports, other_ports) = ports;
        let guarded_ports = other_ports.values().copied().collect();
        let host = Host {
            address: vtep(1),
            vxlan_port,
            former_ports,
            other_ports,
            guarded_ports,
            peers,
            link_pool,
            offload,
        };
        Desired { host, networks, paths }
    })
}

trait Disjoint {
    fn get_disjoint_mut(&mut self, names: [&str; 2]) -> [Option<&mut Network>; 2];
}

impl Disjoint for BTreeMap<String, Network> {
    fn get_disjoint_mut(&mut self, names: [&str; 2]) -> [Option<&mut Network>; 2] {
        let mut found = [None, None];
        for (name, network) in self {
            if let Some(place) = names.iter().position(|wanted| wanted == name) {
                found[place] = Some(network);
            }
        }
        found
    }
}

/// Addresses of attachments in one namespace must differ in metric; drop what a caller would refuse.
pub(crate) fn sane(desired: &Desired) -> bool {
    let mut seen = BTreeSet::new();
    desired.networks.values().all(|network| {
        let mut addresses = BTreeSet::new();
        let mut macs = BTreeSet::new();
        network.attachments.values().all(|attachment| {
            addresses.insert(attachment.addresses[0])
                && macs.insert(attachment.mac)
                && seen.insert(attachment.metric)
        })
    })
}

/// The last network alone, with one attachment, and that one's MAC.
pub(crate) fn coral() -> (Desired, Mac) {
    let mac = Mac([2, 1, 2, 0, 0, 1]);
    let attachment = Attachment {
        space: Space::Container(11),
        addresses: addresses(2, 11).into_iter().map(with_length).collect(),
        mac,
        default_route: DefaultRoute::Always,
        metric: 20,
        apart: false,
    };
    let network = Network {
        vni: 21,
        subnets: subnets(2),
        mtu: 1450,
        internal: false,
        link_index: 0,
        flood: BTreeSet::new(),
        remotes: Arc::default(),
        attachments: BTreeMap::from([("web".to_owned(), attachment)]).into(),
    };
    let link_pool = "169.254.64.0/20".parse().unwrap();
    let host = Host {
        address: vtep(1),
        vxlan_port: 4789,
        former_ports: BTreeSet::new(),
        other_ports: BTreeMap::new(),
        guarded_ports: BTreeSet::new(),
        peers: BTreeSet::new(),
        link_pool,
        offload: true,
    };
    (Desired { host, networks: BTreeMap::from([("coral".to_owned(), network)]), paths: None }, mac)
}
