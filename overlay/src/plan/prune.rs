//! What is ours and wanted no more.
use std::collections::{BTreeMap, BTreeSet};

use super::{Plan, Planner};
use crate::op::Step;
use crate::{Link, LinkKind, Object, Observed, Op, Space};

impl Planner<'_> {
    pub(super) fn prune(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        for (space, observed) in self.observed {
            for (name, link) in &observed.links {
                let unseen = link.alias.as_ref().is_some_and(|alias| self.unseen.contains(alias));
                if is_ours(space, link) && !unseen && !wanted.contains(&(space.clone(), name.clone())) {
                    let object = leftover(name, link);
                    self.remove(&object, space, Op::DeleteLink { name: name.clone() });
                }
            }
        }
        self.wanted = wanted;
        self.once_per_pair();
        self.prune_port_chains();
        self.prune_host();
    }

    /// A veth pair goes as a whole when one end does: of two ends that would both be deleted one is left out.
    fn once_per_pair(&mut self) {
        let mut seen = BTreeSet::new();
        let observed = self.observed;
        self.plan.removals.retain(|step| {
            let Op::DeleteLink { name } = &step.op else { return true };
            let link = observed.get(&step.space).and_then(|observed| observed.links.get(name));
            let Some((link, peer)) = link.and_then(|link| Some((link, link.peer_index?))) else {
                return true;
            };
            let pair = (link.index.min(peer), link.index.max(peer), link.alias.clone());
            seen.insert(pair)
        });
    }

    fn prune_host(&mut self) {
        let Some(observed) = self.observed.get(&Space::Host) else { return };
        if self.desired.is_empty() {
            for family in observed.tables.keys() {
                self.remove(&Object::Host, &Space::Host, Op::DeleteTable { family: *family });
            }
        }
        for family in observed.forward_hook.exceptions.iter().copied() {
            if !self.desired.networks.values().any(|network| network.leaves_by(family)) {
                self.remove(&Object::Host, &Space::Host, Op::DeleteForwardException { family });
            }
        }
    }
}

/// By its tag; in a network's own namespace, where nobody else makes links, by its kind too, so that what an
/// agent left that died before tagging goes as well.
fn is_ours(space: &Space, link: &Link) -> bool {
    let made_here = matches!(link.kind, LinkKind::Veth | LinkKind::Vxlan(_) | LinkKind::Bridge { .. });
    link.is_ours() || (matches!(space, Space::Network(_) | Space::Paths) && made_here)
}

pub(super) fn leftover(name: &str, link: &Link) -> Object {
    Object::Leftover(link.alias.clone().unwrap_or_else(|| name.to_owned()))
}

/// Everything of ours away; sysctls back to what they were.
pub(crate) fn teardown(
    observed: &BTreeMap<Space, Observed>,
    restore: &BTreeMap<String, String>,
) -> Vec<Step> {
    let host = crate::Host {
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        vxlan_port: 0,
        former_ports: BTreeSet::new(),
        other_ports: BTreeMap::new(),
        guarded_ports: BTreeSet::new(),
        peers: BTreeSet::new(),
        link_pool: std::net::Ipv4Addr::UNSPECIFIED.into(),
        offload: true,
    };
    let nothing = crate::Desired { host, networks: BTreeMap::new(), paths: None };
    let Plan { mut removals, .. } = super::plan(&nothing, observed);
    for (space, observed) in observed.iter().filter(|(space, _)| matches!(space, Space::Network(_))) {
        for family in observed.tables.keys() {
            let op = Op::DeleteTable { family: *family };
            removals.push(Step { object: Object::Host, space: space.clone(), op });
        }
    }
    let now = observed.get(&Space::Host).map(|host| &host.sysctls);
    for (key, value) in restore {
        if now.and_then(|now| now.get(key)).is_some_and(|now| now != value) {
            let op = Op::SetSysctl { key: key.clone(), value: value.clone() };
            removals.push(Step { object: Object::Host, space: Space::Host, op });
        }
    }
    removals
}
