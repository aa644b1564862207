//! Removals that this host began: written down first, agreed on by the others, and taken back for sure if they are not.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::claims::{Leaving, Member, Removal, RemovalOutcome, Reply, View};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::claiming::{ClaimError, send, steps};
use crate::runtime::events::lock;
use crate::runtime::state::{Commit, State};
use crate::store::{StoreError, Writes};

pub use crate::runtime::claiming::steps::Heard;

/// How long the remaining hosts may take to agree.
pub(crate) const REMOVAL_LIMIT: Duration = Duration::from_secs(2);
/// A removal is asked for anew so often because members know others than this host counted.
pub(crate) const STALE_RETRIES: usize = 3;

/// How a removal came out.
#[derive(Debug)]
pub enum Ended {
    /// Agreed and, unless it is this host itself that goes, applied here; the others are being told.
    Agreed,
    /// Too few agreed; who did is being told that it is over.
    NoMajority {
        /// How many agreed.
        answered: usize,
        /// How many would have been enough.
        needed: usize,
        /// Who did not agree or not answer.
        silent: Vec<NodeId>,
    },
}

/// A removal under way; until it is dropped nobody takes it back.
struct Running {
    agent: Arc<Agent>,
    leaving: Leaving,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.agent.state).books.removing.remove(&self.leaving.attempt);
    }
}

/// Asks every other member to agree that a member, or one that was promised its number, is gone for good.
///
/// # Errors
/// When it cannot be written down: nobody was asked then, or what was agreed is being taken back.
pub async fn agree(agent: &Arc<Agent>, member: Member) -> Result<Ended, ClaimError> {
    let mut view = steps::counted(&mut lock(&agent.state), member);
    let mut ended = Ended::NoMajority { answered: 0, needed: 1, silent: Vec::new() };
    for _ in 0..STALE_RETRIES {
        let running = begin(agent, member)?;
        let (removal, outcome) = ask(agent, running.leaving, view.clone()).await;
        match outcome {
            RemovalOutcome::Agreed { table } => {
                // Durable here before anybody is told: from then on it is never taken back.
                let me = agent.identity.node;
                changed(agent, |state, commit| steps::agreed(state, me, running.leaving, &table, commit))?;
                let sends = removal.announcements();
                let sends = sends.into_iter().map(|(to, request)| send(Arc::clone(agent), to, request));
                tokio::spawn(futures::future::join_all(sends.collect::<Vec<_>>()));
                return Ok(Ended::Agreed);
            }
            RemovalOutcome::NoMajority { answered, needed, silent, newer } => {
                drop(running);
                let agent = Arc::clone(agent);
                // What is not heard at once is said again by the upkeep.
                tokio::spawn(async move { take_back(&agent, &mut Heard::new()).await });
                ended = Ended::NoMajority { answered, needed, silent };
                match newer {
                    Some(newer) if newer != view => view = newer,
                    _ => break,
                }
            }
        }
    }
    Ok(ended)
}

fn begin(agent: &Arc<Agent>, member: Member) -> Result<Running, ClaimError> {
    let me = agent.identity.node;
    let leaving = changed(agent, |state, commit| steps::begin_removal(state, me, member, commit))?;
    Ok(Running { agent: Arc::clone(agent), leaving })
}

async fn ask(agent: &Arc<Agent>, leaving: Leaving, view: View) -> (Removal, RemovalOutcome) {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    let (mut removal, step) = Removal::start(leaving, view);
    let sends = step.send.into_iter().map(|(to, request)| send(Arc::clone(agent), to, request));
    let mut replies: FuturesUnordered<_> = sends.collect();
    let mut outcome = step.outcome;
    while outcome.is_none() {
        let reply = tokio::time::timeout_at(deadline, replies.next()).await;
        outcome = match reply {
            Ok(Some((from, Some(reply)))) => removal.on_reply(from, &reply).outcome,
            Ok(Some((_, None))) => None,
            // All have answered, or the time is over.
            Ok(None) | Err(_) => break,
        };
    }
    let outcome = outcome.or_else(|| removal.on_deadline().outcome);
    let nobody = RemovalOutcome::NoMajority { answered: 0, needed: 1, silent: Vec::new(), newer: None };
    (removal, outcome.unwrap_or(nobody))
}

fn changed<R>(
    agent: &Agent,
    change: impl FnOnce(&mut State, Commit<'_>) -> Result<R, StoreError>,
) -> Result<R, ClaimError> {
    tokio::task::block_in_place(|| {
        change(&mut lock(&agent.state), &mut |writes: &Writes| agent.store.commit(writes, true))
    })
    .map_err(ClaimError::Store)
}

/// Tells every member once more which of this host's removals are over, and forgets those that all have heard of.
pub async fn take_back(agent: &Arc<Agent>, heard: &mut Heard) {
    let open: Vec<(Leaving, Vec<NodeId>)> = agent.read(|state| steps::open_removals(state).collect());
    let mut sends = FuturesUnordered::new();
    for (leaving, node, keep) in steps::to_be_told(&open, heard) {
        let send = send(Arc::clone(agent), node, keep);
        sends.push(async move { (leaving, send.await) });
    }
    while let Some((leaving, (from, reply))) = sends.next().await {
        if reply == Some(Reply::Kept) {
            heard.entry(leaving).or_default().insert(from);
        }
    }
    let over = steps::known_to_all(&open, heard);
    if !over.is_empty()
        && let Err(error) = changed(agent, |state, commit| steps::close_removals(state, &over, commit))
    {
        tracing::warn!("{}", chain(&error));
    }
}
