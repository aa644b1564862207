//! The table of a network's ports: chains that come and go with their devices, and ways past the bridge.
use netfilter::Family;

use super::Planner;
use crate::fence::{is_port_chain, port_chain, port_chain_name, port_table, tunnel_chain};
use crate::name::{VXLAN, network_port};
use crate::observed::TableState;
use crate::rule::Chain;
use crate::world::FLOOD;
use crate::{Attachment, Mac, Network, Object, Observed, Op, Space};

impl Planner<'_> {
    /// The table itself, before any port. Written anew it has the chains of all ports that are there: none of them
    /// is unfenced for an instant.
    pub(super) fn port_table(
        &mut self,
        object: &Object,
        space: &Space,
        observed: &Observed,
        network: &Network,
        bridge: Mac,
    ) {
        let wanted = port_table(bridge, []).state();
        let is_base = |now: &TableState| {
            let base = now.chains.iter().filter(|(name, _)| !is_port_chain(name));
            base.eq(&wanted.chains) && now.sets == wanted.sets
        };
        if observed.tables.get(&Family::Netdev).is_some_and(is_base) {
            return self.stale_ways(object, space, observed, network);
        }
        let attachments = network.attachments.iter().map(|(name, attachment)| {
            let port = network_port(name);
            let chain = port_chain(&port, attachment);
            (port, chain)
        });
        let tunnel = [(VXLAN.to_owned(), tunnel_chain())];
        let there = attachments.chain(tunnel).filter(|(port, _)| observed.links.contains_key(port));
        let table = port_table(bridge, there);
        self.add(object, space, Op::SetTable { table });
        self.rewritten.insert(space.clone());
    }

    /// Frames to a MAC that is here no more go the bridge's way before it is told the new one.
    fn stale_ways(&mut self, object: &Object, space: &Space, observed: &Observed, network: &Network) {
        let wanted =
            |mac: Mac| mac == FLOOD || network.attachments.values().any(|attachment| attachment.mac == mac);
        for mac in observed.ways.keys().filter(|mac| !wanted(**mac)) {
            self.add(object, space, Op::DeleteWay { mac: *mac });
        }
    }

    /// The fence of an attachment's port, before that is up. `is_new`: the port is made by this plan.
    pub(super) fn fenced(
        &mut self,
        object: &Object,
        home: &Space,
        port: &str,
        is_new: bool,
        wanted: &Attachment,
    ) {
        self.port_chain(object, home, port, is_new, port_chain(port, wanted));
    }

    /// Lets frames of other hosts past the bridge, once the device is there.
    pub(super) fn tunnel_chain(&mut self, object: &Object, space: &Space, is_new: bool) {
        self.port_chain(object, space, VXLAN, is_new, tunnel_chain());
    }

    fn port_chain(&mut self, object: &Object, space: &Space, port: &str, is_new: bool, chain: Chain) {
        let (family, name) = (Family::Netdev, port_chain_name(port));
        let now = self.observed.get(space).and_then(|observed| observed.tables.get(&family));
        let is_there = now.and_then(|now| now.chains.get(&name)).is_some_and(|now| *now == chain.state());
        // A chain goes with its device before kernel 6.16, and waits for the next one of the name since.
        if is_new || !(is_there || self.rewritten.contains(space)) {
            self.add(object, space, Op::SetChain { family, name, chain });
        }
    }

    /// The way past the bridge to a link that is up.
    pub(super) fn way(&mut self, object: &Object, space: &Space, mac: Mac, port: &str, is_new: bool) {
        let now = self.observed.get(space).and_then(|observed| observed.ways.get(&mac));
        if is_new || self.rewritten.contains(space) || now.is_none_or(|now| now != port) {
            self.add(object, space, Op::SetWay { mac, port: port.to_owned() });
        }
    }

    /// Chains of ports that are wanted no more, once the ports are gone.
    pub(super) fn prune_port_chains(&mut self) {
        for (space, observed) in self.observed {
            let Space::Network(network) = space else { continue };
            let (Some(table), Some(network)) =
                (observed.tables.get(&Family::Netdev), self.desired.networks.get(network))
            else {
                continue;
            };
            let wanted = |name: &str| {
                name == port_chain_name(VXLAN)
                    || network.attachments.keys().any(|port| name == port_chain_name(&network_port(port)))
            };
            for name in table.chains.keys().filter(|name| is_port_chain(name) && !wanted(name)) {
                let (family, name) = (Family::Netdev, name.clone());
                let device = name.trim_start_matches(crate::fence::PORT_CHAIN_PREFIX).to_owned();
                self.remove(&Object::Leftover(device), space, Op::DeleteChain { family, name });
            }
        }
    }
}
