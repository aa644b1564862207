//! `register`, `deregister`, `service set` and `drain`.
use std::sync::Arc;
use std::time::Duration;

use crate::api::types::{Done, Failure, Register, Settings, Wait};
use crate::catalog::facts::{Health, Key, ReplicaFact, ServiceDefinition, ServiceSettings, Value};
use crate::model::{Head, Name};
use crate::runtime::agent::{Agent, Batch, host_name, refused, usage};
use crate::runtime::local::{LocalAttachment, list};
use crate::runtime::verbs;
use crate::runtime::verbs::attach::Caller;
use crate::store::Writes;

/// Registers a replica of a service.
///
/// # Errors
/// When it is not clear which attachment is meant, or the request disagrees with what the service is.
pub async fn register(agent: &Arc<Agent>, request: Register, caller: &Caller) -> Result<Done, Failure> {
    let service = verbs::name("service", &request.service)?;
    if let Some(weight) = request.weight.filter(|weight| *weight > 256) {
        return Err(refused(format!("a weight of {weight} is out of range"), &["use 0 to 256"]));
    }
    let turn = agent.verbs.lock().await;
    let mut changed = Vec::new();
    let mut notes = Vec::new();
    let attachment = target(agent, &request, caller, &mut changed).await?;
    let network = attachment.network.clone();
    let (definition, mut batch) = define(agent, &request, &service, &attachment, &mut changed).await?;
    let key = Key::Replica {
        network: network.clone(),
        service: service.clone(),
        attachment: attachment.name.clone(),
    };
    let fact = replica(agent, &key, &request, &attachment, &definition);
    changed.extend(replica_changes(agent, &key, &fact, &service, &attachment));
    let waits_for_check = fact.health == Health::Starting;
    batch.push((key.clone(), Some(Value::Replica(fact))));
    let mut head = agent.write(batch, Writes::default())?;
    drop(turn);
    for line in &changed {
        agent.events.record("replica", line, &caller.origin);
    }
    if waits_for_check {
        match wait_serving(agent, &key, request.wait).await {
            Some(serving) => head = serving,
            None => notes.push(format!(
                "{service} on {} gets no flows until its first check passes: svc-agent service inspect {service}",
                attachment.name
            )),
        }
    }
    let laggards = verbs::everywhere(agent, Some(&network), head, request.wait).await;
    let object = inspect(agent, &network, &service);
    Ok(Done { changed, notes, laggards, object })
}

pub(super) fn inspect(agent: &Agent, network: &Name, service: &Name) -> Option<serde_json::Value> {
    verbs::queries::service(agent, network, service).and_then(|info| serde_json::to_value(info).ok())
}

/// Which attachment is meant: the named one, that of a place (attached first if need be), the caller's, the only one.
async fn target(
    agent: &Arc<Agent>,
    request: &Register,
    caller: &Caller,
    changed: &mut Vec<String>,
) -> Result<LocalAttachment, Failure> {
    if let Some(place) = &request.place {
        return verbs::attach::ensure(agent, request.network.as_deref(), place, caller, changed).await;
    }
    let named =
        request.network.as_deref().map(|text| verbs::choose_network(agent, Some(text))).transpose()?;
    let local: Vec<LocalAttachment> = agent.read(|state| {
        let all = state.local.values().filter(|it| it.announced);
        all.filter(|it| named.as_ref().is_none_or(|network| it.network == *network)).cloned().collect()
    });
    if let Some(on) = &request.on {
        let on = verbs::name("attachment", on)?;
        let matching: Vec<&LocalAttachment> = local.iter().filter(|it| it.name == on).collect();
        return match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(unknown_attachment(agent, &on)),
            several => Err(ambiguous(request, several.iter().copied(), true)),
        };
    }
    let cookie = caller.cookie();
    let inside: Vec<&LocalAttachment> = local.iter().filter(|it| Some(it.cookie) == cookie).collect();
    match (inside.as_slice(), local.as_slice()) {
        ([one], _) => Ok((*one).clone()),
        ([], [only]) => Ok(only.clone()),
        ([], []) => Err(usage(
            "nothing on this host is attached yet, so there is nothing to register",
            &[
                &format!(
                    "attach and register in one step: svc-agent register {} --netns NAME",
                    request.service
                ),
                "or attach first: svc-agent attach NAME --netns NAME",
            ],
        )),
        ([], all) => Err(ambiguous(request, all.iter(), false)),
        (several, _) => Err(ambiguous(request, several.iter().copied(), true)),
    }
}

