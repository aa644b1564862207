//! `register`: makes an attachment a replica of a service, which is created with its first replica.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::api::types::{Done, Failure, Laggard, Register, Wait};
use crate::catalog::facts::{Health, Key, ReplicaFact, ServiceDefinition, ServiceSettings, Value};
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::{Agent, Batch, State, host_name, refused, usage};
use crate::runtime::health::{Said, said};
use crate::runtime::local::{LocalAttachment, NAMED_MAX, list, list_some};
use crate::runtime::verbs;
use crate::runtime::verbs::attach::{Caller, Located};
use crate::runtime::verbs::nearby;
use crate::store::Writes;

mod settings;
#[cfg(test)]
mod tests;

pub(super) use settings::{changes, check, merged};

/// What is to be registered.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Register,
    pub(crate) service: &'a Name,
    pub(crate) attachment: &'a LocalAttachment,
    /// For the service, if there was none when they were claimed.
    pub(crate) vips: Option<Vec<IpAddr>>,
}

/// What a registration writes.
pub(crate) struct Registered {
    pub(crate) batch: Batch,
    changed: Vec<String>,
    standing: Standing,
}

/// How the replica stands when it is written.
struct Standing {
    health: Health,
    /// What another check than before finds first. Until then the replica goes on as it is.
    verdict: Option<oneshot::Receiver<Health>>,
}

/// Registers a replica of a service. Registering again changes what it names and leaves the rest.
///
/// # Errors
/// When it is not clear which attachment is meant, or the request disagrees with what the service is.
pub async fn register(agent: &Arc<Agent>, request: Register, caller: &Caller) -> Result<Done, Failure> {
    let service = verbs::name("service", &request.service)?;
    if let Some(weight) = request.weight.filter(|weight| *weight > 256) {
        return Err(refused(format!("a weight of {weight} is out of range"), &["use 0 to 256"]));
    }
    // Nobody else has to wait for an engine.
    let located = match &request.place {
        Some(place) => Some(Located::find(agent, place).await?),
        None => None,
    };
    let turn = agent.verbs.lock().await;
    let mut changed = Vec::new();
    let attachment = target(agent, &request, located.as_ref(), caller, &mut changed).await?;
    let network = attachment.network.clone();
    let vips = match agent.read(|state| state.catalog.service(&network, &service)) {
        Some(_) => None,
        None => {
            check(&merged(&ServiceSettings::default(), &request.settings))?;
            Some(verbs::addressing::vips(agent, &network).await?)
        }
    };
    let asked = Asked { request: &request, service: &service, attachment: &attachment, vips };
    let mut standing = Standing { health: Health::Serving, verdict: None };
    let head = agent.update(|state| {
        let registered = decide(state, agent.identity.node, &asked)?;
        changed.extend(registered.changed);
        standing = registered.standing;
        Ok((registered.batch, Writes::default()))
    })?;
    drop(turn);
    for line in &changed {
        agent.events.record("replica", line, &caller.origin);
    }
    let (laggards, notes) = in_force(agent, &asked, head, standing).await;
    let object = inspect(agent, &network, &service);
    Ok(Done { changed, notes, laggards, object })
}

/// Waits until the registration is in force everywhere, which takes a passed check where there is one: one deadline for
/// both. Returns where it is not, and what else to know.
async fn in_force(
    agent: &Arc<Agent>,
    asked: &Asked<'_>,
    head: Head,
    standing: Standing,
) -> (Vec<Laggard>, Vec<String>) {
    let (started, wait) = (Instant::now(), asked.request.wait);
    let (mut head, mut unserved) = (head, None);
    match wait_passed(agent, &asked.key(), standing, wait).await {
        Ok(Some(serving)) => head = serving,
        Ok(None) => {}
        Err(why) => unserved = Some(format!("{} on {} {why}", asked.service, asked.attachment.name)),
    }
    let rest = remaining(wait, started.elapsed());
    let mut laggards = verbs::everywhere(agent, Some(&asked.attachment.network), head, rest).await;
    let mut notes = Vec::new();
    match unserved {
        // Nobody waits, so nobody is late.
        Some(reason) if wait.milliseconds == 0 => notes.push(reason),
        Some(reason) => laggards.insert(0, Laggard { host: agent.identity.name.clone(), reason }),
        None => {}
    }
    (laggards, notes)
}

/// What is left of a wait; at least a look at how things stand, unless no wait was asked for.
fn remaining(wait: Wait, elapsed: Duration) -> Wait {
    let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Wait { milliseconds: wait.milliseconds.saturating_sub(elapsed).max(wait.milliseconds.min(1)) }
}

impl Asked<'_> {
    fn key(&self) -> Key {
        Key::Replica {
            network: self.attachment.network.clone(),
            service: self.service.clone(),
            attachment: self.attachment.name.clone(),
        }
    }
}

pub(super) fn inspect(agent: &Agent, network: &Name, service: &Name) -> Option<serde_json::Value> {
    verbs::queries::service(agent, network, service).and_then(|info| serde_json::to_value(info).ok())
}

