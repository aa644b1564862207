//! What an operation makes of a namespace, in memory: the reconciler's mirror of the kernel, and the fake kernel.
//! `tests/parity.rs` holds it against the real one.
mod entries;
mod links;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use netfilter::Family;

use crate::fence::port_chain_name;
use crate::op::Peer;
use crate::{Link, LinkKind, Mac, Observed, Op, Space, Vxlan};

/// The MAC of entries that flood.
pub(crate) const FLOOD: Mac = Mac([0; 6]);
/// MTU that a link has when nobody asks for another.
const DEFAULT_MTU: u32 = 1500;
/// Below this a link has no IPv6 (RFC 8200, section 5).
const MTU_SIX_MIN: u32 = 1280;

/// Namespaces by name, as last observed and since changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The namespaces.
    pub spaces: BTreeMap<Space, Observed>,
    hidden: BTreeMap<Space, Hidden>,
}

/// What decides how the kernel goes on and is not among what is observed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hidden {
    /// IPv4 addresses that came when their subnet was on the link already: they go with the one that was first
    /// (unless promote_secondaries is set, which is not assumed).
    secondary: BTreeSet<(String, IpNetwork)>,
    /// Bridges whose MTU was set after they were made: the others follow the smallest of their ports'.
    fixed_mtu: BTreeSet<String>,
    /// The other ends of veth pairs: indexes are unique per namespace only.
    other_ends: BTreeMap<String, (Space, String)>,
    /// The highest index that was given: none is given twice.
    last_index: u32,
}

/// One namespace, to be changed.
struct Inside<'a> {
    seen: &'a mut Observed,
    hidden: &'a mut Hidden,
}

type Outcome = Result<(), i32>;

impl World {
    /// Does to this world what the kernel does to its own. The error is an errno; the world is then unchanged.
    pub fn apply(&mut self, space: &Space, op: &Op) -> Outcome {
        match op {
            Op::AddVxlan { link_space, name, vni, local, port, mtu } => {
                let settings = Vxlan { vni: *vni, local: Some(*local), port: *port, learning: false };
                self.inside(space)?;
                self.refuse_taken_vni(*vni, *port)?;
                self.add_link(link_space, name, LinkKind::Vxlan(settings), *mtu, None)
            }
            Op::AddVeth { name, mtu, peer } => self.add_veth(space, name, *mtu, peer),
            Op::AddBridge { name, mac, mtu } => {
                self.add_link(space, name, LinkKind::Bridge { snooping: true }, *mtu, Some(*mac))
            }
            Op::DeleteLink { name } => self.delete_link(space, name),
            Op::DeleteLinks { names } => {
                let links = &self.spaces.get(space).ok_or(libc::ENOENT)?.links;
                if !names.iter().all(|name| links.contains_key(name)) {
                    return Err(libc::ENODEV);
                }
                names.iter().try_for_each(|name| self.delete_link(space, name))
            }
            _ => self.inside(space)?.apply(op),
        }
    }

