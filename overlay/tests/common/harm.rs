//! What somebody else may do to a namespace, as operations.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netfilter::Family;
use overlay::{Link, LinkKind, Mac, Observed, Op, PortFlags, Route, Space, World};

/// Kinds that [`choose`] knows.
pub(crate) const KINDS: u8 = 25;
/// MACs and addresses that nothing else has.
const STRAY_MAC: Mac = Mac([2, 0xee, 0, 0, 0, 1]);
const STRAY_VTEP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 250)), 4790);
const STRAY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 21, 9, 9));

/// A disturbance of this kind to the `pick`th thing that there is, if there is one.
pub(crate) fn choose(world: &World, kind: u8, pick: u16) -> Option<(Space, Op)> {
    let mut candidates: Vec<(Space, Op)> = Vec::new();
    for (space, seen) in &world.spaces {
        candidates.extend(harms(space, seen, kind).into_iter().map(|op| (space.clone(), op)));
    }
    let place = usize::from(pick) % candidates.len().max(1);
    candidates.into_iter().nth(place)
}

fn harms(space: &Space, seen: &Observed, kind: u8) -> Vec<Op> {
    match kind {
        0..=6 => seen.links.iter().filter_map(|(name, link)| to_link(kind, space, name, link)).collect(),
        7..=11 => to_addresses(kind, space, seen),
        12..=17 if matches!(space, Space::Network(_)) => to_entries(kind, seen),
        18..=20 => to_tables(kind, seen),
        21 if !matches!(space, Space::Container(_)) => {
            let turned = |(key, value): (&String, &String)| {
                let value = if value == "0" { "1" } else { "0" };
                Op::SetSysctl { key: key.clone(), value: value.to_owned() }
            };
            seen.sysctls.iter().map(turned).collect()
        }
        22..=24 => to_ports(kind, seen),
        _ => Vec::new(),
    }
}

/// Chains of devices, and ways past the bridge.
fn to_ports(kind: u8, seen: &Observed) -> Vec<Op> {
    let Some(table) = seen.tables.get(&Family::Netdev) else { return Vec::new() };
    let tied = table.chains.iter().filter(|(_, chain)| chain.device.is_some());
    let ports = seen.links.iter().filter(|(_, link)| link.port.is_some());
    let stray = |mac: Mac| ports.clone().map(move |(port, _)| Op::SetWay { mac, port: port.clone() });
    match kind {
        22 => tied.map(|(name, _)| Op::DeleteChain { family: Family::Netdev, name: name.clone() }).collect(),
        23 => seen.ways.keys().map(|mac| Op::DeleteWay { mac: *mac }).collect(),
        _ => seen.ways.keys().copied().chain([STRAY_MAC]).flat_map(stray).collect(),
    }
}

fn to_link(kind: u8, space: &Space, name: &str, link: &Link) -> Option<Op> {
    let name = name.to_owned();
    // A device that nobody has named "vxlan" is a network's only; foreign ones are not looked into.
    let is_lo = link.kind == LinkKind::Other;
    let is_inner = !matches!(space, Space::Network(_)) && link.kind == LinkKind::Veth;
    match kind {
        0 if !is_lo => Some(Op::DeleteLink { name }),
        1 => Some(Op::SetDown { name }),
        2 if !is_lo => Some(Op::SetMtu { name, mtu: 1300 }),
        3 if !is_lo => Some(Op::SetMtu { name, mtu: 1250 }),
        4 if !is_lo => Some(Op::SetAlias { name, alias: "somebody's".to_owned() }),
        5 if is_inner => Some(Op::SetMac { name, mac: STRAY_MAC }),
        6 => {
            let port = link.port?;
            // Learning stays as it is: what is learned hangs on what containers happen to send.
            let flags = PortFlags { unicast_flood: !port.unicast_flood, ..port };
            Some(Op::SetPort { name, flags })
        }
        _ => None,
    }
}

