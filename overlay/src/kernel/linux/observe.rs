//! Reads a namespace.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use netfilter::Family;

use super::Open;
use crate::kernel::{HOST_SYSCTLS, KernelError, Look, NETWORK_SYSCTLS, PATHS_SYSCTLS};
use crate::name::is_tunnel;
use crate::{Link, LinkKind, Mac, Observed, PortFlags, Route, Space, Vxlan};

/// Families in which a table of ours may be.
const HOST_FAMILIES: &[Family] = &[Family::Inet];
const NETWORK_FAMILIES: &[Family] = &[Family::Inet, Family::Netdev, Family::Bridge];

/// Where the IPv6 settings of links are, below /proc/sys.
const SIX: &str = "net/ipv6/conf";
/// Of a link that takes IPv6 addresses, and only ours: link-local by MAC, as the fence expects it; no advertisements.
/// Nothing waits for duplicates to be detected: addresses are ours to give. IPv6 is switched on last.
const SIX_VALUES: &[(&str, &str)] = &[
    ("accept_dad", "0"),
    ("autoconf", "0"),
    ("addr_gen_mode", "0"),
    ("accept_ra", "0"),
    ("disable_ipv6", "0"),
];

/// What goes to an own address goes through `lo`, which only has to have IPv6 at all.
fn six_values(link: &str) -> &'static [(&'static str, &'static str)] {
    if link == "lo" { &SIX_VALUES[SIX_VALUES.len() - 1..] } else { SIX_VALUES }
}

/// Whether a link has [`six_values`], as its message tells. Files below /proc/sys/net are found through one chain of the
/// kernel's for all namespaces: to open them took a third of what an idle agent with hundreds of containers spent.
fn takes_six(link: &str, specifics: &[AfSpecUnspec]) -> bool {
    let six = specifics.iter().find_map(|specific| match specific {
        AfSpecUnspec::Inet6(six) => Some(six),
        _ => None,
    });
    let Some(six) = six else { return false };
    six.iter().any(|item| match item {
        AfSpecInet6::DevConf(it) if link == "lo" => it.disable_ipv6 == 0,
        AfSpecInet6::DevConf(it) => {
            [it.disable_ipv6, it.accept_ra, it.autoconf, it.accept_dad].iter().all(|value| *value == 0)
        }
        _ => false,
    }) && (link == "lo" || six.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::Eui64)))
}

fn six_file(link: &str, key: &str) -> String {
    format!("/proc/sys/{SIX}/{link}/{key}")
}

pub(super) type Names = HashMap<u32, String>;

impl Open {
    pub(super) async fn observe(&self, look: Look) -> Result<Observed, KernelError> {
        let (mut links, names) = self.links().await?;
        if matches!(self.space, Space::Network(_) | Space::Paths) {
            self.read_offload(&mut links).await?;
        }
        self.leave_six(&mut links);
        let mut observed = Observed { links, ..Observed::default() };
        observed.addresses = self.addresses(&names).await?;
        match &self.space {
            Space::Host => {
                observed.sysctls = self.sysctls(HOST_SYSCTLS).await?;
                let foreign = observed.links.iter().filter(|(name, link)| !link.is_ours() && *name != "lo");
                let foreign = foreign.map(|(name, _)| name.clone()).chain(["default".to_owned()]).collect();
                observed.sysctls.extend(self.advertisements(foreign).await?);
            }
            Space::Network(_) => {
                observed.routes = self.routes(&names).await?;
                observed.neighbours = self.neighbours(&names).await?;
                self.forwarding(&names, &mut observed).await?;
                observed.sysctls = self.sysctls(NETWORK_SYSCTLS).await?;
            }
            Space::Paths => {
                observed.neighbours = self.neighbours(&names).await?;
                self.forwarding(&names, &mut observed).await?;
                observed.sysctls = self.sysctls(PATHS_SYSCTLS).await?;
            }
            Space::Container(_) => observed.routes = self.routes(&names).await?,
        }
        if look == Look::All {
            self.read_tables(&names, &mut observed).await?;
        }
        Ok(observed)
    }

    async fn read_tables(&self, names: &Names, observed: &mut Observed) -> Result<(), KernelError> {
        match &self.space {
            Space::Host => {
                observed.forward_hook = self.forward_hook().await?;
                (observed.tables, observed.drops) = self.tables(HOST_FAMILIES).await?;
            }
            Space::Network(_) => {
                (observed.tables, observed.drops) = self.tables(NETWORK_FAMILIES).await?;
                observed.ways = self.ways(names, &observed.tables).await?;
            }
            Space::Paths | Space::Container(_) => {}
        }
        Ok(())
    }

