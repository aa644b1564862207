//! What Docker's engine is asked for, never while it waits for us.
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, EventMessage, HealthStatusEnum, RestartPolicyNameEnum};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::Stream;

use crate::catalog::facts::Health;
use crate::runtime::agent::Agent;
use crate::runtime::events::unix_time_ms;
use crate::runtime::health::Judged;

/// How long an engine may take for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to tell of a container, which it does once that has started.
const START_LIMIT: Duration = Duration::from_secs(60);
/// What Podman's engine calls itself; it speaks Docker's API and knows no drivers of others.
const PODMAN: &str = "Podman Engine";

/// What the engine says of a container.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub id: String,
    pub name: String,
    pub running: bool,
    pub labels: BTreeMap<String, String>,
    /// Docker's names of all its networks.
    pub networks: Vec<String>,
    /// Its further names, by endpoint.
    pub endpoints: BTreeMap<String, Vec<String>>,
    pub judged: Judged,
    /// The signal that it is stopped with, if it has one of its own.
    pub stop_signal: Option<i32>,
    /// Ports that were to be published and are not: none of its networks does that.
    pub unpublished: Vec<String>,
    /// Whether it was given name servers of its own.
    pub has_servers: bool,
}

/// The first engine of the setting that is Docker's and answers.
pub(super) async fn connect(agent: &Arc<Agent>) -> Option<Docker> {
    let sockets = agent.settings.load().engine.clone();
    for socket in sockets.iter().filter(|socket| socket.exists()) {
        match tokio::time::timeout(LIMIT, docker_at(socket)).await {
            Ok(Ok(Some(docker))) => return Some(docker),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!("{}: {error}", socket.display()),
            Err(_) => tracing::debug!("{}: nothing came within {LIMIT:?}", socket.display()),
        }
    }
    None
}

async fn docker_at(socket: &Path) -> Result<Option<Docker>, Error> {
    let limit = START_LIMIT.as_secs();
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), limit, API_DEFAULT_VERSION)?;
    // Old engines refuse a newer API than theirs, new ones an old one.
    let docker = docker.negotiate_version().await?;
    let components = docker.version().await?.components.unwrap_or_default();
    Ok((!components.iter().any(|it| it.name == PODMAN)).then_some(docker))
}

/// What Docker says of its networks or containers from now on, also before this is first read.
pub(super) fn events(
    docker: &Docker,
    of: &str,
) -> Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send>> {
    let filters = HashMap::from([("type", vec![of])]);
    let since = (unix_time_ms() / 1_000).to_string();
    let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
    Box::pin(docker.events(Some(options)))
}

/// The container that an endpoint belongs to, by its name. It is known from the moment that the endpoint is made.
pub(super) async fn container_of(docker: &Docker, network: &str, endpoint: &str) -> Option<String> {
    let asked = tokio::time::timeout(LIMIT, docker.inspect_network(network, None)).await;
    let containers = asked.ok()?.ok()?.containers?;
    // While a container starts it stands under its endpoint.
    let starting = format!("ep-{endpoint}");
    let mut named = containers.into_iter().filter_map(|(key, container)| {
        let id = container.endpoint_id.as_deref() == Some(endpoint) || key == starting;
        container.name.filter(|_| id)
    });
    named.next()
}

/// Containers on a network with their endpoints; none if it is gone, `None` if the engine does not say.
pub(super) async fn containers_on(docker: &Docker, network: &str) -> Option<Vec<(String, String)>> {
    match tokio::time::timeout(LIMIT, docker.inspect_network(network, None)).await {
        Ok(Ok(there)) => {
            let all = there.containers.unwrap_or_default().into_iter();
            Some(all.filter_map(|(id, it)| Some((id, it.endpoint_id?))).collect())
        }
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Some(Vec::new()),
        _ => None,
    }
}

