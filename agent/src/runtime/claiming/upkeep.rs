//! What claims owe after the fact: withdrawals until all have acknowledged them, removals until all have applied them.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::catalog::facts::{ClaimKey, Key};
use crate::claims::{ClaimRecord, ClaimState, Claimant, Entry, Member, Resume, Step};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, Batch, State, chain, refused};
use crate::runtime::claiming::removing::{self, Heard};
use crate::runtime::claiming::{UNKNOWN, removed_node, send, write_step};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::runtime::{peers, verbs};
use crate::store::Writes;

/// What was not acknowledged is sent again this often.
const INTERVAL: Duration = Duration::from_secs(2);
/// Claims withdrawn at once; the next round takes the next.
const AT_ONCE: usize = 16;
/// Claims given back in one transaction.
const RELEASED_AT_ONCE: usize = 256;
/// Unknown numbers asked about in one round.
const GAPS_AT_ONCE: usize = 16;
/// How long a member may take to tell what it adopted with a removal.
const TABLE_LIMIT: Duration = Duration::from_secs(1);

/// Runs until the agent ends.
pub async fn run(agent: Arc<Agent>) {
    let mut running = BTreeMap::new();
    let mut heard = Heard::new();
    let mut last = None;
    let mut ticks = tokio::time::interval(INTERVAL);
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
    let me = agent.identity.node;
    if agent.read(|state| unused(state, me).is_empty()) {
        return;
    }
    let mut before = Vec::new();
    let released = agent.update(|state| {
        let mut batch = Batch::new();
        before = unused(state, me);
        for record in before.iter().cloned() {
            batch.push((Key::Claim(record.key.clone()), None));
            let (_, step) = Claimant::release(me, record, state.books.promises.members().collect::<Vec<_>>());
            state.books.record(step.persist);
        }
        let mut writes = Writes::default();
        state.books.save(&mut writes).map_err(|error| refused(chain(&error), &[]))?;
        Ok((batch, writes))
    });
    if let Err(failure) = released {
        // What is not written down must not be let go of.
        let mut state = lock(&agent.state);
        state.books.claims.extend(before.into_iter().map(|record| (record.key.clone(), record)));
        tracing::error!("claims that nothing uses stay: {}", failure.message);
    }
}

/// Confirmed claims of this host that nothing uses, at most [`RELEASED_AT_ONCE`]. Before the catalog is complete a
/// network may only seem to be gone; and a VNI is claimed before its network is written, so its fact, which is written
/// together with the network, must be there.
fn unused(state: &State, me: NodeId) -> Vec<ClaimRecord> {
    if !state.synced {
        return Vec::new();
    }
    let vnis: BTreeSet<u32> = state
        .catalog
        .networks()
        .filter_map(|network| state.catalog.network(network))
        .flat_map(|record| {
            let losers = record.losers.into_iter().map(|(_, definition)| definition.vni);
            losers.chain([record.definition.vni]).collect::<Vec<_>>()
        })
        .collect();
    let told = |key: &ClaimKey| state.catalog.claimants(key).any(|holder| holder == me);
    let unused = |record: &&ClaimRecord| {
        record.state == ClaimState::Confirmed
            && match &record.key {
                ClaimKey::Vni { vni } => !vnis.contains(vni) && told(&record.key),
                ClaimKey::Block { network, .. } | ClaimKey::Address { network, .. } => {
                    state.catalog.network(network).is_none()
                }
                ClaimKey::Node { .. } => false,
            }
    };
    state.books.claims.values().filter(unused).take(RELEASED_AT_ONCE).cloned().collect()
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
fn turn<'a, K: Ord + Clone + 'a>(
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
    let missed: Vec<Member> = agent.read(|state| {
        let promises = &state.books.promises;
        let counted: BTreeSet<Member> = promises.members().chain(promises.pending()).collect();
        let missed = |member: &Member| state.catalog.is_removed(member.node);
        let gaps = gaps(&counted, &promises.removed().collect());
        // What this host itself was removed by is for the others to settle.
        let known = counted.into_iter().filter(|member| missed(member) && member.node != agent.identity.node);
        known.chain(gaps).collect()
    });
    for member in missed {
        for (_, host) in agent.live_peers() {
            let to = SocketAddr::new(host.address, host.gossip_port);
            let asked = peers::ask(agent, to, &PeerRequest::RemovalTable { member }, TABLE_LIMIT).await;
            let Ok(Answer::RemovalTable(Some(table))) = asked else { continue };
            let node = if member.node == UNKNOWN {
                agent.read(|state| removed_node(state, member.number))
            } else {
                member.node
            };
            let member = Member { node, ..member };
            // Who is no member yet gets all tables when it becomes one.
            let is_member = agent.read(|state| state.books.promises.number().is_some());
            let table = if is_member { table } else { Vec::new() };
            if let Err(error) = removing::apply(agent, member, &table) {
                tracing::error!("the removal of node {} cannot be applied: {}", member.node, chain(&error));
            }
            break;
        }
    }
}

/// Numbers below a known one of which nothing is known here: they were promised and removed while this host was away, or
/// their facts have not arrived yet; others know which.
fn gaps(counted: &BTreeSet<Member>, removed: &BTreeSet<Member>) -> Vec<Member> {
    let known: BTreeSet<u32> = counted.iter().chain(removed).map(|member| member.number).collect();
    let last = known.last().copied().unwrap_or_default();
    let gaps = (1..last).filter(|number| !known.contains(number));
    gaps.take(GAPS_AT_ONCE).map(|number| Member { number, node: UNKNOWN }).collect()
}

/// Says of who was removed here that it was: a crash may have come between the two, on this host or on the one that
/// removed it.
fn publish_removals(agent: &Agent) {
    let unsaid = |state: &State| -> Vec<NodeId> {
        let removed = state.books.promises.removed().map(|member| member.node);
        removed.filter(|node| *node != UNKNOWN && !state.catalog.is_removed(*node)).collect()
    };
    if agent.read(|state| unsaid(state).is_empty()) {
        return;
    }
    let said = agent.update(|state| {
        let batch = unsaid(state).into_iter().flat_map(|node| verbs::node::removal(state, node)).collect();
        Ok((batch, Writes::default()))
    });
    if let Err(failure) = said {
        tracing::error!("a removal cannot be said: {}", failure.message);
    }
}

/// What this host adopted with a removal that it has applied; `None` if it has not.
pub fn removal_table(agent: &Agent, member: Member) -> Option<Vec<Entry>> {
    agent.read(|state| {
        let promises = &state.books.promises;
        promises
            .removed()
            .any(|removed| removed.number == member.number)
            .then(|| promises.entries().collect())
    })
}

#[cfg(test)]
mod tests;
