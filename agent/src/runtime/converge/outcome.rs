//! How a round came out: problems, events, metrics, and what others wait for.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Converger, Snapshot};
use crate::api::types::Problem;
use crate::model::Name;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::runtime::{host, problems};

/// How long an attach waits for this host's own kernel.
const CONVERGE_LIMIT: Duration = Duration::from_secs(10);

impl Agent {
    /// Replaces what is known to fail below `scope`, and says what changed.
    pub fn report(&self, scope: &str, found: Vec<(String, String)>) {
        let difference = lock(&self.problems).replace(scope, found, Instant::now());
        for (object, error) in difference.began {
            tracing::warn!(object, "{error}");
            self.events.record("problem", format!("{object} fails: {error}"), "agent");
        }
        for object in difference.ended {
            self.events.record("problem", format!("{object} works again"), "agent");
        }
    }

    /// Waits until this host's kernel has been brought to the local records as they stand now; the problems of one
    /// attachment, and of its network as a whole.
    pub async fn converged(&self, network: &Name, name: &Name) -> Vec<Problem> {
        let wanted = {
            let mut state = lock(&self.state);
            state.local_revision += 1;
            state.local_revision
        };
        self.changed.notify_one();
        let mut applied = self.applied_local.subscribe();
        let waited = applied.wait_for(|revision| *revision >= wanted);
        if tokio::time::timeout(CONVERGE_LIMIT, waited).await.is_err() {
            let error = format!("this host has not converged after {} s", CONVERGE_LIMIT.as_secs());
            return vec![Problem { object: "agent".to_owned(), error, seconds: 0, attempts: 1 }];
        }
        let (own, whole) = (format!("network/{network}/attachment/{name}"), format!("network/{network}"));
        let concerns = |object: &str| problems::is_within(&own, object) || object == whole;
        lock(&self.problems).list(concerns, Instant::now())
    }
}

impl Converger {
    pub(super) fn finish(&mut self, snapshot: Snapshot, mut problems: Vec<(String, String)>, began: Instant) {
        problems.sort();
        problems.dedup();
        let result = if problems.is_empty() { "ok" } else { "problems" };
        let agent = &self.agent;
        agent.metrics.converges.with_label_values(&[result]).inc();
        agent.metrics.converge_seconds.observe(began.elapsed().as_secs_f64());
        for scope in ["network/", "namespace/", "host", "leftover/", "paths"] {
            let of_scope = problems.iter().filter(|(object, _)| object.starts_with(scope)).cloned().collect();
            agent.report(scope, of_scope);
        }
        agent.applied.send_replace(Arc::new(snapshot.heads));
        agent.applied_local.send_replace(snapshot.revision);
    }

    /// A link's name is settled when it is made; it is looked up once. A fenced copy has no link, and gets another one
    /// when it stands again.
    pub(super) async fn remember_interfaces(&mut self) {
        let state = (self.local.revision(), self.fenced.keys().cloned().collect());
        if self.remembered.as_ref() == Some(&state) {
            return;
        }
        let known = |key: &(Name, Name)| lock(&self.agent.interfaces).contains_key(key);
        let fenced = |key: &(Name, Name)| self.fenced.contains_key(key);
        let here: BTreeSet<(&Name, &Name)> =
            self.local.iter().map(|record| (&record.network, &record.name)).collect();
        lock(&self.agent.interfaces).retain(|key, _| !fenced(key) && here.contains(&(&key.0, &key.1)));
        let mut complete = true;
        for record in self.local.iter() {
            let key = (record.network.clone(), record.name.clone());
            if known(&key) || fenced(&key) {
                continue;
            }
            let (network, name) = (record.network.as_str(), record.name.as_str());
            let found = match self.spaces.containers.get(&record.cookie) {
                Some(container) => host::interface(&container.namespace, network, name).await,
                None => None,
            };
            match found {
                Some(interface) => drop(lock(&self.agent.interfaces).insert(key, interface)),
                None => complete = false,
            }
        }
        self.remembered = complete.then_some(state);
    }
}