fn to_addresses(kind: u8, space: &Space, seen: &Observed) -> Vec<Op> {
    let links = || seen.links.iter().filter(|(_, link)| link.kind != LinkKind::Other);
    match kind {
        7 => {
            let addresses = seen.addresses.iter().filter(|(name, _)| name != "lo");
            addresses
                .map(|(name, address)| Op::DeleteAddress { name: name.clone(), address: *address })
                .collect()
        }
        8 => {
            let stray = ["10.20.9.9/16", "10.30.9.9/24", "fd00:ee::9/64"];
            let stray = stray.map(|text| text.parse().unwrap());
            links()
                .flat_map(|(name, _)| stray.map(|address| Op::AddAddress { name: name.clone(), address }))
                .collect()
        }
        9 => seen.routes.iter().map(|route| Op::DeleteRoute { route: route.clone() }).collect(),
        10 if matches!(space, Space::Container(_)) => {
            let gateways = seen.routes.iter().filter(|route| route.protocol != 3);
            let foreign = |route: &Route| Route { metric: route.metric + 500, protocol: 3, ..route.clone() };
            gateways.map(|route| Op::SetRoute { route: foreign(route), replace: false }).collect()
        }
        11 if !seen.links.contains_key("somebody0") => {
            vec![Op::AddBridge { name: "somebody0".to_owned(), mac: STRAY_MAC, mtu: 1500 }]
        }
        _ => Vec::new(),
    }
}

fn to_entries(kind: u8, seen: &Observed) -> Vec<Op> {
    let (vxlan, bridge) = ("vxlan".to_owned(), "br".to_owned());
    let known: BTreeSet<Mac> = seen.forwarding.keys().copied().chain([STRAY_MAC]).collect();
    let ports: Vec<&String> =
        seen.links.iter().filter(|(_, link)| link.port.is_some()).map(|(name, _)| name).collect();
    match kind {
        12 => {
            let entries = seen.neighbours.iter();
            entries
                .map(|((name, address), _)| Op::DeleteNeighbour { name: name.clone(), address: *address })
                .collect()
        }
        13 if seen.links.contains_key("br") => {
            let addresses: BTreeSet<IpAddr> =
                seen.neighbours.keys().map(|(_, address)| *address).chain([STRAY_ADDRESS]).collect();
            let stray = |address| Op::SetNeighbour { name: bridge.clone(), address, mac: STRAY_MAC };
            addresses.into_iter().map(stray).collect()
        }
        14 => {
            let gone = |(mac, vtep): &(Mac, SocketAddr)| Op::DeleteTunnel {
                name: vxlan.clone(),
                mac: *mac,
                vtep: *vtep,
            };
            seen.tunnels.iter().map(gone).collect()
        }
        15 if seen.links.contains_key("vxlan") => {
            let all = known.into_iter().chain([Mac([0; 6])]);
            all.map(|mac| Op::SetTunnel { name: vxlan.clone(), mac, vtep: STRAY_VTEP }).collect()
        }
        16 => {
            let entries = seen.forwarding.iter();
            entries.map(|(mac, (port, _))| Op::DeleteForwarding { port: port.clone(), mac: *mac }).collect()
        }
        17 => {
            let moved = |port: &&String| {
                let port = (*port).clone();
                known.iter().map(move |mac| Op::SetForwarding { port: port.clone(), mac: *mac })
            };
            ports.iter().flat_map(moved).collect()
        }
        _ => Vec::new(),
    }
}

fn to_tables(kind: u8, seen: &Observed) -> Vec<Op> {
    let tables = seen.tables.iter();
    if kind == 18 {
        return tables.map(|(family, _)| Op::DeleteTable { family: *family }).collect();
    }
    let sets =
        tables.flat_map(|(family, table)| table.sets.iter().map(move |(set, now)| (*family, set, now)));
    let sets = sets.filter(|(_, _, now)| !now.is_empty());
    sets.map(|(family, set, now)| {
        let (add, delete) = match kind {
            19 => (BTreeSet::new(), now.clone()),
            _ => {
                let stray = |key: &Vec<u8>| key.iter().map(|byte| byte ^ 0x11).collect();
                (now.iter().map(stray).collect(), BTreeSet::new())
            }
        };
        Op::ChangeElements { family, set: set.clone(), add, delete }
    })
    .collect()
}
