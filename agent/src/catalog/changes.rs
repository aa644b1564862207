//! Which parts of the catalog a step changed.
use std::collections::BTreeSet;

use super::facts::ClaimKey;
use crate::model::{Name, NodeId};

/// What a step changed, for those who derive from the catalog. Naming something that turns out equal is harmless;
/// leaving something out is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Everything may have changed; the sets need not be complete.
    pub everything: bool,
    /// Hosts whose own fact or removal changed.
    pub hosts: BTreeSet<NodeId>,
    /// Networks of whose definition some owner's assertion changed.
    pub networks: BTreeSet<Name>,
    /// (network, service) of whose definition or replicas something changed.
    pub services: BTreeSet<(Name, Name)>,
    /// (network, attachment) that changed, and those that share an address with one that did.
    pub attachments: BTreeSet<(Name, Name)>,
    /// Claims that were made or given up.
    pub claims: BTreeSet<ClaimKey>,
}

impl Changes {
    /// For a first derivation, or whenever what changed is not known.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another step changed.
    pub fn extend(&mut self, other: Self) {
        self.everything |= other.everything;
        self.hosts.extend(other.hosts);
        self.networks.extend(other.networks);
        self.services.extend(other.services);
        self.attachments.extend(other.attachments);
        self.claims.extend(other.claims);
    }
}
