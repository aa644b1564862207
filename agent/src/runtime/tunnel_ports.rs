//! The UDP ports that hosts' tunnels receive on, while it is changed from host to host.
//!
//! Each host says where it receives, and where it did until lately; each sends to where the other receives. A host that
//! has got another port takes what still comes to its former one until everybody is known to have followed.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::types::Wait;
use crate::catalog::Catalog;
use crate::catalog::facts::{HostFact, Key, Value};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, refused};
use crate::runtime::{port_holder, verbs};
use crate::store::Writes;

/// Former ports that a host takes frames at, at most; of more the latest.
const FORMER_MAX: usize = 4;
/// Between two looks at whether all have followed.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long hosts have to answer that they have, in milliseconds.
const ANSWER_LIMIT_MS: u64 = 2_000;
/// Hosts that are suspended are waited for so long, since this agent's start.
const PATIENCE: Duration = Duration::from_secs(600);

/// The ports of all hosts, as this host's kernel needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelPorts {
    /// This host's former ones.
    pub former: BTreeSet<u16>,
    /// Of hosts that receive elsewhere than this one.
    pub others: BTreeMap<IpAddr, u16>,
    /// All to which nothing but tunnels sends.
    pub guarded: BTreeSet<u16>,
}

/// What the catalog says of ports, for the host `me` that receives on `own`.
pub fn of(catalog: &Catalog, me: NodeId, own: u16) -> TunnelPorts {
    let mut ports = TunnelPorts {
        former: former(catalog.host(me).map(|fact| &**fact), own).into_iter().collect(),
        ..TunnelPorts::default()
    };
    let mut gossip = BTreeSet::new();
    for (node, host) in catalog.hosts() {
        gossip.insert(host.gossip_port);
        if node == me {
            continue;
        }
        if host.vxlan_port != own {
            ports.others.insert(host.address, host.vxlan_port);
        }
        ports.guarded.extend(host.former_vxlan_ports.iter().take(FORMER_MAX).chain([&host.vxlan_port]));
    }
    // A host that is set up so must not cut the others off.
    ports.guarded.retain(|port| *port != own && !gossip.contains(port));
    ports
}

/// Ports that a host which receives on `own` now did receive on, by what it last said of itself; the latest last.
pub fn former(said: Option<&HostFact>, own: u16) -> Vec<u16> {
    let Some(said) = said else { return Vec::new() };
    let mut former: Vec<u16> = said.former_vxlan_ports.iter().copied().chain([said.vxlan_port]).collect();
    former.retain(|port| *port != own);
    // Of two mentions the later one counts.
    let mut latest: Vec<u16> = Vec::new();
    for port in former.into_iter().rev() {
        if latest.len() < FORMER_MAX && !latest.contains(&port) {
            latest.push(port);
        }
    }
    latest.reverse();
    latest
}

/// Another program that has the port which this host's tunnels are to change to: they would be gone from the old one
/// before that is found.
///
/// # Errors
/// Who has it.
pub(super) fn refuse_taken(agent: &Agent) -> Result<(), crate::api::types::Failure> {
    let own = agent.settings.load().vxlan_port;
    let said = agent.read(|state| state.catalog.host(agent.identity.node).map(|fact| fact.vxlan_port));
    let Some(before) = said.filter(|before| *before != own) else { return Ok(()) };
    let Some(holder) = port_holder::process_at(own) else { return Ok(()) };
    let what = format!("the tunnels cannot change from UDP port {before} to {own}: {holder} has it");
    Err(refused(what, &["end it, or give --vxlan-port another; until then the tunnels stay as they are"]))
}

/// Says what is under way, and ends it once everybody sends to the port that this host receives on. Runs until the agent
/// ends.
pub(super) async fn follow(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (me, began) = (agent.identity.node, Instant::now());
    let own = agent.settings.load().vxlan_port;
    let mut told = false;
    loop {
        ticks.tick().await;
        let (fact, head, suspended) = agent.read(|state| {
            let suspended = state.catalog.hosts().any(|(node, _)| state.suspended.contains(&node));
            (state.catalog.host(me).map(|fact| HostFact::clone(fact)), state.catalog.head(me), suspended)
        });
        let Some(fact) = fact.filter(|fact| fact.vxlan_port == own && !fact.former_vxlan_ports.is_empty())
        else {
            continue;
        };
        let former = crate::runtime::local::list(&fact.former_vxlan_ports);
        if !told {
            told = true;
            let line = format!(
                "tunnels receive on UDP port {own}; what hosts that do not know yet send to {former} is taken too"
            );
            agent.events.record("host", line, "agent");
        }
        let wait = Wait { milliseconds: ANSWER_LIMIT_MS };
        let behind = verbs::everywhere(&agent, None, head, wait).await;
        if !behind.is_empty() || (suspended && began.elapsed() < PATIENCE) {
            continue;
        }
        let written = agent.update(|state| {
            let fact = state.catalog.host(me).map(|known| {
                let former_vxlan_ports = Vec::new();
                HostFact { former_vxlan_ports, ..HostFact::clone(known) }
            });
            let batch = fact.map(|fact| (Key::Host, Some(Value::Host(fact)))).into_iter().collect();
            Ok((batch, Writes::default()))
        });
        match written {
            Ok(_) => {
                let line = format!("all hosts send to UDP port {own}; {former} is needed no more");
                agent.events.record("host", line, "agent");
            }
            Err(failure) => {
                tracing::warn!("that {former} is needed no more is not told: {}", failure.message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(port: u16, former: &[u16]) -> HostFact {
        let Value::Host(fact) = crate::catalog::tests::world::host("192.0.2.1", 1500) else { panic!() };
        HostFact { vxlan_port: port, former_vxlan_ports: former.to_vec(), ..fact }
    }

    #[test]
    fn former_ports_are_kept_in_order_and_bounded() {
        assert!(former(None, 4789).is_empty());
        assert!(former(Some(&said(4789, &[])), 4789).is_empty());
        assert_eq!(former(Some(&said(4789, &[])), 4790), [4789]);
        assert_eq!(former(Some(&said(4790, &[4789])), 4790), [4789], "a start in the middle of it");
        assert_eq!(former(Some(&said(4790, &[4789])), 4789), [4790], "back again");
        assert_eq!(former(Some(&said(5, &[1, 2, 3, 4])), 6), [2, 3, 4, 5]);
    }
}
