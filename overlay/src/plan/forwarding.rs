//! Where each MAC and address of a network lives: entries of the VXLAN device, of the bridge, and neighbours.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::Planner;
use super::changes::{Changes, LOWEST, changes};
use crate::name::{BRIDGE, VXLAN, network_port};
use crate::world::FLOOD;
use crate::{Host, Mac, Network, Object, Observed, Op, Phase, Space};

/// The tables of a network, as wanted.
struct Tables {
    tunnels: BTreeSet<(Mac, SocketAddr)>,
    forwarding: BTreeMap<Mac, String>,
    neighbours: BTreeMap<IpAddr, Mac>,
}

impl Planner<'_> {
    /// Entries for attachments of other hosts; what nobody wants goes. Those of this host's attachments are
    /// added with the attachment, which brings their port. `base` is what the tables are known to have been.
    pub(super) fn forwarding(&mut self, name: &str, network: &Network, base: Option<&Network>) {
        let space = Space::Network(name.to_owned());
        let Some(observed) = self.observed.get(&space) else { return };
        let keeps_tunnel = observed.links.get(VXLAN).is_some_and(|link| self.is_tunnel(link, network));
        let keeps_bridge = observed.links.contains_key(BRIDGE);
        let bare = |phase| self.bare.contains(&(space.clone(), phase));
        let (bare_first, bare_last) = (bare(Phase::Additions), bare(Phase::Removals));
        let base = base.filter(|_| keeps_tunnel && keeps_bridge && !bare_first && !bare_last);
        let changes = base.map(|base| changes(base, network));
        if changes.as_ref().is_some_and(Changes::is_empty) {
            return;
        }
        let narrow = changes.as_ref().map(|changes| changes.narrow(observed));
        let observed = narrow.as_ref().unwrap_or(observed);
        let tables = wanted(&self.desired.host, network, changes.as_ref());
        let empty = Observed::default();
        let now = if keeps_tunnel { observed } else { &empty };
        self.tunnels(name, &space, now, &tables);
        self.remote_ports(name, &space, now, &tables);
        let now = if keeps_bridge { observed } else { &empty };
        self.neighbours(name, &space, now, observed, network, &tables);
        if keeps_bridge {
            self.stale_entries(name, &space, observed, &tables);
        }
        if bare_last {
            self.restore_neighbours(name, &space, &tables);
        }
    }

    /// Once the bridge's last IPv4 address has gone.
    fn restore_neighbours(&mut self, name: &str, space: &Space, tables: &Tables) {
        for (address, mac) in tables.neighbours.iter().filter(|(address, _)| address.is_ipv4()) {
            let op = Op::SetNeighbour { name: BRIDGE.to_owned(), address: *address, mac: *mac };
            self.remove(&Object::Remote(name.to_owned(), *mac), space, op);
        }
    }

    fn tunnels(&mut self, name: &str, space: &Space, now: &Observed, tables: &Tables) {
        for (mac, vtep) in tables.tunnels.difference(&now.tunnels) {
            let op = Op::SetTunnel { name: VXLAN.to_owned(), mac: *mac, vtep: *vtep };
            self.add(&object_of(name, *mac), space, op);
        }
        for (mac, vtep) in now.tunnels.difference(&tables.tunnels) {
            // Of a MAC that lives elsewhere now the entry has been replaced.
            let elsewhere = tables.tunnels.range((*mac, LOWEST)..).next();
            if *mac != FLOOD && elsewhere.is_some_and(|(other, _)| other == mac) {
                continue;
            }
            let op = Op::DeleteTunnel { name: VXLAN.to_owned(), mac: *mac, vtep: *vtep };
            self.remove(&object_of(name, *mac), space, op);
        }
    }

    fn remote_ports(&mut self, name: &str, space: &Space, now: &Observed, tables: &Tables) {
        for (mac, port) in tables.forwarding.iter().filter(|(_, port)| *port == VXLAN) {
            if !has_port(now, *mac, port) {
                let op = Op::SetForwarding { port: port.clone(), mac: *mac };
                self.add(&Object::Remote(name.to_owned(), *mac), space, op);
            }
        }
    }

    fn neighbours(
        &mut self,
        name: &str,
        space: &Space,
        now: &Observed,
        observed: &Observed,
        network: &Network,
        tables: &Tables,
    ) {
        let own: BTreeSet<IpAddr> = network
            .attachments
            .values()
            .flat_map(|attachment| attachment.addresses.iter().map(|address| address.ip()))
            .collect();
        for (address, mac) in tables.neighbours.iter().filter(|(address, _)| !own.contains(address)) {
            let object = Object::Remote(name.to_owned(), *mac);
            self.neighbour(&object, space, now, observed, *address, *mac);
        }
    }

    /// One neighbour, announced if the address was another MAC's before.
    pub(super) fn neighbour(
        &mut self,
        object: &Object,
        space: &Space,
        now: &Observed,
        observed: &Observed,
        address: IpAddr,
        mac: Mac,
    ) {
        let key = (BRIDGE.to_owned(), address);
        let lost = address.is_ipv4() && self.bare.contains(&(space.clone(), Phase::Additions));
        let known = now.neighbours.get(&key).filter(|_| !lost);
        if known == Some(&mac) {
            return;
        }
        self.add(object, space, Op::SetNeighbour { name: BRIDGE.to_owned(), address, mac });
        let before = observed.neighbours.get(&key).or_else(|| observed.former.get(&address));
        if before.is_some_and(|before| *before != mac) {
            self.add(object, space, Op::Announce { name: BRIDGE.to_owned(), address, mac });
        }
    }

    fn stale_entries(&mut self, name: &str, space: &Space, observed: &Observed, tables: &Tables) {
        for (mac, (port, _)) in &observed.forwarding {
            if !tables.forwarding.contains_key(mac) {
                let op = Op::DeleteForwarding { port: port.clone(), mac: *mac };
                self.remove(&Object::Remote(name.to_owned(), *mac), space, op);
            }
        }
        for ((link, address), mac) in &observed.neighbours {
            if link == BRIDGE && !tables.neighbours.contains_key(address) {
                let op = Op::DeleteNeighbour { name: link.clone(), address: *address };
                self.remove(&Object::Remote(name.to_owned(), *mac), space, op);
            }
        }
    }
}

