//! Runs claims over the sealed transport and keeps their books: write, then send, then act.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::addresses::Layout;
use crate::catalog::facts::{ClaimKey, Key, Value};
use crate::claims::{
    Claimant, Entry, Member, Outcome, Place, Reply, Request, StartError, Step, View, answer_check,
};
use crate::model::{Name, NodeId};
use crate::runtime::agent::{Agent, State, chain};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::runtime::peers;
use crate::store::{StoreError, Writes};

mod books;
pub mod removing;
mod turn;
pub mod upkeep;

pub use books::Books;

/// A claim is decided within this time.
const CLAIM_LIMIT: Duration = Duration::from_secs(1);
/// A claim is started anew so often because members know others than this host counted.
const STALE_RETRIES: usize = 4;

/// Why a claim failed. Nothing of it is used; what was promised is being withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else has it.
    #[error("it is held by {holder}")]
    Lost {
        /// Name of the host that has it, or of what stands in the way.
        holder: String,
    },
    /// Too few members answered.
    #[error(
        "no majority of the cluster's hosts confirmed it within 1 s ({answered} of {needed} needed; silent: {silent})"
    )]
    NoMajority {
        /// How many promised.
        answered: usize,
        /// How many are needed.
        needed: usize,
        /// Names of the silent ones.
        silent: String,
    },
    /// The members do not agree on who is a member yet.
    #[error("the hosts do not agree yet on who is a member; try again in a second")]
    Unsettled,
    /// This host was removed.
    #[error("this host has been removed from the cluster by `node rm`")]
    Removed,
    /// The claim could not be started.
    #[error("the claim cannot be made")]
    Start(#[source] StartError),
    /// The books could not be written.
    #[error("the claim cannot be written down")]
    Store(#[source] StoreError),
}

/// Where an address lies, for the rule which keys exclude each other.
fn place_of(state: &State, network: &Name, address: IpAddr) -> Place {
    let Some(record) = state.catalog.network(network) else { return Place::Unknown };
    let layouts = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    let block = layouts.filter_map(|layout| layout.block_of(address)).next();
    block.map_or(Place::Open, |(region, index)| Place::Block(region, index))
}

/// Learns confirmed members from their own facts.
fn note_members(state: &mut State) -> bool {
    let members: Vec<Member> =
        state.catalog.hosts().map(|(node, fact)| Member { number: fact.number, node }).collect();
    let mut learned = false;
    for member in members {
        learned |= !state.books.promises.note_member(member).is_empty();
    }
    learned
}

/// Answers a member's request; what was promised is durable before the answer leaves.
///
/// # Errors
/// When the promise cannot be written down: it is then not answered.
pub fn answer(agent: &Agent, request: Request) -> Result<Reply, StoreError> {
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let learned = note_members(&mut state);
        if let Request::Check { key, attempt } = &request {
            return Ok(answer_check(state.books.claims.get(key), *attempt));
        }
        let mut promises = state.books.promises.clone();
        let (reply, changes) =
            promises.handle(request, &|network: &Name, address| place_of(&state, network, address));
        if learned || !changes.is_empty() {
            let before = std::mem::replace(&mut state.books.promises, promises);
            let mut writes = Writes::default();
            let saved = state.books.save(&mut writes).and_then(|()| agent.store.commit(&writes, true));
            if let Err(error) = saved {
                state.books.promises = before;
                return Err(error);
            }
        }
        Ok(reply)
    })
}

/// Claims a key. On success it is written down as confirmed, for good.
///
/// # Errors
/// [`ClaimError`]; the key must not be used then.
pub async fn claim(agent: &Arc<Agent>, key: ClaimKey) -> Result<(), ClaimError> {
    claim_next(agent, key).await.map(drop)
}

/// As [`claim`]; of a node number, the next one that the members name when they count others than this host does.
async fn claim_next(agent: &Arc<Agent>, mut key: ClaimKey) -> Result<ClaimKey, ClaimError> {
    if agent.read(|state| state.catalog.is_removed(agent.identity.node)) {
        return Err(ClaimError::Removed);
    }
    let mut view = current_view(agent, &key);
    for _ in 0..STALE_RETRIES {
        let outcome = match attempt(agent, key.clone(), view).await {
            Err(ClaimError::Start(StartError::Gap { .. })) => {
                // Others know which numbers were removed before this host came, or while it was away.
                upkeep::apply_removals(agent).await;
                view = current_view(agent, &key);
                if let ClaimKey::Node { number } = &mut key {
                    *number = view.next_number();
                }
                continue;
            }
            outcome => outcome?,
        };
        match outcome {
            Outcome::Confirmed { .. } => {
                agent.metrics.claims.with_label_values(&["confirmed"]).inc();
                return Ok(key);
            }
            Outcome::Lost { holder } => {
                agent.metrics.claims.with_label_values(&["lost"]).inc();
                clear_if_abandoned(agent, &key, &holder).await;
                return Err(ClaimError::Lost { holder: agent.host_name(holder.claimant) });
            }
            Outcome::NoMajority { answered, needed, silent } => {
                agent.metrics.claims.with_label_values(&["no_majority"]).inc();
                let names: Vec<String> = silent.iter().map(|node| agent.host_name(*node)).collect();
                return Err(ClaimError::NoMajority { answered, needed, silent: names.join(", ") });
            }
            Outcome::StaleView { view: newer, pending } => {
                learn(agent).await;
                view = corrected(agent, &key, &newer, pending);
                if let ClaimKey::Node { number } = &mut key {
                    // Numbers of hosts that were removed are not used again, and a newcomer learns of them here.
                    *number = view.next_number();
                }
            }
            Outcome::Removed => return Err(ClaimError::Removed),
        }
    }
    Err(ClaimError::Unsettled)
}

