//! The running agent: the one place where the catalog, its view and this host's own records live.
//!
//! Verbs and peers change it through [`Agent::write`] and [`Agent::receive`]; the converge loop
//! makes the kernel hold what it says. No lock here is held over an await.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::api::types::{Failure, FailureKind};
use crate::catalog::facts::{HostFact, Key, Value};
use crate::catalog::{Catalog, Changes, Outcome, Update};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::model::{Head, Name, NodeId, Stamp};
use crate::netns::{Namespace, Resolved};
use crate::runtime::claiming::Books;
use crate::runtime::events::{Events, lock};
use crate::runtime::health::Unfollowed;
use crate::runtime::local::LocalAttachment;
use crate::runtime::metrics::Metrics;
use crate::runtime::problems::Problems;
use crate::runtime::records;
use crate::runtime::touched::Touched;
use crate::runtime::verbs::addressing::{self, Grants, Vips};
use crate::runtime::verbs::leave;
use crate::store::{Store, Writes};
use crate::view::{View, ViewChanges};

/// Who this host is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Drawn once, kept in the state directory.
    pub node: NodeId,
    /// Count of starts, persisted before anything is said.
    pub incarnation: u64,
    /// Name for people.
    pub name: String,
    /// Cluster id of the key file, as text.
    pub cluster: String,
    /// Underlay address: VTEP and gossip.
    pub address: IpAddr,
    /// This boot of the kernel.
    pub boot_id: String,
}

/// What is known and what follows from it. Behind one lock.
#[derive(Debug)]
pub struct State {
    /// Everybody's facts.
    pub catalog: Catalog,
    /// What this host derives from them.
    pub view: View,
    /// What changed in the view since the converge loop last took it.
    pub pending: ViewChanges,
    /// When the oldest pending change came.
    pub pending_since: Option<Instant>,
    /// Hosts whose heartbeat stopped.
    pub suspended: BTreeSet<NodeId>,
    /// Facts of others that are not on disk yet.
    pub unsaved: Writes,
    /// Claims of this host and promises to others.
    pub books: Books,
    /// Attachments of this host by (network, name).
    pub local: BTreeMap<(Name, Name), LocalAttachment>,
    /// Withdrawn attachments whose rows are to be forgotten once the kernel holds nothing of them.
    pub detaching: Vec<LocalAttachment>,
    /// Counts changes of `local`.
    pub local_revision: u64,
    /// When this host freed an address of a network.
    pub freed: BTreeMap<(Name, IpAddr), Instant>,
    /// Addresses of this host's blocks that it granted to others.
    pub granted: Grants,
    /// Which service has which VIP.
    pub vips: Vips,
    /// Whether the catalog has been complete since the start.
    pub synced: bool,
    /// Services whose replicas' checks are to be looked at again.
    pub unfollowed: Unfollowed,
}

