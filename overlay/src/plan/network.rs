//! A network's own namespace: sysctls, tables, bridge, VXLAN device.
use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use netfilter::Family;

use super::{Planner, Wanted};
use crate::fence::{MOVED, network_table, vni_key};
use crate::name::{BRIDGE, PATHS, VXLAN, attachment_tag, gateway_mac, network_tag};
use crate::{Link, LinkKind, Mac, Network, Object, Observed, Op, Phase, PortFlags, Space, Vxlan};

impl Planner<'_> {
    pub(super) fn network(&mut self, name: &str, network: &Network) {
        let (object, space) = (Object::Network(name.to_owned()), Space::Network(name.to_owned()));
        let Some(observed) = self.observed.get(&space) else {
            self.unseen.insert(network_tag(name));
            self.unseen.extend(network.attachments.keys().map(|attachment| attachment_tag(name, attachment)));
            return self.problem(&object, "look at it", "its namespace is not open");
        };
        self.sysctls(&object, &space, &sysctls(network));
        self.table(&object, &space, network_table(&self.desired.host, network));
        // Each attachment adds its own chain: one that cannot be fenced does not come up.
        self.port_table(&object, &space, observed, network, bridge_mac(network));
        self.up(&object, &space, "lo", observed.links.get("lo"));
        self.bridge(&object, &space, observed, name, network);
        self.tunnel(&object, &space, observed, name, network);
        if !network.internal {
            self.egress(&object, &space, name, network);
        }
    }

    fn bridge(&mut self, object: &Object, space: &Space, observed: &Observed, name: &str, network: &Network) {
        self.want(space, BRIDGE);
        let mac = bridge_mac(network);
        let found = observed.links.get(BRIDGE);
        let link = found.filter(|link| matches!(link.kind, LinkKind::Bridge { .. }));
        if found.is_some() && link.is_none() {
            self.add(object, space, Op::DeleteLink { name: BRIDGE.to_owned() });
        }
        if link.is_none() {
            self.add(object, space, Op::AddBridge { name: BRIDGE.to_owned(), mac, mtu: network.mtu });
        }
        let wanted = Wanted { mtu: network.mtu, alias: network_tag(name), mac: Some(mac), port_of: None };
        self.settle(object, space, BRIDGE, link, &wanted);
        if link.is_none_or(|link| link.kind != LinkKind::Bridge { snooping: false }) {
            self.add(object, space, Op::StopSnooping { name: BRIDGE.to_owned() });
        }
        let gateways = gateways(network);
        self.addresses(object, space, BRIDGE, link.is_some(), &gateways);
        self.note_bare(space, observed, &gateways);
        self.up(object, space, BRIDGE, link);
    }

    /// Notes that none of the IPv4 addresses that the bridge has is wanted any more.
    fn note_bare(&mut self, space: &Space, observed: &Observed, wanted: &[IpNetwork]) {
        let now = observed.addresses.iter().filter(|(on, address)| on == BRIDGE && address.is_ipv4());
        let now: Vec<&IpNetwork> = now.map(|(_, address)| address).collect();
        if now.is_empty() || now.iter().any(|address| wanted.contains(address)) {
            return;
        }
        // Another one comes at once, or the last goes with what is wanted no more.
        let replaced = wanted.iter().any(IpNetwork::is_ipv4);
        let phase = if replaced { Phase::Additions } else { Phase::Removals };
        self.bare.insert((space.clone(), phase));
    }

    /// Exactly these addresses on a link of ours. `exists` is false for one that this plan makes. Answers whether
    /// an address gives way to another of its family: the kernel takes routes away with it.
    pub(super) fn addresses(
        &mut self,
        object: &Object,
        space: &Space,
        name: &str,
        exists: bool,
        wanted: &[IpNetwork],
    ) -> bool {
        let Some(observed) = self.observed.get(space) else { return false };
        let on_link = observed.addresses.iter().filter(|(on, _)| exists && on == name);
        let (there, stray): (Vec<IpNetwork>, Vec<IpNetwork>) =
            on_link.map(|(_, address)| *address).partition(|address| wanted.contains(address));
        let missing: Vec<IpNetwork> =
            wanted.iter().filter(|address| !there.contains(address)).copied().collect();
        let mut replaced = false;
        for address in stray {
            let op = Op::DeleteAddress { name: name.to_owned(), address };
            // A second IPv4 address of a subnet is secondary, and goes with the first unless
            // promote_secondaries is set: so the old one goes before the new one comes.
            if missing.iter().any(|new| new.is_ipv4() == address.is_ipv4()) {
                self.add(object, space, op);
                replaced = true;
            } else {
                self.remove(object, space, op);
            }
        }
        for address in missing {
            self.add(object, space, Op::AddAddress { name: name.to_owned(), address });
        }
        replaced
    }

    fn tunnel(&mut self, object: &Object, space: &Space, observed: &Observed, name: &str, network: &Network) {
        let link = self.tunnel_device(object, (space, VXLAN), observed, network.vni, network.mtu);
        let port_of = Some((BRIDGE, PortFlags::TUNNEL));
        let wanted = Wanted { mtu: network.mtu, alias: network_tag(name), mac: None, port_of };
        self.settle(object, space, VXLAN, link, &wanted);
        self.offload(object, space, VXLAN, link);
        let is_new = link.is_none_or(|link| link.controller.as_deref() != Some(BRIDGE));
        self.tunnel_chain(object, space, is_new);
        self.up(object, space, VXLAN, link);
        self.moved(object, network.vni, link);
    }

    /// The VXLAN device itself; `None` if this plan makes it.
    pub(super) fn tunnel_device<'a>(
        &mut self,
        object: &Object,
        (space, name): (&Space, &str),
        observed: &'a Observed,
        vni: u32,
        mtu: u32,
    ) -> Option<&'a Link> {
        self.want(space, name);
        let found = observed.links.get(name);
        let link = found.filter(|link| self.is_tunnel_of(link, vni));
        // VNI and port of a device cannot be changed (drivers/net/vxlan/vxlan_core.c, vxlan_nl2conf), and two
        // devices at once would loop each broadcast between the hosts: so first away, then new. What comes to a former
        // port is lost only in between, some 10 ms.
        if found.is_some() && link.is_none() {
            self.add(object, space, Op::DeleteLink { name: name.to_owned() });
        }
        if link.is_none() {
            let op = Op::AddVxlan {
                link_space: space.clone(),
                name: name.to_owned(),
                vni,
                local: self.desired.host.address,
                port: self.desired.host.vxlan_port,
                mtu,
            };
            self.add(object, &Space::Host, op);
        }
        link
    }

    /// Once a tunnel receives on the port that is wanted, what peers still send to a former one is handed to it: before,
    /// the old device took it. `link` is `None` for one that this plan has just made.
    pub(super) fn moved(&mut self, object: &Object, vni: u32, link: Option<&Link>) {
        let key = vni_key(vni);
        let tables = self.observed.get(&Space::Host).map(|host| &host.tables);
        let moved = tables.and_then(|tables| tables.get(&Family::Inet)?.sets.get(MOVED));
        let known = moved.is_some_and(|moved| moved.contains(&key));
        if link.is_none() && !known && !self.desired.host.former_ports.is_empty() {
            self.add_elements(object, &Space::Host, Family::Inet, MOVED, BTreeSet::from([key]));
        }
    }

    /// VNIs whose tunnel receives on the port that is wanted.
    pub(super) fn moved_vnis(&self) -> BTreeSet<u32> {
        let networks = self.desired.networks.iter();
        let networks = networks.map(|(name, network)| (Space::Network(name.clone()), VXLAN, network.vni));
        let paths = self.desired.paths.iter().map(|paths| (Space::Paths, PATHS, paths.vni));
        let right = |(space, name, vni): (Space, &str, u32)| {
            let link = self.observed.get(&space)?.links.get(name)?;
            self.is_tunnel_of(link, vni).then_some(vni)
        };
        networks.chain(paths).filter_map(right).collect()
    }

    /// Whether checksums are left to the device below, which a new tunnel does.
    pub(super) fn offload(&mut self, object: &Object, space: &Space, name: &str, link: Option<&Link>) {
        let on = self.desired.host.offload;
        if link.is_none_or(|link| link.offload) != on {
            self.add(object, space, Op::SetOffload { name: name.to_owned(), on });
        }
    }

    /// Whether a link is the VXLAN device that this network wants.
    pub(super) fn is_tunnel(&self, link: &Link, network: &Network) -> bool {
        self.is_tunnel_of(link, network.vni)
    }

    fn is_tunnel_of(&self, link: &Link, vni: u32) -> bool {
        let host = &self.desired.host;
        let wanted = Vxlan { vni, local: Some(host.address), port: host.vxlan_port, learning: false };
        link.kind == LinkKind::Vxlan(wanted)
    }
}

