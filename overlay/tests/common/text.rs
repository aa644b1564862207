//! Desired states and disturbances in the scenarios' words.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netfilter::Family;
use overlay::{
    Attachment, DefaultRoute, Desired, Host, Mac, Network, Observed, Op, Paths, PortFlags, ROUTE_PROTOCOL,
    Remote, Route, Space, Subnet,
};

/// What a step begins with: no networks yet.
pub(crate) fn nothing() -> Desired {
    let host = Host {
        address: Ipv4Addr::new(192, 0, 2, 1).into(),
        vxlan_port: 4789,
        former_ports: BTreeSet::new(),
        other_ports: BTreeMap::new(),
        guarded_ports: BTreeSet::new(),
        peers: BTreeSet::new(),
        link_pool: "169.254.64.0/20".parse().unwrap(),
        offload: true,
    };
    Desired { host, networks: BTreeMap::new(), paths: None }
}

/// One line of a desired state. What follows a network is that network's.
pub(crate) fn declare(desired: &mut Desired, last: &mut String, words: &[&str]) {
    if let ["network", name, ..] = words {
        (*name).clone_into(last);
    }
    match words {
        ["host", address, rest @ ..] => {
            desired.host.address = parse(address);
            desired.host.peers = list(rest, "peers");
            desired.host.vxlan_port = one(rest, "port").map_or(4789, parse);
            desired.host.former_ports = all(rest, "former").map(parse).collect();
            let others = rest.iter().filter_map(|word| word.strip_prefix("at:")?.parse().ok());
            desired.host.other_ports = others.map(|vtep: SocketAddr| (vtep.ip(), vtep.port())).collect();
            desired.host.guarded_ports = desired.host.other_ports.values().copied().collect();
        }
        ["paths", address, "mtu", mtu, rest @ ..] => {
            let peers = rest.chunks(3).map(|words| (parse(words[0]), parse(words[2]))).collect();
            desired.paths = Some(Paths { vni: 99, mtu: parse(mtu), address: parse(address), peers });
        }
        ["offload", "off"] => desired.host.offload = false,
        ["network", name, "vni", vni, rest @ ..] => {
            let network = Network {
                vni: parse(vni),
                subnets: all(rest, "subnet").map(subnet).collect(),
                mtu: one(rest, "mtu").map_or(1450, parse),
                internal: rest.contains(&"internal"),
                link_index: one(rest, "link").map_or(0, parse),
                flood: list(rest, "flood"),
                remotes: Arc::default(),
                attachments: Arc::default(),
            };
            desired.networks.insert((*name).to_owned(), network);
        }
        ["remote", mac, "at", vtep, addresses @ ..] => {
            let addresses = addresses.iter().map(|text| parse(text)).collect();
            let remote = Remote { mac: self::mac(mac), addresses, vtep: parse(vtep) };
            let network = desired.networks.get_mut(last).unwrap();
            Arc::make_mut(&mut network.remotes).push(Arc::new(remote));
        }
        ["attachment", name, "in", place, mac, rest @ ..] => {
            let attachment = Attachment {
                space: space(place),
                addresses: rest.iter().filter_map(|word| word.parse().ok()).collect(),
                mac: self::mac(mac),
                default_route: match one(rest, "route") {
                    None => DefaultRoute::Never,
                    Some("if-none") => DefaultRoute::IfNone,
                    Some("always") => DefaultRoute::Always,
                    Some(other) => panic!("no kind of route: {other}"),
                },
                metric: one(rest, "metric").map_or(0, parse),
                apart: one(rest, "apart").is_some(),
            };
            let network = desired.networks.get_mut(last).unwrap();
            Arc::make_mut(&mut network.attachments).insert((*name).to_owned(), attachment);
        }
        other => panic!("cannot read {other:?}"),
    }
}

/// What somebody does by hand in a namespace; several operations where it says "all".
pub(crate) fn harm(seen: &Observed, words: &[&str]) -> Vec<Op> {
    match words {
        ["delete", "all", "tunnels"] => {
            let gone = |(mac, vtep): &(Mac, SocketAddr)| {
                let paths = seen.links.contains_key("paths");
                let name = if paths { "paths" } else { "vxlan" }.to_owned();
                Op::DeleteTunnel { name, mac: *mac, vtep: *vtep }
            };
            seen.tunnels.iter().map(gone).collect()
        }
        ["delete", "all", "forwarding"] => {
            let gone = |(mac, (port, _)): (&Mac, &(String, bool))| {
                let port = port.clone();
                Op::DeleteForwarding { port, mac: *mac }
            };
            seen.forwarding.iter().map(gone).collect()
        }
        ["delete", "all", "neighbours"] => {
            let gone = |(name, address): &(String, IpAddr)| {
                let name = name.clone();
                Op::DeleteNeighbour { name, address: *address }
            };
            seen.neighbours.keys().map(gone).collect()
        }
        ["delete", "all", "tables"] => {
            seen.tables.keys().map(|family| Op::DeleteTable { family: *family }).collect()
        }
        ["delete", "all", "ways"] => seen.ways.keys().map(|mac| Op::DeleteWay { mac: *mac }).collect(),
        ["delete", "all", "chains", family] => {
            let family = self::family(family);
            let chains = seen.tables[&family].chains.iter().filter(|(_, chain)| chain.device.is_some());
            chains.map(|(name, _)| Op::DeleteChain { family, name: name.clone() }).collect()
        }
        ["delete", "all", "elements", family, set] => {
            let family = self::family(family);
            let (add, delete) = (BTreeSet::new(), seen.tables[&family].sets[*set].clone());
            vec![Op::ChangeElements { family, set: (*set).to_owned(), add, delete }]
        }
        _ => vec![one_harm(words)],
    }
}