/// The agent.
pub struct Agent {
    /// Who this host is.
    pub identity: Identity,
    /// Settings in force; some change on SIGHUP.
    pub settings: ArcSwap<Settings>,
    /// What is kept over restarts.
    pub store: Store,
    /// What is known.
    pub state: Mutex<State>,
    /// Wakes the converge loop.
    pub changed: Notify,
    /// Namespaces in which somebody changed something.
    pub touched: Arc<Touched>,
    /// This host's own head: wakes the pushers.
    pub own_head: watch::Sender<Head>,
    /// Heads that are in force in this host's kernel.
    pub applied: watch::Sender<Arc<BTreeMap<NodeId, Head>>>,
    /// The sealed transport; set once it has started.
    pub cluster: OnceLock<Cluster>,
    /// What fails.
    pub problems: Mutex<Problems>,
    /// What happened.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// One verb at a time decides and writes; waiting for other hosts happens outside.
    pub verbs: tokio::sync::Mutex<()>,
    /// Counts what was derived: wakes those who follow definitions.
    pub revision: watch::Sender<u64>,
    /// The local revision that is in force in this host's kernel.
    pub applied_local: watch::Sender<u64>,
    /// Namespaces found by an attach, on their way to the converge loop, by cookie.
    pub opened: Mutex<BTreeMap<u64, Resolved>>,
    /// Namespaces that are open, by cookie; none stays here after its end.
    pub namespaces: Mutex<BTreeMap<u64, Namespace>>,
    /// Counts changes of `namespaces`.
    pub opened_revision: watch::Sender<u64>,
    /// What resolvers answer from, by cookie.
    pub zones: Mutex<BTreeMap<u64, dns::ZoneHandle>>,
    /// Names of attachments' links inside their namespaces.
    pub interfaces: Mutex<BTreeMap<(Name, Name), String>>,
    /// The host's own namespace.
    pub host_namespace: Namespace,
    /// Counts of all resolvers.
    pub dns_stats: Arc<dns::Stats>,
    /// The holder's process; 0 once this agent has ended it.
    pub holder_pid: AtomicU32,
    /// When this agent started.
    pub started: Instant,
    /// Asks the converge loop to remove everything; answered with what was removed.
    pub leaving: mpsc::Sender<oneshot::Sender<Vec<String>>>,
    /// Ends the process: SIGTERM (kernel state stays) or after `leave`.
    pub stop: watch::Sender<bool>,
    /// When the converge loop last ended a round.
    pub rounded: Mutex<Instant>,
    /// Why this host cannot be the member that it was to be: the agent ends with it.
    pub unfit: OnceLock<Failure>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A refusal: what is wrong and where, then what to do.
pub fn refused(message: impl Into<String>, hints: &[&str]) -> Failure {
    failure(FailureKind::Refused, message, hints)
}

/// An incomplete or ambiguous request.
pub fn usage(message: impl Into<String>, hints: &[&str]) -> Failure {
    failure(FailureKind::Usage, message, hints)
}

fn failure(kind: FailureKind, message: impl Into<String>, hints: &[&str]) -> Failure {
    Failure { kind, message: message.into(), hints: hints.iter().map(|hint| (*hint).to_owned()).collect() }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Own facts to write; `None` removes.
pub type Batch = Vec<(Key, Option<Value>)>;

impl Agent {
    /// Looks at what is known.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&lock(&self.state))
    }

    /// Writes own facts: durable first, then known, derived and on their way to the others.
    /// `extra` becomes durable in the same transaction. Returns the head that includes them.
    ///
    /// # Errors
    /// When a fact is too large or the disk refuses; nothing has changed then.
    pub fn write(&self, batch: Batch, extra: Writes) -> Result<Head, Failure> {
        tokio::task::block_in_place(|| self.write_blocking(batch, extra))
    }

    /// Decides and writes under one lock, so that nothing comes between what was seen and what is written.
    ///
    /// # Errors
    /// Those of `decide`, and those of [`Agent::write`]; nothing has changed then.
    pub fn update(
        &self,
        decide: impl FnOnce(&mut State) -> Result<(Batch, Writes), Failure>,
    ) -> Result<Head, Failure> {
        tokio::task::block_in_place(|| {
            let mut state = lock(&self.state);
            let (batch, extra) = decide(&mut state)?;
            self.write_locked(&mut state, batch, extra)
        })
    }

    fn write_blocking(&self, batch: Batch, extra: Writes) -> Result<Head, Failure> {
        let mut state = lock(&self.state);
        self.write_locked(&mut state, batch, extra)
    }

    fn write_locked(&self, state: &mut State, batch: Batch, mut extra: Writes) -> Result<Head, Failure> {
        let node = self.identity.node;
        let before: Batch =
            batch.iter().map(|(key, _)| (key.clone(), state.catalog.value(node, key))).collect();
        let (delta, changes) =
            state.catalog.write(node, batch).map_err(|error| refused(chain(&error), &[]))?;
        if delta.is_empty() && extra.meta.is_empty() && extra.local.is_empty() {
            return Ok(state.catalog.head(node));
        }
        addressing::follow(state, node, &changes);
        addressing::put_freed(state, &mut extra).map_err(|error| refused(chain(&error), &[]))?;
        records::append(&mut extra, records::of_update(&Update::Delta(delta)));
        records::put_head(&state.catalog, node, &mut extra);
        // Stamps must not repeat after a restart, even if nothing that carries them is left.
        extra.put_meta("clock", &state.catalog.clock()).map_err(|error| refused(chain(&error), &[]))?;
        if let Err(error) = self.store.commit(&extra, true) {
            // What is not on disk must not be spoken of: take it back under a newer version.
            match state.catalog.write(node, before) {
                Ok((_, changes)) => drop(addressing::follow(state, node, &changes)),
                Err(error) => {
                    tracing::error!("taking back a change that could not be saved: {}", chain(&error));
                }
            }
            let hint = format!("check space and permissions of {}", self.settings.load().state_dir.display());
            return Err(refused(chain(&error), &[&hint]));
        }
        self.derive(state, &changes);
        let owed = state.catalog.reassertions(node, &changes);
        if !owed.is_empty() {
            // What is used is asserted, too, so that it does not die with the host that made it.
            let batch = owed.into_iter().map(|(key, value)| (key, Some(value))).collect();
            return self.write_locked(state, batch, Writes::default());
        }
        let head = state.catalog.head(node);
        self.own_head.send_replace(head);
        Ok(head)
    }

    /// Takes another host's facts in; returns how far its facts are known now.
    pub fn receive(&self, update: Update) -> Head {
        tokio::task::block_in_place(|| self.receive_blocking(update))
    }

    fn receive_blocking(&self, update: Update) -> Head {
        let mut state = lock(&self.state);
        let owner = records::owner_of(&update);
        if owner == self.identity.node {
            return state.catalog.head(owner);
        }
        let rows = records::of_update(&update);
        let at_stake = leave::at_stake(&state.catalog, &update);
        let applied = state.catalog.apply_update(update);
        if addressing::follow(&mut state, self.identity.node, &applied.changes) {
            let mut freed = Writes::default();
            if let Err(error) = addressing::put_freed(&state, &mut freed) {
                tracing::error!("{}", chain(&error));
            }
            records::append(&mut state.unsaved, freed);
        }
        if applied.outcome == Outcome::Current {
            records::append(&mut state.unsaved, rows);
            let State { catalog, unsaved, .. } = &mut *state;
            records::put_head(catalog, owner, unsaved);
        }
        self.derive(&mut state, &applied.changes);
        let mut owed = state.catalog.reassertions(self.identity.node, &applied.changes);
        owed.extend(leave::taken_over(&state.catalog, &state.suspended, self.identity.node, at_stake));
        if !owed.is_empty() {
            let batch = owed.into_iter().map(|(key, value)| (key, Some(value))).collect();
            if let Err(error) = self.write_locked(&mut state, batch, Writes::default()) {
                tracing::error!("re-asserting definitions: {}", error.message);
            }
        }
        state.catalog.head(owner)
    }

    /// Follows liveness: the hosts that are suspended now.
    pub fn set_suspended(&self, suspended: BTreeSet<NodeId>) {
        let mut state = lock(&self.state);
        if state.suspended == suspended {
            return;
        }
        let moved: Vec<NodeId> = state.suspended.symmetric_difference(&suspended).copied().collect();
        for node in moved.iter().filter(|node| !state.catalog.is_removed(**node)) {
            let name = host_name(&state.catalog, *node);
            let word = if suspended.contains(node) { "is suspended" } else { "is back" };
            self.events.record("host", format!("{name} {word}"), "liveness");
        }
        state.suspended = suspended;
        let mut writes = Writes::default();
        let saved = writes
            .put_meta("suspended", &state.suspended)
            .and_then(|()| tokio::task::block_in_place(|| self.store.commit(&writes, true)));
        if let Err(error) = saved {
            tracing::warn!("{}", chain(&error));
        }
        let mut changes = Changes::default();
        changes.hosts.extend(moved);
        self.derive(&mut state, &changes);
    }

    /// Brings the view up to date and wakes whoever acts on it.
    fn derive(&self, state: &mut State, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        let State { catalog, view, suspended, pending, pending_since, unfollowed, .. } = state;
        unfollowed.note(catalog, self.identity.node, changes);
        let derived = view.update(catalog, suspended, self.identity.node, changes);
        pending.merge(derived);
        pending_since.get_or_insert_with(Instant::now);
        self.revision.send_modify(|revision| *revision += 1);
        self.changed.notify_one();
    }

    /// Derives everything anew, at the start.
    pub fn derive_all(&self) {
        let mut state = lock(&self.state);
        self.derive(&mut state, &Changes::everything());
    }

    /// Asserts what this host uses, after a start.
    pub fn reassert_all(&self) {
        let owed = self.read(|state| state.catalog.reassertions(self.identity.node, &Changes::everything()));
        let batch: Batch = owed.into_iter().map(|(key, value)| (key, Some(value))).collect();
        if !batch.is_empty()
            && let Err(failure) = self.write(batch, Writes::default())
        {
            tracing::error!("re-asserting definitions: {}", failure.message);
        }
    }

    /// Writes a local record down and takes it into account.
    ///
    /// # Errors
    /// When the store refuses; nothing has changed then.
    pub fn put_local(&self, record: &LocalAttachment) -> Result<(), Failure> {
        let mut writes = Writes::default();
        let mut state = lock(&self.state);
        writes
            .put_local(&record.key(), Some(record))
            .and_then(|()| self.store.commit(&writes, true))
            .map_err(|error| refused(chain(&error), &[]))?;
        state.local.insert((record.network.clone(), record.name.clone()), record.clone());
        Ok(())
    }

    /// The next stamp: later than everything this host has seen.
    pub fn stamp(&self) -> Stamp {
        lock(&self.state).catalog.next_stamp(self.identity.node)
    }

    /// A host's name for people.
    pub fn host_name(&self, node: NodeId) -> String {
        self.read(|state| host_name(&state.catalog, node))
    }

    /// Waits until this host's kernel holds `owner`'s facts up to `head`; false when it takes longer.
    pub async fn wait_applied(&self, owner: NodeId, head: Head, limit: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| applied.get(&owner).is_some_and(|at| *at >= head));
        tokio::time::timeout(limit, reached).await.is_ok_and(|seen| seen.is_ok())
    }

    /// The live hosts besides this one.
    pub fn live_peers(&self) -> Vec<(NodeId, HostFact)> {
        self.read(|state| {
            state
                .catalog
                .hosts()
                .filter(|(node, _)| *node != self.identity.node && !state.suspended.contains(node))
                .map(|(node, fact)| (node, HostFact::clone(fact)))
                .collect()
        })
    }
}

/// A host's name for people, or its id while it has not said it.
pub fn host_name(catalog: &Catalog, node: NodeId) -> String {
    catalog.host(node).map_or_else(|| node.to_string(), |fact| fact.name.clone())
}