/// Which attachment is meant: the named one, that of a place (attached first if need be), the caller's, the only one.
async fn target(
    agent: &Arc<Agent>,
    request: &Register,
    located: Option<&Located>,
    caller: &Caller,
    changed: &mut Vec<String>,
) -> Result<LocalAttachment, Failure> {
    if let Some(located) = located {
        return verbs::attach::ensure(agent, request.network.as_deref(), located, caller, changed).await;
    }
    let named =
        request.network.as_deref().map(|text| verbs::choose_network_to_use(agent, Some(text))).transpose()?;
    let local: Vec<LocalAttachment> = agent.read(|state| {
        let all = state.local.values().filter(|it| it.announced);
        all.filter(|it| named.as_ref().is_none_or(|network| it.network == *network)).cloned().collect()
    });
    if let Some(on) = &request.on {
        let on = verbs::name("attachment", on)?;
        let matching: Vec<&LocalAttachment> = local.iter().filter(|it| it.name == on).collect();
        return match matching.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(unknown_attachment(agent, &on, &local)),
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

fn unknown_attachment(agent: &Agent, on: &Name, local: &[LocalAttachment]) -> Failure {
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
            let meant = nearby::meant(on.as_str(), local.iter().map(|it| &it.name)).into_iter();
            let there_is = "see what there is: svc-agent attachments".to_owned();
            let attach = format!("attach it: svc-agent attach {on} --netns {on}");
            let hints: Vec<String> = meant.chain([there_is, attach]).collect();
            nearby::missing(format!("attachment {on} does not exist"), &hints)
        }
    }
}

fn ambiguous<'a>(
    request: &Register,
    all: impl Iterator<Item = &'a LocalAttachment>,
    networks: bool,
) -> Failure {
    let all: Vec<&LocalAttachment> = all.collect();
    let names: Vec<String> = all.iter().map(|it| it.key()).collect();
    let hints: Vec<String> = all
        .iter()
        .take(NAMED_MAX)
        .map(|it| match networks {
            true => {
                format!("svc-agent register {} --on {} --network {}", request.service, it.name, it.network)
            }
            false => format!("svc-agent register {} --on {}", request.service, it.name),
        })
        .collect();
    let hints: Vec<&str> = hints.iter().map(String::as_str).collect();
    usage(format!("which attachment is meant? There are {}: {}", names.len(), list_some(&names)), &hints)
}

/// What the registration writes, by what is known at the moment of writing.
pub(crate) fn decide(state: &mut State, this: NodeId, asked: &Asked<'_>) -> Result<Registered, Failure> {
    let Asked { service, attachment, request, .. } = asked;
    let place = (attachment.network.clone(), attachment.name.clone());
    let stands = state.local.get(&place).is_some_and(|it| it.announced && it.cookie == attachment.cookie);
    if !stands {
        let what = format!("{} was detached while {service} was being registered on it", attachment.name);
        return Err(refused(what, &["see what there is: svc-agent attachments"]));
    }
    let mut changed = Vec::new();
    let check_before = state.catalog.service(&attachment.network, service);
    let check_before = check_before.and_then(|record| record.definition.settings.check.clone());
    let (settings, mut batch) = define(state, this, asked, &mut changed)?;
    let key = asked.key();
    let before = match state.catalog.value(this, &key) {
        Some(Value::Replica(fact)) => Some(fact),
        _ => None,
    };
    let fact = ReplicaFact {
        addresses: attachment.addresses.clone(),
        weight: request.weight.or(before.as_ref().map(|fact| fact.weight)).unwrap_or(1),
        health: registered_health(
            settings.check.is_some(),
            before.as_ref().map(|fact| fact.health),
            said(state, &attachment.network, &attachment.name),
        ),
    };
    changed.extend(replica_changes(before.as_ref(), &fact, service, attachment));
    let health = fact.health;
    batch.push((key, Some(Value::Replica(fact))));
    let another = before.is_some() && settings.check.is_some() && settings.check != check_before;
    let replica = ((attachment.network.clone(), (*service).clone()), attachment.name.clone());
    let verdict = another.then(|| state.unfollowed.first_verdict(replica));
    Ok(Registered { batch, changed, standing: Standing { health, verdict } })
}

