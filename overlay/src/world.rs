//! What an operation makes of a namespace, in memory: the reconciler's mirror of the kernel, and the fake kernel.
use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use netfilter::Family;

use crate::op::Peer;
use crate::rule::Entry;
use crate::{Link, LinkKind, Mac, Observed, Op, PortFlags, Route, Space, Vxlan};

/// The MAC of entries that flood.
pub(crate) const FLOOD: Mac = Mac([0; 6]);
/// MTU that a link has when nobody asks for another.
const DEFAULT_MTU: u32 = 1500;

/// Namespaces by name, as last observed and since changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The namespaces.
    pub spaces: BTreeMap<Space, Observed>,
}

type Outcome = Result<(), i32>;

impl World {
    /// Does to this world what the kernel does to its own. The error is an errno; the world is then unchanged.
    pub fn apply(&mut self, space: &Space, op: &Op) -> Outcome {
        match op {
            Op::AddVxlan { link_space, name, vni, local, port, mtu } => {
                let settings = Vxlan { vni: *vni, local: Some(*local), port: *port, learning: false };
                self.space(space)?;
                self.refuse_taken_vni(*vni, *port)?;
                self.add_link(link_space, name, LinkKind::Vxlan(settings), *mtu, None)
            }
            Op::AddVeth { name, mtu, peer } => self.add_veth(space, name, *mtu, peer),
            Op::AddBridge { name, mac, mtu } => {
                self.add_link(space, name, LinkKind::Bridge { snooping: true }, *mtu, Some(*mac))
            }
            Op::DeleteLink { name } => self.delete_link(space, name),
            _ => self.space(space)?.apply(op),
        }
    }

    fn space(&mut self, space: &Space) -> Result<&mut Observed, i32> {
        self.spaces.get_mut(space).ok_or(libc::ENOENT)
    }

    /// All hosts' namespaces of one world would share the kernel's check, which is per namespace of the socket;
    /// a world has one host, so this is the kernel's.
    fn refuse_taken_vni(&self, vni: u32, port: u16) -> Outcome {
        let taken = self.spaces.values().flat_map(|observed| observed.links.values()).any(
            |link| matches!(&link.kind, LinkKind::Vxlan(other) if other.vni == vni && other.port == port),
        );
        if taken { Err(libc::EEXIST) } else { Ok(()) }
    }

    fn next_index(&self) -> u32 {
        let links = self.spaces.values().flat_map(|observed| observed.links.values());
        links.map(|link| link.index).max().unwrap_or(0).saturating_add(1)
    }

    fn add_link(&mut self, space: &Space, name: &str, kind: LinkKind, mtu: u32, mac: Option<Mac>) -> Outcome {
        let index = self.next_index();
        let observed = self.space(space)?;
        if observed.links.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let link = Link { mac, ..fresh_link(index, kind, mtu) };
        observed.links.insert(name.to_owned(), link);
        Ok(())
    }

    fn add_veth(&mut self, space: &Space, name: &str, mtu: u32, peer: &Peer) -> Outcome {
        if self.space(&peer.space)?.links.contains_key(&peer.name) {
            return Err(libc::EEXIST);
        }
        self.add_link(space, name, LinkKind::Veth, mtu, None)?;
        self.add_link(&peer.space, &peer.name, LinkKind::Veth, mtu, peer.mac)?;
        let near = self.space(space)?.links.get(name).map(|link| link.index);
        let far = self.space(&peer.space)?.links.get(&peer.name).map(|link| link.index);
        if let Some(link) = self.space(space)?.links.get_mut(name) {
            link.peer_index = far;
        }
        if let Some(link) = self.space(&peer.space)?.links.get_mut(&peer.name) {
            link.peer_index = near;
        }
        Ok(())
    }

    fn delete_link(&mut self, space: &Space, name: &str) -> Outcome {
        let link = self.space(space)?.remove_link(name)?;
        if link.kind != LinkKind::Veth {
            return Ok(());
        }
        // Indexes are unique per namespace only: of several candidates in an observed world the one with the
        // same alias is the other end.
        let is_other_end = |other: &Link| {
            other.kind == LinkKind::Veth
                && Some(other.index) == link.peer_index
                && other.peer_index == Some(link.index)
        };
        let mut ends: Vec<(Space, String, bool)> = Vec::new();
        for (there, observed) in &self.spaces {
            for (name, other) in observed.links.iter().filter(|(_, other)| is_other_end(other)) {
                ends.push((there.clone(), name.clone(), other.alias == link.alias));
            }
        }
        ends.sort_by_key(|(_, _, same_alias)| !same_alias);
        if let Some((there, name, _)) = ends.first() {
            self.space(there)?.remove_link(name)?;
        }
        Ok(())
    }
}

