//! Talking to the other hosts: own facts are pushed at once, gaps are pulled, requests are answered.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use tokio::task::JoinHandle;

use crate::catalog::{Delta, Update};
use crate::cluster::{Handler, Member, Peer, RequestError};
use crate::model::{Head, NodeId};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::state::State;
use crate::runtime::{claiming, problems, records, verbs};

mod pace;
mod settled;

use pace::Pace;
pub use settled::Settled;

/// Between two comparisons of heads with a live host picked at random.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long a push or a pull may take.
pub(crate) const TRANSFER_LIMIT: Duration = Duration::from_secs(10);
/// First and longest wait after a push that failed.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(100);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(2);
/// Facts of others are saved this often; they can be had again from them.
pub(crate) const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Owners answered in one pull; the next pull gets the rest.
pub(crate) const OWNERS_MAX: usize = 64;

/// Why a host did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The transport is not up yet.
    #[error("this host does not talk to others yet")]
    NotStarted,
    /// It did not answer.
    #[error("no answer")]
    Request(#[source] RequestError),
    /// It answered in words that this version does not know.
    #[error("the hosts' agents do not understand each other; are they of one version?")]
    NotUnderstood(#[source] serde_json::Error),
    /// It answered something else.
    #[error("unexpected answer {0}")]
    Unexpected(&'static str),
}

/// Answers other hosts.
#[derive(Debug)]
pub struct PeerHandler(pub Arc<Agent>);

#[async_trait::async_trait]
impl Handler for PeerHandler {
    async fn handle(&self, peer: Peer, request: Vec<u8>) -> Vec<u8> {
        let answer = match serde_json::from_slice::<Request>(&request) {
            Ok(request) => answer(&self.0, peer, request).await,
            Err(error) => Answer::NotUnderstood(error.to_string()),
        };
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

async fn answer(agent: &Arc<Agent>, peer: Peer, request: Request) -> Answer {
    match request {
        Request::Push(update) if is_unsettled(agent, peer) => {
            let owner = records::owner_of(&update);
            Answer::Have(agent.read(|state| state.catalog.head(owner)))
        }
        Request::Sync { .. } if is_unsettled(agent, peer) => Answer::Updates(Vec::new()),
        Request::Push(update) => Answer::Have(agent.receive(update)),
        Request::Sync { heads, settled } => {
            let old = if settled { lock(&agent.settled).old() } else { None };
            Answer::Updates(agent.read(|state| updates_for(state, &heads, old.as_deref())))
        }
        Request::Claim(request) => match claiming::answer(agent, request) {
            Ok(reply) => Answer::Claim(reply),
            Err(error) => Answer::NotUnderstood(chain(&error)),
        },
        Request::RemovalTable { member } => {
            Answer::RemovalTable(claiming::upkeep::removal_table(agent, member))
        }
        Request::WaitApplied { owner, head, network, milliseconds } => {
            let limit = Duration::from_millis(milliseconds.min(60_000));
            let applied = agent.wait_applied(owner, head, limit).await;
            let hinders = |object: &str| {
                network.as_ref().is_some_and(|network| problems::hinders(network.as_str(), object))
            };
            Answer::Applied { applied, problems: lock(&agent.problems).list(hinders, Instant::now()) }
        }
        Request::Status => Answer::Status {
            applied: agent.applied.borrow().as_ref().clone(),
            problems: lock(&agent.problems).list(|_| true, Instant::now()),
        },
        Request::Deregister(request) => {
            let origin = format!("host {}", agent.host_name(peer.node));
            Answer::Done(verbs::services::deregister_here(agent, &request, &origin).await)
        }
        Request::Drain(request) => {
            let origin = format!("host {}", agent.host_name(peer.node));
            Answer::Done(verbs::services::drain_here(agent, &request, &origin).await)
        }
        Request::Grant { network, address } => {
            Answer::Grant(verbs::addressing::grant(agent, &network, address, peer.node))
        }
    }
}

/// While this host joins, two clusters may take it for one of theirs: facts are exchanged with hosts of the one that it
/// joins only. Who is not heard of yet tries again.
fn is_unsettled(agent: &Agent, peer: Peer) -> bool {
    let joins = agent.read(|state| state.books.promises.number().is_none());
    let is_member = || agent.cluster.get().is_some_and(|it| it.members().borrow().contains_key(&peer.node));
    joins && !is_member()
}

/// What a host with these heads lacks; where it lacks nothing of what was known at the time of `old`, nothing of that
/// owner.
pub(crate) fn updates_for(
    state: &State,
    heads: &BTreeMap<NodeId, Head>,
    old: Option<&BTreeMap<NodeId, Head>>,
) -> Vec<Update> {
    let have = |owner| heads.get(&owner).copied().unwrap_or_default();
    let behind =
        |owner: &NodeId| old.is_none_or(|old| old.get(owner).is_some_and(|known| have(*owner) < *known));
    let owners = state.catalog.owners().map(|(owner, _)| owner).filter(behind);
    owners.filter_map(|owner| state.catalog.delta_since(owner, have(owner))).take(OWNERS_MAX).collect()
}

/// Sends a request to a host and reads its answer.
///
/// # Errors
/// When the host does not answer in time, or not in words that we know.
pub async fn ask(
    agent: &Agent,
    to: SocketAddr,
    request: &Request,
    limit: Duration,
) -> Result<Answer, AskError> {
    let cluster = agent.cluster.get().ok_or(AskError::NotStarted)?;
    let body = serde_json::to_vec(request).map_err(AskError::NotUnderstood)?;
    let reply = cluster.request(to, body, limit).await.map_err(AskError::Request)?;
    serde_json::from_slice(&reply.body).map_err(AskError::NotUnderstood)
}

/// Keeps one pusher per live host, follows liveness, compares heads. Ends with the agent.
pub async fn run(agent: Arc<Agent>) {
    let Some(cluster) = agent.cluster.get() else { return };
    let mut members = cluster.members();
    let mut pushers = Pushers::new();
    let others = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(250) * agent.slowed);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stop = agent.stop.subscribe();
    loop {
        let now = members.borrow_and_update().clone();
        keep_pushers(&agent, &now, &mut pushers, &others);
        follow_liveness(&agent, &now, started);
        tokio::select! {
            changed = members.changed() => if changed.is_err() { break },
            _ = ticks.tick() => {}
            _ = stop.changed() => break,
        }
    }
    for (_, pusher) in pushers.into_values() {
        pusher.abort();
    }
}

/// One for each start of a live host: after a loss of power one may not know any more what it had said that it has.
type Pushers = BTreeMap<NodeId, ((SocketAddr, u64), JoinHandle<()>)>;

fn keep_pushers(
    agent: &Arc<Agent>,
    members: &BTreeMap<NodeId, Member>,
    pushers: &mut Pushers,
    others: &Arc<AtomicUsize>,
) {
    let wanted: BTreeMap<NodeId, (SocketAddr, u64)> = members
        .values()
        .filter(|member| member.live && member.node != agent.identity.node)
        .map(|member| (member.node, (member.address, member.incarnation)))
        .collect();
    pushers.retain(|node, (of, pusher)| {
        let keep = wanted.get(node) == Some(of) && !pusher.is_finished();
        if !keep {
            pusher.abort();
        }
        keep
    });
    others.store(wanted.len(), Ordering::Relaxed);
    for (node, of) in wanted {
        let pusher = || tokio::spawn(push(Arc::clone(agent), of.0, Arc::clone(others)));
        pushers.entry(node).or_insert_with(|| (of, pusher()));
    }
}

fn follow_liveness(agent: &Agent, members: &BTreeMap<NodeId, Member>, started: Instant) {
    let late = started.elapsed() > agent.settings.load().failure_after;
    let live = |node: NodeId| members.get(&node).map(|member| member.live);
    let suspended = agent.read(|state| suspended(state, agent.identity.node, live, late));
    agent.set_suspended(suspended);
}

/// A host is suspended when its heartbeat stopped, or was never seen although this agent started long ago (`late`).
pub(crate) fn suspended(
    state: &State,
    me: NodeId,
    live: impl Fn(NodeId) -> Option<bool>,
    late: bool,
) -> BTreeSet<NodeId> {
    let others = state.catalog.hosts().map(|(node, _)| node).filter(|node| *node != me);
    others
        .filter(|node| match live(*node) {
            Some(live) => !live,
            // Who was suspended when the last agent ended stays so until it is heard of.
            None => late || state.suspended.contains(node),
        })
        .collect()
}

/// Brings one host, which is one of so many `others`, up to this host's head, again and again.
async fn push(agent: Arc<Agent>, address: SocketAddr, others: Arc<AtomicUsize>) {
    let node = agent.identity.node;
    let mut own_head = agent.own_head.subscribe();
    let mut awaited = agent.awaited.subscribe();
    let mut pace = Pace::new(Instant::now());
    let mut known = None;
    let mut retry = RETRY_MIN;
    loop {
        if known.is_some_and(|known| known != *own_head.borrow()) {
            let rest = pace.rest(Instant::now(), others.load(Ordering::Relaxed));
            // Somebody who waits for it, as verbs do, is not kept waiting.
            let wanted = awaited.wait_for(|head| known.is_some_and(|known| known < *head));
            if !rest.is_zero() {
                let _rested_or_wanted = tokio::time::timeout(rest, wanted).await.is_ok();
            }
        }
        let head = *own_head.borrow_and_update();
        if known != Some(head) {
            pace.pushed(Instant::now(), others.load(Ordering::Relaxed));
            let update = match known {
                Some(known) => agent.read(|state| state.catalog.delta_since(node, known)),
                // Nothing yet: only to be told how far that host has come.
                None => Some(greeting(node, head)),
            };
            let Some(update) = update else { continue };
            match ask(&agent, address, &Request::Push(update), TRANSFER_LIMIT).await {
                Ok(Answer::Have(have)) => {
                    // A host that knows more of us than we do belongs to a later start of ours; it will see this one's.
                    let progress = known != Some(have.min(head));
                    known = Some(have.min(head));
                    if progress {
                        retry = RETRY_MIN;
                        continue;
                    }
                }
                Ok(other) => tracing::warn!(%address, "unexpected answer to our facts: {}", other.word()),
                Err(error) => tracing::debug!(%address, "our facts did not arrive: {}", chain(&error)),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
            continue;
        }
        if own_head.changed().await.is_err() {
            return;
        }
    }
}

/// An update that says nothing but where its owner stands; answered with how far it is known.
pub(crate) fn greeting(owner: NodeId, head: Head) -> Update {
    Update::Delta(Delta {
        owner,
        incarnation: head.incarnation,
        base: head.version,
        head: head.version,
        entries: Vec::new(),
    })
}

/// Compares heads with a live host and takes what is missing, but, if `settled`, of owners of whom only what has just become
/// known is; says whether it was complete.
pub async fn pull(agent: &Agent, from: SocketAddr, settled: bool) -> Result<bool, AskError> {
    let heads = agent.read(|state| state.catalog.heads());
    match ask(agent, from, &Request::Sync { heads, settled }, TRANSFER_LIMIT).await? {
        Answer::Updates(updates) => {
            let complete = updates.len() < OWNERS_MAX;
            for update in updates {
                agent.receive(update);
            }
            Ok(complete)
        }
        other => Err(AskError::Unexpected(other.word())),
    }
}

/// Whom to ask: not who was silent when it was asked last, if there is anybody else. A dead host seems to live until it is
/// suspended, and each time that it is asked costs seconds.
pub(crate) fn spare<T: PartialEq>(live: &mut Vec<T>, silent: Option<T>) {
    if live.len() > 1 {
        live.retain(|host| Some(host) != silent.as_ref());
    }
}

/// Pulls from a live host picked at random, once a second, so that no missed push matters for longer.
pub async fn sync(agent: Arc<Agent>) {
    let Some(cluster) = agent.cluster.get() else { return };
    let mut members = cluster.members();
    let started = Instant::now();
    let mut silent = None;
    let mut ticks = tokio::time::interval(SYNC_INTERVAL * agent.slowed);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (synced, heads) = agent.read(|state| (state.synced, state.catalog.heads()));
        lock(&agent.settled).note(Instant::now(), heads);
        // The first sync does not wait for the tick: look-ups for unknown names wait for it.
        tokio::select! {
            _ = ticks.tick() => {}
            changed = members.changed(), if !synced => if changed.is_err() { return },
        }
        let mut live: Vec<SocketAddr> = members
            .borrow()
            .values()
            .filter(|member| member.live && member.node != agent.identity.node)
            .map(|member| member.address)
            .collect();
        spare(&mut live, silent);
        let from = live.into_iter().choose(&mut rand::rng());
        silent = None;
        let complete = match from {
            Some(address) => pull(&agent, address, synced).await.unwrap_or_else(|error| {
                tracing::debug!(%address, "comparing facts failed: {}", chain(&error));
                silent = Some(address);
                false
            }),
            // Nobody to ask: what was kept is all there is.
            None => started.elapsed() > agent.settings.load().failure_after,
        };
        if complete && !synced {
            set_synced(&agent);
        }
    }
}

/// From here on a name that the catalog lacks is denied.
pub fn set_synced(agent: &Agent) {
    lock(&agent.state).synced = true;
    agent.changed.notify_one();
}

/// Saves other hosts' facts behind the scenes.
pub async fn save(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(SAVE_INTERVAL * agent.slowed);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        save_now(&agent).await;
    }
}

/// Saves what is not saved yet; what fails is tried again with the next.
pub async fn save_now(agent: &Arc<Agent>) {
    let unsaved = std::mem::take(&mut lock(&agent.state).unsaved);
    if unsaved.facts.is_empty() && unsaved.heads.is_empty() && unsaved.replaced_owners.is_empty() {
        return;
    }
    let saver = Arc::clone(agent);
    let saved = tokio::task::spawn_blocking(move || match saver.store.save(&unsaved) {
        Ok(()) => Vec::new(),
        Err(error) => {
            let mut state = lock(&saver.state);
            let newer = std::mem::replace(&mut state.unsaved, unsaved);
            records::append(&mut state.unsaved, newer);
            vec![("store/catalog".to_owned(), chain(&error))]
        }
    })
    .await
    .unwrap_or_default();
    agent.report("store/", saved);
}
