//! What of a round is about the ways to other hosts.
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Converger;
use crate::model::Name;
use crate::runtime::agent::chain;
use crate::runtime::paths::Endpoint;

impl Converger {
    pub(super) fn open_paths(&mut self) -> Option<(String, String)> {
        self.spaces.ensure_paths().err().map(|error| ("paths".to_owned(), chain(&error)))
    }

    /// Lets paths be tried once what they are tried through is in place.
    pub(super) fn show_paths(&self, problems: &[(String, String)]) {
        let Some(namespace) = self.spaces.paths() else { return };
        let failed = problems.iter().find(|(object, _)| object == "paths");
        let endpoint = match failed {
            None => Endpoint::Open(namespace.clone()),
            Some((_, error)) if error.contains(super::repair::TAKEN) => {
                Endpoint::Taken(namespace.clone(), error.clone())
            }
            Some(_) => Endpoint::Failing(namespace.clone()),
        };
        self.agent.paths.show(endpoint);
    }

    /// Takes hosts out of balancing that no path leads to, and back; the networks in which that changes anything.
    pub(super) fn follow_paths(&mut self) -> BTreeSet<Name> {
        let away = self.agent.paths.away();
        if Arc::ptr_eq(&away, &self.away) {
            return BTreeSet::new();
        }
        let moved: BTreeSet<_> = away.symmetric_difference(&self.away).copied().collect();
        self.away = away;
        let mut changed = BTreeSet::new();
        for (network, view) in &self.views {
            let Some(derived) = self.derived.get_mut(network) else { continue };
            for (name, service) in &view.services {
                if service.replicas.iter().any(|replica| moved.contains(&replica.owner)) {
                    derived.set_service(network, name, Some(service), &self.away);
                    changed.insert(network.clone());
                }
            }
        }
        changed
    }
}
