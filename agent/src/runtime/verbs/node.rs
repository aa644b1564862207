//! `node rm`: ends a host that will not return.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::types::{Done, Failure, Wait};
use crate::catalog::facts::{Key, Value};
use crate::claims::{Leaving, Member, Removal, RemovalOutcome, View};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, Batch, refused, usage};
use crate::runtime::{claiming, verbs};
use crate::store::Writes;

/// How long the remaining hosts may take to agree.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// Removes a suspended host for good: its attachments, replicas, promises and addresses.
///
/// # Errors
/// When there is no such host, it is live, or no majority of the others agrees.
pub async fn remove(agent: &Arc<Agent>, text: &str, wait: Wait, origin: &str) -> Result<Done, Failure> {
    let turn = agent.verbs.lock().await;
    let (node, name, number) = find(agent, text)?;
    let member = Member { number, node };
    let outcome = agree(agent, member).await;
    let table = match outcome {
        RemovalOutcome::Agreed { table } => table,
        RemovalOutcome::NoMajority { answered, needed, silent, .. } => {
            let silent: Vec<String> = silent.iter().map(|node| agent.host_name(*node)).collect();
            let what = format!(
                "{name} is not removed: {answered} of the other hosts agreed, {needed} are needed; silent: {}",
                silent.join(", ")
            );
            return Err(refused(what, &["bring more hosts back first: svc-agent node ls"]));
        }
    };
    claiming::apply_removal(agent, member, &table).map_err(|error| refused(error, &[]))?;
    let batch: Batch = agent.read(|state| {
        // What only the removed host asserts must not die with it.
        let kept = state
            .catalog
            .sole_assertions(node)
            .into_iter()
            .filter(|(key, _)| matches!(key, Key::Network { .. } | Key::Service { .. }));
        kept.map(|(key, value)| (key, Some(value)))
            .chain(std::iter::once((Key::Removed { node }, Some(Value::Removed))))
            .collect()
    });
    let head = agent.write(batch, Writes::default())?;
    if let Some(cluster) = agent.cluster.get() {
        cluster.forget(node);
    }
    drop(turn);
    let line = format!("host {name} ({node}) removed");
    agent.events.record("host", &line, origin);
    let laggards = verbs::everywhere(agent, None, head, wait).await;
    let notes =
        vec!["if it does return it must join as a new host: move its state directory away first".to_owned()];
    Ok(Done { changed: vec![line], notes, laggards, object: None })
}

fn find(agent: &Agent, text: &str) -> Result<(NodeId, String, u32), Failure> {
    let by_id: Option<NodeId> = text.parse().ok();
    agent.read(|state| {
        let hosts: Vec<(NodeId, String, u32)> = state
            .catalog
            .hosts()
            .filter(|(node, host)| Some(*node) == by_id || host.name == text)
            .map(|(node, host)| (node, host.name.clone(), host.number))
            .collect();
        let found = match hosts.as_slice() {
            [one] => one.clone(),
            [] => {
                return Err(refused(format!("host {text} is not known"), &["see who is: svc-agent node ls"]));
            }
            several => {
                let ids: Vec<String> = several.iter().map(|(node, ..)| node.to_string()).collect();
                let hint = format!("give the id of the one you mean: svc-agent node rm {}", ids[0]);
                return Err(usage(format!("several hosts are called {text}: {}", ids.join(", ")), &[&hint]));
            }
        };
        if found.0 == agent.identity.node {
            return Err(refused("that is this host", &["to take it out of the cluster: svc-agent leave"]));
        }
        if !state.suspended.contains(&found.0) {
            let hint = format!("run `svc-agent leave` on {}, or stop its agent first", found.1);
            return Err(refused(format!("host {} is live", found.1), &[&hint]));
        }
        Ok(found)
    })
}

/// Asks every other member to agree.
async fn agree(agent: &Arc<Agent>, member: Member) -> RemovalOutcome {
    let view = agent.read(|state| {
        let promises = &state.books.promises;
        View::new(promises.members(), promises.removed().map(|member| member.number))
    });
    let attempt = match claiming::next_attempt(agent) {
        Ok(attempt) => attempt,
        Err(error) => {
            tracing::error!("{}", crate::runtime::agent::chain(&error));
            return RemovalOutcome::NoMajority { answered: 0, needed: 1, silent: Vec::new(), newer: None };
        }
    };
    let leaving = Leaving { member, remover: agent.identity.node, attempt };
    let (mut removal, step) = Removal::start(leaving, view);
    let mut outcome = step.outcome;
    let replies = futures::future::join_all(
        step.send.into_iter().map(|(to, request)| claiming::send(Arc::clone(agent), to, request)),
    );
    let replies = tokio::time::timeout(REMOVAL_LIMIT, replies).await.unwrap_or_default();
    for (from, reply) in replies {
        if let (None, Some(reply)) = (&outcome, reply) {
            outcome = removal.on_reply(from, &reply).outcome;
        }
    }
    let outcome = outcome.or_else(|| removal.on_deadline().outcome);
    let sends = match &outcome {
        Some(RemovalOutcome::Agreed { .. }) => removal.announcements(),
        _ => removal.retractions(),
    };
    let sends = sends.into_iter().map(|(to, request)| claiming::send(Arc::clone(agent), to, request));
    tokio::spawn(futures::future::join_all(sends.collect::<Vec<_>>()));
    outcome.unwrap_or(RemovalOutcome::NoMajority { answered: 0, needed: 1, silent: Vec::new(), newer: None })
}

/// Where a host's agent listens.
pub fn address_of(host: &crate::catalog::facts::HostFact) -> SocketAddr {
    SocketAddr::new(host.address, host.gossip_port)
}

/// This host's own removal, with `leave`: what to tell if the others did not agree.
pub async fn resign(agent: &Arc<Agent>) -> Vec<String> {
    let me = agent.identity.node;
    let (number, others) = agent.read(|state| {
        let promises = &state.books.promises;
        (promises.number(), promises.members().filter(|member| member.node != me).count())
    });
    let (Some(number), true) = (number, others > 0) else { return Vec::new() };
    let name = &agent.identity.name;
    match agree(agent, Member { number, node: me }).await {
        RemovalOutcome::Agreed { .. } => Vec::new(),
        RemovalOutcome::NoMajority { answered, needed, .. } => vec![format!(
            "NOT settled: {answered} of {needed} hosts agreed that {name} is gone: run on another host: svc-agent node rm {name}"
        )],
    }
}
