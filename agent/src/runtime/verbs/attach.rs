//! `attach` and `detach`: reserve, plumb, announce; each step idempotent, a failed one undone.
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::api::types::{Attach, Done, Failure};
use crate::catalog::facts::{AttachmentFact, Key, Taken, Value};
use crate::model::{Head, Name, NodeId};
use crate::netns::{self, Namespace, Resolved};
use crate::runtime::agent::{Agent, Batch, chain, refused, usage};
use crate::runtime::claiming::Hold;
use crate::runtime::local::{Asked, LocalAttachment, StoredPlace, list};
use crate::runtime::state::State;
use crate::runtime::verbs::takeover::{self, Predecessor};
use crate::runtime::{host, verbs};
use crate::store::Writes;

mod copy;
mod place;

pub use place::Located;

/// How long what another network's namespace still holds may be in the way, and between two looks.
const ENDING_LIMIT: Duration = Duration::from_secs(2);
const ENDING_INTERVAL: Duration = Duration::from_millis(50);

/// Who asks, over the unix socket.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer's process as this host numbers it (SO_PEERCRED).
    pub pid: Option<u32>,
    /// For events: `cli (uid 0, pid 12)`.
    pub origin: String,
}

impl Caller {
    /// Cookie of the caller's network namespace.
    pub fn cookie(&self) -> Option<u64> {
        let resolved = netns::of_peer(self.pid?).ok()?;
        Some(resolved.namespace.cookie())
    }
}

/// Attaches a namespace to a network.
///
/// # Errors
/// When the namespace, network or address cannot be had, or the attachment exists with other parameters.
pub async fn attach(agent: &Arc<Agent>, request: Attach, caller: &Caller) -> Result<Done, Failure> {
    // Nobody else has to wait for an engine.
    let located = Located::find(agent, &request.place).await?;
    let turn = agent.verbs.lock().await;
    let mut changed = Vec::new();
    let (record, head) = make(agent, &request, &located, caller, &mut changed).await?;
    drop(turn);
    for line in &changed {
        agent.events.record("attachment", line, &caller.origin);
    }
    let laggards = verbs::everywhere(agent, Some(&record.network), head, request.wait).await;
    let info = verbs::queries::attachments(agent)
        .into_iter()
        .find(|info| info.local && info.name == record.name && info.network == record.network);
    Ok(Done {
        changed,
        laggards,
        object: info.and_then(|info| serde_json::to_value(info).ok()),
        ..Done::default()
    })
}

/// The attachment of a place, made if need be; for `register --netns` and the like. The caller holds the verbs' lock.
///
/// # Errors
/// As [`attach`].
pub async fn ensure(
    agent: &Arc<Agent>,
    network: Option<&str>,
    located: &Located,
    caller: &Caller,
    changed: &mut Vec<String>,
) -> Result<LocalAttachment, Failure> {
    let resolved = located.resolve(caller)?;
    let cookie = resolved.namespace.cookie();
    let named = network.and_then(|text| text.parse::<Name>().ok());
    let there: Vec<LocalAttachment> = agent.read(|state| {
        let inside = state.local.values().filter(|it| it.cookie == cookie && it.announced);
        inside.filter(|it| named.as_ref().is_none_or(|network| it.network == *network)).cloned().collect()
    });
    match there.as_slice() {
        [one] => return Ok(one.clone()),
        [] => {}
        several => {
            let networks: Vec<&Name> = several.iter().map(|it| &it.network).collect();
            let hint = format!("name one of them: --network {}", several[0].network);
            return Err(usage(
                format!("that namespace is on several networks: {}", list(&networks)),
                &[&hint],
            ));
        }
    }
    let request = Attach {
        name: located.name(agent),
        network: network.map(str::to_owned),
        place: located.asked().clone(),
        ip: None,
        mac: None,
        aliases: Vec::new(),
        default_route: false,
        wait: Default::default(),
    };
    let (record, _) = make(agent, &request, located, caller, changed).await?;
    if record.resolv_conf.is_none() && record.place != StoredPlace::Host {
        let text = host::resolv_conf(agent, record.cookie);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        changed
            .push(format!("for names to resolve there, its /etc/resolv.conf must say: {}", lines.join("; ")));
    }
    Ok(record)
}

