//! Operations that a kernel refuses on a network "coral" (of both families, one container on it), or takes although
//! nothing is to be done.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netfilter::Family;
use overlay::{Mac, Op, Peer, Route, Space};

const MAC: Mac = Mac([2, 0xee, 0, 0, 0, 1]);
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));

fn name(text: &str) -> String {
    text.to_owned()
}

fn route(link: &str, gateway: &str, metric: u32) -> Route {
    let gateway: IpAddr = gateway.parse().unwrap();
    Route { link: Some(name(link)), six: gateway.is_ipv6(), metric, gateway: Some(gateway), protocol: 83 }
}

/// About links. `port` is the container's.
pub(crate) fn of_links(coral: &Space, container: &Space, port: &str) -> Vec<(Space, Op)> {
    let peer = |link: &str| Peer { space: container.clone(), name: name(link), mac: None };
    let vxlan = |link: &str, vni| Op::AddVxlan {
        link_space: coral.clone(),
        name: name(link),
        vni,
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        port: 4789,
        mtu: 1450,
    };
    let absent = || name("absent");
    let here = [
        Op::AddBridge { name: name("br"), mac: MAC, mtu: 1450 },
        Op::AddVeth { name: name("br"), mtu: 1450, peer: peer("eth9") },
        Op::AddVeth { name: name("fresh"), mtu: 1450, peer: peer("eth0") },
        Op::DeleteLink { name: absent() },
        Op::SetAlias { name: absent(), alias: name("x") },
        Op::SetMtu { name: absent(), mtu: 1400 },
        Op::SetMac { name: absent(), mac: MAC },
        Op::SetUp { name: absent() },
        Op::SetDown { name: absent() },
        Op::SetController { name: absent(), controller: name("br") },
        Op::SetController { name: name(port), controller: absent() },
        Op::SetController { name: name(port), controller: name("br") },
        Op::SetPort { name: name("link"), flags: overlay::PortFlags::TUNNEL },
        Op::SetPort { name: absent(), flags: overlay::PortFlags::TUNNEL },
        Op::StopSnooping { name: name("br") },
        Op::Announce { name: absent(), address: STRANGER, mac: MAC },
        Op::AddBridge { name: name("other"), mac: MAC, mtu: 1500 },
        Op::Announce { name: name("other"), address: STRANGER, mac: MAC },
        // A port goes from one bridge to another, whose MTU follows it.
        Op::SetController { name: name(port), controller: name("other") },
        Op::SetController { name: name(port), controller: name("br") },
        Op::DeleteLink { name: name("other") },
        Op::SetSysctl { key: name("net/ipv4/absent"), value: name("1") },
    ];
    let here = here.into_iter().map(|op| (coral.clone(), op));
    let there = [vxlan("vxlan", 9), vxlan("vxlan9", 21)].map(|op| (Space::Host, op));
    here.chain(there).collect()
}

/// About what links carry.
pub(crate) fn of_entries(coral: &Space, container: &Space, port: &str, known: Mac) -> Vec<(Space, Op)> {
    let add =
        |link: &str, address: &str| Op::AddAddress { name: name(link), address: address.parse().unwrap() };
    let gone = |link: &str, address: &str| {
        let address = address.parse().unwrap();
        Op::DeleteAddress { name: name(link), address }
    };
    let set = |link: &str, gateway: &str, metric, replace| {
        let route = route(link, gateway, metric);
        Op::SetRoute { route, replace }
    };
    let forget = |link: &str, gateway: &str, metric| Op::DeleteRoute { route: route(link, gateway, metric) };
    let vtep = SocketAddr::from(([192, 0, 2, 9], 4789));
    let delete_tunnel = |link: &str, mac| Op::DeleteTunnel { name: name(link), mac, vtep };
    let delete_neighbour = |link: &str| Op::DeleteNeighbour { name: name(link), address: STRANGER };
    let delete_forwarding = |port: &str, mac| Op::DeleteForwarding { port: name(port), mac };
    let elements = |family, set: &str, delete: &[u8]| {
        let (add, delete) = (BTreeSet::new(), BTreeSet::from([delete.to_vec()]));
        Op::ChangeElements { family, set: name(set), add, delete }
    };
    let inside = vec![
        add("eth0", "10.22.1.11/16"),
        add("eth0", "10.22.1.11/24"),
        add("eth0", "fd00:20:0:2::1:b/80"),
        add("absent", "10.22.1.12/16"),
        gone("eth0", "10.22.1.11/20"),
        gone("eth0", "10.22.1.12/16"),
        gone("absent", "10.22.1.11/16"),
        set("eth0", "10.22.0.1", 20, false),
        set("eth0", "10.22.0.1", 20, true),
        set("eth0", "10.99.0.1", 21, false),
        set("eth0", "fd00:99::1", 1060, false),
        set("eth0", "fd00:20:0:2::1", 1044, false),
        set("absent", "10.22.0.1", 21, false),
        forget("eth0", "10.22.0.2", 20),
        forget("eth0", "10.22.0.1", 29),
        forget("absent", "10.22.0.1", 20),
        Op::SetDown { name: name("eth0") },
        set("eth0", "10.22.0.1", 21, false),
        set("eth0", "fd00:20:0:2::1", 1060, false),
        add("eth0", "fd00:20:0:2::1:b/64"),
        set("eth0", "fd00:20:0:2::1", 1060, false),
        Op::SetMtu { name: name("eth0"), mtu: 1200 },
        add("eth0", "fd00:20:0:2::1:c/64"),
    ];
    let here = vec![
        Op::SetNeighbour { name: name("absent"), address: STRANGER, mac: MAC },
        delete_neighbour("br"),
        Op::SetMtu { name: name("br"), mtu: 1200 },
        Op::SetNeighbour { name: name("br"), address: "fd00:20::9".parse().unwrap(), mac: MAC },
        delete_neighbour("br"),
        delete_neighbour("absent"),
        Op::SetTunnel { name: name("absent"), mac: MAC, vtep },
        delete_tunnel("vxlan", MAC),
        delete_tunnel("vxlan", Mac([0; 6])),
        delete_tunnel("absent", MAC),
        Op::SetForwarding { port: name("link"), mac: MAC },
        Op::SetForwarding { port: name("absent"), mac: MAC },
        delete_forwarding(port, MAC),
        delete_forwarding("vxlan", known),
        delete_forwarding("link", known),
        delete_forwarding("absent", known),
        Op::SetWay { mac: MAC, port: name("absent") },
        Op::SetWay { mac: MAC, port: name(port) },
        Op::SetWay { mac: MAC, port: name("vxlan") },
        Op::DeleteWay { mac: MAC },
        Op::DeleteWay { mac: MAC },
        Op::DeleteChain { family: Family::Netdev, name: name("port-vxlan") },
        Op::DeleteChain { family: Family::Netdev, name: name("port-vxlan") },
        elements(Family::Inet, "absent", &[1; 4]),
        Op::DeleteTable { family: Family::Netdev },
        Op::DeleteTable { family: Family::Netdev },
        Op::SetWay { mac: MAC, port: name("vxlan") },
        Op::DeleteWay { mac: MAC },
        Op::DeleteChain { family: Family::Netdev, name: name("port-vxlan") },
    ];
    let inside = inside.into_iter().map(|op| (container.clone(), op));
    inside.chain(here.into_iter().map(|op| (coral.clone(), op))).collect()
}