fn fresh_link(index: u32, kind: LinkKind, mtu: u32) -> Link {
    let mtu = if mtu == 0 { DEFAULT_MTU } else { mtu };
    Link {
        index,
        kind,
        alias: None,
        mtu,
        mac: None,
        up: false,
        controller: None,
        port: None,
        peer_index: None,
    }
}

impl Observed {
    fn remove_link(&mut self, name: &str) -> Result<Link, i32> {
        let link = self.links.remove(name).ok_or(libc::ENODEV)?;
        self.addresses.retain(|(on, _)| on != name);
        self.routes.retain(|route| route.link.as_deref() != Some(name));
        self.neighbours.retain(|(on, _), _| on != name);
        self.forwarding.retain(|_, (port, _)| port != name);
        self.ways.values_mut().filter(|port| *port == name).for_each(String::clear);
        match link.kind {
            LinkKind::Vxlan(_) => self.tunnels.clear(),
            LinkKind::Bridge { .. } => self.release_ports(name),
            LinkKind::Veth | LinkKind::Other => {}
        }
        Ok(link)
    }

    fn release_ports(&mut self, bridge: &str) {
        self.forwarding.clear();
        for link in self.links.values_mut().filter(|link| link.controller.as_deref() == Some(bridge)) {
            link.controller = None;
            link.port = None;
        }
    }

    fn link(&mut self, name: &str) -> Result<&mut Link, i32> {
        self.links.get_mut(name).ok_or(libc::ENODEV)
    }