/// Members as this host counts them: confirmed ones, and for anything but a node number those who were promised one.
fn current_view(agent: &Agent, key: &ClaimKey) -> View {
    let mut state = lock(&agent.state);
    note_members(&mut state);
    let promises = &state.books.promises;
    let mut members: Vec<Member> = promises.members().collect();
    if !matches!(key, ClaimKey::Node { .. }) {
        members.extend(promises.pending());
    }
    View::new(members, promises.removed().map(|member| member.number))
}

/// What this host counts, with what members have just said of members and removals.
fn corrected(agent: &Agent, key: &ClaimKey, newer: &View, pending: Vec<Member>) -> View {
    let known = current_view(agent, key);
    let mut members: Vec<Member> = known.members().chain(newer.members()).collect();
    if !matches!(key, ClaimKey::Node { .. }) {
        members.extend(pending);
    }
    View::new(members, known.removed().chain(newer.removed()))
}

/// Makes this host the first of a new cluster.
///
/// # Errors
/// When it cannot be written down.
pub fn found(agent: &Agent) -> Result<(), ClaimError> {
    let mut state = lock(&agent.state);
    state.books.promises.found();
    save_books(agent, &state)
}

/// Claims the next node number; says which.
///
/// # Errors
/// As [`claim`]; another host that joins at the same time may have been first.
pub async fn claim_number(agent: &Arc<Agent>) -> Result<u32, ClaimError> {
    let any = ClaimKey::Node { number: 0 };
    let number = current_view(agent, &any).next_number();
    match claim_next(agent, ClaimKey::Node { number }).await? {
        ClaimKey::Node { number } => Ok(number),
        _ => Ok(number),
    }
}

/// Asks a live host for what this one does not know yet.
async fn learn(agent: &Arc<Agent>) {
    let peer = agent.live_peers().into_iter().next();
    if let Some((_, host)) = peer
        && let Err(error) = peers::pull(agent, SocketAddr::new(host.address, host.gossip_port)).await
    {
        tracing::debug!("learning who is a member failed: {}", chain(&error));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// One attempt, from the first ask to its outcome; what this host holds already is confirmed at once.
///
/// # Errors
/// When it cannot be started or written down.
async fn attempt(agent: &Arc<Agent>, key: ClaimKey, view: View) -> Result<Outcome, ClaimError> {
    let me = agent.identity.node;
    let Some(_turn) = turn::take(agent, &key).await else {
        return Ok(Outcome::Confirmed { adopted: Vec::new() });
    };
    let (claimant, step) = tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let attempt = state.books.attempt + 1;
        let (claimant, step) = Claimant::start(me, key, attempt, view).map_err(ClaimError::Start)?;
        state.books.attempt = attempt;
        state.books.record(step.persist.clone());
        save_books(agent, &state)?;
        Ok::<_, ClaimError>((claimant, Step { persist: Vec::new(), ..step }))
    })?;
    drive(agent, claimant, step, CLAIM_LIMIT).await
}

pub(super) fn save_books(agent: &Agent, state: &State) -> Result<(), ClaimError> {
    let mut writes = Writes::default();
    state.books.save(&mut writes).map_err(ClaimError::Store)?;
    agent.store.commit(&writes, true).map_err(ClaimError::Store)
}

/// Sends, takes replies in, until the claim has an outcome; withdrawals go on behind.
async fn drive(
    agent: &Arc<Agent>,
    mut claimant: Claimant,
    mut step: Step,
    limit: Duration,
) -> Result<Outcome, ClaimError> {
    let deadline = Instant::now() + limit;
    let mut replies = FuturesUnordered::new();
    loop {
        write_step(agent, &claimant, &step)?;
        for (to, request) in step.send {
            replies.push(send(Arc::clone(agent), to, request));
        }
        if let Some(outcome) = step.outcome {
            // Withdrawals that follow from the outcome are awaited behind the caller's back.
            tokio::spawn(settle(Arc::clone(agent), claimant, replies));
            return Ok(outcome);
        }
        step = tokio::select! {
            reply = replies.next(), if !replies.is_empty() => match reply {
                Some((from, Some(reply))) => claimant.on_reply(from, &reply),
                _ => Step::default(),
            },
            () = tokio::time::sleep_until(deadline) => claimant.on_deadline(),
        };
    }
}

