//! Claims as the product's loops run them, over the product's own steps: what decides is in
//! `runtime::claiming::steps` and `claims`, what is here sends, waits and tries again.
use std::rc::Rc;

use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::cluster::{Cluster, Sabotage};
use super::host::milliseconds;
use crate::catalog::facts::ClaimKey;
use crate::claims::{ClaimState, Claimant, Entry, Outcome, Reply, Request, StartError, Step, View};
use crate::model::NodeId;
use crate::runtime::claiming::turn::{self, Next};
use crate::runtime::claiming::{self, ClaimError, steps};
use crate::runtime::messages::{Answer, Request as PeerRequest};

/// Why a key was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Lost,
    NoMajority,
    Unsettled,
    Removed,
    /// The claim could not begin, the disk refused it, or the host went down.
    Failed,
}

/// The right to claim a key; over when it is dropped.
struct Turn {
    cluster: Rc<Cluster>,
    at: usize,
    key: ClaimKey,
    _ended: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cluster.with(self.at, |running, _, _| running.state.books.running.remove(&self.key));
    }
}

impl Cluster {
    /// Claims a key; of a node number, the next one that the members name. Returns what was had.
    pub(super) async fn claim(self: &Rc<Self>, at: usize, mut key: ClaimKey) -> Result<ClaimKey, Refusal> {
        let view = self.with(at, |running, node, _| {
            let removed = running.state.catalog.is_removed(node);
            (!removed).then(|| steps::current_view(&mut running.state, &key))
        });
        let mut view = view.ok_or(Refusal::Failed)?.ok_or(Refusal::Removed)?;
        for _ in 0..claiming::STALE_RETRIES {
            let outcome = match self.attempt(at, key.clone(), view).await {
                Err(ClaimError::Start(StartError::Gap { .. })) => {
                    self.apply_removals(at).await;
                    let seen = self.with(at, |it, _, _| steps::current_view(&mut it.state, &key));
                    view = seen.ok_or(Refusal::Failed)?;
                    next_number(&mut key, &view);
                    continue;
                }
                outcome => outcome.map_err(|_| Refusal::Failed)?,
            };
            self.note(|| format!("host {at} claims {key:?}: {outcome:?}"));
            match outcome {
                Outcome::Confirmed { .. } => {
                    self.confirmed(at, &key);
                    return Ok(key);
                }
                Outcome::Lost { holder } => {
                    self.clear_if_abandoned(at, &holder).await;
                    return Err(Refusal::Lost);
                }
                Outcome::NoMajority { .. } => return Err(Refusal::NoMajority),
                Outcome::StaleView { view: newer, pending } => {
                    self.learn(at).await;
                    let seen =
                        self.with(at, |it, _, _| steps::corrected(&mut it.state, &key, &newer, pending));
                    view = seen.ok_or(Refusal::Failed)?;
                    next_number(&mut key, &view);
                }
                Outcome::Removed => return Err(Refusal::Removed),
            }
        }
        Err(Refusal::Unsettled)
    }

    async fn attempt(self: &Rc<Self>, at: usize, key: ClaimKey, view: View) -> Result<Outcome, ClaimError> {
        let Some(_turn) = self.turn(at, &key).await else {
            return Ok(Outcome::Confirmed { adopted: Vec::new() });
        };
        let me = self.hosts[at].borrow().node;
        let begun =
            self.hosts[at].borrow_mut().step(|state, commit| steps::begin(state, me, key, view, commit));
        let (claimant, step) = begun.unwrap_or(Err(ClaimError::Removed))?;
        self.drive(at, claimant, step).await
    }

    async fn turn(self: &Rc<Self>, at: usize, key: &ClaimKey) -> Option<Turn> {
        loop {
            match self.with(at, |running, _, _| turn::next(&mut running.state.books, key))? {
                Next::Held => return None,
                // Its sender would wake those who wait in an order of its own.
                Next::Wait(_) => self.clock.sleep(20).await,
                Next::Claim(_ended) => {
                    return Some(Turn { cluster: Rc::clone(self), at, key: key.clone(), _ended });
                }
            }
        }
    }

