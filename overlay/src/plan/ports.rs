//! The table of a network's ports: chains that come and go with their devices, and ways past the bridge.
use std::collections::{BTreeMap, BTreeSet};

use netfilter::Family;

use super::Planner;
use super::prune::leftover;
use crate::fence::{closed_chain, port_chain, port_chain_name, port_of_chain, port_table, tunnel_chain};
use crate::name::{BRIDGE, VXLAN, network_port};
use crate::observed::{ChainState, TableState};
use crate::rule::Chain;
use crate::world::FLOOD;
use crate::{Attachment, Mac, Network, Object, Observed, Op, Space};

impl<'a> Planner<'a> {
    /// The table itself, before any port. Written anew it has the chains of all ports that are there (closed ones of
    /// those that nobody wants): none of them is unfenced for an instant.
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
            let base = now.chains.iter().filter(|(name, _)| port_of_chain(name).is_none());
            base.eq(&wanted.chains) && now.sets == wanted.sets
        };
        if observed.tables.get(&Family::Netdev).is_some_and(is_base) {
            return self.stale_ways(object, space, observed, network);
        }
        let there = observed.links.iter().filter(|(_, link)| link.controller.as_deref() == Some(BRIDGE));
        let mut chains: BTreeMap<String, Chain> =
            there.map(|(port, _)| (port.clone(), closed_chain(port))).collect();
        if let Some(chain) = chains.get_mut(VXLAN) {
            *chain = tunnel_chain();
        }
        let mut ways = Vec::new();
        for (name, attachment) in network.attachments.iter() {
            let port = network_port(name);
            if let Some(chain) = chains.get_mut(&port) {
                *chain = port_chain(&port, attachment);
                ways.push(Op::SetWay { mac: attachment.mac, port });
            }
        }
        self.rewritten.insert(space.clone(), chains.keys().cloned().collect());
        self.add(object, space, Op::SetTable { table: port_table(bridge, chains) });
        ways.into_iter().for_each(|op| self.add(object, space, op));
    }

    /// Frames to a MAC that is here no more go the bridge's way before it is told the new one.
    fn stale_ways(&mut self, object: &Object, space: &Space, observed: &Observed, network: &Network) {
        let wanted: BTreeSet<Mac> = network.attachments.values().map(|attachment| attachment.mac).collect();
        for mac in observed.ways.keys().filter(|mac| **mac != FLOOD && !wanted.contains(*mac)) {
            self.add(object, space, Op::DeleteWay { mac: *mac });
        }
    }

    /// The fence of an attachment's port, before that is up. `is_new`: the port is made by this plan, or put back into the bridge.
    pub(super) fn fenced(
        &mut self,
        (network, name): (&str, &str),
        home: &Space,
        port: &str,
        is_new: bool,
        wanted: &Attachment,
    ) {
        let now = self.shown_chain(home, port);
        let is_there = now == Some(self.fences.of(network, name, port, wanted));
        if is_new || !self.is_fenced(home, port, is_there) {
            let object = Object::Attachment(network.to_owned(), name.to_owned());
            self.set_chain(&object, home, port, port_chain(port, wanted));
        }
    }

    /// The fence of the tunnel's side, once the device is there.
    pub(super) fn tunnel_chain(&mut self, object: &Object, space: &Space, is_new: bool) {
        let chain = tunnel_chain();
        let is_there = self.shown_chain(space, VXLAN).is_some_and(|now| *now == chain.state());
        if is_new || !self.is_fenced(space, VXLAN, is_there) {
            self.set_chain(object, space, VXLAN, chain);
        }
    }

    /// The chain of a port as it was seen.
    fn shown_chain(&self, space: &Space, port: &str) -> Option<&'a ChainState> {
        self.observed.get(space)?.tables.get(&Family::Netdev)?.chains.get(&port_chain_name(port))
    }

    /// A chain goes with its device before kernel 6.16, and waits for the next one of the name since.
    fn is_fenced(&self, space: &Space, port: &str, is_there: bool) -> bool {
        if self.rewritten.contains_key(space) { self.is_rewritten(space, port) } else { is_there }
    }

    fn set_chain(&mut self, object: &Object, space: &Space, port: &str, chain: Chain) {
        let (family, name) = (Family::Netdev, port_chain_name(port));
        self.add(object, space, Op::SetChain { family, name, chain });
    }

    /// Whether the table that this plan writes has the chain of a port, and its way follows.
    fn is_rewritten(&self, space: &Space, port: &str) -> bool {
        self.rewritten.get(space).is_some_and(|ports| ports.contains(port))
    }

    /// The way past the bridge to an attachment's port that is up.
    pub(super) fn local_way(&mut self, object: &Object, space: &Space, mac: Mac, port: &str, is_new: bool) {
        let now = self.observed.get(space).and_then(|observed| observed.ways.get(&mac));
        let is_there = match self.rewritten.contains_key(space) {
            true => self.is_rewritten(space, port),
            false => now.is_some_and(|now| now == port),
        };
        if is_new || !is_there {
            self.add(object, space, Op::SetWay { mac, port: port.to_owned() });
        }
    }

    /// The way to the tunnel, once those to all local ports are there.
    pub(super) fn tunnel_way(&mut self, name: &str, network: &Network) {
        let (object, space) = (Object::Network(name.to_owned()), Space::Network(name.to_owned()));
        let Some(observed) = self.observed.get(&space) else { return };
        let keeps = observed.links.get(VXLAN).is_some_and(|link| self.is_tunnel(link, network));
        let is_there = observed.ways.get(&FLOOD).is_some_and(|port| port == VXLAN);
        if !keeps || !is_there || self.rewritten.contains_key(&space) {
            self.add(&object, &space, Op::SetWay { mac: FLOOD, port: VXLAN.to_owned() });
        }
    }

    /// Chains of ports that are wanted no more, once the ports are gone; and the table that an earlier agent fenced
    /// the bridge with.
    pub(super) fn prune_port_chains(&mut self) {
        for (space, observed) in self.observed {
            let Space::Network(name) = space else { continue };
            let Some(network) = self.desired.networks.get(name) else { continue };
            let wanted: BTreeSet<String> =
                network.attachments.keys().map(|name| network_port(name)).chain([VXLAN.to_owned()]).collect();
            let chains = observed.tables.get(&Family::Netdev).map(|table| &table.chains);
            for chain in chains.into_iter().flat_map(BTreeMap::keys) {
                let Some(port) = port_of_chain(chain).filter(|port| !wanted.contains(*port)) else {
                    continue;
                };
                // Of the object whose link goes first: while that cannot be deleted, its chain stays.
                let object = match observed.links.get(port) {
                    Some(link) => leftover(port, link),
                    None => Object::Leftover(port.to_owned()),
                };
                self.remove(&object, space, Op::DeleteChain { family: Family::Netdev, name: chain.clone() });
            }
            if observed.tables.contains_key(&Family::Bridge) {
                let object = Object::Network(name.clone());
                self.remove(&object, space, Op::DeleteTable { family: Family::Bridge });
            }
        }
    }
}
