//! Containers' namespaces are attached when they are there.
//!
//! Docker tells where a namespace will be, and goes on; it appears some 100 ms later, and the container's first process runs
//! some 150 ms after that. Docker gives no driver a way to have it wait.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::books::Endpoint;
use super::{ORIGIN, engine, names};
use crate::api::types::{Attach, Place, Wait};
use crate::model::Name;
use crate::netns::{self, Target};
use crate::runtime::agent::Agent;
use crate::runtime::local::LocalAttachment;
use crate::runtime::verbs::attach::{Caller, Located};
use crate::runtime::verbs::{self, takeover};

/// Between two looks whether a namespace is there.
const INTERVAL: Duration = Duration::from_millis(5);
/// So long a container may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// So long a name is asked for; it serves once it is known.
const NAME_LIMIT: Duration = Duration::from_secs(5);

/// Attaches an endpoint's container behind Docker's back, which is waiting for an answer.
pub(super) fn begin(agent: &Arc<Agent>, id: &str) {
    let (agent, id) = (Arc::clone(agent), id.to_owned());
    tokio::spawn(async move { attach(&agent, &id).await });
}

/// Those whose namespaces were awaited when the last agent ended.
pub(super) fn resume(agent: &Arc<Agent>) {
    let waiting: Vec<String> = agent.read(|state| {
        let attached = |id: &String| state.local.values().any(|it| it.endpoint.as_ref() == Some(id));
        let waiting = state.docker.endpoints().filter(|(id, it)| it.sandbox.is_some() && !attached(id));
        waiting.map(|(id, _)| id.clone()).collect()
    });
    waiting.iter().for_each(|id| begin(agent, id));
}

/// Detaches an endpoint's container, if it is attached.
pub(super) fn end(agent: &Agent, id: &str) -> Result<(), String> {
    let attached: Vec<LocalAttachment> = agent.read(|state| {
        state.local.values().filter(|it| it.endpoint.as_deref() == Some(id)).cloned().collect()
    });
    let Some(record) = attached.first() else { return Ok(()) };
    tokio::task::block_in_place(|| verbs::detach::withdraw(agent, &attached)).map_err(|it| it.message)?;
    agent.events.record(
        "attachment",
        format!("{} detached from network {}", record.name, record.network),
        ORIGIN,
    );
    Ok(())
}

/// The endpoint, while its container is to be attached.
fn joined(agent: &Agent, id: &str) -> Option<(Endpoint, String)> {
    agent.read(|state| {
        let endpoint = state.docker.endpoint(id)?;
        Some((endpoint.clone(), endpoint.sandbox.clone()?))
    })
}

async fn attach(agent: &Arc<Agent>, id: &str) {
    let Some((endpoint, sandbox)) = joined(agent, id) else { return };
    let (there, name) = futures::join!(wait_there(agent, id, &sandbox), name_of(agent, id, &endpoint));
    if !there {
        return;
    }
    let container = name.clone().unwrap_or_else(|| id.to_owned());
    let made = {
        let _turn = agent.verbs.lock().await;
        make(agent, id, &endpoint, &sandbox, &container).await
    };
    match made {
        Ok((record, lines)) => {
            for line in lines {
                agent.events.record("attachment", line, ORIGIN);
            }
            if joined(agent, id).is_none_or(|(_, now)| now != sandbox) {
                // It ended meanwhile.
                drop(end(agent, id));
            } else if let Some(name) = name {
                add_aliases(agent, id, &name, record).await;
            }
        }
        Err(why) => {
            let line =
                format!("container {container} is not attached to network {}: {why}", endpoint.network);
            tracing::error!("{line}");
            agent.events.record("attachment", line, ORIGIN);
        }
    }
}

/// Whether the namespace came, before its container ended.
async fn wait_there(agent: &Agent, id: &str, sandbox: &str) -> bool {
    let until = Instant::now() + START_LIMIT;
    while joined(agent, id).is_some_and(|(_, now)| now == sandbox) && Instant::now() < until {
        if netns::resolve(&Target::Path(sandbox.into()), None).is_ok() {
            return true;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    false
}

async fn name_of(agent: &Arc<Agent>, id: &str, endpoint: &Endpoint) -> Option<String> {
    let docker = engine::connect(agent).await?;
    let until = Instant::now() + NAME_LIMIT;
    while Instant::now() < until && joined(agent, id).is_some() {
        if let Some(name) = engine::container_of(&docker, &endpoint.network_id, id).await {
            return Some(name);
        }
        tokio::time::sleep(INTERVAL).await;
    }
    None
}

async fn make(
    agent: &Arc<Agent>,
    id: &str,
    endpoint: &Endpoint,
    sandbox: &str,
    container: &str,
) -> Result<(LocalAttachment, Vec<String>), String> {
    let label = names::label(container).ok_or_else(|| format!("{container} is no name of DNS"))?;
    let name = match is_taken(agent, &endpoint.network, &label) {
        true => names::label_with(container, id).unwrap_or(label),
        false => label,
    };
    let request = Attach {
        name: name.to_string(),
        network: Some(endpoint.network.to_string()),
        place: Place::Netns(sandbox.to_owned()),
        ip: None,
        mac: Some(endpoint.mac.clone()),
        aliases: Vec::new(),
        default_route: false,
        wait: Wait { milliseconds: 0 },
    };
    let located = Located::of_endpoint(request.place.clone(), id.to_owned(), endpoint.addresses.clone());
    let caller = Caller { pid: None, origin: ORIGIN.to_owned() };
    let mut lines = Vec::new();
    let made = verbs::attach::make(agent, &request, &located, &caller, &mut lines).await;
    made.map(|(record, _)| (record, lines)).map_err(|failure| failure.message)
}

/// Whether a name is another attachment's, here or on a host that lives. Names of containers are each host's own at Docker.
fn is_taken(agent: &Agent, network: &Name, name: &Name) -> bool {
    agent.read(|state| {
        let here = state.local.contains_key(&(network.clone(), name.clone()));
        here || takeover::predecessors(state, agent.identity.node, network, name, None).is_err()
    })
}

/// The engine tells them once the container has started.
async fn add_aliases(agent: &Arc<Agent>, id: &str, container: &str, record: LocalAttachment) {
    let Some(docker) = engine::connect(agent).await else { return };
    let Some(aliases) = engine::aliases_of(&docker, container, id).await else { return };
    let mut labels: Vec<Name> = aliases.iter().filter_map(|alias| names::label(alias)).collect();
    labels.retain(|label| *label != record.name);
    labels.sort();
    labels.dedup();
    if labels.is_empty() || joined(agent, id).is_none() {
        return;
    }
    let record = LocalAttachment { aliases: labels, ..record };
    let told = agent.update(|state| verbs::attach::announcement(state, &record));
    match told {
        Ok(_) => agent.changed.notify_one(),
        Err(failure) => tracing::warn!("aliases of {container}: {}", failure.message),
    }
}