/// The attachment itself; the caller holds the verbs' lock.
///
/// # Errors
/// As [`attach`].
pub async fn make(
    agent: &Arc<Agent>,
    request: &Attach,
    located: &Located,
    caller: &Caller,
    changed: &mut Vec<String>,
) -> Result<(LocalAttachment, Head), Failure> {
    let name = verbs::name("attachment", &request.name)?;
    let aliases =
        request.aliases.iter().map(|alias| verbs::name("alias", alias)).collect::<Result<Vec<_>, _>>()?;
    let mac = request.mac.as_deref().map(crate::addresses::parse_mac).transpose();
    let mac = mac.map_err(|error| refused(chain(&error), &[]))?.map(crate::addresses::format_mac);
    let resolved = located.resolve(caller)?;
    let asked = Asked {
        cookie: resolved.namespace.cookie(),
        ip: request.ip,
        mac,
        aliases,
        default_route: request.default_route,
        endpoint: located.endpoint().cloned(),
    };
    verbs::unjoined::refuse(agent)?;
    let network =
        verbs::choose_or_make_network(agent, request.network.as_deref(), &caller.origin, changed).await?;
    if let Some(record) = existing(agent, &network, &name, &asked)? {
        return Ok((record, *agent.own_head.borrow()));
    }
    let predecessors = predecessors(agent, &network, &name, &asked)?;
    if predecessors.is_empty() {
        agent.read(|state| refuse_same(state, agent.identity.node, (&network, &name), &asked))?;
    }
    refuse_overlap(agent, &network, &resolved.namespace).await?;
    let subnets = agent.read(|state| state.catalog.network(&network).map(|it| it.definition.subnets.clone()));
    verbs::network::refuse_narrow(agent, &network, &subnets.unwrap_or_default())?;
    let hold = takeover::claim(agent, &network, &predecessors).await?;
    // A copy that is there is fenced, and this one is attached in its place.
    let copy = agent.read(|state| state.local.get(&(network.clone(), name.clone())).cloned());
    let copy = copy.map(|record| copy::Withdrawn::take(agent, record)).transpose()?;
    let made = establish(agent, (&network, &name), asked, resolved, &predecessors, hold).await;
    let (record, head) = match (made, copy) {
        (Ok(made), copy) => {
            changed.extend(copy.and_then(|copy| copy.ended()));
            made
        }
        (Err(failure), copy) => {
            copy.into_iter().for_each(|copy| copy.put_back(agent));
            return Err(failure);
        }
    };
    let mut line =
        format!("{name} attached to network {network}: {} ({})", list(&record.addresses), record.mac);
    let mut from: Vec<String> = predecessors.iter().map(|it| agent.host_name(it.owner)).collect();
    from.dedup();
    if !from.is_empty() {
        line.push_str(&format!("; taken over from {}, which is suspended", list(&from)));
    }
    changed.push(line);
    Ok((record, head))
}

/// Reserves, plumbs and announces; of an attempt that fails nothing is left.
async fn establish(
    agent: &Arc<Agent>,
    (network, name): (&Name, &Name),
    asked: Asked,
    resolved: Resolved,
    predecessors: &[Predecessor],
    mut hold: Hold,
) -> Result<(LocalAttachment, Head), Failure> {
    let record = reserve(agent, network, name, asked, (&resolved, predecessors), &mut hold).await?;
    drop(hold);
    lock_opened(agent, record.cookie, resolved);
    let done = plumb(agent, &record).await.and_then(|()| announce(agent, record.clone()));
    done.inspect_err(|_| verbs::detach::undo(agent, &record))
}