/// Containers that are to run, are on networks of this driver and could not be started for want of an agent, by id.
pub(super) async fn refused(docker: &Docker, is_ours: impl Fn(&str) -> bool) -> Vec<String> {
    let filters = HashMap::from([("status", vec!["exited", "created"])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let Ok(Ok(ended)) = tokio::time::timeout(LIMIT, docker.list_containers(Some(options))).await else {
        return Vec::new();
    };
    let mut refused = Vec::new();
    for container in ended {
        let networks = container.network_settings.and_then(|it| it.networks).unwrap_or_default();
        let ours = networks.values().filter_map(|it| it.network_id.as_deref()).any(&is_ours);
        let Some(id) = container.id.filter(|_| ours) else { continue };
        let asked = docker.inspect_container(&id, None::<InspectContainerOptions>);
        if let Ok(Ok(it)) = tokio::time::timeout(LIMIT, asked).await
            && was_refused(&it)
        {
            refused.push(id);
        }
    }
    refused
}

fn was_refused(it: &ContainerInspectResponse) -> bool {
    let policy = it.host_config.as_ref().and_then(|it| it.restart_policy.as_ref()).and_then(|it| it.name);
    let kept = matches!(
        policy,
        Some(
            RestartPolicyNameEnum::ALWAYS
                | RestartPolicyNameEnum::UNLESS_STOPPED
                | RestartPolicyNameEnum::ON_FAILURE
        )
    );
    let error = it.state.as_ref().and_then(|state| state.error.as_deref()).unwrap_or_default();
    kept && error.contains(crate::holder::REFUSAL)
}

/// Starts a container that was refused.
pub(super) async fn start(docker: &Docker, container: &str) -> Result<(), Error> {
    docker.start_container(container, None::<StartContainerOptions>).await
}

/// A container by its name or id; `None` if there is no such one, or the engine does not say.
pub(super) async fn describe(docker: &Docker, container: &str) -> Option<Described> {
    let asked = docker.inspect_container(container, None::<InspectContainerOptions>);
    read(tokio::time::timeout(START_LIMIT, asked).await.ok()?.ok()?)
}

fn read(it: ContainerInspectResponse) -> Option<Described> {
    let config = it.config.unwrap_or_default();
    let state = it.state.unwrap_or_default();
    let settings = it.network_settings.unwrap_or_default();
    let networks = settings.networks.unwrap_or_default();
    let published = settings.ports.unwrap_or_default();
    let host = it.host_config.unwrap_or_default();
    // The resolvers' own address means whoever answers there: asked by Docker it would come back to us.
    let has_servers =
        host.dns.is_some_and(|servers| !servers.is_empty() && servers.iter().all(|it| it != "127.0.0.11"));
    let wanted = host.port_bindings.unwrap_or_default();
    let is_published = |port: &String| published.get(port).is_some_and(|at| at.iter().flatten().count() > 0);
    let mut unpublished: Vec<String> = wanted.into_keys().filter(|port| !is_published(port)).collect();
    unpublished.sort();
    let names = networks.keys().cloned().collect();
    let endpoints = networks.into_values().filter_map(|it| {
        let id = it.endpoint_id.filter(|id| !id.is_empty())?;
        Some((id, it.aliases.unwrap_or_default()))
    });
    let paused = state.paused == Some(true);
    let health = state.health.and_then(|health| health.status);
    Some(Described {
        id: it.id?,
        name: it.name?.trim_start_matches('/').to_owned(),
        running: state.running == Some(true),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        networks: names,
        endpoints: endpoints.collect(),
        judged: judged(paused, health),
        stop_signal: config.stop_signal.as_deref().and_then(signal),
        unpublished,
        has_servers,
    })
}

fn judged(paused: bool, health: Option<HealthStatusEnum>) -> Judged {
    let (health, reason, problem) = match health {
        _ if paused => (Health::Failing, "its container is paused", true),
        Some(HealthStatusEnum::UNHEALTHY) => (Health::Failing, "its container is unhealthy", true),
        Some(HealthStatusEnum::STARTING) => {
            (Health::Starting, "its container has not passed its HEALTHCHECK yet", false)
        }
        Some(HealthStatusEnum::HEALTHY) => (Health::Serving, "its container is healthy", false),
        _ => (Health::Serving, "its container has no HEALTHCHECK", false),
    };
    Judged { health, reason: reason.to_owned(), problem }
}

/// A signal by its number or its name, with SIG or without; of those that containers are stopped with.
fn signal(text: &str) -> Option<i32> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let known = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("TERM", 15),
        ("WINCH", 28),
    ];
    let named = known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_read_with_how_it_is() {
        let json = serde_json::json!({
            "Id": "4f5e", "Name": "/shop",
            "Config": { "Labels": { "a": "b" }, "StopSignal": "SIGQUIT", "StopTimeout": 3 },
            "State": { "Running": true, "Paused": false, "Health": { "Status": "starting" } },
            "NetworkSettings": { "Networks": {
                "payment": { "EndpointID": "e1", "Aliases": ["cash"] },
                "left": { "EndpointID": "" },
            }, "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "18080" }], "90/tcp": null } },
            "HostConfig": { "PortBindings": { "80/tcp": [{ "HostPort": "18080" }], "90/tcp": [{ "HostPort": "18090" }] } },
        });
        let read = read(serde_json::from_value(json).unwrap()).unwrap();
        assert_eq!((read.name.as_str(), read.running, read.stop_signal), ("shop", true, Some(3)));
        assert_eq!(read.endpoints, BTreeMap::from([("e1".to_owned(), vec!["cash".to_owned()])]));
        assert_eq!((read.judged.health, read.networks.len()), (Health::Starting, 2));
        assert_eq!(read.unpublished, ["90/tcp"]);
        assert_eq!(judged(true, Some(HealthStatusEnum::HEALTHY)).health, Health::Failing);
        assert_eq!(judged(false, None).health, Health::Serving);
        assert_eq!(["TERM", "SIGINT", "10", "SIGNO"].map(signal), [Some(15), Some(2), Some(10), None]);
    }
}