    async fn links(&self) -> Result<(BTreeMap<String, Link>, Names), KernelError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = self.dump(RouteNetlinkMessage::GetLink(message)).await?;
        let messages: Vec<LinkMessage> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect();
        let names: Names =
            messages.iter().filter_map(|m| Some((m.header.index, name_of(m)?.to_owned()))).collect();
        let links = messages.iter().filter_map(|m| Some((name_of(m)?.to_owned(), link(m, &names)))).collect();
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        *indexes = names.iter().map(|(index, name)| (name.clone(), *index)).collect();
        Ok((links, names))
    }

    async fn addresses(&self, names: &Names) -> Result<BTreeSet<(String, IpNetwork)>, KernelError> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let address = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => {
                Some((names.get(&message.header.index)?.clone(), address(&message)?))
            }
            _ => None,
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    async fn routes(&self, names: &Names) -> Result<BTreeSet<Route>, KernelError> {
        let mut routes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = match self.dump(RouteNetlinkMessage::GetRoute(message)).await {
                // A kernel without IPv6.
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => continue,
                outcome => outcome?,
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => default_route(message, names),
                _ => None,
            }));
        }
        Ok(routes)
    }

    async fn neighbours(&self, names: &Names) -> Result<BTreeMap<(String, IpAddr), Mac>, KernelError> {
        let answers = self.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())).await?;
        let entry = |answer: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
            let permanent = message.header.state == NeighbourState::Permanent;
            let name = names.get(&message.header.ifindex).filter(|_| permanent)?;
            Some(((name.clone(), destination(&message)?), mac_of(&message)?))
        };
        Ok(answers.into_iter().filter_map(entry).collect())
    }

    /// The bridge's and the VXLAN device's entries, which come in one dump.
    async fn forwarding(&self, names: &Names, observed: &mut Observed) -> Result<(), KernelError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        for answer in self.dump(RouteNetlinkMessage::GetNeighbour(message)).await? {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
            let Some(name) = names.get(&message.header.ifindex) else { continue };
            let Some(mac) = mac_of(&message) else { continue };
            let state = message.header.state;
            let of_bridge = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Controller(_)));
            if message.header.flags.contains(NeighbourFlags::Own) && !of_bridge {
                if is_tunnel(name) && state == NeighbourState::Permanent {
                    let port = port_of(&message).or(own_port(&observed.links, name)).unwrap_or_default();
                    let vtep = destination(&message).map(|address| SocketAddr::new(address, port));
                    observed.tunnels.extend(vtep.map(|vtep| (mac, vtep)));
                }
            } else if of_bridge && state != NeighbourState::Permanent {
                observed.forwarding.insert(mac, (name.clone(), state == NeighbourState::Noarp));
            }
        }
        Ok(())
    }

    async fn sysctls(&self, keys: &'static [&'static str]) -> Result<BTreeMap<String, String>, KernelError> {
        self.inside("reading sysctls", move || {
            let mut values = BTreeMap::new();
            for key in keys {
                match std::fs::read_to_string(format!("/proc/sys/{key}")) {
                    Ok(value) => {
                        values.insert((*key).to_owned(), value.trim().to_owned());
                    }
                    // Without br_netfilter or IPv6 there is nothing to switch off.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(values)
        })
        .await
    }

    /// Whether links take IPv6 addresses matters of ours, and of containers' `lo`; a veth that may become ours is to be told.
    fn leave_six(&self, links: &mut BTreeMap<String, Link>) {
        let (network, container) = match self.space {
            Space::Network(_) | Space::Paths => (true, false),
            Space::Host => (false, false),
            Space::Container(_) => (false, true),
        };
        for (name, link) in links {
            if network || !(link.is_ours() || (container && name == "lo")) {
                link.takes_six = link.kind != LinkKind::Veth;
            }
        }
    }

    pub(super) async fn take_six(&self, name: &str) -> Result<(), KernelError> {
        let name = name.to_owned();
        let write = move || {
            six_values(&name).iter().try_for_each(|(key, value)| std::fs::write(six_file(&name, key), value))
        };
        self.inside("letting a link have IPv6 addresses", write).await
    }

    /// Whether these links of the host take router advertisements: forwarding IPv6 would end that (accept_ra of 1).
    async fn advertisements(&self, links: Vec<String>) -> Result<BTreeMap<String, String>, KernelError> {
        self.inside("reading accept_ra", move || {
            let read = |name: &String| {
                let key = format!("{SIX}/{name}/accept_ra");
                let value = std::fs::read_to_string(format!("/proc/sys/{key}")).ok()?;
                Some((key, value.trim().to_owned()))
            };
            Ok(links.iter().filter_map(read).collect())
        })
        .await
    }

    pub(super) async fn set_sysctl(&self, key: &str, value: &str) -> Result<(), KernelError> {
        let path = format!("/proc/sys/{key}");
        let value = value.to_owned();
        self.inside(&path.clone(), move || std::fs::write(path, value)).await
    }
}

/// Left out by the kernel where it is the device's own (drivers/net/vxlan/vxlan_core.c, vxlan_fdb_info).
fn port_of(message: &NeighbourMessage) -> Option<u16> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Port(port) => Some(*port),
        _ => None,
    })
}

