//! What claims owe after the fact, and removals: as `claiming::upkeep` and `claiming::removing`.
use std::collections::BTreeMap;
use std::rc::Rc;

use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;

use super::cluster::Cluster;
use super::host::milliseconds;
use crate::catalog::facts::ClaimKey;
use crate::claims::{ClaimState, Claimant, Leaving, Member, Removal, RemovalOutcome, Reply, Resume, View};
use crate::runtime::claiming::removing::Heard;
use crate::runtime::claiming::{removing, steps, upkeep};
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::store::Writes;

impl Cluster {
    pub(super) async fn apply_removals(self: &Rc<Self>, at: usize) {
        let missed = self.with(at, |running, node, _| steps::missed_removals(&running.state, node));
        for member in missed.into_iter().flatten() {
            for peer in self.live_peers(at) {
                let asked = self.ask(at, peer, PeerRequest::RemovalTable { member }, 1_000).await;
                let Some(Answer::RemovalTable(Some(table))) = asked else { continue };
                let mut host = self.hosts[at].borrow_mut();
                drop(host.step(|state, commit| steps::apply_missed(state, member, table, commit)));
                break;
            }
        }
    }

    /// What claims owe after the fact; as `claiming::upkeep::run`.
    pub(super) async fn keep_claims(self: Rc<Self>, at: usize) {
        let mut running = BTreeMap::new();
        let mut heard = BTreeMap::new();
        let mut last = None;
        loop {
            self.release_unused(at);
            self.withdraw(at, &mut running, &mut last).await;
            self.take_back(at, &mut heard).await;
            self.apply_removals(at).await;
            if let Some(said) = self.with(at, |it, _, _| steps::removals_said(&it.state))
                && !said.is_empty()
            {
                drop(self.write(at, said, Writes::default()));
            }
            self.clock.sleep(milliseconds(upkeep::INTERVAL)).await;
        }
    }

    fn release_unused(&self, at: usize) {
        let now = self.clock.now();
        let host = &mut *self.hosts[at].borrow_mut();
        let me = host.node;
        host.step(|state, commit| {
            if steps::unused(state, me, now).is_empty() {
                return;
            }
            let mut before = Vec::new();
            let (batch, writes) = steps::release_unused(state, (me, now), &mut before).unwrap();
            if state.write(me, now, batch, writes, commit).is_err() {
                state.books.claims.extend(before.into_iter().map(|record| (record.key.clone(), record)));
            }
        });
    }

    async fn withdraw(
        self: &Rc<Self>,
        at: usize,
        running: &mut BTreeMap<ClaimKey, Claimant>,
        last: &mut Option<ClaimKey>,
    ) {
        let records = self.with(at, |it, _, _| {
            let claims = it.state.books.claims.values();
            let records = claims.filter(|record| record.state == ClaimState::Withdrawing);
            (records.cloned().collect::<Vec<_>>(), it.state.catalog.removed().collect::<Vec<_>>())
        });
        let Some((records, gone)) = records else { return };
        let attempts: BTreeMap<&ClaimKey, u64> = records.iter().map(|it| (&it.key, it.attempt)).collect();
        running.retain(|key, claimant| attempts.get(key) == Some(&claimant.record().attempt));
        let me = self.hosts[at].borrow().node;
        for record in records {
            let resumed = || Claimant::resume(me, record.clone(), Resume::Withdraw).0;
            running.entry(record.key.clone()).or_insert_with(resumed);
        }
        let keys = upkeep::turn(running.keys(), last.as_ref(), upkeep::AT_ONCE);
        last.clone_from(&keys.last().cloned());
        let mut sends = FuturesUnordered::new();
        for key in keys {
            let Some(claimant) = running.get_mut(&key) else { continue };
            for node in &gone {
                let step = claimant.forget_member(*node);
                drop(self.write_step(at, claimant, &step));
            }
            for (to, request) in claimant.unanswered() {
                let (key, send) = (key.clone(), Rc::clone(self).send(at, to, request));
                sends.push(async move { (key, send.await) });
            }
        }
        while let Some((key, (from, reply))) = sends.next().await {
            if let (Some(claimant), Some(reply)) = (running.get_mut(&key), reply) {
                let step = claimant.on_reply(from, &reply);
                drop(self.write_step(at, claimant, &step));
            }
        }
    }

