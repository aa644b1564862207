//! What Docker says of its containers: further names, the service that labels ask for, whether they are well, and which of
//! the endpoints that we know it has no more.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::EventMessage;
use futures::StreamExt;
use tokio::time::Instant;

use super::engine::{self, Described};
use super::{ORIGIN, attaching, driver, labels, names, resolver};
use crate::catalog::facts::Health;
use crate::model::Name;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::health::{Judged, judge};
use crate::runtime::local::LocalAttachment;
use crate::runtime::state::State;
use crate::runtime::verbs;
use crate::runtime::verbs::attach::Caller;

/// Between two attempts to reach an engine.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at all.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// What Docker does not name for so long it has forgotten: an endpoint is there before it is on its network.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A container that got its stop signal so long ago and runs took it for something else.
const STOPS_WITHIN: Duration = Duration::from_secs(600);
/// The signal that `docker stop` begins with, unless a container has another.
const SIGTERM: i32 = 15;

/// A container that runs on a network of ours, by what events are to be understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Docker's ids of its endpoints.
    pub endpoints: BTreeSet<String>,
    stop_signal: i32,
    /// When it got it.
    stopping: Option<Instant>,
}

/// Endpoints and addresses that Docker did not name when it was looked, and since when.
#[derive(Debug, Default)]
struct Absent {
    endpoints: BTreeMap<String, Instant>,
    leases: BTreeMap<(Name, IpAddr), Instant>,
}

impl Absent {
    /// What had joined when an agent starts Docker may have ended while none ran: not named at the first look, it is forgotten at
    /// once, so that its addresses can be had again. What had not may be in the midst of a start, whose next call waits for us.
    fn at_start(agent: &Agent) -> Self {
        let now = Instant::now();
        let long_ago = now.checked_sub(FORGOTTEN_AFTER).unwrap_or(now);
        let leases = |it: &super::Endpoint| {
            let network = it.network.clone();
            it.addresses.clone().into_iter().map(move |address| ((network.clone(), address), long_ago))
        };
        let joined = |state: &State| {
            let joined = state.docker.endpoints().filter(|(_, it)| it.sandbox.is_some());
            joined.map(|(id, it)| (id.clone(), it.clone())).collect::<Vec<_>>()
        };
        let joined = agent.read(joined);
        Self {
            leases: joined.iter().flat_map(|(_, it)| leases(it)).collect(),
            endpoints: joined.into_iter().map(|(id, _)| (id, long_ago)).collect(),
        }
    }
}

/// So long a namespace that is attached may take until it is open.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Follows Docker's containers until the agent ends.
pub async fn follow(agent: Arc<Agent>) {
    if agent.settings.load().docker_plugin.as_os_str().is_empty() {
        return;
    }
    let mut absent = Absent::at_start(&agent);
    loop {
        if let Some(docker) = engine::connect(&agent).await {
            let ended = follow_one(&agent, &docker, &mut absent).await;
            tracing::debug!("Docker's events of containers ended: {ended}");
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

async fn follow_one(agent: &Arc<Agent>, docker: &Docker, absent: &mut Absent) -> String {
    let mut events = engine::events(docker, "container");
    // What changed while nobody listened.
    lock(&agent.docker.containers).clear();
    look(agent, docker, absent).await;
    {
        let (agent, docker) = (Arc::clone(agent), docker.clone());
        tokio::spawn(async move { start_refused(&agent, &docker).await });
    }
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => on_event(agent, docker, event).await,
                Some(Err(error)) => return chain(&error),
                None => return "the engine closed them".to_owned(),
            },
            _ = looks.tick() => look(agent, docker, absent).await,
        }
    }
}

