//! The running agent: the one place where the catalog, its view and this host's own records live.
//!
//! Verbs and peers change it through [`Agent::write`] and [`Agent::receive`]; the converge loop
//! makes the kernel hold what it says. No lock here is held over an await.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::api::types::{Failure, FailureKind};
use crate::catalog::facts::HostFact;
use crate::catalog::{Catalog, Changes, Update};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::model::{Head, Name, NodeId, Stamp};
use crate::netns::{Namespace, Resolved};
use crate::runtime::events::{Events, lock};
use crate::runtime::local::LocalAttachment;
use crate::runtime::metrics::Metrics;
use crate::runtime::paths::Shown;
use crate::runtime::peers::Settled;
use crate::runtime::probing::Target;
use crate::runtime::problems::Problems;
use crate::runtime::spaces::Opened;
use crate::runtime::state::Unwritten;
use crate::runtime::touched::Touched;
use crate::store::{Store, Writes};

pub use crate::runtime::state::{Batch, State};

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
    /// Up to where somebody waits for this host's facts to be in force elsewhere: pushers do not rest before it.
    pub awaited: watch::Sender<Head>,
    /// What was known a while ago.
    pub settled: Mutex<Settled>,
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
    pub namespaces: Mutex<BTreeMap<u64, Opened>>,
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
    /// The ways to other hosts.
    pub paths: Shown,
    /// What is in force in this host's namespaces and is to be tried there.
    pub probed: watch::Sender<Arc<Vec<Arc<Target>>>>,
    /// When the converge loop last ended a round.
    pub rounded: Mutex<Instant>,
    /// The service manager was told that this host is ready.
    pub told_ready: AtomicBool,
    /// How many times longer than they are all periods between hosts are: 1, but where more hosts are measured than a
    /// machine carries.
    pub slowed: u32,
    /// What Docker's calls say to who looks at its networks.
    pub docker: crate::docker::Signals,
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

    fn write_locked(&self, state: &mut State, batch: Batch, extra: Writes) -> Result<Head, Failure> {
        let written = state
            .write(self.identity.node, Instant::now(), batch, extra, &mut |it| self.store.commit(it, true));
        self.wake(state);
        written.map_err(|error| self.unwritten(&error))
    }

    fn unwritten(&self, error: &Unwritten) -> Failure {
        match error {
            Unwritten::Fact(error) => refused(chain(error), &[]),
            Unwritten::Store(error) => {
                let directory = self.settings.load().state_dir.display().to_string();
                refused(chain(error), &[&format!("check space and permissions of {directory}")])
            }
        }
    }

    /// Wakes whoever acts on what was derived and whoever tells others of what is durable.
    fn wake(&self, state: &State) {
        let derived = |seen: &mut u64| std::mem::replace(seen, state.derived) != state.derived;
        if self.revision.send_if_modified(derived) {
            self.changed.notify_one();
        }
        self.own_head.send_if_modified(|told| std::mem::replace(told, state.durable) != state.durable);
    }

    /// Takes another host's facts in; returns how far its facts are known now.
    pub fn receive(&self, update: Update) -> Head {
        let mut state = lock(&self.state);
        // Few updates make this host write. To make room for a blocking call with each would cost more than the update.
        let mut commit = |it: &Writes| tokio::task::block_in_place(|| self.store.commit(it, true));
        let head = state.receive(self.identity.node, Instant::now(), update, &mut commit);
        self.wake(&state);
        head
    }

    /// Follows liveness: the hosts that are suspended now.
    pub fn set_suspended(&self, suspended: BTreeSet<NodeId>) {
        let mut state = lock(&self.state);
        let moved = state.suspend(self.identity.node, Instant::now(), suspended);
        if moved.is_empty() {
            return;
        }
        for node in moved.iter().filter(|node| !state.catalog.is_removed(**node)) {
            let name = host_name(&state.catalog, *node);
            let suspended = state.suspended.contains(node);
            self.metrics.suspensions.inc_by(u64::from(suspended));
            let word = if suspended { "is suspended" } else { "is back" };
            self.events.record("host", format!("{name} {word}"), "liveness");
        }
        let mut writes = Writes::default();
        let saved = writes
            .put_meta("suspended", &state.suspended)
            .and_then(|()| tokio::task::block_in_place(|| self.store.commit(&writes, true)));
        if let Err(error) = saved {
            tracing::warn!("{}", chain(&error));
        }
        self.wake(&state);
    }

    /// Derives everything anew, at the start.
    pub fn derive_all(&self) {
        let mut state = lock(&self.state);
        state.derive(self.identity.node, Instant::now(), &Changes::everything());
        self.wake(&state);
    }

    /// Asserts what this host uses, after a start.
    pub fn reassert_all(&self) {
        let asserted = tokio::task::block_in_place(|| {
            let mut state = lock(&self.state);
            let mut commit = |it: &Writes| self.store.commit(it, true);
            let asserted = state.reassert_all(self.identity.node, Instant::now(), &mut commit);
            self.wake(&state);
            asserted
        });
        if let Err(error) = asserted {
            tracing::error!("re-asserting definitions: {}", chain(&error));
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
            .map_err(|error| self.unwritten(&Unwritten::Store(error)))?;
        state.local.insert((record.network.clone(), record.name.clone()), record.clone());
        Ok(())
    }

    /// The next stamp: later than everything this host has seen.
    pub fn stamp(&self) -> Stamp {
        lock(&self.state).catalog.next_stamp(self.identity.node)
    }

    /// Whether this host was removed from its cluster, as it knows itself or was told.
    pub fn is_removed(&self) -> bool {
        let told = self.cluster.get().is_some_and(|cluster| cluster.removed_by().is_some());
        told || self.read(|state| state.catalog.is_removed(self.identity.node))
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