fn unknown_attachment(agent: &Agent, on: &Name) -> Failure {
    let elsewhere = agent.read(|state| {
        let networks = state.catalog.networks();
        let mut found = networks.filter_map(|network| {
            let (owner, _) = state.catalog.attachment(network, on).next()?;
            Some((network.clone(), host_name(&state.catalog, owner)))
        });
        found.next()
    });
    match elsewhere {
        Some((network, host)) => {
            let hint = format!("run this on {host}: only a replica's own host registers it");
            refused(format!("attachment {on} of network {network} lives on host {host}"), &[&hint])
        }
        None => {
            let attach = format!("attach it: svc-agent attach {on} --netns {on}");
            refused(
                format!("attachment {on} does not exist"),
                &["see what there is: svc-agent attachments", &attach],
            )
        }
    }
}

fn ambiguous<'a>(
    request: &Register,
    all: impl Iterator<Item = &'a LocalAttachment>,
    networks: bool,
) -> Failure {
    let all: Vec<&LocalAttachment> = all.take(8).collect();
    let names: Vec<String> = all.iter().map(|it| it.key()).collect();
    let hints: Vec<String> = all
        .iter()
        .map(|it| match networks {
            true => {
                format!("svc-agent register {} --on {} --network {}", request.service, it.name, it.network)
            }
            false => format!("svc-agent register {} --on {}", request.service, it.name),
        })
        .collect();
    let hints: Vec<&str> = hints.iter().map(String::as_str).collect();
    usage(format!("which attachment is meant? There are {}: {}", names.len(), names.join(", ")), &hints)
}

/// The definition that stands after the registration, and what must be written for it.
async fn define(
    agent: &Arc<Agent>,
    request: &Register,
    service: &Name,
    attachment: &LocalAttachment,
    changed: &mut Vec<String>,
) -> Result<(ServiceSettings, Batch), Failure> {
    let network = &attachment.network;
    let Some(record) = agent.read(|state| state.catalog.service(network, service)) else {
        let settings = merged(&ServiceSettings::default(), &request.settings);
        check(&settings)?;
        let vips = verbs::addressing::vips(agent, network).await?;
        let stamp = agent.stamp();
        changed.push(format!("service {service} created on network {network}: VIP {}", list(&vips)));
        let definition =
            ServiceDefinition { revision: stamp, removed: false, vips, settings: settings.clone() };
        let key = Key::Service { network: network.clone(), name: service.clone(), born: stamp };
        return Ok((settings, vec![(key, Some(Value::Service(definition)))]));
    };
    let settings = merged(&record.definition.settings, &request.settings);
    if settings == record.definition.settings {
        return Ok((settings, Vec::new()));
    }
    check(&settings)?;
    let differs = differences(&record.definition.settings, &settings);
    let others = agent.read(|state| {
        let mut replicas = state.catalog.replicas(network, service);
        replicas.any(|(name, owner, _)| *name != attachment.name || owner != agent.identity.node)
    });
    if others {
        let hint = format!("change it for all replicas: svc-agent service set {service} …");
        let what = format!("service {service} is registered otherwise: {}", differs.join("; "));
        return Err(refused(what, &[&hint, "or leave those settings out"]));
    }
    changed.extend(differs.into_iter().map(|line| format!("service {service}: {line}")));
    let stamp = agent.stamp();
    let definition =
        ServiceDefinition { revision: stamp, settings: settings.clone(), ..(*record.definition).clone() };
    let key = Key::Service { network: network.clone(), name: service.clone(), born: record.born };
    Ok((settings, vec![(key, Some(Value::Service(definition)))]))
}

/// What was typed laid over what stands.
pub(super) fn merged(is: &ServiceSettings, typed: &Settings) -> ServiceSettings {
    let mut ports = typed.ports.clone().unwrap_or_else(|| is.ports.clone());
    ports.sort_unstable();
    ports.dedup();
    let mut aliases = typed.aliases.clone().unwrap_or_else(|| is.aliases.clone());
    aliases.sort_unstable();
    aliases.dedup();
    ServiceSettings {
        mode: typed.mode.unwrap_or(is.mode),
        ports,
        aliases,
        balance: typed.balance.unwrap_or(is.balance),
        check: typed.check.clone().or_else(|| is.check.clone()),
    }
}