    /// Operations that touch this namespace alone.
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::SetSysctl { key, value } => {
                *self.sysctls.get_mut(key).ok_or(libc::ENOENT)? = value.clone();
            }
            Op::SetAlias { name, alias } => self.link(name)?.alias = Some(alias.clone()),
            Op::SetMtu { name, mtu } => self.link(name)?.mtu = *mtu,
            Op::SetMac { name, mac } => self.link(name)?.mac = Some(*mac),
            Op::SetUp { name } => self.link(name)?.up = true,
            Op::SetDown { name } => self.set_down(name)?,
            Op::SetController { name, controller } => {
                self.link(controller)?;
                let link = self.link(name)?;
                link.controller = Some(controller.clone());
                link.port = Some(PortFlags::FRESH);
                self.forwarding.retain(|_, (port, _)| port != name);
            }
            Op::StopSnooping { name } => self.link(name)?.kind = LinkKind::Bridge { snooping: false },
            Op::SetPort { name, flags } => *self.link(name)?.port.as_mut().ok_or(libc::EOPNOTSUPP)? = *flags,
            Op::AddAddress { .. } | Op::DeleteAddress { .. } => self.apply_address(op)?,
            Op::SetRoute { route, replace } => self.set_route(route, *replace)?,
            Op::DeleteRoute { route } => {
                self.routes.remove(route).then_some(()).ok_or(libc::ESRCH)?;
            }
            Op::SetTable { table } => {
                self.forget_ways(table.family);
                self.tables.insert(table.family, table.state());
            }
            Op::SetChain { family, name, chain } => {
                if let Entry::Device(device) = &chain.entry {
                    self.links.contains_key(device).then_some(()).ok_or(libc::ENOENT)?;
                }
                let table = self.tables.get_mut(family).ok_or(libc::ENOENT)?;
                table.chains.insert(name.clone(), chain.state());
            }
            Op::DeleteChain { family, name } => {
                let table = self.tables.get_mut(family).ok_or(libc::ENOENT)?;
                table.chains.remove(name).ok_or(libc::ENOENT)?;
            }
            Op::ChangeElements { family, set, add, delete } => {
                let table = self.tables.get_mut(family).ok_or(libc::ENOENT)?;
                let elements = table.sets.get_mut(set).ok_or(libc::ENOENT)?;
                if !delete.is_subset(elements) {
                    return Err(libc::ENOENT);
                }
                elements.retain(|element| !delete.contains(element));
                elements.extend(add.iter().cloned());
            }
            Op::DeleteTable { family } => {
                self.forget_ways(*family);
                self.tables.remove(family).ok_or(libc::ENOENT)?;
            }
            Op::SetForwardException => {
                self.forward_hook.docker_user.then_some(()).ok_or(libc::ENOENT)?;
                self.forward_hook.exception = true;
            }
            Op::DeleteForwardException => self.forward_hook.exception = false,
            Op::Announce { name, .. } => {
                self.link(name)?;
            }
            _ => self.apply_bulk(op)?,
        }
        Ok(())
    }

    /// They are elements of the table.
    fn forget_ways(&mut self, family: Family) {
        if family == Family::Netdev {
            self.ways.clear();
        }
    }

    fn set_down(&mut self, name: &str) -> Outcome {
        self.link(name)?.up = false;
        self.routes.retain(|route| route.link.as_deref() != Some(name));
        self.neighbours.retain(|(on, _), _| on != name);
        Ok(())
    }

    fn apply_address(&mut self, op: &Op) -> Outcome {
        match op {
            Op::AddAddress { name, address } => {
                self.link(name)?;
                self.addresses.insert((name.clone(), *address)).then_some(()).ok_or(libc::EEXIST)
            }
            Op::DeleteAddress { name, address } => {
                self.addresses.remove(&(name.clone(), *address)).then_some(()).ok_or(libc::EADDRNOTAVAIL)?;
                self.forget_routes_beyond(name);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// With its last address a link loses the routes whose next hop that address reached.
    fn forget_routes_beyond(&mut self, name: &str) {
        let reached: Vec<IpNetwork> =
            self.addresses.iter().filter(|(on, _)| on == name).map(|(_, address)| *address).collect();
        self.routes.retain(|route| {
            route.link.as_deref() != Some(name)
                || route.gateway.is_none_or(|gateway| reached.iter().any(|network| network.contains(gateway)))
        });
    }

    fn set_route(&mut self, route: &Route, replace: bool) -> Outcome {
        let name = route.link.as_deref().ok_or(libc::ENODEV)?;
        if !self.link(name)?.up {
            return Err(libc::ENETDOWN);
        }
        let same = |other: &Route| other.six == route.six && other.metric == route.metric;
        if self.routes.iter().any(same) && !replace {
            return Err(libc::EEXIST);
        }
        self.routes.retain(|other| !same(other));
        self.routes.insert(route.clone());
        Ok(())
    }

    fn apply_bulk(&mut self, op: &Op) -> Outcome {
        match op {
            Op::SetNeighbour { name, address, mac } => {
                self.link(name)?;
                self.neighbours.insert((name.clone(), *address), *mac);
            }
            Op::DeleteNeighbour { name, address } => {
                self.neighbours.remove(&(name.clone(), *address)).ok_or(libc::ENOENT)?;
            }
            Op::SetTunnel { name, mac, vtep } => {
                self.link(name)?;
                if *mac != FLOOD {
                    self.tunnels.retain(|(other, _)| other != mac);
                }
                self.tunnels.insert((*mac, *vtep));
            }
            Op::DeleteTunnel { mac, vtep, .. } => {
                self.tunnels.remove(&(*mac, *vtep)).then_some(()).ok_or(libc::ENOENT)?;
            }
            Op::SetForwarding { port, mac } => {
                self.link(port)?.port.ok_or(libc::EINVAL)?;
                self.forwarding.insert(*mac, (port.clone(), true));
            }
            Op::DeleteForwarding { mac, .. } => {
                self.forwarding.remove(mac).ok_or(libc::ENOENT)?;
            }
            Op::SetWay { mac, port } => {
                self.tables.get(&Family::Netdev).ok_or(libc::ENOENT)?;
                self.link(port)?;
                self.ways.insert(*mac, port.clone());
            }
            Op::DeleteWay { mac } => {
                self.ways.remove(mac).ok_or(libc::ENOENT)?;
            }
            _ => return Err(libc::EOPNOTSUPP),
        }
        Ok(())
    }
}
