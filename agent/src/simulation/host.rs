//! One host: the product's own state, what it keeps over a crash, and the loops that its agent runs.
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::cluster::{Cluster, Sabotage};
use super::disk::Disk;
use crate::catalog::Changes;
use crate::catalog::facts::ClaimKey;
use crate::claims::{Entry, Place, Request::Withdraw};
use crate::cluster::liveness::{Beat, Liveness};
use crate::cluster::{FAILURE_AFTER, GOSSIP_INTERVAL};
use crate::model::{Head, Name, NodeId};
use crate::runtime::claiming::{Books, Saved, steps};
use crate::runtime::local::LocalAttachment;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::peers;
use crate::runtime::records::Loading;
use crate::runtime::state::{Batch, State, Unwritten};
use crate::runtime::verbs::addressing::{self, Grants};
use crate::runtime::verbs::detach;
use crate::store::Writes;

/// Heartbeats are told and looked at twice as seldom as in the product, which is what most of a run's time goes into.
pub(super) const SLOWER: u64 = 2;

pub(super) struct Host {
    pub(super) node: NodeId,
    pub(super) disk: Disk,
    pub(super) running: Option<Running>,
    /// What it knew when it went down: its facts, promises and claims still count.
    pub(super) down: Option<State>,
    /// The machine is down, not only the agent.
    pub(super) machine_down: bool,
    pub(super) incarnation: u64,
    sabotage: Sabotage,
    /// Left the cluster, or was removed from it, and does not come back.
    pub(super) ended: bool,
}

/// What a crash takes.
pub(super) struct Running {
    pub(super) state: State,
    pub(super) liveness: Liveness,
    pub(super) beats: BTreeMap<NodeId, Beat>,
    pub(super) began: Instant,
    /// Wakes the pushers, in the order in which they wait: a `watch` wakes them in an order of its own.
    pub(super) own_head: Rc<Notify>,
    pub(super) told: Head,
    /// Tasks that push to a live host, by its node and start.
    pub(super) pushers: BTreeMap<(NodeId, u64), u64>,
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Host {
    pub(super) fn new(node: NodeId, sabotage: Sabotage) -> Self {
        Self {
            node,
            sabotage,
            disk: Disk::default(),
            running: None,
            down: None,
            machine_down: true,
            incarnation: 0,
            ended: false,
        }
    }

    /// What it knows, or knew when it went down.
    pub(super) fn state(&self) -> Option<&State> {
        self.running.as_ref().map(|running| &running.state).or(self.down.as_ref())
    }

    pub(super) fn take_beats(&mut self, beats: &BTreeMap<NodeId, Beat>) {
        let Some(running) = &mut self.running else { return };
        for (node, beat) in beats.iter().filter(|(node, _)| **node != self.node) {
            let known = running.beats.entry(*node).or_insert(*beat);
            *known = (*known).max(*beat);
        }
    }

    /// Takes a step that may write; then wakes who pushes.
    pub(super) fn step<R>(
        &mut self,
        step: impl FnOnce(&mut State, &mut dyn FnMut(&Writes) -> Result<(), crate::store::StoreError>) -> R,
    ) -> Option<R> {
        let Self { running: Some(running), disk, .. } = self else { return None };
        let done = step(&mut running.state, &mut |writes| disk.commit(writes));
        let durable = running.state.durable;
        if std::mem::replace(&mut running.told, durable) != durable {
            running.own_head.notify_waiters();
        }
        Some(done)
    }

    /// Reads what was kept and begins an incarnation.
    fn boot(&mut self, now: Instant) {
        let mut writes = Writes::default();
        self.incarnation = self.disk.meta::<u64>("incarnation").unwrap_or_default() + 1;
        writes.put_meta("incarnation", &self.incarnation).unwrap();
        self.disk.commit(&writes).unwrap();
        let mut books = Books::of(self.disk.meta::<Saved>("claims").unwrap_or_default(), self.node);
        if self.sabotage == Sabotage::PromisesNotKept {
            forget_promises(&mut books, self.node);
        }
        let mut loading = Loading::default();
        self.disk.facts(|row| loading.visit(row));
        let (mut catalog, unreadable) = loading.finish();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        catalog.restart(self.node, self.incarnation);
        catalog.raise_clock(self.disk.meta("clock").unwrap_or_default());
        let resting: Vec<(Name, std::net::IpAddr)> = self.disk.meta("freed").unwrap_or_default();
        let local = self.disk.local::<LocalAttachment>();
        let state = State {
            suspended: self.disk.meta("suspended").unwrap_or_default(),
            local: local
                .into_iter()
                .map(|it| ((it.network.clone(), it.name.clone()), it))
                .collect::<BTreeMap<_, _>>()
                .into(),
            freed: resting.into_iter().map(|place| (place, now)).collect(),
            granted: Grants::of(self.disk.meta("granted").unwrap_or_default(), now),
            ..State::new(catalog, books, self.node)
        };
        let beats = [(self.node, Beat { incarnation: self.incarnation, heartbeat: 0 })].into();
        let gossip = GOSSIP_INTERVAL * u32::try_from(SLOWER).unwrap();
        let liveness = Liveness::new(FAILURE_AFTER, gossip);
        let (own_head, told, pushers) = (Rc::default(), state.durable, BTreeMap::new());
        self.running = Some(Running { state, liveness, beats, began: now, own_head, told, pushers });
        self.down = None;
    }
}

impl Cluster {
    /// Takes a step on a host; `None` if it is down.
    pub(super) fn with<R>(
        &self,
        at: usize,
        look: impl FnOnce(&mut Running, NodeId, Instant) -> R,
    ) -> Option<R> {
        let host = &mut *self.hosts[at].borrow_mut();
        let node = host.node;
        host.running.as_mut().map(|running| look(running, node, self.clock.now()))
    }