    fn inside(&mut self, space: &Space) -> Result<Inside<'_>, i32> {
        let seen = self.spaces.get_mut(space).ok_or(libc::ENOENT)?;
        Ok(Inside { seen, hidden: self.hidden.entry(space.clone()).or_default() })
    }

    /// All hosts' namespaces of one world would share the kernel's check, which is per namespace of the socket;
    /// a world has one host, so this is the kernel's.
    fn refuse_taken_vni(&self, vni: u32, port: u16) -> Outcome {
        let taken = self.spaces.values().flat_map(|observed| observed.links.values()).any(
            |link| matches!(&link.kind, LinkKind::Vxlan(other) if other.vni == vni && other.port == port),
        );
        if taken { Err(libc::EEXIST) } else { Ok(()) }
    }

    fn add_link(&mut self, space: &Space, name: &str, kind: LinkKind, mtu: u32, mac: Option<Mac>) -> Outcome {
        let Inside { seen, hidden } = self.inside(space)?;
        if seen.links.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let highest = seen.links.values().map(|link| link.index).max().unwrap_or(0);
        hidden.last_index = hidden.last_index.max(highest).saturating_add(1);
        let link = Link { mac, ..fresh_link(hidden.last_index, kind, mtu) };
        seen.links.insert(name.to_owned(), link);
        Ok(())
    }

    fn add_veth(&mut self, space: &Space, name: &str, mtu: u32, peer: &Peer) -> Outcome {
        if self.inside(&peer.space)?.seen.links.contains_key(&peer.name) {
            return Err(libc::EEXIST);
        }
        self.add_link(space, name, LinkKind::Veth, mtu, None)?;
        self.add_link(&peer.space, &peer.name, LinkKind::Veth, mtu, peer.mac)?;
        let near = (space.clone(), name.to_owned());
        let far = (peer.space.clone(), peer.name.clone());
        self.join(&near, &far)?;
        self.join(&far, &near)
    }

    fn join(&mut self, (space, name): &(Space, String), other: &(Space, String)) -> Outcome {
        let index = self.inside(&other.0)?.link(&other.1)?.index;
        let mut inside = self.inside(space)?;
        inside.link(name)?.peer_index = Some(index);
        inside.hidden.other_ends.insert(name.clone(), other.clone());
        Ok(())
    }

    /// Takes the indexes of veth pairs between two namespaces from the ends in `seen`, which has been observed, over to
    /// the ends in `other`, of which only what was done is known. An end that has another name by now is known by its
    /// alias. False if one was not found.
    pub(crate) fn join_ends(&mut self, seen: &Space, other: &Space) -> bool {
        let ends = self.hidden.get(seen).map(|hidden| &hidden.other_ends);
        let ends = ends.into_iter().flatten().filter(|(_, (there, _))| there == other);
        let ends: Vec<(String, String)> = ends.map(|(near, (_, far))| (near.clone(), far.clone())).collect();
        let mut joined = true;
        for (near, far) in ends {
            let Some(alias) = self.spaces.get(other).and_then(|other| other.links.get(&far)) else {
                continue;
            };
            let alias = alias.alias.clone();
            let links = self.spaces.get(seen).map(|seen| &seen.links);
            let named = links.and_then(|links| links.get(&near));
            let found = named.or_else(|| {
                links?
                    .values()
                    .find(|link| link.kind == LinkKind::Veth && alias.is_some() && link.alias == alias)
            });
            let Some((index, peer_index)) = found.and_then(|it| Some((it.index, it.peer_index?))) else {
                joined = false;
                continue;
            };
            if let Some(far) = self.spaces.get_mut(other).and_then(|other| other.links.get_mut(&far)) {
                (far.index, far.peer_index) = (peer_index, Some(index));
            }
        }
        joined
    }

    /// A device that has just been made may have no chain, whatever is known of one of its name (before kernel 6.16 it went
    /// with the last device), and no way leads to it.
    pub(crate) fn forget_fence(&mut self, space: &Space, device: &str) {
        let Some(seen) = self.spaces.get_mut(space) else { return };
        if let Some(table) = seen.tables.get_mut(&Family::Netdev) {
            table.chains.remove(&port_chain_name(device));
        }
        seen.ways.retain(|_, port| port != device);
    }

    /// Forgets what is behind namespaces and links that are there no more.
    pub(crate) fn sweep(&mut self, space: &Space) {
        self.hidden.retain(|space, _| self.spaces.contains_key(space));
        if let (Some(hidden), Some(seen)) = (self.hidden.get_mut(space), self.spaces.get(space)) {
            hidden.other_ends.retain(|name, _| seen.links.contains_key(name));
        }
    }

    fn delete_link(&mut self, space: &Space, name: &str) -> Outcome {
        let known = self.inside(space)?.hidden.other_ends.get(name).cloned();
        let link = self.inside(space)?.remove_link(name)?;
        if link.kind != LinkKind::Veth {
            return Ok(());
        }
        // Of several candidates in an observed world it is the one that was made with it, or has the same alias.
        let is_other_end = |other: &Link| {
            other.kind == LinkKind::Veth
                && Some(other.index) == link.peer_index
                && other.peer_index == Some(link.index)
        };
        let mut ends = Vec::new();
        for (there, observed) in &self.spaces {
            for (name, other) in observed.links.iter().filter(|(_, other)| is_other_end(other)) {
                let end = (there.clone(), name.clone());
                ends.push((known.as_ref() != Some(&end), other.alias != link.alias, end));
            }
        }
        if let Some((_, _, (there, name))) = ends.into_iter().min() {
            self.inside(&there)?.remove_link(&name)?;
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
        takes_six: false,
        offload: true,
        controller: None,
        port: None,
        peer_index: None,
    }
}

impl Inside<'_> {
    /// Operations that touch this namespace alone.
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::SetSysctl { key, value } => {
                *self.seen.sysctls.get_mut(key).ok_or(libc::ENOENT)? = value.clone();
                Ok(())
            }
            Op::SetTable { .. }
            | Op::SetChain { .. }
            | Op::DeleteChain { .. }
            | Op::ChangeElements { .. }
            | Op::SetWay { .. }
            | Op::DeleteWay { .. }
            | Op::DeleteTable { .. }
            | Op::SetForwardException { .. }
            | Op::DeleteForwardException { .. } => self.apply_to_tables(op),
            Op::AddAddress { .. }
            | Op::DeleteAddress { .. }
            | Op::SetRoute { .. }
            | Op::DeleteRoute { .. }
            | Op::SetNeighbour { .. }
            | Op::DeleteNeighbour { .. }
            | Op::SetTunnel { .. }
            | Op::DeleteTunnel { .. }
            | Op::SetForwarding { .. }
            | Op::DeleteForwarding { .. } => self.apply_to_entries(op),
            _ => self.apply_to_link(op),
        }
    }
}
