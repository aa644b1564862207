//! What an operator can ask for. Each verb is decided under one lock, is idempotent, leaves nothing half-done,
//! and returns when its effect holds on every live host that has the network.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::types::{Failure, Laggard, Wait};
use crate::model::{Head, Name};
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::{peers, problems};

pub mod addressing;
pub mod attach;
pub(crate) mod conflicts;
pub mod detach;
pub mod leave;
pub(crate) mod namesakes;
pub(crate) mod nearby;
pub mod network;
pub mod node;
pub mod queries;
pub mod register;
pub mod services;
pub mod takeover;
pub(crate) mod unjoined;

/// The network that is made when none is named and none exists.
const DEFAULT_NETWORK: &str = "default";

/// Reads a name, saying what it was meant to be.
///
/// # Errors
/// When it is no DNS label.
pub fn name(what: &str, text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|error| refused(format!("{what}: {error}"), &[]))
}

/// The network that is meant: the named one, else the only one.
///
/// # Errors
/// When it does not exist, or none is named and there are several; where this host has not joined yet, then that.
pub fn choose_network(agent: &Agent, named: Option<&str>) -> Result<Name, Failure> {
    chosen(agent, named, nearby::Absent::LookedUp)
}

/// As [`choose_network`], for a verb that puts something onto the network: one that is missing may be made first.
///
/// # Errors
/// As [`choose_network`].
pub fn choose_network_to_use(agent: &Agent, named: Option<&str>) -> Result<Name, Failure> {
    chosen(agent, named, nearby::Absent::MayBeMade)
}

fn chosen(agent: &Agent, named: Option<&str>, absent: nearby::Absent) -> Result<Name, Failure> {
    let existing: Vec<Name> = agent.read(|state| state.catalog.networks().cloned().collect());
    nearby::network(&existing, named, absent).or_else(|failure| {
        unjoined::refuse(agent)?;
        Err(failure)
    })
}

/// As [`choose_network`], but `default` is made where no network exists and none is named.
///
/// # Errors
/// As [`choose_network`], and what creating a network returns.
pub async fn choose_or_make_network(
    agent: &Arc<Agent>,
    named: Option<&str>,
    origin: &str,
    changed: &mut Vec<String>,
) -> Result<Name, Failure> {
    let none_exists = agent.read(|state| state.catalog.networks().next().is_none());
    if !none_exists || named.is_some_and(|named| !named.eq_ignore_ascii_case(DEFAULT_NETWORK)) {
        return choose_network_to_use(agent, named);
    }
    let request = crate::api::types::NetworkCreate { name: DEFAULT_NETWORK.to_owned(), ..Default::default() };
    let (network, made) = network::make(agent, &request, origin).await?;
    changed.extend(made);
    Ok(network)
}

/// Waits until this host and every live host that has the network (every live host, without one) holds this host's
/// facts up to `head`. Whoever does not is named.
pub async fn everywhere(agent: &Arc<Agent>, network: Option<&Name>, head: Head, wait: Wait) -> Vec<Laggard> {
    if wait.milliseconds == 0 {
        return Vec::new();
    }
    let limit = Duration::from_millis(wait.milliseconds.min(600_000));
    agent.awaited.send_if_modified(|awaited| std::mem::replace(awaited, head.max(*awaited)) < head);
    let here = async {
        let applied = agent.wait_applied(agent.identity.node, head, limit).await;
        let hinders = |object: &str| network.is_some_and(|name| problems::hinders(name.as_str(), object));
        let problem = lock(&agent.problems).list(hinders, Instant::now()).into_iter().next();
        let reason = match (applied, problem) {
            (false, _) => format!("this host has not applied it after {} ms", limit.as_millis()),
            (true, Some(problem)) => format!("{} fails here: {}", problem.object, problem.error),
            (true, None) => return None,
        };
        Some(Laggard { host: agent.identity.name.clone(), reason })
    };
    let concerned = agent.live_peers().into_iter().filter(|(node, _)| {
        network.is_none_or(|network| {
            agent.read(|state| state.catalog.members(network).any(|(member, _)| member == *node))
        })
    });
    let there = concerned.map(|(_, host)| {
        let agent = Arc::clone(agent);
        let address = SocketAddr::new(host.address, host.gossip_port);
        let name = host.name;
        async move { laggard(&agent, address, &name, network, head, limit).await }
    });
    let (here, there) = futures::join!(here, futures::future::join_all(there));
    std::iter::once(here).chain(there).flatten().collect()
}

async fn laggard(
    agent: &Agent,
    address: SocketAddr,
    host: &str,
    network: Option<&Name>,
    head: Head,
    limit: Duration,
) -> Option<Laggard> {
    let request = Request::WaitApplied {
        owner: agent.identity.node,
        head,
        network: network.cloned(),
        milliseconds: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
    };
    let reason = match peers::ask(agent, address, &request, limit + Duration::from_millis(250)).await {
        Ok(Answer::Applied { applied: true, problems }) => {
            let problem = problems.first()?;
            format!("{} fails there: {}", problem.object, problem.error)
        }
        Ok(Answer::Applied { applied: false, .. }) => {
            format!("it has not applied it after {} ms", limit.as_millis())
        }
        Ok(other) => format!("it answered in words that this version does not know: {}", other.word()),
        Err(error) => chain(&error),
    };
    Some(Laggard { host: host.to_owned(), reason })
}
