//! Containers' namespaces are attached when they are there.
//!
//! Docker tells where a namespace will be, and goes on; it appears some 100 ms later, and the container's first process runs
//! some 150 ms after that. Docker gives no driver a way to have it wait.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::books::Endpoint;
use super::{ORIGIN, containers, driver, engine, names};
use crate::api::types::{Attach, Place, Wait};
use crate::catalog::facts::{Key, ReplicaFact, Value};
use crate::model::Name;
use crate::netns::{self, Target};
use crate::runtime::agent::{Agent, Batch, chain};
use crate::runtime::events::lock;
use crate::runtime::local::LocalAttachment;
use crate::runtime::verbs::attach::{Caller, Located};
use crate::runtime::verbs::{self, takeover};
use crate::store::Writes;
use crate::view::Conflict;

/// Between two looks whether a namespace is there.
const INTERVAL: Duration = Duration::from_millis(5);
/// So long a container may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// From here on a namespace that does not come is a problem.
const LATE: Duration = Duration::from_secs(5);
/// So long an attachment waits for its name, and so long it is asked for at most.
const NAME_PATIENCE: Duration = Duration::from_secs(1);
const NAME_LIMIT: Duration = Duration::from_secs(300);
/// Between two questions for a name, at most.
const NAME_INTERVAL: Duration = Duration::from_millis(250);
/// Between two attempts to attach a container, growing.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Attaches an endpoint's container behind Docker's back, which is waiting for an answer.
pub(super) fn begin(agent: &Arc<Agent>, id: &str) {
    let (agent, id) = (Arc::clone(agent), id.to_owned());
    tokio::spawn(async move { attach(&agent, &id).await });
}

/// Those that the last agent did not come to the end with.
pub(super) fn resume(agent: &Arc<Agent>) {
    let waiting: Vec<String> = agent.read(|state| {
        let waiting = state.docker.endpoints().filter(|(_, it)| it.sandbox.is_some() && !it.settled);
        waiting.map(|(id, _)| id.clone()).collect()
    });
    waiting.iter().for_each(|id| begin(agent, id));
}

/// Detaches an endpoint's container, if it is attached.
pub(super) fn end(agent: &Agent, id: &str) -> Result<(), String> {
    let Some(record) = attached(agent, id) else { return Ok(()) };
    let records = std::slice::from_ref(&record);
    tokio::task::block_in_place(|| verbs::detach::withdraw(agent, records)).map_err(|it| it.message)?;
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
    let named = tokio::time::timeout(NAME_PATIENCE, name_of(agent, id, &endpoint));
    let (there, name) = futures::join!(wait_there(agent, id, &sandbox), named);
    if !there {
        return;
    }
    let name = name.ok().flatten();
    let called = name.clone().unwrap_or_else(|| format!("container-{}", id.get(..12).unwrap_or(id)));
    make(agent, id, &called, false).await;
    // An engine that is just starting answers nothing; what it starts is on the network meanwhile, under another name. So may be
    // what an agent that was killed has attached.
    let name = match name {
        Some(name) => name,
        None => {
            let named = tokio::time::timeout(NAME_LIMIT, name_of(agent, id, &endpoint)).await.ok().flatten();
            let Some(name) = named else { return };
            name
        }
    };
    settle(agent, id, name, &sandbox).await;
}

