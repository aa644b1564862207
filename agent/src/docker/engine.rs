//! What Docker's engine is asked for, never while it waits for us.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::InspectContainerOptions;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::runtime::agent::Agent;

/// How long an engine may take for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// What Podman's engine calls itself; it speaks Docker's API and knows no drivers of others.
const PODMAN: &str = "Podman Engine";

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
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), LIMIT.as_secs(), API_DEFAULT_VERSION)?;
    // Old engines refuse a newer API than theirs, new ones an old one.
    let docker = docker.negotiate_version().await?;
    let components = docker.version().await?.components.unwrap_or_default();
    Ok((!components.iter().any(|it| it.name == PODMAN)).then_some(docker))
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

/// The further names that a container has on the network of an endpoint; `None` while the engine does not say.
pub(super) async fn aliases_of(docker: &Docker, container: &str, endpoint: &str) -> Option<Vec<String>> {
    // The engine answers once the container has started.
    let asked =
        tokio::time::timeout(LIMIT, docker.inspect_container(container, None::<InspectContainerOptions>))
            .await;
    let networks = asked.ok()?.ok()?.network_settings?.networks?;
    let on = networks.into_values().find(|it| it.endpoint_id.as_deref() == Some(endpoint))?;
    Some(on.aliases.unwrap_or_default())
}
