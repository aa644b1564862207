//! Each network of the cluster is one of Docker's on every host, and one that is made with Docker becomes the cluster's.
//!
//! `docker network create -d svc-agent NAME` lets Docker's own address driver choose, each host for itself. So once its name is
//! known, the network is made anew with addresses of ours, and the first one is removed: two of one name stand for some
//! 15 ms, in which Docker would refuse a container for the ambiguity.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{EventMessageTypeEnum, Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::{EventsOptionsBuilder, ListNetworksOptionsBuilder};
use futures::StreamExt;
use ipnetwork::IpNetwork;

use super::plan::{Ours, Step, Theirs, is_automatic, plan};
use super::{DRIVER, NETWORK_OPTION, ORIGIN, driver, engine, names};
use crate::addresses::Layout;
use crate::api::types::{NetworkCreate, Wait};
use crate::model::Name;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::host;
use crate::runtime::verbs;

/// Between two looks where nothing tells of a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How soon changes of the cluster's networks are seen.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Between two attempts to reach an engine.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How long other hosts may take to have a network that was made with Docker.
const EVERYWHERE: Wait = Wait { milliseconds: 2_000 };

/// Follows both sides until the agent ends. Without a plugin socket there is nothing to follow.
pub async fn follow(agent: Arc<Agent>) {
    if agent.settings.load().docker_plugin.as_os_str().is_empty() {
        return;
    }
    loop {
        if let Some(docker) = engine::connect(&agent).await {
            let ended = follow_one(&agent, &docker).await;
            tracing::debug!("Docker's events ended: {ended}");
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

async fn follow_one(agent: &Arc<Agent>, docker: &Docker) -> String {
    // Heard of from here on, so that nothing is missed between the first look and the events.
    let filters = HashMap::from([("type", vec!["network"])]);
    let mut events = Box::pin(docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build())));
    let mut known = None;
    let mut looked = tokio::time::Instant::now();
    let mut look = true;
    loop {
        let ours = ours(agent);
        if look || known.as_ref() != Some(&ours) || looked.elapsed() >= LOOK_INTERVAL {
            let problems = settle(agent, docker, &ours).await;
            agent.report("docker/", problems);
            looked = tokio::time::Instant::now();
            known = Some(ours);
        }
        look = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    let action = event.action.unwrap_or_default();
                    let network = event.typ == Some(EventMessageTypeEnum::NETWORK);
                    network && (action == "create" || action == "destroy")
                }
                Some(Err(error)) => return chain(&error),
                None => return "the engine closed them".to_owned(),
            },
            () = agent.docker.look.notified() => false,
            () = tokio::time::sleep(FOLLOW_INTERVAL) => false,
        };
    }
}

/// The cluster's networks, where it is known that these are all.
fn ours(agent: &Agent) -> Option<BTreeMap<Name, Ours>> {
    agent.read(|state| {
        let networks = state.catalog.networks().filter_map(|name| {
            let definition = state.catalog.network(name)?.definition;
            let subnets = definition.subnets.clone();
            Some((name.clone(), Ours { subnets, internal: definition.internal }))
        });
        state.synced.then(|| networks.collect())
    })
}

/// One look and what follows from it. What cannot be done is told, and tried again.
async fn settle(
    agent: &Arc<Agent>,
    docker: &Docker,
    ours: &Option<BTreeMap<Name, Ours>>,
) -> Vec<(String, String)> {
    let Some(ours) = ours else { return Vec::new() };
    let theirs = match list(docker).await {
        Ok(theirs) => theirs,
        Err(error) => return vec![("docker/networks".to_owned(), chain(&error))],
    };
    let mut problems = Vec::new();
    remove_unwanted(agent, &theirs).await;
    for step in plan(ours, &theirs) {
        let (what, done) = match step {
            Step::Make { name } => {
                let made = make(docker, name.as_str(), &name, &ours[&name], None).await;
                (name.to_string(), made.map(drop))
            }
            Step::Remove { id, name } => (name, remove(agent, docker, &id).await),
            Step::TakeUp { theirs: its } => (its.name.clone(), take_up(agent, docker, &its, &theirs).await),
        };
        if let Err(why) = done {
            problems.push((format!("docker/network/{what}"), why));
        }
    }
    problems
}

async fn list(docker: &Docker) -> Result<Vec<Theirs>, Error> {
    let filters = HashMap::from([("driver", vec![DRIVER])]);
    let networks =
        docker.list_networks(Some(ListNetworksOptionsBuilder::new().filters(&filters).build())).await?;
    Ok(networks.into_iter().filter_map(theirs).collect())
}

