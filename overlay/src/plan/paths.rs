//! What the ways to other hosts are tried through: a VXLAN device alone in its namespace.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{Planner, Wanted};
use crate::name::{PATHS, TAG, path_mac};
use crate::{Mac, Object, Op, Paths, Space};

/// Length of the prefix that holds all hosts inside.
const PREFIX_BITS: u8 = 8;
/// Echoes are answered, and refusals of ports are not counted: they are how a host answers.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/icmp_echo_ignore_all", "0"),
    ("net/ipv4/icmp_ratemask", "0"),
];

impl Planner<'_> {
    pub(super) fn paths(&mut self, paths: &Paths) {
        let (object, space) = (Object::Paths, Space::Paths);
        let Some(observed) = self.observed.get(&space) else {
            return self.problem(&object, "look at it", "its namespace is not open");
        };
        self.sysctls(&object, &space, SYSCTLS);
        let link = self.tunnel_device(&object, (&space, PATHS), observed, paths.vni, paths.mtu);
        let alias = format!("{TAG}paths");
        let mac = path_mac(paths.address);
        if link.is_none() {
            self.add(&object, &space, Op::SetMac { name: PATHS.to_owned(), mac });
        }
        let wanted = Wanted { mtu: paths.mtu, alias, mac: Some(mac), port_of: None };
        self.settle(&object, &space, PATHS, link, &wanted);
        self.offload(&object, &space, PATHS, link);
        let own: Vec<IpNetwork> = IpNetwork::new(paths.address.into(), PREFIX_BITS).into_iter().collect();
        let readdressed = self.addresses(&object, &space, PATHS, link.is_some(), &own);
        // A link that comes up, loses its last address, or gets another MAC, has lost its neighbours.
        let up = link.is_some_and(|link| link.up && link.mac == Some(mac));
        self.up(&object, &space, PATHS, link);
        self.moved(&object, paths.vni, link);
        let keeps = up && !readdressed;
        let at = |vtep: &IpAddr| self.desired.host.vtep(*vtep);
        let tunnels: BTreeSet<(Mac, SocketAddr)> =
            paths.peers.iter().map(|(address, vtep)| (path_mac(*address), at(vtep))).collect();
        for (mac, vtep) in &tunnels {
            if link.is_none() || !observed.tunnels.contains(&(*mac, *vtep)) {
                let op = Op::SetTunnel { name: PATHS.to_owned(), mac: *mac, vtep: *vtep };
                self.add(&object, &space, op);
            }
        }
        for address in paths.peers.keys() {
            let (mac, key) = (path_mac(*address), (PATHS.to_owned(), IpAddr::V4(*address)));
            if !keeps || observed.neighbours.get(&key) != Some(&mac) {
                let op = Op::SetNeighbour { name: PATHS.to_owned(), address: key.1, mac };
                self.add(&object, &space, op);
            }
        }
        if link.is_none() {
            return;
        }
        for (mac, vtep) in observed.tunnels.difference(&tunnels) {
            // Of a host that has moved the entry has been replaced.
            if !tunnels.iter().any(|(other, _)| other == mac) {
                let op = Op::DeleteTunnel { name: PATHS.to_owned(), mac: *mac, vtep: *vtep };
                self.remove(&object, &space, op);
            }
        }
        for (name, address) in observed.neighbours.keys() {
            let wanted = matches!(address, IpAddr::V4(four) if paths.peers.contains_key(four));
            if name == PATHS && !wanted {
                self.remove(&object, &space, Op::DeleteNeighbour { name: name.clone(), address: *address });
            }
        }
    }
}