    /// Writes own facts.
    pub(super) fn write(&self, at: usize, batch: Batch, extra: Writes) -> Option<Result<Head, Unwritten>> {
        let (now, host) = (self.clock.now(), &mut *self.hosts[at].borrow_mut());
        let node = host.node;
        host.step(|state, commit| state.write(node, now, batch, extra, commit))
    }

    /// Starts a host's agent, with the machine if that was down.
    pub(super) fn start(self: &Rc<Self>, at: usize) {
        let now = self.clock.now();
        {
            let host = &mut *self.hosts[at].borrow_mut();
            host.disk.full = false;
            host.boot(now);
            let rebooted = std::mem::take(&mut host.machine_down);
            let node = host.node;
            let records: Vec<LocalAttachment> = host.step(|state, _| sweepable(state, rebooted)).unwrap();
            let swept = host.step(|state, commit| {
                let (batch, extra) = detach::withdrawal(state, node, now, &records).unwrap();
                state.write(node, now, batch, extra, commit).unwrap();
                unplumbed(state, commit);
                state.derive(node, now, &Changes::everything());
                state.reassert_all(node, now, commit).unwrap();
            });
            debug_assert!(swept.is_some());
        }
        self.note(|| format!("host {at} starts"));
        self.clock.spawn(at, Rc::clone(self).beat(at));
        self.clock.spawn(at, Rc::clone(self).watch(at));
        self.clock.spawn(at, Rc::clone(self).sync(at));
        self.clock.spawn(at, Rc::clone(self).save(at));
        self.clock.spawn(at, Rc::clone(self).keep_claims(at));
        self.clock.spawn(at, Rc::clone(self).operate(at));
    }

    /// Ends a host's agent where it is.
    pub(super) fn crash(&self, at: usize, machine: bool) {
        self.note(|| format!("host {at} goes down{}", if machine { ", the machine too" } else { "" }));
        self.clock.kill(at);
        let host = &mut *self.hosts[at].borrow_mut();
        host.machine_down = machine;
        if let Some(running) = host.running.take() {
            host.down = Some(running.state);
        }
    }

    /// Answers another host; `None` if it cannot.
    pub(super) fn answer(&self, from: usize, at: usize, request: Request) -> Option<Answer> {
        let (now, asker) = (self.clock.now(), self.hosts[from].borrow().node);
        let host = &mut *self.hosts[at].borrow_mut();
        let node = host.node;
        host.step(|state, commit| match request {
            Request::Push(update) => Some(Answer::Have(state.receive(node, now, update, commit))),
            Request::Sync { heads, .. } => Some(Answer::Updates(peers::updates_for(state, &heads, None))),
            Request::Claim(request) => steps::answer(state, request, commit).ok().map(Answer::Claim),
            Request::RemovalTable { member } => {
                Some(Answer::RemovalTable(steps::removal_table(state, member)))
            }
            Request::Grant { network, address } => {
                let place = (&network, address);
                Some(Answer::Grant(addressing::give(state, node, now, place, asker, commit)))
            }
            _ => None,
        })
        .flatten()
    }
}

/// What others were promised was answered before it was on disk.
fn forget_promises(books: &mut Books, me: NodeId) {
    for Entry { key, claimant, attempt } in books.promises.entries().collect::<Vec<_>>() {
        if claimant != me && !matches!(key, ClaimKey::Node { .. }) {
            books.promises.handle(Withdraw { key, claimant, attempt }, &|_: &Name, _| Place::Unknown);
        }
    }
}

/// Attachments that a start takes out: those that a crash left half made, and after a reboot all.
fn sweepable(state: &State, rebooted: bool) -> Vec<LocalAttachment> {
    let gone = |record: &&LocalAttachment| rebooted || !record.announced || record.detaching;
    state.local.values().filter(gone).cloned().collect()
}

/// Forgets rows of attachments of which the kernel holds nothing any more.
pub(super) fn unplumbed(
    state: &mut State,
    commit: &mut dyn FnMut(&Writes) -> Result<(), crate::store::StoreError>,
) {
    let mut writes = Writes::default();
    for record in std::mem::take(&mut state.detaching) {
        writes.put_local::<LocalAttachment>(&record.key(), None).unwrap();
    }
    if !writes.local.is_empty() {
        // If the disk refuses, the next start finds it detaching.
        drop(commit(&writes));
    }
}