/// The definition that stands after the registration, and what must be written for it.
fn define(
    state: &mut State,
    this: NodeId,
    asked: &Asked<'_>,
    changed: &mut Vec<String>,
) -> Result<(ServiceSettings, Batch), Failure> {
    let Asked { service, attachment, request, vips } = asked;
    let network = &attachment.network;
    let Some(record) = state.catalog.service(network, service) else {
        let settings = merged(&ServiceSettings::default(), &request.settings);
        let Some(vips) = vips.clone() else {
            let what =
                format!("service {service} was deregistered while a replica of it was being registered");
            return Err(refused(what, &["register it again to create it anew"]));
        };
        check(&settings)?;
        let stamp = state.catalog.next_stamp(this);
        changed.push(format!("service {service} created on network {network}: VIP {}", list(&vips)));
        let definition =
            ServiceDefinition { revision: stamp, removed: false, vips, settings: settings.clone() };
        let key = Key::Service { network: network.clone(), name: (*service).clone(), born: stamp };
        return Ok((settings, vec![(key, Some(Value::Service(definition)))]));
    };
    let settings = merged(&record.definition.settings, &request.settings);
    if settings == record.definition.settings {
        return Ok((settings, Vec::new()));
    }
    check(&settings)?;
    let mut replicas = state.catalog.replicas(network, service);
    if replicas.any(|(name, owner, _)| *name != attachment.name || owner != this) {
        let differs = settings::differences(&record.definition.settings, &settings);
        let hint = format!("change it for all replicas: svc-agent service set {service} …");
        let what = format!("service {service} is registered otherwise: {}", differs.join("; "));
        return Err(refused(what, &[&hint, "or leave those settings out"]));
    }
    drop(replicas);
    let lines = changes(&record.definition.settings, &settings);
    changed.extend(lines.into_iter().map(|line| format!("service {service}: {line}")));
    let revision = state.catalog.next_stamp(this);
    let definition =
        ServiceDefinition { revision, settings: settings.clone(), ..(*record.definition).clone() };
    let key = Key::Service { network: network.clone(), name: (*service).clone(), born: record.born };
    Ok((settings, vec![(key, Some(Value::Service(definition)))]))
}

/// Where a replica begins. Registering again ends a drain. What has served may have established flows, and goes on
/// without new ones until its check passes and its engine has nothing against it; what has not gets nothing until then.
fn registered_health(checked: bool, before: Option<Health>, said: Said) -> Health {
    let served = matches!(before, Some(Health::Serving | Health::Failing | Health::Draining));
    match (checked, before, said) {
        (_, _, Said::Health(said)) if said != Health::Serving => {
            if served {
                Health::Failing
            } else {
                said
            }
        }
        (false, _, _) | (true, Some(Health::Serving), _) => Health::Serving,
        (true, Some(Health::Failing | Health::Draining), _) => Health::Failing,
        (true, Some(Health::Starting) | None, _) => Health::Starting,
    }
}

fn replica_changes(
    before: Option<&ReplicaFact>,
    fact: &ReplicaFact,
    service: &Name,
    attachment: &LocalAttachment,
) -> Vec<String> {
    let place = format!("replica of {service} on {} ({})", attachment.name, list(&attachment.addresses));
    let Some(before) = before else { return vec![format!("{place} registered, weight {}", fact.weight)] };
    let mut changed = Vec::new();
    if before.weight != fact.weight {
        changed.push(format!("{place}: weight {} is {} now", before.weight, fact.weight));
    }
    match (before.health, fact.health) {
        (Health::Draining, Health::Failing) => changed.push(format!("{place}: its drain ends")),
        (was, is) if was != is => changed.push(format!("{place}: {} is {} now", health(was), health(is))),
        _ => {}
    }
    changed
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

/// Waits for a passed check where there is something to wait for: the head that says so, or why there is none.
async fn wait_passed(
    agent: &Agent,
    key: &Key,
    standing: Standing,
    wait: Wait,
) -> Result<Option<Head>, &'static str> {
    let started = Instant::now();
    let Standing { mut health, verdict } = standing;
    if let Some(verdict) = verdict {
        match tokio::time::timeout(limit(wait), verdict).await {
            Ok(Ok(Health::Serving)) => {}
            Ok(Ok(found)) => health = found,
            Ok(Err(_ended)) => {
                return Err("has no such check any more: it was changed or taken out meanwhile");
            }
            Err(_late) => return Err("has not passed its new check yet; svc-agent events says how it ends"),
        }
    }
    if health == Health::Serving {
        return Ok(None);
    }
    wait_serving(agent, key, health, remaining(wait, started.elapsed())).await.map(Some)
}

fn limit(wait: Wait) -> Duration {
    Duration::from_millis(wait.milliseconds.min(600_000))
}

/// Waits for a passed check: the head that says so, or why there is none, about the replica.
async fn wait_serving(agent: &Agent, key: &Key, from: Health, wait: Wait) -> Result<Head, &'static str> {
    let this = agent.identity.node;
    let mut heads = agent.own_head.subscribe();
    let served = async {
        loop {
            heads.mark_unchanged();
            // Outside of the watch's own lock, which a writer takes while it holds the state.
            let (value, head) =
                agent.read(|state| (state.catalog.value(this, key), state.catalog.head(this)));
            match value {
                Some(Value::Replica(fact)) if fact.health == Health::Serving => return Ok(head),
                Some(Value::Replica(fact)) if fact.health == Health::Draining => {
                    return Err("was drained meanwhile");
                }
                Some(Value::Replica(_)) => {}
                _ => return Err("was deregistered meanwhile"),
            }
            if heads.changed().await.is_err() {
                return Err("gets no flows: the agent ends");
            }
        }
    };
    let late = match from {
        Health::Starting => {
            "gets no flows until its first check passes; svc-agent events says why it does not"
        }
        _ => "gets no flows until its check passes; svc-agent events says why it does not",
    };
    tokio::time::timeout(limit(wait), served).await.unwrap_or(Err(late))
}