fn one_harm(words: &[&str]) -> Op {
    let name = |text: &&str| (*text).to_owned();
    let (vxlan, bridge) = ("vxlan".to_owned(), "br".to_owned());
    match words {
        ["delete", "link", link] => Op::DeleteLink { name: name(link) },
        ["add", "bridge", link] => {
            Op::AddBridge { name: name(link), mac: Mac([2, 0xee, 0, 0, 0, 1]), mtu: 1500 }
        }
        ["down", link] => Op::SetDown { name: name(link) },
        ["mtu", link, mtu] => Op::SetMtu { name: name(link), mtu: parse(mtu) },
        ["mac", link, mac] => Op::SetMac { name: name(link), mac: self::mac(mac) },
        ["alias", link, alias] => Op::SetAlias { name: name(link), alias: name(alias) },
        ["port", link, flags @ ..] => {
            let flags = PortFlags {
                learning: flags.contains(&"learning"),
                unicast_flood: flags.contains(&"flooding"),
                neighbour_suppression: flags.contains(&"suppressing"),
            };
            Op::SetPort { name: name(link), flags }
        }
        ["add", "address", link, address] => Op::AddAddress { name: name(link), address: parse(address) },
        ["delete", "address", link, address] => {
            Op::DeleteAddress { name: name(link), address: parse(address) }
        }
        ["add", "route", link, "via", gateway, "metric", metric] => {
            Op::SetRoute { route: route(link, gateway, metric, 3), replace: false }
        }
        ["delete", "route", link, "via", gateway, "metric", metric] => {
            Op::DeleteRoute { route: route(link, gateway, metric, ROUTE_PROTOCOL) }
        }
        ["set", "neighbour", address, mac] => {
            Op::SetNeighbour { name: bridge, address: parse(address), mac: self::mac(mac) }
        }
        ["delete", "neighbour", address] => Op::DeleteNeighbour { name: bridge, address: parse(address) },
        ["set", "tunnel", mac, vtep] => {
            Op::SetTunnel { name: vxlan, mac: self::mac(mac), vtep: self::vtep(vtep) }
        }
        ["delete", "tunnel", mac, vtep] => {
            Op::DeleteTunnel { name: vxlan, mac: self::mac(mac), vtep: self::vtep(vtep) }
        }
        ["set", "forwarding", mac, port] => Op::SetForwarding { port: name(port), mac: self::mac(mac) },
        ["delete", "forwarding", mac, port] => Op::DeleteForwarding { port: name(port), mac: self::mac(mac) },
        ["set", "way", mac, port] => Op::SetWay { mac: self::mac(mac), port: name(port) },
        ["delete", "way", mac] => Op::DeleteWay { mac: self::mac(mac) },
        ["offload", link, on] => Op::SetOffload { name: name(link), on: *on == "on" },
        ["sysctl", key, value] => Op::SetSysctl { key: name(key), value: name(value) },
        other => panic!("cannot do {other:?}"),
    }
}

/// A namespace by its word: `host`, `c1` for a container, else a network's.
pub(crate) fn space(word: &str) -> Space {
    match word.strip_prefix('c').and_then(|number| number.parse().ok()) {
        _ if word == "host" => Space::Host,
        _ if word == "paths" => Space::Paths,
        Some(number) => Space::Container(number),
        None => Space::Network(word.to_owned()),
    }
}

/// All namespaces that a file speaks of.
pub(crate) fn spaces(text: &str) -> BTreeSet<Space> {
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["network", name, ..] => Some(space(name)),
            ["paths", ..] => Some(Space::Paths),
            ["attachment", _, "in", place, ..] => Some(space(place)),
            _ => None,
        }
    };
    text.lines().filter_map(of_line).chain([Space::Host]).collect()
}

pub(crate) fn errno(name: &str) -> i32 {
    match name {
        "EBUSY" => libc::EBUSY,
        "EEXIST" => libc::EEXIST,
        "ENODEV" => libc::ENODEV,
        "ENOBUFS" => libc::ENOBUFS,
        other => panic!("no errno {other}"),
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// The word after `key`.
fn one<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    all(words, key).next()
}

/// The words that follow each `key`.
fn all<'a>(words: &[&'a str], key: &str) -> impl Iterator<Item = &'a str> {
    words.windows(2).filter(move |pair| pair[0] == key).map(|pair| pair[1])
}

/// The addresses that follow `key`.
fn list(words: &[&str], key: &str) -> BTreeSet<IpAddr> {
    let rest = words.iter().skip_while(|word| **word != key).skip(1);
    rest.map_while(|word| word.parse().ok()).collect()
}

fn subnet(text: &str) -> Subnet {
    let cidr: IpNetwork = parse(text);
    Subnet { cidr, gateway: cidr.iter().nth(1).unwrap() }
}

fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Mac(bytes.try_into().unwrap())
}

fn family(text: &str) -> Family {
    match text {
        "inet" => Family::Inet,
        "netdev" => Family::Netdev,
        other => panic!("no family {other}"),
    }
}

fn route(link: &str, gateway: &str, metric: &str, protocol: u8) -> Route {
    let gateway: IpAddr = parse(gateway);
    Route {
        link: Some(link.to_owned()),
        six: gateway.is_ipv6(),
        metric: parse(metric),
        gateway: Some(gateway),
        protocol,
    }
}

/// An address, with its port if that is not the default one.
fn vtep(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| SocketAddr::new(parse(text), 4789))
}