/// The attachment as it stands, if it was asked for in the same words.
fn existing(
    agent: &Agent,
    network: &Name,
    name: &Name,
    asked: &Asked,
) -> Result<Option<LocalAttachment>, Failure> {
    let Some(record) = agent.read(|state| state.local.get(&(network.clone(), name.clone())).cloned()) else {
        return Ok(None);
    };
    if agent.read(|state| is_fenced(state, agent.identity.node, network, name)) {
        return Ok(None);
    }
    let differs = record.difference(asked);
    if differs.is_empty() && record.announced {
        return Ok(Some(record));
    }
    if !record.announced {
        // Left over from an attempt that a crash cut short.
        verbs::detach::forget(agent, &record)?;
        return Ok(None);
    }
    let hint = format!("detach it first: svc-agent detach {name} --network {network}");
    Err(refused(format!("{name} is attached to {network} otherwise: {}", differs.join("; ")), &[&hint]))
}

/// A fenced copy that is attached again in the same words, with nobody to take it back from, would be given another address
/// without a word.
fn refuse_same(
    state: &State,
    me: NodeId,
    (network, name): (&Name, &Name),
    asked: &Asked,
) -> Result<(), Failure> {
    let mut fenced =
        takeover::fenced(state, me).filter(|(of, attachment, _)| (*of, *attachment) == (network, name));
    let why = fenced.find_map(|(_, _, conflict)| takeover::fence_text(state, conflict));
    let same = state.local.get(&(network.clone(), name.clone())).filter(|it| it.difference(asked).is_empty());
    match (why, same) {
        (Some(why), Some(_)) => Err(refused(format!("{name} is attached to {network} here, {why}"), &[])),
        _ => Ok(()),
    }
}

fn is_fenced(state: &State, me: NodeId, network: &Name, name: &Name) -> bool {
    takeover::fenced(state, me).any(|(of, attachment, _)| (of, attachment) == (network, name))
}

/// Whom the attachment takes over from: nobody, or attachments of hosts that are suspended.
fn predecessors(
    agent: &Agent,
    network: &Name,
    name: &Name,
    asked: &Asked,
) -> Result<Vec<Predecessor>, Failure> {
    let me = agent.identity.node;
    agent.read(|state| {
        let here = state.local.values().filter(|it| it.cookie == asked.cookie && it.network == *network);
        let mut inside = here.filter(|it| it.name != *name);
        if let Some(other) = inside.next() {
            let hint =
                format!("use that one, or detach it: svc-agent detach {} --network {network}", other.name);
            let what = format!("that namespace is on network {network} already, as {}", other.name);
            return Err(refused(what, &[&hint, "another name for it: detach, then attach with --alias"]));
        }
        takeover::predecessors(state, me, network, name, asked.ip).map_err(|owner| {
            let host = crate::runtime::agent::host_name(&state.catalog, owner);
            let there = format!("detach it there: svc-agent detach {name} --network {network}");
            let mut hints = vec![there.as_str()];
            if is_fenced(state, me, network, name) {
                hints.push("or detach this host's copy, which is fenced, and attach it under another name");
            }
            refused(format!("{name} is attached to {network} on host {host}"), &hints)
        })
    })
}

/// A network whose subnet overlaps a route of the namespace would take that route's traffic.
async fn refuse_overlap(agent: &Agent, network: &Name, namespace: &Namespace) -> Result<(), Failure> {
    let subnets: Vec<IpNetwork> = agent.read(|state| {
        state.catalog.network(network).map(|record| record.definition.subnets.clone()).unwrap_or_default()
    });
    let routes = host::routes_in(namespace, Some(network)).await.map_err(|error| {
        refused(format!("the routes of that namespace cannot be read: {}", chain(&error)), &[])
    })?;
    for subnet in &subnets {
        if let Some(route) = routes.iter().find(|route| crate::addresses::overlaps(route, subnet)) {
            let hint = "create a network with another --subnet, or remove the route";
            let what = format!(
                "{subnet} of network {network} overlaps {route}, which that namespace has a route to"
            );
            return Err(refused(what, &[hint]));
        }
    }
    Ok(())
}

