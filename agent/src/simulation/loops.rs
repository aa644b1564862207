//! The loops of an agent that carry facts and heartbeats: as `runtime::peers` and the transport's gossip.
use std::rc::Rc;

use super::cluster::{Cluster, Sabotage};
use super::host::{Running, SLOWER, milliseconds};
use crate::catalog::Update;
use crate::cluster::{FAILURE_AFTER, GOSSIP_INTERVAL};
use crate::model::{Head, NodeId};
use crate::runtime::messages::{Answer, Request};
use crate::runtime::verbs::addressing;
use crate::runtime::{peers, records};
use crate::store::Writes;

/// Hosts that are told in one round of gossip.
const TOLD: usize = 3;

impl Cluster {
    /// Tells its heartbeat, with those that it knows.
    pub(super) async fn beat(self: Rc<Self>, at: usize) {
        loop {
            let own = {
                let host = &mut *self.hosts[at].borrow_mut();
                let Some(running) = &mut host.running else { return };
                let beat = running.beats.get_mut(&host.node);
                beat.map(|beat| beat.heartbeat += 1)
            };
            debug_assert!(own.is_some());
            for _ in 0..TOLD {
                let to = self.random.borrow_mut().below(self.hosts.len());
                if to != at {
                    self.gossip(at, to, true);
                }
            }
            self.clock.sleep(milliseconds(GOSSIP_INTERVAL) * SLOWER).await;
        }
    }

    /// Follows liveness and keeps a pusher for each live host.
    pub(super) async fn watch(self: Rc<Self>, at: usize) {
        let asks_anew = self.sabotage != Sabotage::NoSync;
        loop {
            let changed = self.with(at, |running, node, now| {
                let Running { state, liveness, beats, began, pushers, .. } = running;
                let others = beats.iter().filter(|(of, _)| **of != node);
                liveness.observe(now, others.map(|(of, beat)| (*of, *beat)));
                let live = |node| liveness.state(node).map(|(live, _)| live);
                let late = now.saturating_duration_since(*began) > FAILURE_AFTER;
                let suspended = peers::suspended(state, node, live, late);
                let moved = state.suspend(node, now, suspended);
                // One for each start of a host, as the product's.
                let wanted = beats.iter().filter(|(of, _)| **of != node && live(**of) == Some(true));
                let wanted: Vec<(NodeId, u64)> =
                    wanted.map(|(of, beat)| (*of, if asks_anew { beat.incarnation } else { 0 })).collect();
                let ended: Vec<u64> =
                    pushers.extract_if(.., |of, _| !wanted.contains(of)).map(|it| it.1).collect();
                let begun: Vec<(NodeId, u64)> =
                    wanted.into_iter().filter(|of| !pushers.contains_key(of)).collect();
                (moved, ended, begun)
            });
            let Some((moved, ended, begun)) = changed else { return };
            if !moved.is_empty() {
                self.keep_suspended(at);
            }
            ended.into_iter().for_each(|task| self.clock.abort(task));
            for of in begun {
                let task = self.clock.spawn(at, Rc::clone(&self).push(at, of.0));
                self.with(at, |running, _, _| running.pushers.insert(of, task));
            }
            self.clock.sleep(125 * SLOWER).await;
        }
    }

    fn keep_suspended(&self, at: usize) {
        let kept = self.hosts[at].borrow_mut().step(|state, commit| {
            let mut writes = Writes::default();
            writes.put_meta("suspended", &state.suspended).unwrap();
            commit(&writes)
        });
        // A disk that is full keeps an older set; that is only where the next start begins.
        drop(kept);
    }

