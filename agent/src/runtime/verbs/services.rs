//! `service set`, `deregister` and `drain`, from any host. Each is decided under the lock that it is written under, so
//! none has to wait for a verb that claims or attaches.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::api::types::{Deregister, Done, Drain, Failure, FailureKind, ServiceSet, Wait};
use crate::catalog::facts::{Health, Key, ReplicaFact, ServiceDefinition, Value};
use crate::cluster::RequestError;
use crate::model::{Name, NodeId, Stamp};
use crate::runtime::agent::{Agent, Batch, State, chain, refused, usage};
use crate::runtime::local::list;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::peers::{self, AskError};
use crate::runtime::verbs;
use crate::runtime::verbs::nearby;
use crate::runtime::verbs::register::{changes, check, inspect, merged};
use crate::store::Writes;

/// A request that is passed on to the host that owns the replica may take this much longer than its own wait.
const FORWARD_MARGIN: Duration = Duration::from_secs(1);

/// Changes a service's settings for all replicas.
///
/// # Errors
/// When there is no such service.
pub async fn set(agent: &Arc<Agent>, request: ServiceSet, origin: &str) -> Result<Done, Failure> {
    let (network, service) = choose_service(agent, request.network.as_deref(), &request.service)?;
    let mut changed = Vec::new();
    let head = agent.update(|state| {
        let Some(record) = state.catalog.service(&network, &service) else {
            return Err(unknown_service(state, &network, &service));
        };
        let is = &record.definition.settings;
        let settings = merged(is, &request.settings);
        check(&settings)?;
        changed.extend(changes(is, &settings).into_iter().map(|line| format!("service {service}: {line}")));
        if changed.is_empty() {
            return Ok(Default::default());
        }
        let revision = state.catalog.next_stamp(agent.identity.node);
        let definition = ServiceDefinition { revision, settings, ..(*record.definition).clone() };
        let key = Key::Service { network: network.clone(), name: service.clone(), born: record.born };
        Ok((vec![(key, Some(Value::Service(definition)))], Writes::default()))
    })?;
    for line in &changed {
        agent.events.record("service", line, origin);
    }
    let laggards = verbs::everywhere(agent, Some(&network), head, request.wait).await;
    let object = inspect(agent, &network, &service);
    Ok(Done { changed, laggards, object, ..Done::default() })
}

/// Takes a replica out, or the whole service. From any host.
///
/// # Errors
/// When there is no such replica or service, or its host cannot be asked.
pub async fn deregister(agent: &Arc<Agent>, request: Deregister, origin: &str) -> Result<Done, Failure> {
    let (network, service) = choose_service(agent, request.network.as_deref(), &request.service)?;
    let request = Deregister { network: Some(network.to_string()), ..request };
    let Some(on) = &request.on else {
        return deregister_all(agent, &network, &service, &request, origin).await;
    };
    let on = verbs::name("attachment", on)?;
    match owner(agent, &network, &service, &on)? {
        owner if owner == agent.identity.node => deregister_here(agent, &request, origin).await,
        owner => forward(agent, owner, Request::Deregister(request.clone()), request.wait).await,
    }
}

async fn deregister_all(
    agent: &Arc<Agent>,
    network: &Name,
    service: &Name,
    request: &Deregister,
    origin: &str,
) -> Result<Done, Failure> {
    let head = agent.update(|state| {
        let stamp = state.catalog.next_stamp(agent.identity.node);
        let batch = removal(state, network, service, stamp);
        if batch.is_empty() {
            return Err(unknown_service(state, network, service));
        }
        Ok((batch, Writes::default()))
    })?;
    let line = format!("service {service} of network {network} removed, with all its replicas");
    agent.events.record("service", &line, origin);
    let laggards = verbs::everywhere(agent, Some(network), head, request.wait).await;
    Ok(Done { changed: vec![line], laggards, ..Done::default() })
}