/// Whether the bridge has a static entry for a MAC on this port.
pub(super) fn has_port(now: &Observed, mac: Mac, port: &str) -> bool {
    now.forwarding.get(&mac).is_some_and(|(on, fixed)| on == port && *fixed)
}

fn object_of(network: &str, mac: Mac) -> Object {
    if mac == FLOOD { Object::Network(network.to_owned()) } else { Object::Remote(network.to_owned(), mac) }
}

/// Of two that claim a MAC or address the later one stands, and an attachment of this host before all. With
/// `changes` only for the MACs and addresses that they name.
fn wanted(host: &Host, network: &Network, changes: Option<&Changes>) -> Tables {
    let mut unicast = BTreeMap::new();
    let mut forwarding = BTreeMap::new();
    let mut neighbours = BTreeMap::new();
    let about_mac = |mac: &Mac| changes.is_none_or(|changes| changes.macs.contains(mac));
    let about = |address: &IpAddr| changes.is_none_or(|changes| changes.addresses.contains(address));
    for remote in network.remotes.iter() {
        if about_mac(&remote.mac) {
            unicast.insert(remote.mac, host.vtep(remote.vtep));
            forwarding.insert(remote.mac, VXLAN.to_owned());
        }
        let addresses = remote.addresses.iter().filter(|address| about(address));
        neighbours.extend(addresses.map(|address| (*address, remote.mac)));
    }
    for (name, attachment) in network.attachments.iter() {
        if about_mac(&attachment.mac) {
            unicast.remove(&attachment.mac);
            forwarding.insert(attachment.mac, network_port(name));
        }
        let addresses = attachment.addresses.iter().map(|address| address.ip()).filter(about);
        neighbours.extend(addresses.map(|address| (address, attachment.mac)));
    }
    let mut tunnels: BTreeSet<(Mac, SocketAddr)> = unicast.into_iter().collect();
    tunnels.extend(network.flood.iter().filter(|_| about_mac(&FLOOD)).map(|vtep| (FLOOD, host.vtep(*vtep))));
    Tables { tunnels, forwarding, neighbours }
}