/// Address, MAC and name, written down before the kernel is touched.
async fn reserve(
    agent: &Arc<Agent>,
    network: &Name,
    name: &Name,
    asked: Asked,
    (resolved, predecessors): (&Resolved, &[Predecessor]),
    hold: &mut Hold,
) -> Result<LocalAttachment, Failure> {
    let taken = predecessors.iter().any(|it| matches!(it.object, Taken::Address(_)));
    let addresses = match &asked.endpoint {
        Some((_, addresses)) => addresses.clone(),
        None => verbs::addressing::endpoint(agent, network, asked.ip, taken, hold).await?,
    };
    let first = addresses.first().copied().ok_or_else(|| refused("the network has no subnet", &[]))?;
    let mac = asked.mac.unwrap_or_else(|| crate::addresses::format_mac(crate::addresses::mac_for(first)));
    let record = LocalAttachment {
        network: network.clone(),
        name: name.clone(),
        place: place::stored(&resolved.place),
        boot_id: agent.identity.boot_id.clone(),
        cookie: asked.cookie,
        addresses,
        mac,
        aliases: asked.aliases,
        default_route: asked.default_route,
        order: agent.read(|state| state.local.values().map(|it| it.order).max().map_or(0, |last| last + 1)),
        since: agent.stamp(),
        succeeds: agent
            .read(|state| takeover::successions(state, agent.identity.node, network, predecessors)),
        resolv_conf: None,
        endpoint: asked.endpoint.map(|(id, _)| id),
        announced: false,
        detaching: false,
    };
    agent.put_local(&record)?;
    Ok(record)
}

fn lock_opened(agent: &Agent, cookie: u64, resolved: Resolved) {
    crate::runtime::events::lock(&agent.opened).insert(cookie, resolved);
}

/// Waits until this host's kernel holds the attachment.
async fn plumb(agent: &Arc<Agent>, record: &LocalAttachment) -> Result<(), Failure> {
    let began = tokio::time::Instant::now();
    let problems = loop {
        let problems = agent.converged(&record.network, &record.name).await;
        // The kernel ends a namespace, and the tunnel of the same VNI in it, some time after it was let go of: at the start
        // of an agent that was killed, as an example.
        let passes = problems.first().is_some_and(|it| it.error.contains("(os error 17)"));
        if !passes || began.elapsed() > ENDING_LIMIT {
            break problems;
        }
        tokio::time::sleep(ENDING_INTERVAL).await;
    };
    match problems.first() {
        None => Ok(()),
        Some(problem) => {
            let what = format!("{} cannot be attached: {}: {}", record.name, problem.object, problem.error);
            Err(refused(what, &["see what this kernel can do: svc-agent doctor"]))
        }
    }
}

/// Tells everybody.
fn announce(agent: &Agent, record: LocalAttachment) -> Result<(LocalAttachment, Head), Failure> {
    let mut record = LocalAttachment { announced: true, ..record };
    record.resolv_conf = host::write_resolv_conf(agent, &record);
    let head = agent.update(|state| announcement(state, &record))?;
    agent.changed.notify_one();
    Ok((record, head))
}

/// What tells of an attachment; from here on it counts.
///
/// # Errors
/// When it was taken back meanwhile.
pub(crate) fn announcement(state: &mut State, record: &LocalAttachment) -> Result<(Batch, Writes), Failure> {
    let key = Key::Attachment { network: record.network.clone(), name: record.name.clone() };
    let fact = AttachmentFact {
        addresses: record.addresses.clone(),
        mac: record.mac.clone(),
        aliases: record.aliases.clone(),
        since: record.since,
        succeeds: record.succeeds.clone(),
    };
    let place = (record.network.clone(), record.name.clone());
    let reserved = state
        .local
        .get_mut(&place)
        .ok_or_else(|| refused(format!("{}'s namespace ended while it was attached", record.name), &[]))?;
    let mut extra = Writes::default();
    extra.put_local(&record.key(), Some(record)).map_err(|error| refused(chain(&error), &[]))?;
    reserved.clone_from(record);
    Ok((vec![(key, Some(Value::Attachment(fact)))], extra))
}