/// What removes a service: all its births, and this host's replicas. Other hosts withdraw theirs when they see it.
pub fn removal(state: &State, network: &Name, service: &Name, stamp: Stamp) -> Batch {
    let Some(record) = state.catalog.service(network, service) else { return Vec::new() };
    let births = record.births().map(|(born, definition)| {
        let removed = ServiceDefinition { revision: stamp, removed: true, ..(**definition).clone() };
        let key = Key::Service { network: network.clone(), name: service.clone(), born };
        (key, Some(Value::Service(removed)))
    });
    let mine = state.catalog.replicas(network, service).filter(|(_, owner, _)| *owner == stamp.node);
    let mine = mine.map(|(attachment, _, _)| {
        let (network, service, attachment) = (network.clone(), service.clone(), attachment.clone());
        (Key::Replica { network, service, attachment }, None)
    });
    births.chain(mine).collect()
}

/// Takes out a replica that lives on this host.
///
/// # Errors
/// When it does not.
pub async fn deregister_here(
    agent: &Arc<Agent>,
    request: &Deregister,
    origin: &str,
) -> Result<Done, Failure> {
    let (network, service) = choose_service(agent, request.network.as_deref(), &request.service)?;
    let on = verbs::name("attachment", request.on.as_deref().unwrap_or_default())?;
    let key = Key::Replica { network: network.clone(), service: service.clone(), attachment: on.clone() };
    let mut changed = Vec::new();
    let head = agent.update(|state| {
        // Asked for again, say because the first answer was lost, there is nothing left to do.
        if state.catalog.value(agent.identity.node, &key).is_none() {
            return Ok(Default::default());
        }
        changed.push(format!("replica of {service} on {on} deregistered"));
        Ok((vec![(key, None)], Writes::default()))
    })?;
    for line in &changed {
        agent.events.record("replica", line, origin);
    }
    let laggards = verbs::everywhere(agent, Some(&network), head, request.wait).await;
    let left = agent.read(|state| state.catalog.replicas(&network, &service).count());
    let notes = match left {
        0 => vec![format!(
            "{service} has no replica left; its name and VIP stay and refuse: svc-agent deregister {service} removes them"
        )],
        _ => Vec::new(),
    };
    Ok(Done { changed, notes, laggards, object: None })
}

/// Stops new flows to a replica, everywhere; established ones go on. From any host.
///
/// # Errors
/// When there is no such replica, or its host cannot be asked.
pub async fn drain(agent: &Arc<Agent>, request: Drain, origin: &str) -> Result<Done, Failure> {
    let (network, service) = choose_service(agent, request.network.as_deref(), &request.service)?;
    let on = verbs::name("attachment", &request.on)?;
    let request = Drain { network: Some(network.to_string()), ..request };
    match owner(agent, &network, &service, &on)? {
        owner if owner == agent.identity.node => drain_here(agent, &request, origin).await,
        owner => forward(agent, owner, Request::Drain(request.clone()), request.wait).await,
    }
}

/// Drains a replica that lives on this host.
///
/// # Errors
/// When it does not.
pub async fn drain_here(agent: &Arc<Agent>, request: &Drain, origin: &str) -> Result<Done, Failure> {
    let (network, service) = choose_service(agent, request.network.as_deref(), &request.service)?;
    let on = verbs::name("attachment", &request.on)?;
    let key = Key::Replica { network: network.clone(), service: service.clone(), attachment: on.clone() };
    let mut changed = Vec::new();
    let head = agent.update(|state| {
        let Some(Value::Replica(before)) = state.catalog.value(agent.identity.node, &key) else {
            return Err(refused(format!("{service} has no replica on {on} on this host"), &[]));
        };
        if before.health == Health::Draining {
            return Ok(Default::default());
        }
        changed.push(format!("replica of {service} on {on} drains: no new flows, established ones go on"));
        let fact = ReplicaFact { health: Health::Draining, ..before };
        Ok((vec![(key, Some(Value::Replica(fact)))], Writes::default()))
    })?;
    for line in &changed {
        agent.events.record("replica", line, origin);
    }
    let laggards = verbs::everywhere(agent, Some(&network), head, request.wait).await;
    Ok(Done { changed, laggards, ..Done::default() })
}

