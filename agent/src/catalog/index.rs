//! Who says what of a thing, kept up to date entry by entry.
//!
//! Facts of removed nodes are not in here, so nothing that is derived sees them.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::changes::Changes;
use super::definitions::Births;
use super::entry::Stored;
use super::facts::{
    AttachmentFact, ClaimKey, HostFact, Key, NetworkDefinition, ReplicaFact, ServiceDefinition,
};
use super::names::Names;
use crate::model::{Name, NodeId};

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    names: Names,
    /// The greatest logical time seen.
    pub(super) clock: u64,
    pub(super) hosts: BTreeMap<NodeId, Arc<HostFact>>,
    pub(super) networks: BTreeMap<Name, NetworkIndex>,
    pub(super) claims: BTreeMap<ClaimKey, BTreeSet<NodeId>>,
    /// Removed node, and who says so. A removed node's own word on removals counts.
    pub(super) removed: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// (node, who says so, whether it still does): to be settled once the owner's state is whole again.
    pub(super) pending: Vec<(NodeId, NodeId, bool)>,
}

/// Everything about one network's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NetworkIndex {
    pub(super) births: Births<NetworkDefinition>,
    pub(super) services: BTreeMap<Name, ServiceIndex>,
    /// Sorted by owner; more than one owner is a conflict.
    pub(super) attachments: BTreeMap<Name, Vec<(NodeId, Arc<AttachmentFact>)>>,
    pub(super) addresses: BTreeMap<IpAddr, Vec<(Name, NodeId)>>,
    /// Attachments per owner.
    pub(super) members: BTreeMap<NodeId, usize>,
    /// Attachment to the services that have a replica on it.
    pub(super) on: BTreeMap<Name, BTreeSet<(Name, NodeId)>>,
}

/// Everything about one service's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServiceIndex {
    pub(super) births: Births<ServiceDefinition>,
    /// Sorted by attachment and owner. A list, because a map's nodes cost more than ten replicas.
    pub(super) replicas: Vec<(Name, NodeId, Arc<ReplicaFact>)>,
}

impl ServiceIndex {
    fn find(&self, attachment: &Name, owner: NodeId) -> Result<usize, usize> {
        self.replicas.binary_search_by(|(name, node, _)| (name, *node).cmp(&(attachment, owner)))
    }

    pub(super) fn replica(&self, attachment: &Name, owner: NodeId) -> Option<&Arc<ReplicaFact>> {
        let at = self.find(attachment, owner).ok()?;
        self.replicas.get(at).map(|(_, _, fact)| fact)
    }

    fn is_empty(&self) -> bool {
        self.births.is_empty() && self.replicas.is_empty()
    }
}

impl Index {
    pub(super) fn intern(&mut self, key: Key) -> Key {
        self.names.intern(key)
    }

    /// The same value, shared with an equal one that is likely to exist: another owner's assertion of the
    /// definition, another replica on the attachment.
    pub(super) fn share(&self, owner: NodeId, key: &Key, stored: Stored) -> Stored {
        match (key, &stored) {
            (Key::Network { name, born }, Stored::Network(it)) => {
                let known = self.networks.get(name).and_then(|network| network.births.equal(*born, it));
                known.map(|it| Stored::Network(Arc::clone(it)))
            }
            (Key::Service { network, name, born }, Stored::Service(it)) => {
                let known = self.service(network, name).and_then(|service| service.births.equal(*born, it));
                known.map(|it| Stored::Service(Arc::clone(it)))
            }
            (Key::Replica { network, attachment, .. }, Stored::Replica(it)) => {
                let beside = self.networks.get(network).and_then(|network| network.on.get(attachment));
                let beside = beside.into_iter().flatten().find(|(_, node)| *node == owner);
                beside
                    .and_then(|(name, _)| self.service(network, name)?.replica(attachment, owner))
                    .filter(|known| *known == it)
                    .map(|it| Stored::Replica(Arc::clone(it)))
            }
            _ => None,
        }
        .unwrap_or(stored)
    }

