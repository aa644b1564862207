//! Keeps one check running per local replica that has one, and writes what they find.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::catalog::facts::{Check, Health, Key, ReplicaFact, Value};
use crate::model::Name;
use crate::runtime::agent::{Agent, Batch};
use crate::runtime::checks::{self, Verdict};
use crate::runtime::events::lock;
use crate::runtime::verbs::register::health;
use crate::store::Writes;

/// Verdicts that may wait to be written; a check waits beyond that.
const VERDICTS_MAX: usize = 1_024;

/// Changes within this time are followed together.
const GATHER: Duration = Duration::from_millis(20);

/// A replica of this host: network, service, attachment.
type Replica = (Name, Name, Name);

/// What a check was started with; another one is started when it differs.
#[derive(Clone, PartialEq)]
struct Started {
    check: Check,
    cookie: u64,
    address: std::net::IpAddr,
}

/// Runs until the agent ends.
pub async fn run(agent: Arc<Agent>) {
    let (sender, mut verdicts) = mpsc::channel(VERDICTS_MAX);
    let mut running = BTreeMap::<Replica, (Started, JoinHandle<()>)>::new();
    let mut revision = agent.revision.subscribe();
    let mut opened = agent.opened_revision.subscribe();
    let mut last = Instant::now();
    loop {
        withdraw_orphans(&agent);
        follow(&agent, &mut running, &sender);
        tokio::select! {
            Some(verdict) = verdicts.recv() => {
                let mut all = vec![verdict];
                while let Ok(more) = verdicts.try_recv() {
                    all.push(more);
                }
                write(&agent, all);
            }
            changed = revision.changed() => if changed.is_err() { return },
            changed = opened.changed() => if changed.is_err() { return },
        }
        // Many registrations at once are followed together: each look costs in proportion to this host's replicas.
        if last.elapsed() < GATHER {
            tokio::time::sleep(GATHER - last.elapsed()).await;
        }
        last = Instant::now();
    }
}

/// Starts and ends checks so that they are those that the definitions want.
fn follow(
    agent: &Arc<Agent>,
    running: &mut BTreeMap<Replica, (Started, JoinHandle<()>)>,
    sender: &mpsc::Sender<Verdict<Replica>>,
) {
    let wanted = wanted(agent);
    running.retain(|replica, (started, task)| {
        let keep = wanted.get(replica) == Some(started) && !task.is_finished();
        if !keep {
            task.abort();
        }
        keep
    });
    for (replica, started) in wanted {
        if running.contains_key(&replica) {
            continue;
        }
        let Some(namespace) = lock(&agent.namespaces).get(&started.cookie).cloned() else { continue };
        let task = tokio::spawn(checks::run(
            replica.clone(),
            started.check.clone(),
            Arc::new(namespace),
            started.address,
            sender.clone(),
        ));
        running.insert(replica, (started, task));
    }
}

fn wanted(agent: &Agent) -> BTreeMap<Replica, Started> {
    let me = agent.identity.node;
    agent.read(|state| {
        let mut wanted = BTreeMap::new();
        let Some(owner) = state.catalog.owner(me) else { return wanted };
        for key in owner.keys() {
            let Key::Replica { network, service, attachment } = key else { continue };
            let check = state.catalog.service(network, service);
            let check = check.and_then(|record| record.definition.settings.check.clone());
            let local = state.local.get(&(network.clone(), attachment.clone()));
            let (Some(check), Some(local)) = (check, local) else { continue };
            let Some(address) = local.addresses.first().copied() else { continue };
            let replica = (network.clone(), service.clone(), attachment.clone());
            wanted.insert(replica, Started { check, cookie: local.cookie, address });
        }
        wanted
    })
}

fn replica_of(agent: &Agent, replica: &Replica) -> Option<(Key, ReplicaFact)> {
    let (network, service, attachment) = replica.clone();
    let key = Key::Replica { network, service, attachment };
    match agent.read(|state| state.catalog.value(agent.identity.node, &key)) {
        Some(Value::Replica(fact)) => Some((key, fact)),
        _ => None,
    }
}

/// A drained replica stays drained, whatever its check says.
fn write(agent: &Agent, verdicts: Vec<Verdict<Replica>>) {
    let mut batch: Batch = Vec::new();
    let mut lines = Vec::new();
    for verdict in verdicts {
        let Some((key, fact)) = replica_of(agent, &verdict.replica) else { continue };
        if fact.health == Health::Draining || fact.health == verdict.health {
            continue;
        }
        let (_, service, attachment) = &verdict.replica;
        let word = health(verdict.health);
        agent.metrics.health_changes.with_label_values(&[word]).inc();
        lines.push(format!("{service} on {attachment} is {word}: {}", verdict.reason));
        batch.push((key, Some(Value::Replica(ReplicaFact { health: verdict.health, ..fact }))));
    }
    if batch.is_empty() {
        return;
    }
    match agent.write(batch, Writes::default()) {
        Ok(_) => lines.into_iter().for_each(|line| agent.events.record("replica", line, "check")),
        Err(failure) => tracing::error!("what checks found cannot be written: {}", failure.message),
    }
}

/// Withdraws replicas of services that were deregistered from another host, and ends the wait of replicas whose
/// service no longer has a check.
fn withdraw_orphans(agent: &Agent) {
    let me = agent.identity.node;
    let batch: Batch = agent.read(|state| {
        let Some(owner) = state.catalog.owner(me) else { return Vec::new() };
        let replicas = owner.keys().filter_map(|key| {
            let Key::Replica { network, service, .. } = key else { return None };
            let Some(record) = state.catalog.service(network, service) else {
                return state.synced.then(|| (key.clone(), None));
            };
            if record.definition.settings.check.is_some() {
                return None;
            }
            match owner.get(key) {
                Some(Value::Replica(fact)) if matches!(fact.health, Health::Starting | Health::Failing) => {
                    let fact = ReplicaFact { health: Health::Serving, ..fact };
                    Some((key.clone(), Some(Value::Replica(fact))))
                }
                _ => None,
            }
        });
        replicas.collect()
    });
    if !batch.is_empty()
        && let Err(failure) = agent.write(batch, Writes::default())
    {
        tracing::error!("replicas of services that are gone cannot be withdrawn: {}", failure.message);
    }
}