pub(super) fn check(settings: &ServiceSettings) -> Result<(), Failure> {
    use crate::catalog::facts::Balance;
    if settings.balance != Balance::Random {
        return Err(refused("this version balances at random only", &["leave --lb out, or use --lb random"]));
    }
    let mut publics: Vec<_> = settings.ports.iter().map(|port| (port.protocol, port.public)).collect();
    publics.dedup();
    if publics.len() != settings.ports.len() {
        return Err(refused("one port is declared twice with different targets", &["give each port once"]));
    }
    Ok(())
}

/// What differs between settings, each in words: what it is, and what was asked.
pub(super) fn differences(is: &ServiceSettings, asked: &ServiceSettings) -> Vec<String> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: serde_json::Result<String>, asked: serde_json::Result<String>| {
        if let (Ok(is), Ok(asked)) = (is, asked)
            && is != asked
        {
            differs.push(format!("{what} is {is}, asked was {asked}"));
        }
    };
    compare("mode", serde_json::to_string(&is.mode), serde_json::to_string(&asked.mode));
    compare("ports", serde_json::to_string(&is.ports), serde_json::to_string(&asked.ports));
    compare("aliases", serde_json::to_string(&is.aliases), serde_json::to_string(&asked.aliases));
    compare("balance", serde_json::to_string(&is.balance), serde_json::to_string(&asked.balance));
    compare("check", serde_json::to_string(&is.check), serde_json::to_string(&asked.check));
    differs
}

fn replica(
    agent: &Agent,
    key: &Key,
    request: &Register,
    attachment: &LocalAttachment,
    settings: &ServiceSettings,
) -> ReplicaFact {
    let before = agent.read(|state| match state.catalog.value(agent.identity.node, key) {
        Some(Value::Replica(fact)) => Some(fact),
        _ => None,
    });
    let health = match (&settings.check, before.as_ref().map(|fact| fact.health)) {
        (None, _) => Health::Serving,
        // Registering again ends a drain; a replica that serves goes on serving until its check says otherwise.
        (Some(_), Some(Health::Serving)) => Health::Serving,
        (Some(_), _) => Health::Starting,
    };
    ReplicaFact {
        addresses: attachment.addresses.clone(),
        weight: request.weight.or(before.map(|fact| fact.weight)).unwrap_or(1),
        health,
    }
}

fn replica_changes(
    agent: &Agent,
    key: &Key,
    fact: &ReplicaFact,
    service: &Name,
    attachment: &LocalAttachment,
) -> Vec<String> {
    let before = agent.read(|state| state.catalog.value(agent.identity.node, key));
    let place = format!("replica of {service} on {} ({})", attachment.name, list(&attachment.addresses));
    match before {
        Some(Value::Replica(before)) if before == *fact => Vec::new(),
        Some(Value::Replica(before)) => {
            let mut changed = Vec::new();
            if before.weight != fact.weight {
                changed.push(format!("{place}: weight {} is {} now", before.weight, fact.weight));
            }
            if before.health != fact.health {
                changed.push(format!("{place}: {} is {} now", health(before.health), health(fact.health)));
            }
            changed
        }
        _ => vec![format!("{place} registered, weight {}", fact.weight)],
    }
}

/// A health in words.
pub fn health(health: Health) -> &'static str {
    match health {
        Health::Starting => "starting",
        Health::Serving => "serving",
        Health::Failing => "failing",
        Health::Draining => "draining",
    }
}

/// Waits for the first passed check; the head that says so.
async fn wait_serving(agent: &Agent, key: &Key, wait: Wait) -> Option<Head> {
    let mut heads = agent.own_head.subscribe();
    let serving = heads.wait_for(|_| {
        agent.read(|state| {
            matches!(
                state.catalog.value(agent.identity.node, key),
                Some(Value::Replica(fact)) if fact.health == Health::Serving
            )
        })
    });
    let limit = Duration::from_millis(wait.milliseconds.min(600_000));
    tokio::time::timeout(limit, serving).await.ok()?.ok().map(|head| *head)
}