/// One MAC for the bridge: that of the lowest gateway.
fn bridge_mac(network: &Network) -> Mac {
    let lowest = network.subnets.iter().map(|subnet| subnet.gateway).min();
    lowest.map_or(Mac([0x0a, 0x67, 0, 0, 0, 0]), gateway_mac)
}

fn gateways(network: &Network) -> Vec<IpNetwork> {
    if network.internal {
        return Vec::new();
    }
    let address = |subnet: &crate::Subnet| IpNetwork::new(subnet.gateway, subnet.cidr.prefix()).ok();
    network.subnets.iter().filter_map(address).collect()
}

fn sysctls(network: &Network) -> Vec<(&'static str, &'static str)> {
    let on = |yes| if yes { "1" } else { "0" };
    vec![
        // 1 in every new namespace where br_netfilter is present: frames between containers would pass the
        // routing table's rules.
        ("net/bridge/bridge-nf-call-iptables", "0"),
        ("net/bridge/bridge-nf-call-ip6tables", "0"),
        ("net/bridge/bridge-nf-call-arptables", "0"),
        // No link-local addresses and no router solicitations of our own: the bridge's would be the same on
        // every host. Set before the first link is made.
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        // The link's address is not answered for on the bridge.
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/ip_forward", on(!network.internal)),
        ("net/ipv6/conf/all/forwarding", on(!network.internal && network.has_six())),
    ]
}