/// The service that is meant: on the named network, else on the only one that has it.
///
/// # Errors
/// When there is none, or several.
pub fn choose_service(agent: &Agent, network: Option<&str>, service: &str) -> Result<(Name, Name), Failure> {
    let service = verbs::name("service", service)?;
    if let Some(text) = network {
        let network = verbs::choose_network(agent, Some(text))?;
        return match agent.read(|state| state.catalog.service(&network, &service)) {
            Some(_) => Ok((network, service)),
            None => Err(agent.read(|state| unknown_service(state, &network, &service))),
        };
    }
    let on: Vec<Name> = agent.read(|state| {
        let networks = state.catalog.networks();
        networks.filter(|network| state.catalog.service(network, &service).is_some()).cloned().collect()
    });
    match on.as_slice() {
        [only] => Ok((only.clone(), service)),
        [] => {
            let all: Vec<Name> = agent.read(|state| {
                state
                    .catalog
                    .networks()
                    .flat_map(|network| state.catalog.services(network))
                    .cloned()
                    .collect()
            });
            let meant = nearby::meant(service.as_str(), &all).into_iter();
            let hints: Vec<String> =
                meant.chain(["see what there is: svc-agent service ls".to_owned()]).collect();
            Err(nearby::missing(format!("service {service} does not exist"), &hints))
        }
        several => {
            let hint = format!("name one of them: --network {}", several[0]);
            Err(usage(format!("{service} is a service of several networks: {}", list(several)), &[&hint]))
        }
    }
}

fn unknown_service(state: &State, network: &Name, service: &Name) -> Failure {
    let existing: Vec<Name> = state.catalog.services(network).cloned().collect();
    nearby::no_service(network, service, &existing)
}

/// Whose replica it is.
fn owner(agent: &Agent, network: &Name, service: &Name, on: &Name) -> Result<NodeId, Failure> {
    let (owners, all) = agent.read(|state| {
        let replicas: Vec<(Name, NodeId)> =
            state.catalog.replicas(network, service).map(|(name, owner, _)| (name.clone(), owner)).collect();
        let mut owners: Vec<NodeId> =
            replicas.iter().filter(|(name, _)| name == on).map(|(_, it)| *it).collect();
        // Of two hosts that have the attachment the live one is meant.
        owners.sort_by_key(|owner| state.suspended.contains(owner));
        let all: Vec<Name> = replicas.into_iter().map(|(name, _)| name).collect();
        (owners, all)
    });
    owners.first().copied().ok_or_else(|| nearby::no_replica(service, on, &all))
}

/// Asks the host that owns a replica; only it writes facts about it.
async fn forward(agent: &Arc<Agent>, owner: NodeId, request: Request, wait: Wait) -> Result<Done, Failure> {
    let (host, suspended) =
        agent.read(|state| (state.catalog.host(owner).cloned(), state.suspended.contains(&owner)));
    let name = agent.host_name(owner);
    let gone = format!("or, if {name} will not return: svc-agent node rm {name}");
    let Some(host) = host.filter(|_| !suspended) else {
        let what = format!("host {name}, where the replica lives, is suspended: it gets no flows already");
        return Err(refused(what, &["try again when it is back", &gone]));
    };
    let limit = Duration::from_millis(wait.milliseconds.min(600_000)) + FORWARD_MARGIN;
    match peers::ask(agent, SocketAddr::new(host.address, host.gossip_port), &request, limit).await {
        Ok(Answer::Done(done)) => done,
        Ok(other) => {
            let word = other.word();
            Err(refused(
                format!("host {name} answered in words that this version does not know: {word}"),
                &[],
            ))
        }
        Err(error) => Err(unanswered(&name, &error, &gone)),
    }
}

/// Says whether the other host may have done what it was asked.
fn unanswered(host: &str, error: &AskError, gone: &str) -> Failure {
    let why = chain(error);
    if matches!(error, AskError::NotStarted | AskError::Request(RequestError::Connect { .. })) {
        let what = format!("host {host}, where the replica lives, cannot be asked: {why}");
        return refused(what, &["nothing was changed; try again when it is reachable", gone]);
    }
    let message = format!("host {host}, where the replica lives, may have done it but did not answer: {why}");
    let hints = vec!["see whether it did: svc-agent service inspect".to_owned(), gone.to_owned()];
    Failure { kind: FailureKind::TimedOut, message, hints }
}