    pub(super) fn service(&self, network: &Name, name: &Name) -> Option<&ServiceIndex> {
        self.networks.get(network)?.services.get(name)
    }

    /// Takes note that an owner's value became another.
    pub(super) fn change(
        &mut self,
        owner: NodeId,
        key: &Key,
        old: &Stored,
        new: &Stored,
        changes: &mut Changes,
    ) {
        self.clock = self.clock.max(new.clock(key));
        if old == new {
            return;
        }
        if let Key::Removed { node } = key {
            self.pending.push((*node, owner, !new.is_gone()));
            return;
        }
        if !self.removed.contains_key(&owner) {
            self.take(owner, key, old, changes);
            self.give(owner, key, new, changes);
        }
    }

    /// Forgets a value that stood.
    pub(super) fn take(&mut self, owner: NodeId, key: &Key, old: &Stored, changes: &mut Changes) {
        if old.is_gone() {
            return;
        }
        note(owner, key, changes);
        match key {
            Key::Host => {
                self.hosts.remove(&owner);
            }
            Key::Claim(claim) => {
                if let Some(owners) = self.claims.get_mut(claim) {
                    owners.remove(&owner);
                    if owners.is_empty() {
                        self.claims.remove(claim);
                    }
                }
            }
            Key::Network { name, .. }
            | Key::Service { network: name, .. }
            | Key::Attachment { network: name, .. }
            | Key::Replica { network: name, .. } => {
                if let Some(index) = self.networks.get_mut(name) {
                    index.take(owner, key, old, changes);
                    if index.is_empty() {
                        self.networks.remove(name);
                    }
                }
            }
            Key::Removed { .. } => {}
        }
    }

    /// Takes up a value that stands from now on.
    pub(super) fn give(&mut self, owner: NodeId, key: &Key, new: &Stored, changes: &mut Changes) {
        if new.is_gone() {
            return;
        }
        note(owner, key, changes);
        match (key, new) {
            (Key::Host, Stored::Host(fact)) => {
                self.hosts.insert(owner, Arc::clone(fact));
            }
            (Key::Claim(claim), _) => {
                self.claims.entry(claim.clone()).or_default().insert(owner);
            }
            (
                Key::Network { name, .. }
                | Key::Service { network: name, .. }
                | Key::Attachment { network: name, .. }
                | Key::Replica { network: name, .. },
                _,
            ) => {
                if !self.networks.contains_key(name) {
                    self.networks.insert(name.clone(), NetworkIndex::default());
                }
                if let Some(index) = self.networks.get_mut(name) {
                    index.give(owner, key, new, changes);
                }
            }
            _ => {}
        }
    }
}

fn note(owner: NodeId, key: &Key, changes: &mut Changes) {
    match key {
        Key::Host => _ = changes.hosts.insert(owner),
        Key::Network { name, .. } => _ = changes.networks.insert(name.clone()),
        Key::Service { network, name, .. } => _ = changes.services.insert((network.clone(), name.clone())),
        Key::Attachment { network, name } => _ = changes.attachments.insert((network.clone(), name.clone())),
        Key::Replica { network, service, .. } => {
            _ = changes.services.insert((network.clone(), service.clone()));
        }
        Key::Claim(claim) => _ = changes.claims.insert(claim.clone()),
        Key::Removed { node } => _ = changes.hosts.insert(*node),
    }
}

impl NetworkIndex {
    fn is_empty(&self) -> bool {
        self.births.is_empty() && self.services.is_empty() && self.attachments.is_empty()
    }