    async fn drive(
        self: &Rc<Self>,
        at: usize,
        mut claimant: Claimant,
        mut step: Step,
    ) -> Result<Outcome, ClaimError> {
        let mut deadline = std::pin::pin!(self.clock.sleep(milliseconds(claiming::CLAIM_LIMIT)));
        let mut replies = FuturesUnordered::new();
        loop {
            self.write_step(at, &claimant, &step)?;
            for (to, request) in step.send {
                replies.push(Rc::clone(self).send(at, to, request));
            }
            if let Some(outcome) = step.outcome {
                self.clock.spawn(at, Rc::clone(self).settle(at, claimant, replies));
                return Ok(outcome);
            }
            if replies.is_empty() {
                deadline.as_mut().await;
                step = claimant.on_deadline();
                continue;
            }
            step = match futures::future::select(replies.next(), deadline.as_mut()).await {
                Either::Left((Some((from, Some(reply))), _)) => self.hear(at, &mut claimant, from, &reply),
                Either::Left(_) => Step::default(),
                Either::Right(_) => claimant.on_deadline(),
            };
        }
    }

    fn hear(&self, at: usize, claimant: &mut Claimant, from: NodeId, reply: &Reply) -> Step {
        let mut step = claimant.on_reply(from, reply);
        let half = self.sabotage == Sabotage::HalfIsEnough && matches!(reply, Reply::Promised { .. });
        let pending = claimant.record().state == ClaimState::Pending;
        if half && pending && step.outcome.is_none() && claimant.record().members.len() > 1 {
            // As if one more promise had come: the claimant asks itself, and hears this reply from somebody else too.
            let members = claimant.record().members.clone();
            let other = members
                .iter()
                .find(|member| member.node != from && member.node != self.hosts[at].borrow().node);
            if let Some(other) = other {
                step = claimant.on_reply(other.node, reply);
            }
        }
        step
    }

    async fn settle(
        self: Rc<Self>,
        at: usize,
        mut claimant: Claimant,
        mut replies: FuturesUnordered<impl Future<Output = (NodeId, Option<Reply>)>>,
    ) {
        let mut late = Vec::new();
        while let Some((from, reply)) = replies.next().await {
            let Some(reply) = reply else { continue };
            let step = claimant.on_reply(from, &reply);
            drop(self.write_step(at, &claimant, &step));
            late.extend(step.send);
        }
        for (to, request) in late {
            Rc::clone(&self).send(at, to, request).await;
        }
    }

    pub(super) fn write_step(&self, at: usize, claimant: &Claimant, step: &Step) -> Result<(), ClaimError> {
        let written =
            self.hosts[at].borrow_mut().step(|state, commit| steps::write(state, claimant, step, commit));
        written.unwrap_or(Ok(())).map_err(ClaimError::Store)
    }

    /// Sends a step of a claim to a member, or answers it where that is this host.
    pub(super) async fn send(
        self: Rc<Self>,
        at: usize,
        to: NodeId,
        request: Request,
    ) -> (NodeId, Option<Reply>) {
        let me = self.hosts[at].borrow().node;
        if to == me {
            let answer =
                self.hosts[at].borrow_mut().step(|state, commit| steps::answer(state, request, commit));
            return (to, answer.and_then(Result::ok));
        }
        let limit = milliseconds(claiming::CLAIM_LIMIT);
        match self.ask(at, to, PeerRequest::Claim(request), limit).await {
            Some(Answer::Claim(reply)) => (to, Some(reply)),
            _ => (to, None),
        }
    }

    pub(super) fn live_peers(&self, at: usize) -> Vec<NodeId> {
        let live = self.with(at, |running, node, _| {
            let hosts = running.state.catalog.hosts().map(|(of, _)| of);
            hosts.filter(|of| *of != node && !running.state.suspended.contains(of)).collect()
        });
        live.unwrap_or_default()
    }

    async fn learn(self: &Rc<Self>, at: usize) {
        let live = self.live_peers(at);
        let peer = self.random.borrow_mut().pick(&live).copied();
        if let Some(peer) = peer {
            self.pull(at, peer).await;
        }
        self.clock.sleep(50).await;
    }

    async fn clear_if_abandoned(self: &Rc<Self>, at: usize, holder: &Entry) {
        let (check, withdraw) = steps::abandoned(holder);
        if Rc::clone(self).send(at, holder.claimant, check).await.1 != Some(Reply::NotHeld) {
            return;
        }
        let members = self.with(at, |it, _, _| it.state.books.promises.members().collect::<Vec<_>>());
        let sends = members.into_iter().flatten();
        let sends = sends.map(|member| Rc::clone(self).send(at, member.node, withdraw.clone()));
        futures::future::join_all(sends).await;
    }
}

fn next_number(key: &mut ClaimKey, view: &View) {
    if let ClaimKey::Node { number } = key {
        *number = view.next_number();
    }
}
