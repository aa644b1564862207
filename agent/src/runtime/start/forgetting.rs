//! Forgets what was removed so long ago that nobody asks for it any more.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::TOMBSTONE_AGE_MS;
use crate::catalog::facts::Key;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::records;
use crate::store::Writes;

/// This often it is looked at what can be forgotten.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// The first look comes so long after the start: a start raises the floor of this host's own facts.
const FIRST: Duration = Duration::from_secs(60);
/// Removals of definitions withdrawn in one write.
const WITHDRAWN_AT_ONCE: usize = 1_000;

/// What is remembered of what is to be forgotten.
#[derive(Debug)]
pub(super) struct Forgetting {
    next: Instant,
    /// Since when a removal of a definition has been settled, as seen by this agent.
    settled: Settled,
}

impl Forgetting {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + FIRST, settled: Settled::default() }
    }

    /// Does what is due; to be called about once a second.
    pub(super) async fn go_on(&mut self, agent: &Arc<Agent>) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        self.withdraw_removals(agent, now);
        forget_tombstones(agent);
        let forgetter = Arc::clone(agent);
        match tokio::task::spawn_blocking(move || forget_rows(&forgetter)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{}", chain(&error)),
            Err(error) => tracing::warn!("forgetting old rows: {error}"),
        }
    }

    /// Withdraws this host's assertions of removals that have long been settled.
    fn withdraw_removals(&mut self, agent: &Agent, now: Instant) {
        let me = agent.identity.node;
        let old = agent.read(|state| self.settled.old(state.catalog.settled_removals(me), now));
        for keys in old.chunks(WITHDRAWN_AT_ONCE) {
            let batch = keys.iter().map(|key| (key.clone(), None)).collect();
            if let Err(failure) = agent.write(batch, Writes::default()) {
                tracing::warn!("old removals stay: {}", failure.message);
                return;
            }
        }
    }
}

/// Since when each removal has been settled.
#[derive(Debug, Default)]
struct Settled(BTreeMap<Key, Instant>);

impl Settled {
    /// Of what is settled now, what has been so for as long as a tombstone is kept.
    fn old(&mut self, now_settled: Vec<Key>, now: Instant) -> Vec<Key> {
        let age = Duration::from_millis(TOMBSTONE_AGE_MS);
        let before = std::mem::take(&mut self.0);
        self.0 = now_settled
            .into_iter()
            .map(|key| (before.get(&key).copied(), key))
            .map(|(since, key)| (key, since.unwrap_or(now)))
            .collect();
        let old = self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= age);
        old.map(|(key, _)| key.clone()).collect()
    }
}

/// Forgets tombstones in memory. Others' new floors are saved with their facts; this host's own floor rises by itself
/// with each start.
fn forget_tombstones(agent: &Agent) {
    let mut state = lock(&agent.state);
    let age = u64::try_from(agent.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    state.catalog.forget_tombstones(age);
    let state = &mut *state;
    for (owner, _) in state.catalog.owners().filter(|(owner, _)| *owner != agent.identity.node) {
        records::put_head(&state.catalog, owner, &mut state.unsaved);
    }
}

/// Deletes the rows that the store's own floors make needless; what has changed since it was read stays.
fn forget_rows(agent: &Agent) -> Result<(), crate::store::StoreError> {
    let mut forgettable = records::Forgettable::default();
    agent.store.facts(|row| forgettable.visit(row))?;
    let rows = forgettable.rows;
    if !rows.is_empty() {
        agent.store.forget(&rows)?;
        tracing::debug!("{} rows forgotten", rows.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