fn own_port(links: &BTreeMap<String, Link>, name: &str) -> Option<u16> {
    match &links.get(name)?.kind {
        LinkKind::Vxlan(vxlan) => Some(vxlan.port),
        _ => None,
    }
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn link(message: &LinkMessage, names: &Names) -> Link {
    let mut link = Link {
        index: message.header.index,
        kind: LinkKind::Other,
        alias: None,
        mtu: 0,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        takes_six: false,
        offload: true,
        controller: None,
        port: None,
        peer_index: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Controller(index) => link.controller = names.get(index).cloned(),
            LinkAttribute::Link(index) => link.peer_index = Some(*index),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| read_info(&mut link, info)),
            LinkAttribute::AfSpecUnspec(specifics) => {
                link.takes_six = takes_six(name_of(message).unwrap_or_default(), specifics);
            }
            _ => {}
        }
    }
    if link.kind != LinkKind::Veth {
        link.peer_index = None;
    }
    link
}

fn read_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Veth) => link.kind = LinkKind::Veth,
        LinkInfo::Kind(InfoKind::Bridge) => link.kind = LinkKind::Bridge { snooping: true },
        LinkInfo::Data(InfoData::Bridge(data)) => {
            let off = data.contains(&InfoBridge::MulticastSnooping(false));
            link.kind = LinkKind::Bridge { snooping: !off };
        }
        LinkInfo::Data(InfoData::Vxlan(data)) => link.kind = LinkKind::Vxlan(vxlan(data)),
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => link.port = Some(port(data)),
        _ => {}
    }
}

fn vxlan(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, local: None, port: 0, learning: false };
    for item in data {
        match item {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Local(four) => vxlan.local = Some(IpAddr::V4(*four)),
            InfoVxlan::Local6(six) => vxlan.local = Some(IpAddr::V6(*six)),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(learning) => vxlan.learning = *learning,
            _ => {}
        }
    }
    vxlan
}

fn port(data: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags::FRESH;
    for item in data {
        match item {
            InfoBridgePort::Learning(on) => flags.learning = *on,
            InfoBridgePort::UnicastFlood(on) => flags.unicast_flood = *on,
            InfoBridgePort::NeighSupress(on) => flags.neighbour_suppression = *on,
            _ => {}
        }
    }
    flags
}

fn address(message: &AddressMessage) -> Option<IpNetwork> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let ip = find(true).or_else(|| find(false))?;
    let link_local = matches!(ip, IpAddr::V6(six) if six.is_unicast_link_local());
    IpNetwork::new(ip, message.header.prefix_len).ok().filter(|_| !link_local)
}

fn default_route(message: &RouteMessage, names: &Names) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut route = Route {
        link: None,
        six: header.address_family == AddressFamily::Inet6,
        metric: 0,
        gateway: None,
        protocol: protocol(header.protocol),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => route.link = names.get(index).cloned(),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Gateway(RouteAddress::Inet(four)) => route.gateway = Some(IpAddr::V4(*four)),
            RouteAttribute::Gateway(RouteAddress::Inet6(six)) => route.gateway = Some(IpAddr::V6(*six)),
            _ => {}
        }
    }
    let is_default = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    (is_default && table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

fn protocol(protocol: RouteProtocol) -> u8 {
    protocol.into()
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(four)) => Some(IpAddr::V4(*four)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(six)) => Some(IpAddr::V6(*six)),
        // In the bridge's dump the parser does not know the family; the length tells.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    })
}

fn mac_of(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}
