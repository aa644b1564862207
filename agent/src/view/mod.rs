//! What this host derives from the catalog: names that stand, attachments to forward to, services to balance.
//!
//! A view is a plain value. [`View::update`] brings it up to date by looking at what changed only, and equals what
//! [`View::build`] derives from nothing. What did not change keeps its `Arc`, so that consumers compare pointers.
//!
//! Nothing here does I/O or reads a clock.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod adopt;
mod attachment;
mod conflict;
mod network;
pub mod scale;
mod service;
#[cfg(test)]
mod tests;

pub use attachment::AttachmentView;
pub use conflict::Conflict;
pub use network::{MTU_SIX_MIN, NetworkView, OVERHEAD_V4, OVERHEAD_V6, inner_mtu};
pub use service::{ReplicaState, ReplicaView, ServiceView, WEIGHT_MAX};

use crate::catalog::facts::Key;
use crate::catalog::{Catalog, Changes};
use crate::model::{Name, NodeId};
use network::{Dirty, Refresh, Sources};

/// The hosts that do not answer, called suspended. Their replicas leave names and VIPs; all else of theirs stays.
pub type Liveness = BTreeSet<NodeId>;

/// All networks as this host sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    this: Option<NodeId>,
    liveness: Liveness,
    networks: BTreeMap<Name, Arc<NetworkView>>,
}

/// Exactly what differs between a view and the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewChanges {
    /// Networks that came, went, or whose definition, MTU or members changed.
    pub networks: BTreeSet<Name>,
    /// (network, attachment) that came, went or changed.
    pub attachments: BTreeSet<(Name, Name)>,
    /// (network, service) that came, went or changed.
    pub services: BTreeSet<(Name, Name)>,
    /// Whether the conflicts changed.
    pub conflicts: bool,
    /// What it took to find out.
    pub work: Work,
}

/// How much was derived again, equal or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Attachments looked at.
    pub attachments: usize,
    /// Services looked at.
    pub services: usize,
}

impl ViewChanges {
    /// Whether the view is what it was.
    pub fn is_empty(&self) -> bool {
        *self == Self { work: self.work, ..Self::default() }
    }

    /// Adds what a later step changed.
    pub fn merge(&mut self, later: Self) {
        self.networks.extend(later.networks);
        self.attachments.extend(later.attachments);
        self.services.extend(later.services);
        self.conflicts |= later.conflicts;
        self.work.attachments += later.work.attachments;
        self.work.services += later.work.services;
    }
}

impl View {
    /// Derives everything from nothing.
    pub fn build(catalog: &Catalog, liveness: &Liveness, this: NodeId) -> Self {
        let mut view = Self { this: Some(this), liveness: liveness.clone(), networks: BTreeMap::new() };
        let names =
            catalog.networks().map(|name| (name.clone(), Dirty { definition: true, ..Dirty::default() }));
        let dirty = names.collect();
        view.refresh(&Sources { catalog, liveness, this }, dirty, &mut ViewChanges::default());
        view
    }

    /// Derives everything again, keeping what is equal.
    pub fn rebuild(&mut self, catalog: &Catalog, liveness: &Liveness, this: NodeId) -> ViewChanges {
        let before = std::mem::replace(self, Self::build(catalog, liveness, this));
        adopt::adopt(self, &before)
    }

    /// Brings the view up to date after `changes` of the catalog, all since the last update together, or of the
    /// liveness, which need not be named.
    pub fn update(
        &mut self,
        catalog: &Catalog,
        liveness: &Liveness,
        this: NodeId,
        changes: &Changes,
    ) -> ViewChanges {
        if changes.everything || self.this != Some(this) {
            return self.rebuild(catalog, liveness, this);
        }
        let mut dirty: BTreeMap<Name, Dirty> = BTreeMap::new();
        for name in &changes.networks {
            of(&mut dirty, name).definition = true;
        }
        for (network, name) in &changes.attachments {
            of(&mut dirty, network).attachments.insert(name.clone());
        }
        for (network, name) in &changes.services {
            of(&mut dirty, network).services.insert(name.clone());
        }
        for node in &changes.hosts {
            mark_host(catalog, *node, false, &mut dirty);
        }
        if changes.hosts.contains(&this) {
            self.networks.keys().for_each(|name| of(&mut dirty, name).members = true);
        }
        for node in self.liveness.symmetric_difference(liveness) {
            mark_host(catalog, *node, true, &mut dirty);
        }
        if self.liveness != *liveness {
            self.liveness = liveness.clone();
        }
        let mut out = ViewChanges::default();
        self.refresh(&Sources { catalog, liveness, this }, dirty, &mut out);
        out
    }

    /// All networks by name.
    pub fn networks(&self) -> &BTreeMap<Name, Arc<NetworkView>> {
        &self.networks
    }

    /// One network.
    pub fn network(&self, name: &Name) -> Option<&Arc<NetworkView>> {
        self.networks.get(name)
    }

    /// One service.
    pub fn service(&self, network: &Name, name: &Name) -> Option<&Arc<ServiceView>> {
        self.networks.get(network)?.services.get(name)
    }

    /// One attachment.
    pub fn attachment(&self, network: &Name, name: &Name) -> Option<&Arc<AttachmentView>> {
        self.networks.get(network)?.attachments.get(name)
    }

    /// Everything that was declared and is not heeded.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.networks.values().flat_map(|network| network.conflicts())
    }

    /// The liveness it was derived from.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    fn refresh(&mut self, sources: &Sources<'_>, dirty: BTreeMap<Name, Dirty>, out: &mut ViewChanges) {
        for (name, mut dirty) in dirty {
            let known = self.networks.contains_key(&name);
            // Without a definition before and none since, nothing of the network shows.
            let record = if dirty.definition { sources.catalog.network(&name) } else { None };
            match (&record, known) {
                (None, true) if dirty.definition => {
                    self.drop_network(&name, out);
                    continue;
                }
                (None, false) => continue,
                (None, true) | (Some(_), true) => {}
                (Some(record), false) => {
                    let view = NetworkView::new(name.clone(), record);
                    dirty.everything_of(sources.catalog, &view);
                    out.networks.insert(name.clone());
                    self.networks.insert(name.clone(), Arc::new(view));
                }
            }
            if let Some(view) = self.networks.get_mut(&name) {
                Refresh { sources, view, out }.run(record.as_ref(), dirty);
            }
        }
    }

    fn drop_network(&mut self, name: &Name, out: &mut ViewChanges) {
        let Some(view) = self.networks.remove(name) else { return };
        out.networks.insert(name.clone());
        out.attachments.extend(view.attachments.keys().map(|it| (name.clone(), it.clone())));
        out.services.extend(view.services.keys().map(|it| (name.clone(), it.clone())));
        out.conflicts |= !view.conflicts.is_empty();
    }
}

fn of<'a>(dirty: &'a mut BTreeMap<Name, Dirty>, network: &Name) -> &'a mut Dirty {
    dirty.entry(network.clone()).or_default()
}

/// Marks all that shows a host's own fact (its underlay address and MTU), or its liveness.
fn mark_host(catalog: &Catalog, node: NodeId, liveness: bool, dirty: &mut BTreeMap<Name, Dirty>) {
    let Some(state) = catalog.owner(node) else { return };
    for key in state.keys() {
        match key {
            Key::Attachment { network, name } if !liveness => {
                let dirty = of(dirty, network);
                dirty.members = true;
                dirty.attachments.insert(name.clone());
            }
            Key::Replica { network, service, .. } if liveness => {
                of(dirty, network).services.insert(service.clone());
            }
            _ => {}
        }
    }
}