    fn take(&mut self, owner: NodeId, key: &Key, old: &Stored, changes: &mut Changes) {
        match (key, old) {
            (Key::Network { born, .. }, _) => self.births.remove(*born, owner),
            (Key::Service { name, born, .. }, _) => {
                self.change_service(name, |service| service.births.remove(*born, owner));
            }
            (Key::Replica { service, attachment, .. }, _) => {
                self.change_service(service, |it| {
                    if let Ok(at) = it.find(attachment, owner) {
                        it.replicas.remove(at);
                    }
                });
                if let Some(on) = self.on.get_mut(attachment) {
                    on.remove(&(service.clone(), owner));
                    if on.is_empty() {
                        self.on.remove(attachment);
                    }
                }
            }
            (Key::Attachment { network, name }, Stored::Attachment(fact)) => {
                self.note_rivals(network, name, changes);
                self.take_attachment(owner, name, fact);
            }
            _ => {}
        }
    }

    fn give(&mut self, owner: NodeId, key: &Key, new: &Stored, changes: &mut Changes) {
        match (key, new) {
            (Key::Network { born, .. }, Stored::Network(it)) => self.births.insert(*born, owner, it),
            (Key::Service { name, born, .. }, Stored::Service(it)) => {
                self.change_service(name, |service| service.births.insert(*born, owner, it));
            }
            (Key::Replica { service, attachment, .. }, Stored::Replica(fact)) => {
                self.change_service(service, |it| match it.find(attachment, owner) {
                    Ok(at) => it.replicas[at].2 = Arc::clone(fact),
                    Err(at) => {
                        // A service has a few replicas; 10,000 services' room to grow would be megabytes.
                        it.replicas.reserve_exact(1);
                        it.replicas.insert(at, (attachment.clone(), owner, Arc::clone(fact)));
                    }
                });
                if !self.on.contains_key(attachment) {
                    self.on.insert(attachment.clone(), BTreeSet::new());
                }
                if let Some(on) = self.on.get_mut(attachment) {
                    on.insert((service.clone(), owner));
                }
            }
            (Key::Attachment { network, name }, Stored::Attachment(fact)) => {
                self.give_attachment(owner, name, fact);
                self.note_rivals(network, name, changes);
            }
            _ => {}
        }
    }

    fn change_service(&mut self, name: &Name, change: impl FnOnce(&mut ServiceIndex)) {
        if !self.services.contains_key(name) {
            self.services.insert(name.clone(), ServiceIndex::default());
        }
        if let Some(service) = self.services.get_mut(name) {
            change(service);
            if service.is_empty() {
                self.services.remove(name);
            }
        }
    }

    fn take_attachment(&mut self, owner: NodeId, name: &Name, fact: &AttachmentFact) {
        if let Some(owners) = self.attachments.get_mut(name) {
            owners.retain(|(node, _)| *node != owner);
            if owners.is_empty() {
                self.attachments.remove(name);
            }
        }
        for address in &fact.addresses {
            if let Some(holders) = self.addresses.get_mut(address) {
                holders.retain(|(holder, node)| (holder, *node) != (name, owner));
                if holders.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        if let Some(count) = self.members.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.members.remove(&owner);
            }
        }
    }

    fn give_attachment(&mut self, owner: NodeId, name: &Name, fact: &Arc<AttachmentFact>) {
        let owners = self.attachments.entry(name.clone()).or_default();
        let at = owners.partition_point(|(node, _)| *node < owner);
        owners.reserve_exact(1);
        owners.insert(at, (owner, Arc::clone(fact)));
        for address in &fact.addresses {
            let holders = self.addresses.entry(*address).or_default();
            let holder = (name.clone(), owner);
            if let Err(at) = holders.binary_search(&holder) {
                holders.reserve_exact(1);
                holders.insert(at, holder);
            }
        }
        *self.members.entry(owner).or_default() += 1;
    }

    /// Whoever shares an address with any attachment of this name, since another of them may stand now.
    fn note_rivals(&self, network: &Name, name: &Name, changes: &mut Changes) {
        let facts = self.attachments.get(name).into_iter().flatten();
        for address in facts.flat_map(|(_, fact)| &fact.addresses) {
            for (holder, _) in self.addresses.get(address).into_iter().flatten() {
                changes.attachments.insert((network.clone(), holder.clone()));
            }
        }
    }
}
