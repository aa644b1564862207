//! What an owner has to write so that no definition dies with the host that made it, and no removal is forgotten.
use super::definitions::{Births, Revised};
use super::facts::{Key, NetworkDefinition, ServiceDefinition, Value};
use super::{Catalog, Changes};
use crate::model::{Name, NodeId, Stamp};

impl Catalog {
    /// What `owner` must write after `changes`: definitions of which it asserts an older revision (removals included),
    /// those it uses without asserting them, and removals of nodes. Empty once written.
    ///
    /// A host uses a network where it has an attachment, and all live births of a service where it has a replica.
    /// A node that is itself removed writes nothing.
    pub fn reassertions(&self, owner: NodeId, changes: &Changes) -> Vec<(Key, Value)> {
        let mut writes = Vec::new();
        if self.is_removed(owner) {
            return writes;
        }
        if changes.everything {
            self.removed().for_each(|node| self.reassert_removal(owner, node, &mut writes));
            for network in self.network_names() {
                self.reassert_network(owner, network, &mut writes);
                let services = self.network_index(network).into_iter().flat_map(|it| it.services.keys());
                services.for_each(|service| self.reassert_service(owner, network, service, &mut writes));
            }
            return writes;
        }
        changes.hosts.iter().for_each(|node| self.reassert_removal(owner, *node, &mut writes));
        // An attachment may be the first use of its network.
        let mut networks: Vec<&Name> = changes.attachments.iter().map(|(network, _)| network).collect();
        networks.extend(&changes.networks);
        networks.sort_unstable();
        networks.dedup();
        networks.into_iter().for_each(|network| self.reassert_network(owner, network, &mut writes));
        for (network, service) in &changes.services {
            self.reassert_service(owner, network, service, &mut writes);
        }
        writes
    }

    /// Definitions that only `node` asserts, to be written by whoever removes it.
    pub fn sole_assertions(&self, node: NodeId) -> Vec<(Key, Value)> {
        let Some(state) = self.owner(node) else { return Vec::new() };
        let alone = |key: &&Key| self.asserters(key).is_some_and(|owners| owners == [node]);
        state.keys().filter(alone).filter_map(|key| Some((key.clone(), state.get(key)?))).collect()
    }

    /// Definitions of a removed node's that nobody asserts any more, of those that only it asserted. Removals are among
    /// them: a host that was away may know the definition as it stood, and takes it for an orphan, too.
    pub fn orphaned(&self, sole: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
        let definition = |value: &Value| matches!(value, Value::Network(_) | Value::Service(_));
        let orphaned = |key: &Key| self.asserters(key).is_none_or(|owners| owners.is_empty());
        sole.into_iter().filter(|(key, value)| definition(value) && orphaned(key)).collect()
    }

    /// An owner's assertions of removals that every asserter has taken over: it may withdraw them once they are old
    /// enough that no host can come back with the definition unremoved.
    pub fn settled_removals(&self, owner: NodeId) -> Vec<Key> {
        let Some(state) = self.owner(owner) else { return Vec::new() };
        let settled = |key: &&Key| match key {
            Key::Network { name, born } => {
                self.network_index(name).is_some_and(|it| settled(&it.births, *born))
            }
            Key::Service { network, name, born } => {
                self.service_index(network, name).is_some_and(|it| settled(&it.births, *born))
            }
            _ => false,
        };
        state.keys().filter(settled).cloned().collect()
    }

    /// Who asserts a definition; `None` if the key is of something else.
    fn asserters(&self, key: &Key) -> Option<Vec<NodeId>> {
        match key {
            Key::Network { name, born } => Some(asserters(&self.network_index(name)?.births, *born)),
            Key::Service { network, name, born } => {
                Some(asserters(&self.service_index(network, name)?.births, *born))
            }
            _ => None,
        }
    }

    fn reassert_removal(&self, owner: NodeId, node: NodeId, writes: &mut Vec<(Key, Value)>) {
        let asserters = self.index.removed.get(&node);
        if asserters.is_some_and(|asserters| !asserters.contains(&owner)) {
            writes.push((Key::Removed { node }, Value::Removed));
        }
    }

    fn reassert_network(&self, owner: NodeId, name: &Name, writes: &mut Vec<(Key, Value)>) {
        let Some(index) = self.network_index(name) else { return };
        let used =
            index.births.live().next().filter(|_| index.members.contains_key(&owner)).map(|(born, _)| born);
        for (born, definition) in owed(&index.births, owner, |born| used == Some(born)) {
            let key = Key::Network { name: name.clone(), born };
            writes.push((key, Value::Network(NetworkDefinition::clone(definition))));
        }
    }

    fn reassert_service(&self, owner: NodeId, network: &Name, name: &Name, writes: &mut Vec<(Key, Value)>) {
        let Some(index) = self.service_index(network, name) else { return };
        let used = index.replicas.iter().any(|(_, node, _)| *node == owner);
        for (born, definition) in owed(&index.births, owner, |_| used) {
            let key = Key::Service { network: network.clone(), name: name.clone(), born };
            writes.push((key, Value::Service(ServiceDefinition::clone(definition))));
        }
    }
}

/// Births of which the owner asserts an older revision, or none although it uses them.
fn owed<T: Revised>(
    births: &Births<T>,
    owner: NodeId,
    uses: impl Fn(Stamp) -> bool,
) -> impl Iterator<Item = (Stamp, &T)> {
    births.iter().filter_map(move |birth| {
        let merged = birth.merged()?;
        let owes = match birth.asserted_by(owner) {
            Some(own) => own.revision() < merged.revision(),
            None => !merged.removed() && uses(birth.born),
        };
        owes.then_some((birth.born, merged.as_ref()))
    })
}

fn asserters<T: Revised>(births: &Births<T>, born: Stamp) -> Vec<NodeId> {
    let birth = births.iter().find(|birth| birth.born == born);
    birth.into_iter().flat_map(|birth| &birth.assertions).map(|(owner, _)| *owner).collect()
}

fn settled<T: Revised>(births: &Births<T>, born: Stamp) -> bool {
    let birth = births.iter().find(|birth| birth.born == born);
    birth.is_some_and(|birth| birth.assertions.iter().all(|(_, definition)| definition.removed()))
}