    /// Brings one host up to this host's head, again and again; as `peers::push`.
    async fn push(self: Rc<Self>, at: usize, to: NodeId) {
        let Some((node, own_head)) = self.with(at, |running, node, _| (node, Rc::clone(&running.own_head)))
        else {
            return;
        };
        let mut known = None;
        let mut retry = peers::RETRY_MIN;
        loop {
            let changed = own_head.notified();
            let Some(head) = self.with(at, |running, _, _| running.told) else { return };
            if known != Some(head) {
                let update = match known {
                    Some(known) => self
                        .with(at, |running, _, _| running.state.catalog.delta_since(node, known))
                        .flatten(),
                    None => Some(peers::greeting(node, head)),
                };
                let Some(update) = update else {
                    known = Some(head);
                    continue;
                };
                let limit = milliseconds(peers::TRANSFER_LIMIT);
                if let Some(Answer::Have(have)) = self.ask(at, to, Request::Push(update), limit).await {
                    let progress = known != Some(have.min(head));
                    known = Some(have.min(head));
                    if progress {
                        retry = peers::RETRY_MIN;
                        continue;
                    }
                }
                self.clock.sleep(milliseconds(retry)).await;
                retry = (retry * 2).min(peers::RETRY_MAX);
                continue;
            }
            changed.await;
        }
    }

    /// Compares heads with a live host picked at random; as `peers::sync`.
    pub(super) async fn sync(self: Rc<Self>, at: usize) {
        let mut silent = None;
        loop {
            let live = self.with(at, |running, node, now| {
                let late = now.saturating_duration_since(running.began) > FAILURE_AFTER;
                let known = running.beats.keys().copied().filter(|of| *of != node);
                let live = known.filter(|of| running.liveness.state(*of).is_some_and(|(live, _)| live));
                (live.collect::<Vec<_>>(), late)
            });
            let Some((mut live, late)) = live else { return };
            peers::spare(&mut live, silent);
            let from = self.random.borrow_mut().pick(&live).copied();
            silent = None;
            let complete = match from {
                Some(from) => {
                    let answered = self.pull(at, from).await;
                    silent = answered.is_none().then_some(from);
                    answered.unwrap_or(false)
                }
                None => late,
            };
            let synced = self.with(at, |running, _, _| {
                running.state.synced |= complete;
                running.state.synced
            });
            let pause_ms = if synced == Some(true) { milliseconds(peers::SYNC_INTERVAL) } else { 100 };
            self.clock.sleep(pause_ms).await;
        }
    }

    /// Takes what a host knows and this one does not; says whether that was all, if it answered.
    pub(super) async fn pull(self: &Rc<Self>, at: usize, from: NodeId) -> Option<bool> {
        if self.sabotage == Sabotage::NoSync && self.with(at, |it, _, _| it.state.synced) == Some(true) {
            return Some(true);
        }
        let heads = self.with(at, |running, _, _| running.state.catalog.heads())?;
        let limit = milliseconds(peers::TRANSFER_LIMIT);
        let Some(Answer::Updates(updates)) =
            self.ask(at, from, Request::Sync { heads, settled: false }, limit).await
        else {
            return None;
        };
        let complete = updates.len() < peers::OWNERS_MAX;
        for update in updates {
            self.receive(at, update);
        }
        Some(complete)
    }

    fn receive(&self, at: usize, update: Update) -> Option<Head> {
        let (now, host) = (self.clock.now(), &mut *self.hosts[at].borrow_mut());
        let node = host.node;
        host.step(|state, commit| state.receive(node, now, update, commit))
    }

    /// Saves other hosts' facts behind the scenes.
    pub(super) async fn save(self: Rc<Self>, at: usize) {
        loop {
            self.clock.sleep(milliseconds(peers::SAVE_INTERVAL)).await;
            let now = self.clock.now();
            let saved = self.hosts[at].borrow_mut().step(|state, commit| {
                let unsaved = std::mem::take(&mut state.unsaved);
                if commit(&unsaved).is_err() {
                    let newer = std::mem::replace(&mut state.unsaved, unsaved);
                    records::append(&mut state.unsaved, newer);
                }
                addressing::forget_old(state, now);
            });
            if saved.is_none() {
                return;
            }
        }
    }
}