/// While no agent ran Docker could not start what it is to keep running: it does not try again by itself.
async fn start_refused(agent: &Arc<Agent>, docker: &Docker) {
    let is_ours = |id: &str| agent.read(|state| state.docker.network(id).is_some());
    for id in engine::refused(docker, is_ours).await {
        let line = match engine::start(docker, &id).await {
            Ok(()) => format!("container {} is started: Docker could not while no agent ran", short(&id)),
            Err(error) => format!("container {} cannot be started: {}", short(&id), chain(&error)),
        };
        agent.events.record("container", line, ORIGIN);
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// All that run on networks of ours; and what Docker has forgotten is forgotten here.
async fn look(agent: &Arc<Agent>, docker: &Docker, absent: &mut Absent) {
    let networks: BTreeSet<String> =
        agent.read(|state| state.docker.endpoints().map(|(_, it)| it.network_id.clone()).collect());
    let mut named = BTreeSet::new();
    for network in &networks {
        let Some(there) = engine::containers_on(docker, network).await else { return };
        for (container, endpoint) in there {
            named.insert(endpoint.clone());
            let new = !lock(&agent.docker.containers).contains_key(&container);
            let unjudged = new || attached(agent, &endpoint).is_some_and(|it| !is_judged(agent, &it));
            if unjudged && let Some(described) = engine::describe(docker, &container).await {
                take_in(agent, &described);
            }
        }
    }
    forget(agent, &named, absent);
}

fn is_judged(agent: &Agent, record: &LocalAttachment) -> bool {
    agent.read(|state| state.judged.contains_key(&(record.network.clone(), record.name.clone())))
}

fn attached(agent: &Agent, endpoint: &str) -> Option<LocalAttachment> {
    agent.read(|state| {
        state.local.values().find(|it| it.announced && it.endpoint.as_deref() == Some(endpoint)).cloned()
    })
}

/// What Docker dropped without a word: its data was removed, or it ended in the midst of something.
fn forget(agent: &Arc<Agent>, named: &BTreeSet<String>, absent: &mut Absent) {
    let now = Instant::now();
    let old = |since: &Instant| now.duration_since(*since) >= FORGOTTEN_AFTER;
    let endpoints: BTreeSet<String> =
        agent.read(|state| state.docker.endpoints().map(|(id, _)| id.clone()).collect());
    absent.endpoints.retain(|id, _| endpoints.contains(id) && !named.contains(id));
    for id in endpoints.difference(named) {
        absent.endpoints.entry(id.clone()).or_insert(now);
    }
    for (id, _) in absent.endpoints.iter().filter(|(_, since)| old(since)) {
        tracing::info!("Docker has forgotten endpoint {id}: it is detached");
        if let Err(why) = driver::forget_endpoint(agent, id) {
            tracing::warn!("endpoint {id} stays: {why}");
        }
    }
    // Killed in the midst of an end, an agent has forgotten the endpoint and not yet what was attached for it.
    let left: Vec<String> = agent.read(|state| {
        let attached = state.local.values().filter_map(|it| it.endpoint.clone());
        attached.filter(|id| state.docker.endpoint(id).is_none()).collect()
    });
    for id in left {
        if let Err(why) = attaching::end(agent, &id) {
            tracing::warn!("endpoint {id} stays attached: {why}");
        }
    }
    let leases: BTreeSet<(Name, IpAddr)> = agent.read(|state| {
        let used = state.docker.endpoints();
        let used =
            used.flat_map(|(_, it)| it.addresses.iter().map(move |address| (it.network.clone(), *address)));
        let used: BTreeSet<(Name, IpAddr)> = used.collect();
        state.docker.leases().filter(|lease| !used.contains(*lease)).cloned().collect()
    });
    absent.leases.retain(|lease, _| leases.contains(lease));
    for lease in leases {
        absent.leases.entry(lease).or_insert(now);
    }
    for ((network, address), _) in absent.leases.iter().filter(|(_, since)| old(since)) {
        if let Err(why) = driver::release(agent, network, *address) {
            tracing::warn!("{address} of network {network} stays Docker's: {why}");
        }
    }
}

async fn on_event(agent: &Arc<Agent>, docker: &Docker, event: EventMessage) {
    let (Some(action), Some(actor)) = (event.action, event.actor) else { return };
    let Some(id) = actor.id else { return };
    let known = lock(&agent.docker.containers).get(&id).cloned();
    let Some(known) = known else { return };
    let attributes = actor.attributes.unwrap_or_default();
    let failing =
        |reason: &str, problem| Judged { health: Health::Failing, reason: reason.to_owned(), problem };
    match action.as_str() {
        "health_status: healthy" | "health_status: unhealthy" | "health_status: starting" | "unpause" => {
            again(agent, docker, &id).await;
        }
        "pause" => say(agent, &known, &failing("its container is paused", true)),
        "kill" => {
            let signal = attributes.get("signal").and_then(|text| text.parse::<i32>().ok());
            if signal.is_some_and(|signal| signal == known.stop_signal) {
                if let Some(known) = lock(&agent.docker.containers).get_mut(&id) {
                    known.stopping = Some(Instant::now());
                }
                say(agent, &known, &stopping());
            }
        }
        "rename" => {
            let Some(name) = attributes.get("name").cloned() else { return };
            // It may take its time, and others wait here.
            let (agent, docker) = (Arc::clone(agent), docker.clone());
            tokio::spawn(async move {
                for endpoint in &known.endpoints {
                    attaching::rename(&agent, endpoint, &name, false).await;
                }
                again(&agent, &docker, &id).await;
            });
        }
        "die" => drop(lock(&agent.docker.containers).remove(&id)),
        _ => {}
    }
}

fn stopping() -> Judged {
    let reason = "its container is being stopped".to_owned();
    Judged { health: Health::Failing, reason, problem: false }
}

fn say(agent: &Agent, known: &Known, judged: &Judged) {
    for record in known.endpoints.iter().filter_map(|endpoint| attached(agent, endpoint)) {
        judge(agent, &record.network, &record.name, judged.clone());
    }
}

/// Looks at a container again, if it is on a network of ours.
pub(super) async fn again(agent: &Arc<Agent>, docker: &Docker, id: &str) {
    if lock(&agent.docker.containers).contains_key(id)
        && let Some(described) = engine::describe(docker, id).await
    {
        take_in(agent, &described);
    }
}

/// How a container is, and its further names.
fn take_in(agent: &Arc<Agent>, described: &Described) {
    let ours: BTreeSet<String> = agent.read(|state| {
        let all = described.endpoints.keys();
        all.filter(|id| state.docker.endpoint(id).is_some()).cloned().collect()
    });
    if ours.is_empty() || !described.running {
        return;
    }
    let known = {
        let mut all = lock(&agent.docker.containers);
        let stopping = all.get(&described.id).and_then(|known| known.stopping);
        let stopping = stopping.filter(|since| since.elapsed() < STOPS_WITHIN);
        let stop_signal = described.stop_signal.unwrap_or(SIGTERM);
        let known = Known { endpoints: ours, stop_signal, stopping };
        all.insert(described.id.clone(), known.clone());
        known
    };
    // Whatever it says of its health, it is about to end.
    let judged = if known.stopping.is_some() { stopping() } else { described.judged.clone() };
    say(agent, &known, &judged);
    let attached: Vec<LocalAttachment> =
        known.endpoints.iter().filter_map(|endpoint| attached(agent, endpoint)).collect();
    if let Some(first) = attached.first() {
        let ours: Vec<Name> = attached.iter().map(|it| it.network.clone()).collect();
        if lock(&agent.namespaces).contains_key(&first.cookie) {
            resolver::follow(agent, first.cookie, &ours, described);
        } else {
            follow_once_open(agent, first.cookie, ours, described);
        }
    }
    for (endpoint, aliases) in &described.endpoints {
        add_aliases(agent, endpoint, aliases);
    }
}

/// After a start of the agent namespaces are opened one by one.
fn follow_once_open(agent: &Arc<Agent>, cookie: u64, ours: Vec<Name>, described: &Described) {
    let (agent, described) = (Arc::clone(agent), described.clone());
    tokio::spawn(async move {
        let mut opened = agent.opened_revision.subscribe();
        let open = opened.wait_for(|_| lock(&agent.namespaces).contains_key(&cookie));
        if matches!(tokio::time::timeout(OPEN_LIMIT, open).await, Ok(Ok(_))) {
            resolver::follow(&agent, cookie, &ours, &described);
        }
    });
}

/// A container has started, with this endpoint: what its labels ask for is done there. What an operator did on another one since
/// stays.
///
/// # Errors
/// What may go better later; a label that is wrong is told.
pub(super) async fn started(
    agent: &Arc<Agent>,
    docker: &Docker,
    container: &str,
    endpoint: &str,
) -> Result<(), String> {
    let described = engine::describe(docker, container).await.ok_or("Docker does not describe it")?;
    take_in(agent, &described);
    register(agent, &described, endpoint).await?;
    // Docker says nothing of it, and goes on.
    if !described.unpublished.is_empty() {
        let (name, ports) = (&described.name, described.unpublished.join(", "));
        let line = format!(
            "container {name}: {ports} is not published: our networks publish no ports; put it on one of Docker's, too \
             (docker network connect bridge {name}, and start it again)"
        );
        tracing::warn!("{line}");
        agent.events.record("attachment", line, ORIGIN);
    }
    Ok(())
}

/// What a container's labels ask for on one of its networks.
async fn register(agent: &Arc<Agent>, described: &Described, endpoint: &str) -> Result<(), String> {
    let tell = |why: &str| {
        let line = format!("container {} is not registered: {why}", described.name);
        tracing::error!("{line}");
        agent.events.record("replica", line, ORIGIN);
    };
    let wanted = match labels::wanted(&described.labels) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Ok(()),
        Err(why) => {
            tell(&why);
            return Ok(());
        }
    };
    let Some(record) = attached(agent, endpoint) else { return Ok(()) };
    if let Some(network) = &wanted.network
        && names::label(network).as_ref() != Some(&record.network)
    {
        let known = described.networks.iter().any(|it| names::label(it) == names::label(network));
        if !known {
            tell(&format!("svc-agent.network: it is on no network {network}"));
        }
        return Ok(());
    }
    let caller = Caller { pid: None, origin: ORIGIN.to_owned() };
    let request = wanted.request(&record.network, &record.name);
    match verbs::register::register(agent, request, &caller).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(format!("not registered: {}", failure.message)),
    }
}

/// What an endpoint's attachment is called besides; of the attachment as it is when that is written.
fn add_aliases(agent: &Agent, endpoint: &str, aliases: &[String]) {
    let mut labels: Vec<Name> = aliases.iter().filter_map(|alias| names::label(alias)).collect();
    labels.sort();
    labels.dedup();
    let wanted = |state: &State| {
        let record =
            state.local.values().find(|it| it.announced && it.endpoint.as_deref() == Some(endpoint))?;
        let aliases: Vec<Name> = labels.iter().filter(|label| **label != record.name).cloned().collect();
        (aliases != record.aliases).then(|| LocalAttachment { aliases, ..record.clone() })
    };
    if agent.read(|state| wanted(state).is_none()) {
        return;
    }
    let told = agent.update(|state| match wanted(state) {
        Some(record) => verbs::attach::announcement(state, &record),
        None => Ok(Default::default()),
    });
    match told {
        Ok(_) => agent.changed.notify_one(),
        Err(failure) => tracing::warn!("aliases of endpoint {endpoint}: {}", failure.message),
    }
}
