//! What claims owe after the fact: withdrawals until all have acknowledged them, removals until all have applied them.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::catalog::facts::ClaimKey;
use crate::claims::{ClaimRecord, ClaimState, Claimant, Entry, Member, Resume, Step};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::claiming::removing::{self, Heard};
use crate::runtime::claiming::{send, steps, write_step};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::runtime::peers;
use crate::store::Writes;

/// What was not acknowledged is sent again this often.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);
/// Claims withdrawn at once; the next round takes the next.
pub(crate) const AT_ONCE: usize = 16;
/// How long a member may take to tell what it adopted with a removal.
const TABLE_LIMIT: Duration = Duration::from_secs(1);

/// Runs until the agent ends.
pub async fn run(agent: Arc<Agent>) {
    let mut running = BTreeMap::new();
    let mut heard = Heard::new();
    let mut last = None;
    let mut ticks = tokio::time::interval(INTERVAL * agent.slowed);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        release_unused(&agent);
        adopt_withdrawing(&agent, &mut running);
        withdraw(&agent, &mut running, &mut last).await;
        removing::take_back(&agent, &mut heard).await;
        apply_removals(&agent).await;
        publish_removals(&agent);
    }
}

/// Gives back what nothing uses any more: blocks and addresses of networks that are gone, and their VNIs. Members let
/// go of their promises then, and the keys can be had again.
fn release_unused(agent: &Agent) {
    let (me, now) = (agent.identity.node, Instant::now());
    if agent.read(|state| steps::unused(state, me, now).is_empty()) {
        return;
    }
    let mut before = Vec::new();
    let released = agent.update(|state| {
        steps::release_unused(state, (me, now), &mut before).map_err(|error| refused(chain(&error), &[]))
    });
    if let Err(failure) = released {
        // What is not written down must not be let go of.
        let mut state = lock(&agent.state);
        state.books.claims.extend(before.into_iter().map(|record| (record.key.clone(), record)));
        tracing::error!("claims that nothing uses stay: {}", failure.message);
    }
}

/// Takes up claims that were given up since, and lets go of those that came to their end.
fn adopt_withdrawing(agent: &Agent, running: &mut BTreeMap<ClaimKey, Claimant>) {
    let records: Vec<ClaimRecord> = agent.read(|state| {
        let withdrawing = state.books.claims.values().filter(|it| it.state == ClaimState::Withdrawing);
        withdrawing.cloned().collect()
    });
    let attempts: BTreeMap<&ClaimKey, u64> =
        records.iter().map(|record| (&record.key, record.attempt)).collect();
    running.retain(|key, claimant| attempts.get(key) == Some(&claimant.record().attempt));
    for record in records {
        let me = agent.identity.node;
        running.entry(record.key.clone()).or_insert_with(|| Claimant::resume(me, record, Resume::Withdraw).0);
    }
}

/// Sends withdrawals once more, some claims at once, those after `last` first: one that cannot be finished while a
/// member is away must not keep the others from their turn.
async fn withdraw(
    agent: &Arc<Agent>,
    running: &mut BTreeMap<ClaimKey, Claimant>,
    last: &mut Option<ClaimKey>,
) {
    let keys = turn(running.keys(), last.as_ref(), AT_ONCE);
    last.clone_from(&keys.last().cloned());
    let gone: Vec<NodeId> = agent.read(|state| state.catalog.removed().collect());
    let mut sends = FuturesUnordered::new();
    for key in keys {
        let Some(claimant) = running.get_mut(&key) else { continue };
        for node in &gone {
            let step = claimant.forget_member(*node);
            write_logged(agent, claimant, &step);
        }
        for (to, request) in claimant.unanswered() {
            let (key, send) = (key.clone(), send(Arc::clone(agent), to, request));
            sends.push(async move { (key, send.await) });
        }
    }
    while let Some((key, (from, reply))) = sends.next().await {
        if let (Some(claimant), Some(reply)) = (running.get_mut(&key), reply) {
            let step = claimant.on_reply(from, &reply);
            write_logged(agent, claimant, &step);
        }
    }
}

fn write_logged(agent: &Agent, claimant: &Claimant, step: &Step) {
    if let Err(error) = write_step(agent, claimant, step) {
        tracing::warn!("{}", chain(&error));
    }
}

/// The next `count` keys after `last`, round and round.
pub(crate) fn turn<'a, K: Ord + Clone + 'a>(
    keys: impl Iterator<Item = &'a K> + Clone,
    last: Option<&K>,
    count: usize,
) -> Vec<K> {
    let after = |key: &&K| last.is_none_or(|last| *key > last);
    let later = keys.clone().filter(after);
    let earlier = keys.filter(|key| !after(key));
    later.chain(earlier).take(count).cloned().collect()
}

/// Applies removals of which this host knows the fact but missed the telling: the promises that go with one are
/// asked of a member that has applied it.
pub(super) async fn apply_removals(agent: &Arc<Agent>) {
    let missed = agent.read(|state| steps::missed_removals(state, agent.identity.node));
    for member in missed {
        for (_, host) in agent.live_peers() {
            let to = SocketAddr::new(host.address, host.gossip_port);
            let asked = peers::ask(agent, to, &PeerRequest::RemovalTable { member }, TABLE_LIMIT).await;
            let Ok(Answer::RemovalTable(Some(table))) = asked else { continue };
            let applied = tokio::task::block_in_place(|| {
                let mut commit = |writes: &Writes| agent.store.commit(writes, true);
                steps::apply_missed(&mut lock(&agent.state), member, table, &mut commit)
            });
            if let Err(error) = applied {
                tracing::error!("the removal of node {} cannot be applied: {}", member.node, chain(&error));
            }
            break;
        }
    }
}

/// Says of who was removed here that it was: a crash may have come between the two, on this host or on the one that
/// removed it.
fn publish_removals(agent: &Agent) {
    if agent.read(|state| steps::unsaid_removals(state).is_empty()) {
        return;
    }
    let said = agent.update(|state| Ok((steps::removals_said(state), Writes::default())));
    if let Err(failure) = said {
        tracing::error!("a removal cannot be said: {}", failure.message);
    }
}

/// What this host adopted with a removal that it has applied; `None` if it has not.
pub fn removal_table(agent: &Agent, member: Member) -> Option<Vec<Entry>> {
    agent.read(|state| steps::removal_table(state, member))
}

#[cfg(test)]
mod tests;
