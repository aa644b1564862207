//! This host's attachments as the loop takes them: copied when they have changed, and found by namespace and network.
use std::collections::BTreeMap;
use std::ops::Deref;

use crate::model::Name;
use crate::runtime::local::LocalAttachment;
use crate::runtime::revised::Revised;

/// All of them, in the order of attachment.
#[derive(Debug, Default)]
pub(super) struct Local {
    records: Vec<LocalAttachment>,
    /// Places in `records`.
    by_cookie: BTreeMap<u64, Vec<usize>>,
    by_network: BTreeMap<Name, Vec<usize>>,
    /// Which state of the records this is.
    revision: Option<u64>,
}

impl Deref for Local {
    type Target = [LocalAttachment];

    fn deref(&self) -> &[LocalAttachment] {
        &self.records
    }
}

impl Local {
    /// Brings it up to date.
    pub(super) fn follow(&mut self, all: &Revised<BTreeMap<(Name, Name), LocalAttachment>>) {
        if self.revision == Some(all.revision()) {
            return;
        }
        *self = Self { revision: Some(all.revision()), ..Self::default() };
        self.records.extend(all.values().cloned());
        self.records.sort_by_key(|record| record.order);
        for (place, record) in self.records.iter().enumerate() {
            self.by_cookie.entry(record.cookie).or_default().push(place);
            self.by_network.entry(record.network.clone()).or_default().push(place);
        }
    }

    /// Differs from an earlier answer if the records may differ.
    pub(super) fn revision(&self) -> u64 {
        self.revision.unwrap_or_default()
    }

    /// The namespaces that anything is attached through.
    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.by_cookie.keys().copied()
    }

    /// The networks that anything is attached to.
    pub(super) fn networks(&self) -> impl Iterator<Item = &Name> {
        self.by_network.keys()
    }

    /// What is attached through a namespace.
    pub(super) fn through(&self, cookie: u64) -> impl Iterator<Item = &LocalAttachment> {
        self.at(self.by_cookie.get(&cookie))
    }

    /// What is attached to a network.
    pub(super) fn on(&self, network: &Name) -> impl Iterator<Item = &LocalAttachment> {
        self.at(self.by_network.get(network))
    }

    fn at(&self, places: Option<&Vec<usize>>) -> impl Iterator<Item = &LocalAttachment> {
        places.into_iter().flatten().filter_map(|place| self.records.get(*place))
    }
}