/// What Docker says once a container has started is taken in, and what its labels ask for is done: tried again while it runs.
async fn settle(agent: &Arc<Agent>, id: &str, mut name: String, sandbox: &str) {
    let object = format!("docker-registration/{name}");
    let mut pause = RETRY_FIRST;
    while let Some((endpoint, _)) = joined(agent, id).filter(|(_, now)| now == sandbox) {
        let done = match engine::connect(agent).await {
            Some(docker) => {
                // It may have been renamed since, or be attached under none of its own yet.
                if let Some(now) = engine::container_of(&docker, &endpoint.network_id, id).await {
                    name = now;
                }
                rename(agent, id, &name, false).await;
                containers::started(agent, &docker, &name, id).await
            }
            None => Err("Docker does not answer".to_owned()),
        };
        match done {
            Ok(()) => {
                let settled = driver::change(agent, |state| {
                    state.docker.settle(id, true);
                    Ok(())
                });
                if let Err(why) = settled {
                    tracing::warn!("endpoint {id} is settled again with the next start: {why}");
                }
                break;
            }
            Err(why) => lock(&agent.problems).set(object.clone(), Some(why), std::time::Instant::now()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
    lock(&agent.problems).set(object, None, std::time::Instant::now());
}

/// Attaches an endpoint's container anew under another name, with the addresses that it has, and with its replicas as they are.
/// One that is called so already stays. Killed in between, the next start attaches it, and does what its labels ask for.
pub(super) async fn rename(agent: &Arc<Agent>, id: &str, name: &str, apart: bool) {
    let Some(before) = attached(agent, id) else { return make(agent, id, name, apart).await };
    let (label, with_id) = (names::label(name), names::label_with(name, id));
    if with_id.as_ref() == Some(&before.name) || (!apart && label.as_ref() == Some(&before.name)) {
        return;
    }
    let settled = agent.read(|state| state.docker.endpoint(id).is_some_and(|it| it.settled));
    let note = |settled| {
        driver::change(agent, |state| {
            state.docker.settle(id, settled);
            Ok(())
        })
    };
    if let Err(why) = note(false) {
        tracing::warn!("endpoint {id} keeps its name: {why}");
        return;
    }
    let replicas: Vec<(Name, ReplicaFact)> = agent.read(|state| {
        let me = agent.identity.node;
        let on = state.catalog.services_on(&before.network, &before.name).filter(|(_, owner)| *owner == me);
        let fact = |service: &Name| match state.catalog.value(me, &key(&before, service)) {
            Some(Value::Replica(fact)) => Some((service.clone(), fact)),
            _ => None,
        };
        on.filter_map(|(service, _)| fact(service)).collect()
    });
    if let Err(why) = end(agent, id) {
        tracing::warn!("endpoint {id} keeps its name: {why}");
        return;
    }
    make(agent, id, name, apart).await;
    let Some(after) = attached(agent, id) else { return };
    let batch: Batch = replicas
        .into_iter()
        .map(|(service, fact)| (key(&after, &service), Some(Value::Replica(fact))))
        .collect();
    let written = if batch.is_empty() { Ok(()) } else { agent.write(batch, Writes::default()).map(drop) };
    match written {
        Err(failure) => {
            tracing::error!("the replicas of {} are not on {}: {}", before.name, after.name, failure.message);
        }
        Ok(()) if settled => {
            if let Err(why) = note(true) {
                tracing::warn!("endpoint {id} is settled again with the next start: {why}");
            }
        }
        Ok(()) => {}
    }
}

fn key(record: &LocalAttachment, service: &Name) -> Key {
    let (network, attachment) = (record.network.clone(), record.name.clone());
    Key::Replica { network, service: service.clone(), attachment }
}

/// Whether the namespace came, before its container ended. One that is late is a problem: Docker mounts it, and an agent in
/// another mount namespace sees that only if mounts are shared with it.
async fn wait_there(agent: &Agent, id: &str, sandbox: &str) -> bool {
    let (begun, object) = (Instant::now(), format!("docker-namespace/{}", id.get(..12).unwrap_or(id)));
    let (mut there, mut told) = (false, false);
    while joined(agent, id).is_some_and(|(_, now)| now == sandbox) && begun.elapsed() < START_LIMIT {
        match netns::resolve(&Target::Path(sandbox.into()), None) {
            Ok(_) => {
                there = true;
                break;
            }
            Err(error) if !told && begun.elapsed() > LATE => {
                told = true;
                let why = format!(
                    "{sandbox} of a container that Docker starts is not seen from here: {}. Docker mounts it: are its mounts shared \
                     with the agent's (findmnt -o TARGET,PROPAGATION /run)?",
                    chain(&error)
                );
                lock(&agent.problems).set(object.clone(), Some(why), std::time::Instant::now());
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
    lock(&agent.problems).set(object, None, std::time::Instant::now());
    there
}

async fn name_of(agent: &Arc<Agent>, id: &str, endpoint: &Endpoint) -> Option<String> {
    let (mut docker, mut pause) = (None, INTERVAL);
    while joined(agent, id).is_some() {
        if docker.is_none() {
            docker = engine::connect(agent).await;
        }
        if let Some(docker) = &docker {
            let named = engine::container_of(docker, &endpoint.network_id, id).await;
            if named.is_some() {
                return named;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(NAME_INTERVAL);
    }
    None
}

/// Attaches the container of an endpoint that has joined; what hinders it is told, and tried again while it runs.
async fn make(agent: &Arc<Agent>, id: &str, container: &str, apart: bool) {
    let object = format!("docker-container/{container}");
    let mut pause = RETRY_FIRST;
    let mut told = None;
    while let Some((endpoint, sandbox)) = joined(agent, id) {
        let made = {
            let _turn = agent.verbs.lock().await;
            // The lock may have been waited for.
            let now = joined(agent, id).filter(|(_, now)| *now == sandbox);
            match now.is_some() && attached(agent, id).is_none() {
                true => make_one(agent, id, &endpoint, &sandbox, (container, apart)).await,
                false => Ok(Vec::new()),
            }
        };
        match made {
            Ok(lines) => {
                for line in lines {
                    agent.events.record("attachment", line, ORIGIN);
                }
                if joined(agent, id).is_none_or(|(_, now)| now != sandbox) {
                    // It ended meanwhile.
                    drop(end(agent, id));
                }
                break;
            }
            Err(why) => {
                let line = format!("not attached to network {}: {why}", endpoint.network);
                lock(&agent.problems).set(object.clone(), Some(line.clone()), std::time::Instant::now());
                if told.as_ref() != Some(&line) {
                    agent.events.record("attachment", format!("container {container} is {line}"), ORIGIN);
                    told = Some(line);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
    lock(&agent.problems).set(object, None, std::time::Instant::now());
}

/// The attachment of an endpoint.
fn attached(agent: &Agent, id: &str) -> Option<LocalAttachment> {
    agent.read(|state| state.local.values().find(|it| it.endpoint.as_deref() == Some(id)).cloned())
}

/// Of two hosts that began to use one name at once, one has it; a container that has not gets another one.
pub(super) fn name_fenced(agent: &Arc<Agent>) {
    let fenced: Vec<(String, Name)> = agent.read(|state| {
        let named = takeover::fenced(state, agent.identity.node)
            .filter(|(_, _, conflict)| matches!(conflict, Conflict::Name { .. }));
        let records =
            named.filter_map(|(network, name, _)| state.local.get(&(network.clone(), name.clone())));
        records.filter_map(|it| Some((it.endpoint.clone()?, it.name.clone()))).collect()
    });
    for (id, name) in fenced {
        // It may take its time, and others wait for who calls.
        let agent = Arc::clone(agent);
        tokio::spawn(async move { rename(&agent, &id, name.as_str(), true).await });
    }
}

async fn make_one(
    agent: &Arc<Agent>,
    id: &str,
    endpoint: &Endpoint,
    sandbox: &str,
    (container, apart): (&str, bool),
) -> Result<Vec<String>, String> {
    let label = names::label(container).ok_or_else(|| format!("{container} is no name of DNS"))?;
    let name = match apart || is_taken(agent, &endpoint.network, &label) {
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
    made.map(|_| lines).map_err(|failure| failure.message)
}

/// Whether a name is another attachment's, or may be. Names of containers are each host's own at Docker, so none is taken over
/// from a host that is away: two containers of one name are two.
fn is_taken(agent: &Agent, network: &Name, name: &Name) -> bool {
    agent.read(|state| {
        let mut others =
            state.catalog.attachment(network, name).filter(|(owner, _)| *owner != agent.identity.node);
        let here = state.local.contains_key(&(network.clone(), name.clone()));
        here || others.next().is_some()
    })
}
