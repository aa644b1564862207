//! The namespaces of a round: opened before anything is written into them, shown to others, let go of in the end.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Converger;
use crate::model::Name;
use crate::runtime::agent::chain;
use crate::runtime::events::lock;
use crate::runtime::local::LocalAttachment;
use crate::runtime::spaces::{Opened, SpaceError};
use crate::store::Writes;

impl Converger {
    pub(super) fn open_spaces(&mut self, present: &BTreeSet<Name>, synced: bool) -> Vec<(String, String)> {
        let reopened = self.spaces.reopen(&self.agent).into_iter();
        let mut problems: Vec<_> = reopened.map(|(object, error)| (object, chain(&error))).collect();
        for network in present {
            if let Err(error) = self.spaces.ensure_network(network) {
                problems.push((format!("network/{network}"), chain(&error)));
            }
        }
        for place in 0..self.local.len() {
            let record = &self.local[place];
            if self.spaces.containers.contains_key(&record.cookie) {
                // Attached again before it could be let go of.
                if !lock(&self.agent.namespaces).contains_key(&record.cookie) {
                    let cookie = record.cookie;
                    drop(lock(&self.agent.opened).remove(&cookie));
                    self.due.insert(cookie);
                    self.publish_handle(cookie);
                }
                continue;
            }
            let zone = self.zone(record.cookie, synced);
            let record = record.clone();
            match self.spaces.ensure_container(&self.agent, &record, zone) {
                Ok(()) => {
                    self.due.insert(record.cookie);
                    self.publish_handle(record.cookie);
                }
                Err(SpaceError::Gone) => {
                    self.unburied.insert(record.cookie);
                    self.agent.changed.notify_one();
                }
                Err(error) => problems
                    .push((format!("network/{}/attachment/{}", record.network, record.name), chain(&error))),
            }
        }
        problems
    }

    /// A holder that has taken another one's place gets what that one had.
    pub(super) fn keep_again(&mut self) -> Option<(String, String)> {
        let holder = self.agent.holder_pid.load(Ordering::Relaxed);
        if holder == self.held_by || holder == 0 {
            return None;
        }
        match self.spaces.keep_again() {
            Ok(()) => {
                self.held_by = holder;
                None
            }
            Err(error) => Some(("host/holder".to_owned(), chain(&error))),
        }
    }

    fn publish_handle(&self, cookie: u64) {
        let resolver = self.spaces.containers.get(&cookie).and_then(|it| it.resolver.as_ref());
        if let Some(resolver) = resolver {
            lock(&self.agent.zones).insert(cookie, resolver.zone.clone());
        }
        if let Some(container) = self.spaces.containers.get(&cookie) {
            let opened = Opened {
                namespace: container.namespace.clone(),
                balancer: Arc::clone(&container.balancer),
                resolver_port: container.resolver.as_ref().map(|it| it.port),
            };
            lock(&self.agent.namespaces).insert(cookie, opened);
            self.agent.opened_revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Lets go of every handle that others may use.
    pub(super) fn retract_handle(&self, cookie: u64) {
        lock(&self.agent.zones).remove(&cookie);
        lock(&self.agent.namespaces).remove(&cookie);
        self.agent.opened_revision.send_modify(|revision| *revision += 1);
    }

    /// All that one namespace may ask about.
    fn zone(&self, cookie: u64, synced: bool) -> dns::Zone {
        dns::Zone {
            domain: self.agent.settings.load().domain.as_str().into(),
            networks: self.names(cookie).map(Arc::clone).collect(),
            forward: self.forwards(cookie),
            synced,
            beside: lock(&self.agent.docker.beside).get(&cookie).cloned(),
        }
    }

    /// The names of the networks that a namespace is on.
    fn names(&self, cookie: u64) -> impl Iterator<Item = &Arc<dns::Network>> {
        self.local.through(cookie).filter_map(|record| Some(&self.derived.get(&record.network)?.names))
    }

    /// Whether what a namespace asks may be asked of others.
    fn forwards(&self, cookie: u64) -> bool {
        let mut views = self.local.through(cookie).filter_map(|record| self.views.get(&record.network));
        views.any(|view| !view.definition.internal)
    }

    pub(super) fn publish(&self, synced: bool) {
        for (cookie, container) in &self.spaces.containers {
            let Some(resolver) = &container.resolver else { continue };
            let shown = resolver.zone.load();
            let same = shown.synced == synced
                && shown.beside.as_ref() == lock(&self.agent.docker.beside).get(cookie)
                && shown.forward == self.forwards(*cookie)
                && shown.networks.iter().map(Arc::as_ptr).eq(self.names(*cookie).map(Arc::as_ptr));
            if !same {
                resolver.zone.publish(self.zone(*cookie, synced));
            }
        }
    }

    /// The rows of detached attachments go once the kernel holds nothing of them.
    pub(super) fn forget_detached(&self) {
        let mut state = lock(&self.agent.state);
        let open = |row: &LocalAttachment| self.spaces.containers.contains_key(&row.cookie);
        let (stays, goes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.detaching).into_iter().partition(|row| {
                // Still open although nothing is attached through it: its table could not be removed yet.
                open(row) && !state.local.values().any(|record| record.cookie == row.cookie)
            });
        state.detaching = stays;
        let mut writes = Writes::default();
        for row in goes {
            // The place may have been taken again meanwhile.
            if !state.local.contains_key(&(row.network.clone(), row.name.clone())) {
                writes.local.push((row.key(), None));
            }
        }
        drop(state);
        if !writes.local.is_empty()
            && let Err(error) = self.agent.store.commit(&writes, false)
        {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// Lets go of the namespaces that nothing is attached through any more. What cannot be let go of is tried again with
    /// the next round.
    pub(super) async fn close_spaces(
        &mut self,
        present: &BTreeSet<Name>,
        problems: &mut Vec<(String, String)>,
    ) {
        if let Err(error) = self.spaces.release_again() {
            problems.push(("host/holder".to_owned(), chain(&error)));
        }
        let wanted: BTreeSet<u64> = self.local.cookies().collect();
        let gone: Vec<u64> =
            self.spaces.containers.keys().copied().filter(|cookie| !wanted.contains(cookie)).collect();
        for cookie in gone {
            self.retract_handle(cookie);
            self.due.remove(&cookie);
            self.sweeps.remove(&cookie);
            self.covered.remove(&cookie);
            self.balancer_problems.remove(&cookie);
            lock(&self.agent.docker.beside).remove(&cookie);
            if let Err(error) = self.spaces.drop_container(cookie).await {
                problems.push((format!("namespace/{cookie}"), chain(&error)));
            }
        }
        let unused: Vec<Name> =
            self.links.keys().filter(|network| !present.contains(*network)).cloned().collect();
        // A network that is only not known yet keeps its namespace: facts come after a restart.
        for network in unused.iter().filter(|network| self.local.on(network).next().is_none()) {
            if let Err(error) = self.spaces.drop_network(network) {
                problems.push(("host/holder".to_owned(), chain(&error)));
            }
            self.links.remove(network);
            self.save_links();
        }
    }
}
