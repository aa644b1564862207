//! A view derived from nothing takes over what the one before it had equal.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::network::NetworkView;
use super::{View, ViewChanges};
use crate::model::Name;

/// Puts `before`'s `Arc`s into `view` wherever the values are equal, and tells what differs.
pub(super) fn adopt(view: &mut View, before: &View) -> ViewChanges {
    let mut out = ViewChanges::default();
    let nothing = BTreeMap::new();
    for (name, network) in &mut view.networks {
        out.work.attachments += network.attachments.len();
        out.work.services += network.services.len();
        let Some(old) = before.networks.get(name) else {
            out.networks.insert(name.clone());
            out.conflicts |= !network.conflicts.is_empty();
            out.attachments.extend(differing(name, &network.attachments, &nothing));
            out.services.extend(differing(name, &network.services, &BTreeMap::new()));
            continue;
        };
        if network == old {
            *network = Arc::clone(old);
            continue;
        }
        out.conflicts |= network.conflicts != old.conflicts;
        if head(network) != head(old) {
            out.networks.insert(name.clone());
        }
        let network = Arc::make_mut(network);
        keep(&mut network.attachments, &old.attachments);
        keep(&mut network.services, &old.services);
        out.attachments.extend(differing(name, &network.attachments, &old.attachments));
        out.services.extend(differing(name, &network.services, &old.services));
    }
    let gone: Vec<_> = before.networks.iter().filter(|(name, _)| !view.networks.contains_key(name)).collect();
    for (name, old) in gone {
        out.networks.insert(name.clone());
        out.conflicts |= !old.conflicts.is_empty();
        out.attachments.extend(old.attachments.keys().map(|it| (name.clone(), it.clone())));
        out.services.extend(old.services.keys().map(|it| (name.clone(), it.clone())));
    }
    out
}

/// What of a network counts as a change of the network itself.
fn head(network: &NetworkView) -> impl PartialEq {
    (network.born, Arc::clone(&network.definition), network.mtu, network.local, network.members.clone())
}

fn keep<T: PartialEq>(new: &mut BTreeMap<Name, Arc<T>>, old: &BTreeMap<Name, Arc<T>>) {
    for (name, value) in new {
        if let Some(old) = old.get(name).filter(|old| *old == value) {
            *value = Arc::clone(old);
        }
    }
}

/// Names whose values are not one and the same.
fn differing<T>(
    network: &Name,
    new: &BTreeMap<Name, Arc<T>>,
    old: &BTreeMap<Name, Arc<T>>,
) -> BTreeSet<(Name, Name)> {
    let same = |name: &Name, value: &Arc<T>| old.get(name).is_some_and(|old| Arc::ptr_eq(old, value));
    let changed = new.iter().filter(|(name, value)| !same(name, value)).map(|(name, _)| name);
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changed.chain(gone).map(|name| (network.clone(), name.clone())).collect()
}