/// Takes in what arrives after the outcome: acknowledgements of withdrawals, and promises that came too late, which
/// are withdrawn once more.
async fn settle(
    agent: Arc<Agent>,
    mut claimant: Claimant,
    mut replies: FuturesUnordered<impl Future<Output = (NodeId, Option<Reply>)>>,
) {
    let mut late = Vec::new();
    while let Some((from, reply)) = replies.next().await {
        let Some(reply) = reply else { continue };
        let step = claimant.on_reply(from, &reply);
        if let Err(error) = write_step(&agent, &claimant, &step) {
            tracing::warn!("{}", chain(&error));
        }
        late.extend(step.send);
    }
    for (to, request) in late {
        send(Arc::clone(&agent), to, request).await;
    }
}

/// Writes what a step asks for, with the confirmation's adopted tables in the same transaction.
pub(super) fn write_step(agent: &Agent, claimant: &Claimant, step: &Step) -> Result<(), ClaimError> {
    if step.persist.is_empty() {
        return Ok(());
    }
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        state.books.record(step.persist.clone());
        if let (Some(Outcome::Confirmed { adopted }), ClaimKey::Node { number }) =
            (&step.outcome, &claimant.record().key)
        {
            let members = claimant.record().members.clone();
            // Numbers that were removed before: they are in nobody's tables, and without them the count has gaps.
            for gone in claimant.record().removed.clone() {
                let node = removed_node(&state, gone);
                state.books.promises.remove(Member { number: gone, node }, &[]);
            }
            state.books.promises.join(*number, members, adopted);
        }
        save_books(agent, &state)
    })
}

/// A removed number whose node is not known: no node has this id.
const UNKNOWN: NodeId = NodeId(0);

/// Who had a number that was removed, as far as what it said of itself is still there.
fn removed_node(state: &State, number: u32) -> NodeId {
    let had = |node: &NodeId| match state.catalog.value(*node, &Key::Host) {
        Some(Value::Host(host)) => host.number == number,
        _ => false,
    };
    state.catalog.removed().find(had).unwrap_or(UNKNOWN)
}

/// Sends a request to a member, or answers it here if that is this host.
pub async fn send(agent: Arc<Agent>, to: NodeId, request: Request) -> (NodeId, Option<Reply>) {
    if to == agent.identity.node {
        let reply = answer(&agent, request);
        return (to, reply.inspect_err(|error| tracing::error!("{}", chain(error))).ok());
    }
    let Some(address) = address_of(&agent, to) else { return (to, None) };
    match peers::ask(&agent, address, &PeerRequest::Claim(request), CLAIM_LIMIT).await {
        Ok(Answer::Claim(reply)) => (to, Some(reply)),
        Ok(_) | Err(_) => (to, None),
    }
}

/// Where a node takes requests: as its facts say, else (it is joining, or said to be removed) as its heartbeat does.
fn address_of(agent: &Agent, node: NodeId) -> Option<SocketAddr> {
    let by_fact = agent
        .read(|state| state.catalog.host(node).map(|host| SocketAddr::new(host.address, host.gossip_port)));
    let by_heartbeat = || {
        let members = agent.cluster.get()?.members();
        let members = members.borrow();
        members.get(&node).map(|member| member.address)
    };
    by_fact.or_else(by_heartbeat)
}

/// A promise that outlived its claim (its withdrawal was lost, its claimant lives) is cleared by whoever meets it.
async fn clear_if_abandoned(agent: &Arc<Agent>, key: &ClaimKey, holder: &Entry) {
    let check = Request::Check { key: holder.key.clone(), attempt: holder.attempt };
    let (_, reply) = send(Arc::clone(agent), holder.claimant, check).await;
    if reply != Some(Reply::NotHeld) {
        return;
    }
    tracing::info!(?key, "clearing a promise that was withdrawn");
    let withdraw =
        Request::Withdraw { key: holder.key.clone(), claimant: holder.claimant, attempt: holder.attempt };
    let members: Vec<NodeId> =
        agent.read(|state| state.books.promises.members().map(|member| member.node).collect());
    let sends = members.into_iter().map(|member| send(Arc::clone(agent), member, withdraw.clone()));
    futures::future::join_all(sends).await;
}

/// A claim as a fact, so that everybody sees who holds what.
pub fn fact(key: ClaimKey) -> (Key, Option<Value>) {
    (Key::Claim(key), Some(Value::Claim))
}
