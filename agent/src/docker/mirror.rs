//! Each network of the cluster is one of Docker's on every host, and one that is made with Docker becomes the cluster's.
//!
//! `docker network create -d svc-agent NAME` lets Docker's own address driver choose, each host for itself. So once its name is
//! known, the network is made anew with addresses of ours, and the first one is removed: two of one name stand for some
//! 15 ms, in which Docker would refuse a container for the ambiguity.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use futures::StreamExt;
use ipnetwork::IpNetwork;

use super::plan::{Ours, Step, Theirs, is_automatic, plan};
use super::{DRIVER, NETWORK_OPTION, ORIGIN, attaching, containers, driver, engine, names};
use crate::addresses::Layout;
use crate::api::types::{NetworkCreate, Wait};
use crate::model::Name;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::local::list_some;
use crate::runtime::verbs;

/// Between two looks where nothing tells of a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// So long the event of a removal may be on its way.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
/// How soon changes of the cluster's networks are seen.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// So long an engine may be away without a word: it starts, or is restarted.
const AWAY_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to reach an engine.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How long other hosts may take to have a network that was made with Docker.
const EVERYWHERE: Wait = Wait { milliseconds: 2_000 };

/// Follows both sides until the agent ends. Without a plugin socket there is nothing to follow.
pub async fn follow(agent: Arc<Agent>) {
    if agent.settings.load().docker_plugin.as_os_str().is_empty() {
        return;
    }
    let mut away: Option<tokio::time::Instant> = None;
    loop {
        let since = *away.get_or_insert_with(tokio::time::Instant::now);
        if let Some(docker) = engine::connect(&agent).await {
            away = None;
            let ended = follow_one(&agent, &docker).await;
            tracing::debug!("Docker's events ended: {ended}");
        } else if since.elapsed() > AWAY_LIMIT {
            let sockets: Vec<String> =
                agent.settings.load().engine.iter().map(|it| it.display().to_string()).collect();
            let why = format!("Docker does not answer at {}", crate::runtime::local::list(&sockets));
            agent.report("docker/", vec![("docker/engine".to_owned(), why)]);
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

async fn follow_one(agent: &Arc<Agent>, docker: &Docker) -> String {
    let mut events = engine::events(docker, "network");
    let mut known = None;
    let mut looked = tokio::time::Instant::now();
    let mut look = true;
    loop {
        attaching::name_fenced(agent);
        let ours = ours(agent);
        if look || known.as_ref() != Some(&ours) || looked.elapsed() >= LOOK_INTERVAL {
            match settle(agent, docker, &ours).await {
                Ok(problems) => agent.report("docker/", problems),
                Err(error) => return chain(&error),
            }
            looked = tokio::time::Instant::now();
            known = Some(ours);
        }
        look = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    let action = event.action.unwrap_or_default();
                    let actor = event.actor.unwrap_or_default();
                    let id = actor.id.unwrap_or_default();
                    let mut attributes = actor.attributes.unwrap_or_default();
                    tracing::debug!(id, action, "Docker says of a network");
                    if action == "destroy" {
                        lock(&agent.docker.removing).remove(&id);
                        let name = lock(&agent.docker.deleted).remove(&id).map(|(name, _)| name);
                        let called = attributes.remove("name").unwrap_or_default();
                        lock(&agent.docker.unwanted).extend(name.map(|name| (name, called)));
                    }
                    if let Some(container) = attributes.remove("container") {
                        // It is on another network, or on one less.
                        let (agent, docker) = (Arc::clone(agent), docker.clone());
                        tokio::spawn(async move { containers::again(&agent, &docker, &container).await });
                    }
                    action == "create" || action == "destroy"
                }
                Some(Err(error)) => return chain(&error),
                None => return "the engine closed them".to_owned(),
            },
            () = agent.docker.look.notified() => true,
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
) -> Result<Vec<(String, String)>, Error> {
    let leaving = agent.docker.leaving.load(Ordering::Relaxed);
    let Some(ours) = ours.as_ref().filter(|_| !leaving) else { return Ok(Vec::new()) };
    let (theirs, others) = list(docker).await?;
    adopt(agent, &theirs);
    let mut problems = Vec::new();
    let mut ours = ours.clone();
    for name in remove_unwanted(agent, &theirs).await {
        ours.remove(&name);
    }
    let going = going(agent);
    for step in plan(&ours, &theirs) {
        tracing::debug!(?step, "to be done at Docker");
        let (what, done) = match step {
            Step::Make { name } if going.contains(&name) => continue,
            Step::Make { name } if others.contains(name.as_str()) => {
                let why = format!("Docker has a network {name} of another driver; remove one, or rename it");
                (name.to_string(), Err(why))
            }
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
    Ok(problems)
}

/// Docker's networks of this driver, and the names of those of others.
async fn list(docker: &Docker) -> Result<(Vec<Theirs>, BTreeSet<String>), Error> {
    let all = docker.list_networks(None::<ListNetworksOptions>).await?;
    let (ours, others): (Vec<Network>, Vec<Network>) =
        all.into_iter().partition(|network| network.driver.as_deref() == Some(DRIVER));
    let others = others.into_iter().filter_map(|network| network.name);
    Ok((ours.into_iter().filter_map(theirs).collect(), others.collect()))
}

/// Networks that stand for ours and that the books do not know: this host has left its cluster, and joined it again.
fn adopt(agent: &Agent, theirs: &[Theirs]) {
    for it in theirs {
        let Some(name) = &it.ours else { continue };
        if agent.read(|state| state.docker.network(&it.id) == Some(name)) {
            continue;
        }
        let adopted = driver::change(agent, |state| {
            state.docker.put_network(&it.id, Some(name.clone())).map_err(|error| error.to_string())
        });
        if let Err(why) = adopted {
            tracing::warn!("Docker's network {}: {why}", it.name);
        }
    }
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

/// What was removed with Docker is removed from the cluster, unless somebody uses it: then it comes back. Returns what is gone.
async fn remove_unwanted(agent: &Arc<Agent>, theirs: &[Theirs]) -> Vec<Name> {
    let mut gone = Vec::new();
    let unwanted = std::mem::take(&mut *lock(&agent.docker.unwanted));
    // One of that name was made again just before the word of it came.
    let stands = |name: &Name, called: &str| {
        theirs.iter().any(|it| it.ours.as_ref() == Some(name) && it.name != called)
    };
    for (name, _) in unwanted.into_iter().filter(|(name, called)| !stands(name, called)) {
        match remove_everywhere(agent, &name).await {
            Ok(()) => gone.push(name),
            Err(why) => {
                let line = format!("network {name} was removed with Docker here and is made again: {why}");
                agent.events.record("network", line, ORIGIN);
            }
        }
    }
    gone
}

/// What Docker is just removing on somebody's wish: its event is on its way.
fn going(agent: &Agent) -> BTreeSet<Name> {
    let mut deleted = lock(&agent.docker.deleted);
    deleted.retain(|_, (_, at)| at.elapsed() < REMOVED_WITHIN);
    let unwanted = lock(&agent.docker.unwanted);
    deleted.values().map(|(name, _)| name).chain(unwanted.keys()).cloned().collect()
}

/// A network that is not used and has no services: those would be lost with a `docker network prune` on any host.
async fn remove_everywhere(agent: &Arc<Agent>, name: &Name) -> Result<(), String> {
    let services: Vec<Name> = agent.read(|state| state.catalog.services(name).cloned().collect());
    if !services.is_empty() {
        return Err(format!("it has services: {}", list_some(&services)));
    }
    let removed = verbs::network::remove(agent, name.as_str(), EVERYWHERE, ORIGIN).await;
    removed.map(drop).map_err(|failure| failure.message)
}

async fn remove(agent: &Agent, docker: &Docker, id: &str) -> Result<(), String> {
    lock(&agent.docker.removing).insert(id.to_owned());
    let removed = remove_at(docker, id).await;
    // Where no answer came it may still be removed; then its event ends this.
    if matches!(removed, Err(Error::DockerResponseServerError { .. }) | Ok(false)) {
        lock(&agent.docker.removing).remove(id);
    }
    removed.map(drop).map_err(|error| chain(&error))
}

/// Whether there was one.
async fn remove_at(docker: &Docker, id: &str) -> Result<bool, Error> {
    match docker.remove_network(id).await {
        Ok(()) => Ok(true),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes all of Docker's networks that stand for the cluster's, for `leave`. A line for each.
pub async fn remove_all(agent: &Arc<Agent>) -> Vec<String> {
    if agent.settings.load().docker_plugin.as_os_str().is_empty() {
        return Vec::new();
    }
    agent.docker.leaving.store(true, Ordering::Relaxed);
    let mut removed = remove_networks(agent).await;
    // Docker would ask there, and wait.
    let plugin = agent.settings.load().docker_plugin.clone();
    removed.push(match std::fs::remove_file(&plugin) {
        Ok(()) => plugin.display().to_string(),
        Err(error) => format!("NOT removed: {}: {error}", plugin.display()),
    });
    removed
}

async fn remove_networks(agent: &Arc<Agent>) -> Vec<String> {
    // Of a Docker that is not there, and never was, nothing is left.
    let known = agent.read(|state| state.docker.has_networks());
    let silent = || {
        let line =
            "NOT removed: Docker's networks: it does not answer; once it does: docker network rm".to_owned();
        if known { vec![line] } else { Vec::new() }
    };
    let Some(docker) = engine::connect(agent).await else { return silent() };
    let Ok((theirs, _)) = list(&docker).await else { return silent() };
    let mut removed = Vec::new();
    for it in theirs.iter().filter(|it| it.ours.is_some()) {
        removed.push(match remove(agent, &docker, &it.id).await {
            Ok(()) => format!("Docker's network {}", it.name),
            Err(why) => format!("NOT removed: Docker's network {}: {why}", it.name),
        });
    }
    removed
}

/// Makes the cluster's network of one that was made with Docker, and Docker's anew with addresses of ours.
async fn take_up(agent: &Arc<Agent>, docker: &Docker, theirs: &Theirs, all: &[Theirs]) -> Result<(), String> {
    let name = names::label(&theirs.name).ok_or_else(|| format!("{} is no name of DNS", theirs.name))?;
    let given = theirs.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let options = driver::options(given)?;
    let chosen: Vec<IpNetwork> =
        theirs.subnets.iter().filter(|subnet| !is_automatic(subnet)).copied().collect();
    // Beside an IPv6 subnet, which a person chose, Docker's choice of IPv4 stays: no default one is made beside one that is given.
    let whole = chosen.iter().any(|subnet| subnet.is_ipv6());
    let subnets = if whole { theirs.subnets.clone() } else { chosen };
    let request = NetworkCreate {
        name: name.to_string(),
        subnets,
        internal: theirs.internal,
        mtu: options.mtu,
        ..NetworkCreate::default()
    };
    let made = {
        let _turn = agent.verbs.lock().await;
        verbs::network::make(agent, &request, ORIGIN).await
    };
    made.map_err(|failure| failure.message)?;
    let ours = ours(agent).unwrap_or_default();
    let ours = ours.get(&name).ok_or("it was removed again")?;
    // A start in the midst of it left the new one.
    let there = all.iter().find(|it| it.ours.as_ref() == Some(&name) && it.name == theirs.name);
    let made = match there {
        Some(there) => Ok(there.id.clone()),
        None => make(docker, &theirs.name, &name, ours, Some(theirs)).await,
    };
    match made {
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
