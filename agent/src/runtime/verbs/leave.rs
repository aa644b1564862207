//! `leave`: takes this host out of its cluster and removes everything that was created, naming it.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::api::types::{Failure, Left, Wait};
use crate::catalog::facts::{Key, Value};
use crate::runtime::agent::{Agent, Batch, refused};
use crate::runtime::local::LocalAttachment;
use crate::runtime::{host, verbs};
use crate::store::Writes;

/// How long the other hosts may take to see that this one goes.
const FAREWELL: Wait = Wait { milliseconds: 2_000 };
/// How long removing everything from the kernel may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// Leaves. The agent ends after the answer.
///
/// # Errors
/// When the store refuses, or the converge loop does not answer: what is left is named by the next attempt.
pub async fn leave(agent: &Arc<Agent>, origin: &str) -> Result<Left, Failure> {
    let _turn = agent.verbs.lock().await;
    agent.events.record("host", "this host leaves the cluster", origin);
    let local: Vec<LocalAttachment> = agent.read(|state| state.local.values().cloned().collect());
    let mut removed: Vec<String> = local.iter().map(|it| format!("attachment {}", it.key())).collect();
    // The others stop sending first; then the kernel's state goes, then what this host knows of it.
    let farewell = verbs::node::resign(agent).await;
    let head = agent.write(facts(agent), Writes::default())?;
    for laggard in verbs::everywhere(agent, None, head, FAREWELL).await {
        removed.push(format!("NOT told: host {}: {}", laggard.host, laggard.reason));
    }
    removed.extend(farewell);
    removed.extend(remove_from_kernel(agent).await?);
    for record in &local {
        removed.extend(record.resolv_conf.clone());
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
    agent.stop.send_replace(true);
    Ok(Left { removed })
}

/// Withdraws this host's attachments and replicas and says that it is removed. Definitions stay: who uses them
/// asserts them, too.
fn facts(agent: &Agent) -> Batch {
    let me = agent.identity.node;
    let used = agent.read(|state| {
        let owner = state.catalog.owner(me);
        let keys = owner.into_iter().flat_map(|owner| owner.keys());
        let used = keys.filter(|key| matches!(key, Key::Attachment { .. } | Key::Replica { .. }));
        used.map(|key| (key.clone(), None)).collect::<Batch>()
    });
    used.into_iter().chain([(Key::Removed { node: me }, Some(Value::Removed))]).collect()
}

async fn remove_from_kernel(agent: &Agent) -> Result<Vec<String>, Failure> {
    let (answer, removed) = oneshot::channel();
    let stuck = || {
        refused("this host's kernel state could not be removed", &["see the agent's log, then leave again"])
    };
    agent.leaving.send(answer).await.map_err(|_| stuck())?;
    let removed = tokio::time::timeout(REMOVAL_LIMIT, removed).await;
    removed.map_err(|_| stuck())?.map_err(|_| stuck())
}
