//! Runs claims over the sealed transport and keeps their books: write, then send, then act.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::seq::IteratorRandom;
use tokio::time::Instant;

use crate::catalog::facts::{ClaimKey, Key, Value};
use crate::claims::{Claimant, Entry, Outcome, Reply, Request, StartError, Step, View};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::local::list_some;
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::runtime::peers;
use crate::store::{StoreError, Writes};

mod books;
mod hold;
pub mod removing;
pub(crate) mod steps;
pub(crate) mod turn;
pub mod upkeep;

pub use books::Books;
#[cfg(test)]
pub(crate) use books::Saved;
pub use hold::Hold;

/// A claim is decided within this time.
pub(crate) const CLAIM_LIMIT: Duration = Duration::from_secs(1);
/// A claim is started anew so often because members know others than this host counted.
pub(crate) const STALE_RETRIES: usize = 4;

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
        "no majority of the cluster's hosts confirmed it within 1 s: {}",
        tally(*.answered, *.needed, *.here, &[("cannot promise it", .refused), ("silent", .silent)])
    )]
    NoMajority {
        /// How many promised.
        answered: usize,
        /// How many are needed.
        needed: usize,
        /// Whether this host is one of those who promised.
        here: bool,
        /// Names of those who answered that they cannot promise it.
        refused: Vec<String>,
        /// Names of the silent ones.
        silent: Vec<String>,
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

/// How many agreed of how many, and who did not, by what became of them:
/// `1 of 3 members agreed, this host included; 2 are needed; silent: h2, h3`.
pub(crate) fn tally(answered: usize, needed: usize, here: bool, others: &[(&str, &[String])]) -> String {
    let members = answered + others.iter().map(|(_, hosts)| hosts.len()).sum::<usize>();
    let here = if here { ", this host included" } else { "" };
    let told = others.iter().filter(|(_, hosts)| !hosts.is_empty());
    let told: String = told.map(|(what, hosts)| format!("; {what}: {}", list_some(hosts))).collect();
    let members = if members == 1 { "1 member".to_owned() } else { format!("{members} members") };
    format!(
        "{answered} of {members} agreed{here}; {needed} {} needed{told}",
        if needed == 1 { "is" } else { "are" }
    )
}

/// Answers a member's request; what was promised is durable before the answer leaves.
///
/// # Errors
/// When the promise cannot be written down: it is then not answered.
pub fn answer(agent: &Agent, request: Request) -> Result<Reply, StoreError> {
    tokio::task::block_in_place(|| {
        steps::answer(&mut lock(&agent.state), request, &mut |writes| agent.store.commit(writes, true))
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
            Outcome::NoMajority { answered, needed, refused, silent } => {
                agent.metrics.claims.with_label_values(&["no_majority"]).inc();
                // Who claims a node number is no member yet, and counts for nothing.
                let me = agent.identity.node;
                let joining = matches!(key, ClaimKey::Node { .. });
                let here = !joining && !refused.contains(&me) && !silent.contains(&me);
                let [refused, silent] = [refused, silent]
                    .map(|nodes| nodes.iter().map(|node| agent.host_name(*node)).collect::<Vec<_>>())
                    .map(|mut names| {
                        names.sort_unstable();
                        names
                    });
                return Err(ClaimError::NoMajority { answered, needed, here, refused, silent });
            }
            Outcome::StaleView { view: newer, pending } => {
                learn(agent).await;
                view = steps::corrected(&mut lock(&agent.state), &key, &newer, pending);
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

fn current_view(agent: &Agent, key: &ClaimKey) -> View {
    steps::current_view(&mut lock(&agent.state), key)
}

/// Makes this host the first of a new cluster.
///
/// # Errors
/// When it cannot be written down.
pub fn found(agent: &Agent) -> Result<(), ClaimError> {
    let mut commit = |writes: &Writes| agent.store.commit(writes, true);
    steps::found(&mut lock(&agent.state), &mut commit).map_err(ClaimError::Store)
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
    let peer = agent.live_peers().into_iter().choose(&mut rand::rng());
    if let Some((_, host)) = peer
        && let Err(error) = peers::pull(agent, SocketAddr::new(host.address, host.gossip_port), false).await
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
        let mut commit = |writes: &Writes| agent.store.commit(writes, true);
        steps::begin(&mut lock(&agent.state), me, key, view, &mut commit)
    })?;
    drive(agent, claimant, step, CLAIM_LIMIT).await
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

/// Writes what a step asks for.
pub(super) fn write_step(agent: &Agent, claimant: &Claimant, step: &Step) -> Result<(), ClaimError> {
    let mut commit = |writes: &Writes| agent.store.commit(writes, true);
    tokio::task::block_in_place(|| steps::write(&mut lock(&agent.state), claimant, step, &mut commit))
        .map_err(ClaimError::Store)
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
    let (check, withdraw) = steps::abandoned(holder);
    let (_, reply) = send(Arc::clone(agent), holder.claimant, check).await;
    if reply != Some(Reply::NotHeld) {
        return;
    }
    tracing::info!(?key, "clearing a promise that was withdrawn");
    let members: Vec<NodeId> =
        agent.read(|state| state.books.promises.members().map(|member| member.node).collect());
    let sends = members.into_iter().map(|member| send(Arc::clone(agent), member, withdraw.clone()));
    futures::future::join_all(sends).await;
}

/// A claim as a fact, so that everybody sees who holds what.
pub fn fact(key: ClaimKey) -> (Key, Option<Value>) {
    (Key::Claim(key), Some(Value::Claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(numbers: std::ops::RangeInclusive<usize>) -> Vec<String> {
        numbers.map(|number| format!("h{number}")).collect()
    }

    #[test]
    fn a_claim_without_a_majority_counts_all_members_and_names_the_silent_ones() {
        let error = |here, silent| ClaimError::NoMajority {
            answered: 1,
            needed: 2,
            here,
            refused: Vec::new(),
            silent,
        };
        assert_eq!(
            error(true, hosts(2..=3)).to_string(),
            "no majority of the cluster's hosts confirmed it within 1 s: 1 of 3 members agreed, this host included; \
             2 are needed; silent: h2, h3"
        );
        let joining = error(false, hosts(1..=1)).to_string();
        assert!(joining.ends_with(": 1 of 2 members agreed; 2 are needed; silent: h1"), "{joining}");
    }

    #[test]
    fn many_who_are_silent_are_counted_beyond_the_first() {
        let told = tally(2, 7, true, &[("cannot promise it", &hosts(3..=3)), ("silent", &hosts(4..=13))]);
        assert_eq!(
            told,
            "2 of 13 members agreed, this host included; 7 are needed; cannot promise it: h3; \
             silent: h4, h5, h6, h7, h8, h9, h10, h11 and 2 more"
        );
        assert_eq!(
            tally(0, 1, false, &[("silent", &hosts(2..=2))]),
            "0 of 1 member agreed; 1 is needed; silent: h2"
        );
    }
}
