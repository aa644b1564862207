//! Removals that this host began: written down first, agreed on by the others, and taken back for sure if they are not.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::claims::{Entry, Leaving, Member, Removal, RemovalOutcome, Reply, Request, View};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, State, chain};
use crate::runtime::claiming::{ClaimError, note_members, save_books, send};
use crate::runtime::events::lock;

/// How long the remaining hosts may take to agree.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);
/// A removal is asked for anew so often because members know others than this host counted.
const STALE_RETRIES: usize = 3;

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
    let mut view = counted(agent, member);
    let mut ended = Ended::NoMajority { answered: 0, needed: 1, silent: Vec::new() };
    for _ in 0..STALE_RETRIES {
        let running = begin(agent, member)?;
        let (removal, outcome) = ask(agent, running.leaving, view.clone()).await;
        match outcome {
            RemovalOutcome::Agreed { table } => {
                // Durable here before anybody is told: from then on it is never taken back.
                agreed(agent, running.leaving, &table)?;
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

/// Everybody who counts as this host knows it, those included who were promised a number.
fn counted(agent: &Agent, member: Member) -> View {
    let mut state = lock(&agent.state);
    note_members(&mut state);
    let promises = &state.books.promises;
    let members = promises.members().chain(promises.pending()).chain([member]);
    View::new(members.collect::<Vec<_>>(), promises.removed().map(|member| member.number))
}

fn begin(agent: &Arc<Agent>, member: Member) -> Result<Running, ClaimError> {
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let attempt = state.books.attempt + 1;
        let leaving = Leaving { member, remover: agent.identity.node, attempt };
        state.books.attempt = attempt;
        state.books.removals.push(leaving);
        if let Err(error) = save_books(agent, &state) {
            state.books.removals.pop();
            return Err(error);
        }
        state.books.removing.insert(attempt);
        Ok(Running { agent: Arc::clone(agent), leaving })
    })
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

/// Writes down that a removal is agreed: it is applied here, and its earlier attempts need not be taken back.
fn agreed(agent: &Agent, leaving: Leaving, table: &[Entry]) -> Result<(), ClaimError> {
    changed(agent, |state| {
        state.books.removals.retain(|other| other.member != leaving.member);
        if leaving.member.node != agent.identity.node {
            state.books.promises.remove(leaving.member, table);
        }
    })
}

/// Applies a removal that others agreed on.
///
/// # Errors
/// When it cannot be written down; nothing has changed then.
pub fn apply(agent: &Agent, member: Member, table: &[Entry]) -> Result<(), ClaimError> {
    changed(agent, |state| drop(state.books.promises.remove(member, table)))
}

fn changed(agent: &Agent, change: impl FnOnce(&mut State)) -> Result<(), ClaimError> {
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let before = (state.books.promises.clone(), state.books.removals.clone());
        change(&mut state);
        save_books(agent, &state).inspect_err(|_| {
            (state.books.promises, state.books.removals) = before;
        })
    })
}

/// Who has heard which removal's end.
pub type Heard = BTreeMap<Leaving, BTreeSet<NodeId>>;

/// Tells every member once more which of this host's removals are over, and forgets those that all have heard of.
pub async fn take_back(agent: &Arc<Agent>, heard: &mut Heard) {
    let open: Vec<(Leaving, Vec<NodeId>)> = agent.read(|state| open(state).collect());
    heard.retain(|leaving, _| open.iter().any(|(other, _)| other == leaving));
    let mut sends = FuturesUnordered::new();
    for (leaving, members) in &open {
        let Leaving { member, remover, attempt } = *leaving;
        let keep = Request::Keep { member, remover, attempt };
        let heard = heard.entry(*leaving).or_default();
        for node in members.iter().filter(|node| !heard.contains(node)) {
            let send = send(Arc::clone(agent), *node, keep.clone());
            sends.push(async move { (*leaving, send.await) });
        }
    }
    while let Some((leaving, (from, reply))) = sends.next().await {
        if reply == Some(Reply::Kept) {
            heard.entry(leaving).or_default().insert(from);
        }
    }
    let all_heard = |(leaving, members): &(Leaving, Vec<NodeId>)| {
        heard.get(leaving).is_some_and(|heard| members.iter().all(|node| heard.contains(node)))
    };
    let over: BTreeSet<Leaving> =
        open.iter().filter(|it| all_heard(it)).map(|(leaving, _)| *leaving).collect();
    if !over.is_empty()
        && let Err(error) = changed(agent, |state| state.books.removals.retain(|it| !over.contains(it)))
    {
        tracing::warn!("{}", chain(&error));
    }
}

/// Removals that did not come to their end, and who has to hear of it: who is removed need not.
fn open(state: &State) -> impl Iterator<Item = (Leaving, Vec<NodeId>)> + '_ {
    let books = &state.books;
    let open = books.removals.iter().filter(|leaving| !books.removing.contains(&leaving.attempt));
    open.map(|leaving| {
        let members = books.promises.members().map(|member| member.node);
        (*leaving, members.filter(|node| *node != leaving.member.node).collect())
    })
}
