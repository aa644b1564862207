//! `leave`: takes this host out of its cluster and removes everything that was created, naming it.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::api::types::{Failure, Left, Wait};
use crate::catalog::facts::{Key, Value};
use crate::catalog::{Catalog, Update};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, Batch, State, refused};
use crate::runtime::events::lock;
use crate::runtime::local::LocalAttachment;
use crate::runtime::{host, verbs};
use crate::store::Writes;

/// How long the other hosts may take to see that this one goes.
const FAREWELL: Wait = Wait { milliseconds: 2_000 };
/// How long leaving may take before its caller is told to wait no longer.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(60);
/// So many live hosts, those with the lowest ids, take over what a host that goes asserted alone.
const HEIRS: usize = 3;

/// Leaves. The agent ends after the answer.
///
/// # Errors
/// When the store refuses: this host is a member as before. When the kernel's state is not removed in time: it goes on
/// being removed, and the agent ends after it.
pub async fn leave(agent: &Arc<Agent>, origin: &str) -> Result<Left, Failure> {
    let (leaver, origin) = (Arc::clone(agent), origin.to_owned());
    // A task of its own: once begun it comes to its end, whether or not somebody waits for the answer.
    let left = tokio::spawn(async move { go(&leaver, &origin).await });
    match tokio::time::timeout(LEAVE_LIMIT, left).await {
        Ok(Ok(left)) => left,
        Ok(Err(error)) => Err(refused(format!("leaving failed: {error}"), &["see the agent's log"])),
        Err(_) => {
            let hint = "see the agent's log: it ends when it is done";
            Err(refused("this host's kernel state is not removed yet; it is being removed still", &[hint]))
        }
    }
}

async fn go(agent: &Arc<Agent>, origin: &str) -> Result<Left, Failure> {
    let _turn = agent.verbs.lock().await;
    agent.events.record("host", "this host leaves the cluster", origin);
    let local: Vec<LocalAttachment> = agent.read(|state| state.local.values().cloned().collect());
    let mut removed: Vec<String> = local.iter().map(|it| format!("attachment {}", it.key())).collect();
    // The others stop sending first; then the kernel's state goes, then what this host knows of it.
    let farewell = verbs::node::resign(agent).await;
    let me = agent.identity.node;
    let head = agent.update(|state| Ok((facts(state, me), Writes::default())))?;
    for laggard in verbs::everywhere(agent, None, head, FAREWELL).await {
        removed.push(format!("NOT told: host {}: {}", laggard.host, laggard.reason));
    }
    removed.extend(farewell);
    removed.extend(crate::docker::remove_all(agent).await);
    removed.extend(remove_from_kernel(agent).await?);
    // Taken out first: a resolv.conf is removed with the last attachment that uses it.
    lock(&agent.state).local.clear();
    let mut files: Vec<String> = local.iter().filter_map(|record| record.resolv_conf.clone()).collect();
    files.sort();
    files.dedup();
    removed.extend(files);
    for record in &local {
        host::remove_resolv_conf(agent, record);
    }
    if let Some(cluster) = agent.cluster.get() {
        cluster.leave().await;
    }
    let state = agent.settings.load().state_dir.join("state.redb");
    match std::fs::remove_file(&state) {
        Ok(()) => removed.push(state.display().to_string()),
        Err(error) => removed.push(format!("NOT removed: {}: {error}", state.display())),
    }
    for line in &removed {
        tracing::info!("removed: {line}");
    }
    agent.stop.send_replace(true);
    Ok(Left { removed })
}

/// Withdraws this host's attachments and replicas and says that it is removed. Definitions stay until the others have
/// taken over what only this host asserts.
pub(crate) fn facts(state: &State, me: NodeId) -> Batch {
    let keys = state.catalog.owner(me).into_iter().flat_map(|owner| owner.keys());
    let used = keys.filter(|key| matches!(key, Key::Attachment { .. } | Key::Replica { .. }));
    let used = used.map(|key| (key.clone(), None));
    used.chain([(Key::Removed { node: me }, Some(Value::Removed))]).collect()
}

async fn remove_from_kernel(agent: &Agent) -> Result<Vec<String>, Failure> {
    let (answer, removed) = oneshot::channel();
    let ended = || refused("this host is leaving already", &["see the agent's log"]);
    agent.leaving.send(answer).await.map_err(|_| ended())?;
    removed.await.map_err(|_| ended())
}

/// Definitions that only nodes assert whose removal an update brings: to be looked for before it is applied, as nothing
/// shows afterwards who asserted what.
pub fn at_stake(catalog: &Catalog, update: &Update) -> Vec<(Key, Value)> {
    let entries = match update {
        Update::Delta(delta) => &delta.entries,
        Update::Full(full) => &full.entries,
    };
    let removed = entries.iter().filter_map(|entry| match (&entry.key, &entry.value) {
        (Key::Removed { node }, Some(_)) if !catalog.is_removed(*node) => Some(*node),
        _ => None,
    });
    removed.flat_map(|node| catalog.sole_assertions(node)).collect()
}

/// What this host takes over of `at_stake` after the update: definitions must not die with the host that made them.
/// A few hosts do it, so that one of them may fail meanwhile.
pub fn taken_over(
    catalog: &Catalog,
    suspended: &BTreeSet<NodeId>,
    me: NodeId,
    at_stake: Vec<(Key, Value)>,
) -> Vec<(Key, Value)> {
    let live = catalog.hosts().map(|(node, _)| node).filter(|node| !suspended.contains(node));
    match !at_stake.is_empty() && live.take(HEIRS).any(|node| node == me) {
        true => catalog.orphaned(at_stake),
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