    /// Asks every other member to agree that one is gone for good; as `removing::agree`.
    pub(super) async fn agree(self: &Rc<Self>, at: usize, member: Member) -> bool {
        let me = self.hosts[at].borrow().node;
        let Some(mut view) = self.with(at, |it, _, _| steps::counted(&mut it.state, member)) else {
            return false;
        };
        for _ in 0..removing::STALE_RETRIES {
            let begun = self.hosts[at]
                .borrow_mut()
                .step(|state, commit| steps::begin_removal(state, me, member, commit));
            let Some(Ok(leaving)) = begun else { return false };
            let (removal, outcome) = self.ask_removal(at, leaving, view.clone()).await;
            match outcome {
                Some(RemovalOutcome::Agreed { table }) => {
                    let agreed = self.hosts[at]
                        .borrow_mut()
                        .step(|state, commit| steps::agreed(state, me, leaving, &table, commit));
                    self.with(at, |it, _, _| it.state.books.removing.remove(&leaving.attempt));
                    if !matches!(agreed, Some(Ok(()))) {
                        return false;
                    }
                    // From here on it is removed, whether or not this host lives to say so.
                    self.note(|| format!("host {at} has removed {member:?}"));
                    self.gone.borrow_mut().insert(member.node);
                    for (to, request) in removal.announcements() {
                        let send = Rc::clone(self).send(at, to, request);
                        self.clock.spawn(at, async move { drop(send.await) });
                    }
                    return true;
                }
                Some(RemovalOutcome::NoMajority { newer, .. }) => {
                    self.with(at, |it, _, _| it.state.books.removing.remove(&leaving.attempt));
                    let cluster = Rc::clone(self);
                    self.clock.spawn(at, async move { cluster.take_back(at, &mut BTreeMap::new()).await });
                    match newer {
                        Some(newer) if newer != view => view = newer,
                        _ => return false,
                    }
                }
                None => return false,
            }
        }
        false
    }

    async fn ask_removal(
        self: &Rc<Self>,
        at: usize,
        leaving: Leaving,
        view: View,
    ) -> (Removal, Option<RemovalOutcome>) {
        let mut deadline = std::pin::pin!(self.clock.sleep(milliseconds(removing::REMOVAL_LIMIT)));
        let (mut removal, step) = Removal::start(leaving, view);
        let sends = step.send.into_iter().map(|(to, request)| Rc::clone(self).send(at, to, request));
        let mut replies: FuturesUnordered<_> = sends.collect();
        let mut outcome = step.outcome;
        while outcome.is_none() {
            outcome = match futures::future::select(replies.next(), deadline.as_mut()).await {
                Either::Left((Some((from, Some(reply))), _)) => removal.on_reply(from, &reply).outcome,
                Either::Left((Some((_, None)), _)) => None,
                _ => break,
            };
        }
        let outcome = outcome.or_else(|| removal.on_deadline().outcome);
        (removal, outcome)
    }

    async fn take_back(self: &Rc<Self>, at: usize, heard: &mut Heard) {
        let open = self.with(at, |it, _, _| steps::open_removals(&it.state).collect::<Vec<_>>());
        let open = open.unwrap_or_default();
        let mut sends = FuturesUnordered::new();
        for (leaving, node, keep) in steps::to_be_told(&open, heard) {
            let send = Rc::clone(self).send(at, node, keep);
            sends.push(async move { (leaving, send.await) });
        }
        while let Some((leaving, (from, reply))) = sends.next().await {
            if reply == Some(Reply::Kept) {
                heard.entry(leaving).or_default().insert(from);
            }
        }
        let over = steps::known_to_all(&open, heard);
        if !over.is_empty() {
            let mut host = self.hosts[at].borrow_mut();
            drop(host.step(|state, commit| steps::close_removals(state, &over, commit)));
        }
    }
}