fn theirs(network: Network) -> Option<Theirs> {
    let ipam = network.ipam.unwrap_or_default();
    let by_us = ipam.driver.as_deref() == Some(DRIVER);
    let subnets = ipam.config.unwrap_or_default().into_iter().filter_map(|it| it.subnet?.parse().ok());
    let options: BTreeMap<String, String> = network.options.unwrap_or_default().into_iter().collect();
    let ours = options.get(NETWORK_OPTION).filter(|_| by_us).and_then(|text| text.parse().ok());
    Some(Theirs {
        id: network.id?,
        name: network.name?,
        ours,
        subnets: subnets.collect(),
        internal: network.internal.unwrap_or_default(),
        attachable: network.attachable.unwrap_or_default(),
        six: network.enable_ipv6.unwrap_or_default(),
        options,
        labels: network.labels.unwrap_or_default().into_iter().collect(),
    })
}

/// Makes Docker's network of one of the cluster's; `like` brings labels.
async fn make(
    docker: &Docker,
    called: &str,
    name: &Name,
    ours: &Ours,
    like: Option<&Theirs>,
) -> Result<String, String> {
    let config = ours.subnets.iter().filter_map(|subnet| {
        let layout = Layout::new(*subnet).ok()?;
        let (subnet, gateway) = (Some(subnet.to_string()), Some(layout.gateway().to_string()));
        Some(IpamConfig { subnet, gateway, ..IpamConfig::default() })
    });
    let named = || Some(HashMap::from([(NETWORK_OPTION.to_owned(), name.to_string())]));
    let request = NetworkCreateRequest {
        name: called.to_owned(),
        driver: Some(DRIVER.to_owned()),
        internal: Some(ours.internal),
        attachable: Some(like.is_none_or(|like| like.attachable)),
        ipam: Some(Ipam {
            driver: Some(DRIVER.to_owned()),
            config: Some(config.collect()),
            options: named(),
        }),
        enable_ipv6: Some(ours.subnets.iter().any(IpNetwork::is_ipv6)),
        options: named(),
        labels: like.map(|like| like.labels.clone().into_iter().collect()),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await.map(|made| made.id).map_err(|error| chain(&error))
}

/// What was removed with Docker is removed from the cluster, unless somebody uses it or Docker has it under another name: then
/// it comes back.
async fn remove_unwanted(agent: &Arc<Agent>, theirs: &[Theirs]) {
    let unwanted = std::mem::take(&mut *lock(&agent.docker.unwanted));
    for name in unwanted.iter().filter(|name| !theirs.iter().any(|it| it.ours.as_ref() == Some(name))) {
        let removed = verbs::network::remove(agent, name.as_str(), EVERYWHERE, ORIGIN).await;
        if let Err(failure) = removed {
            let line =
                format!("network {name} was removed with Docker here and is made again: {}", failure.message);
            agent.events.record("network", line, ORIGIN);
        }
    }
}

async fn remove(agent: &Agent, docker: &Docker, id: &str) -> Result<(), String> {
    lock(&agent.docker.removing).insert(id.to_owned());
    let removed = remove_at(docker, id).await;
    lock(&agent.docker.removing).remove(id);
    removed
}

async fn remove_at(docker: &Docker, id: &str) -> Result<(), String> {
    match docker.remove_network(id).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(error) => Err(chain(&error)),
    }
}

/// Makes the cluster's network of one that was made with Docker, and Docker's anew with addresses of ours.
async fn take_up(agent: &Arc<Agent>, docker: &Docker, theirs: &Theirs, all: &[Theirs]) -> Result<(), String> {
    let name = names::label(&theirs.name).ok_or_else(|| format!("{} is no name of DNS", theirs.name))?;
    let given = theirs.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let options = driver::options(given)?;
    let routes = host::routes(agent).await.unwrap_or_default();
    let others = all.iter().filter(|other| other.id != theirs.id).flat_map(|other| other.subnets.clone());
    let taken: Vec<IpNetwork> = routes.into_iter().chain(others).collect();
    let chosen = theirs.subnets.iter().filter(|subnet| !is_automatic(subnet, &taken)).copied();
    let request = NetworkCreate {
        name: name.to_string(),
        subnets: chosen.collect(),
        internal: theirs.internal,
        mtu: options.mtu,
        wait: EVERYWHERE,
        ..NetworkCreate::default()
    };
    let made = {
        let _turn = agent.verbs.lock().await;
        verbs::network::make(agent, &request, ORIGIN).await
    };
    made.map_err(|failure| failure.message)?;
    let ours = ours(agent).unwrap_or_default();
    let ours = ours.get(&name).ok_or("it was removed again")?;
    match make(docker, &theirs.name, &name, ours, Some(theirs)).await {
        Ok(new) => {
            if let Err(why) = remove(agent, docker, &theirs.id).await {
                // A container is on it already: it stays, and the new one goes.
                remove(agent, docker, &new).await?;
                return Err(why);
            }
        }
        // Engines from 25 on take no second one of a name.
        Err(why) if why.contains("already exists") => {
            remove(agent, docker, &theirs.id).await?;
            make(docker, &theirs.name, &name, ours, Some(theirs)).await?;
        }
        Err(why) => return Err(why),
    }
    Ok(())
}
