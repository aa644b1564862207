//! How this host becomes a member: it founds a cluster, joins one, or says again who it is.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;

use crate::api::types::Failure;
use crate::catalog::facts::{HostFact, Key, Value};
use crate::cluster::Cluster;
use crate::config::Start;
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::claiming::{self, ClaimError};
use crate::runtime::start::surroundings;
use crate::runtime::{host, peers, tunnel_ports};
use crate::store::Writes;

/// How long a joining host looks for the cluster before it says that it does not find it; it goes on looking.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for the cluster, and between two claims of a node number, in milliseconds. Drawn each time: hosts
/// that join at once and ask in step would split the votes again and again.
const JOIN_INTERVAL_MS: std::ops::RangeInclusive<u64> = 50..=150;

/// Where nothing tells what the underlay lets through, in bytes.
const MTU_USUAL: u32 = 1500;
/// How long the first round may take before others are told of another port.
const ROUND_PATIENCE: Duration = Duration::from_secs(10);

/// What to do about a number that somebody was promised who never came.
const UNSETTLED: &str = "If a host began to join and will not return, remove it on a member: svc-agent node ls shows it as \
                         joining, svc-agent node rm ID ends it";

/// Founds the cluster, joins it, or says again who this host is.
pub(super) async fn join(agent: Arc<Agent>, start: Start) {
    let number = match agent.read(|state| state.books.promises.number()) {
        Some(number) => number,
        None if start == Start::Init => {
            if let Err(error) = claiming::found(&agent) {
                return give_up(&agent, refused(chain(&error), &[]));
            }
            agent.events.record("host", "founded a new cluster", "agent");
            peers::set_synced(&agent);
            1
        }
        None => join_cluster(&agent).await,
    };
    belong(&agent);
    let settings = agent.settings.load_full();
    let mtu =
        host::underlay_mtu(&agent.host_namespace, agent.identity.address).await.unwrap_or_else(|error| {
            tracing::warn!("the underlay's MTU is taken to be {MTU_USUAL}: {}", chain(&error));
            None
        });
    let said = agent.read(|state| state.catalog.host(agent.identity.node).map(|fact| HostFact::clone(fact)));
    let former = tunnel_ports::former(said.as_ref(), settings.vxlan_port);
    if said.is_some_and(|said| said.vxlan_port != settings.vxlan_port) {
        // Nobody is to send to a port before the kernel listens there.
        let mut applied = agent.applied.subscribe();
        let round = applied.wait_for(|applied| !applied.is_empty());
        drop(tokio::time::timeout(ROUND_PATIENCE, round).await);
    }
    // What was found of paths stands until they have been tried again.
    let known = agent.read(|state| state.catalog.host(agent.identity.node).map(|fact| fact.narrow.clone()));
    let narrow: BTreeMap<_, _> = known.unwrap_or_default();
    let fact = HostFact {
        name: agent.identity.name.clone(),
        number,
        address: agent.identity.address,
        gossip_port: settings.gossip_port,
        vxlan_port: settings.vxlan_port,
        former_vxlan_ports: former,
        underlay_mtu: mtu.unwrap_or(MTU_USUAL),
        agent_version: crate::version().to_owned(),
        narrow,
        routes: surroundings::published(host::routes(&agent).await.unwrap_or_default()),
    };
    if let Err(failure) = agent.write(vec![(Key::Host, Some(Value::Host(fact)))], Writes::default()) {
        tracing::error!("this host cannot say who it is: {}", failure.message);
    }
}

/// Who founded the cluster that this host belongs to or founds; `None` before it has joined.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn founder(agent: &Agent, start: &Start) -> Result<Option<NodeId>, Failure> {
    let kept = agent.store.meta::<NodeId>("founder").map_err(|error| refused(chain(&error), &[]))?;
    let founds = || {
        let new = *start == Start::Init && agent.read(|state| state.books.promises.number().is_none());
        new.then_some(agent.identity.node)
    };
    Ok(kept.or_else(|| first_member(agent)).or_else(founds))
}

/// As the books of a member name it, unless it was removed: whoever has number 1 has founded the cluster.
fn first_member(agent: &Agent) -> Option<NodeId> {
    agent.read(|state| {
        let promises = &state.books.promises;
        let joined = promises.number().is_some();
        promises.members().find(|it| joined && it.number == 1).map(|it| it.node)
    })
}

/// A member says from now on which cluster it is of, and remembers.
fn belong(agent: &Agent) {
    let Some(cluster) = agent.cluster.get() else { return };
    let Some(founder) = cluster.founder().or_else(|| first_member(agent)) else { return };
    cluster.set_founder(founder);
    let mut writes = Writes::default();
    let saved = writes.put_meta("founder", &founder).and_then(|()| agent.store.commit(&writes, true));
    if let Err(error) = saved {
        tracing::warn!("{}", chain(&error));
    }
}

/// Ends the agent, with this reason.
fn give_up(agent: &Agent, failure: Failure) {
    drop(agent.unfit.set(failure));
    agent.stop.send_replace(true);
}

/// Finds the cluster, learns all of it, and claims a node number.
async fn join_cluster(agent: &Arc<Agent>) -> u32 {
    let began = Instant::now();
    let (mut said, mut said_taken) = (false, false);
    let mut silent = None;
    loop {
        let mut live: Vec<SocketAddr> = agent.cluster.get().map_or_else(Vec::new, |cluster| {
            let members = cluster.members();
            let members = members.borrow();
            let live = members.values().filter(|it| it.live && it.node != agent.identity.node);
            live.map(|it| it.address).collect()
        });
        peers::spare(&mut live, silent.take());
        let from = live.into_iter().choose(&mut rand::rng());
        let pulled = match from {
            Some(address) => peers::pull(agent, address, false).await.unwrap_or_else(|error| {
                tracing::debug!("the catalog could not be had: {}", chain(&error));
                silent = Some(address);
                false
            }),
            None => false,
        };
        if pulled && agent.read(|state| state.catalog.hosts().next().is_some()) {
            // A member that dies at once and starts again must know somebody to turn to.
            peers::save_now(agent).await;
            match claiming::claim_number(agent).await {
                Ok(number) => {
                    agent.events.record(
                        "host",
                        format!("joined the cluster as node number {number}"),
                        "agent",
                    );
                    return number;
                }
                Err(error @ (ClaimError::Lost { .. } | ClaimError::Unsettled)) => {
                    tracing::debug!("claiming a node number again: {}", chain(&error));
                    if !said_taken && began.elapsed() > JOIN_PATIENCE {
                        said_taken = true;
                        let line = format!("no node number can be had yet: {}. {UNSETTLED}", chain(&error));
                        tracing::warn!("{line}");
                        agent.events.record("host", line, "agent");
                    }
                }
                Err(error) => tracing::warn!("this host is not a member yet: {}", chain(&error)),
            }
        }
        if !said && !pulled && began.elapsed() > JOIN_PATIENCE {
            said = true;
            let why = refusals(agent);
            tracing::warn!("no host of the cluster answers yet; looking on. {why}");
            agent.events.record("host", format!("no host of the cluster answers yet. {why}"), "agent");
        }
        let pause = rand::random_range(JOIN_INTERVAL_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn refusals(agent: &Agent) -> String {
    let complaints = agent.cluster.get().map(Cluster::complaints).unwrap_or_default();
    match complaints.last() {
        Some(last) => last.to_string(),
        None => "See what to open in between: svc-agent ports".to_owned(),
    }
}
