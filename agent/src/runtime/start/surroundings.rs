//! What is looked at every ten seconds: this host's routes, and how full networks are.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::catalog::facts::{HostFact, Key, Region, Value};
use crate::model::Name;
use crate::runtime::agent::{Agent, State};
use crate::runtime::host;
use crate::runtime::verbs::{network, queries};
use crate::store::Writes;

#[cfg(test)]
mod tests;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Routes that a host tells of.
const ROUTES_MAX: usize = 128;
/// Share of a network's addresses in use, in percent, from which on that is a problem.
const FULL: u64 = 80;
/// And below which it is none any more.
const ROOM: u64 = 75;

/// Runs until the agent ends.
pub(super) async fn follow(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut overlapped, mut full) = (BTreeSet::new(), BTreeSet::new());
    loop {
        ticks.tick().await;
        if let Some(routes) = host::routes(&agent).await {
            tell_routes(&agent, published(routes));
        }
        tell_overlaps(&agent, &mut overlapped);
        tell_capacity(&agent, &mut full);
    }
}

/// Of a host's routes what it tells: those within others are left out, and of too many the smallest.
pub(super) fn published(mut routes: Vec<IpNetwork>) -> Vec<IpNetwork> {
    routes.sort_by_key(|route| (route.prefix(), route.ip()));
    let mut told: Vec<IpNetwork> = Vec::new();
    for route in routes {
        let within =
            |wider: &IpNetwork| wider.is_ipv4() == route.is_ipv4() && wider.contains(route.network());
        if told.len() < ROUTES_MAX && !told.iter().any(within) {
            told.push(route);
        }
    }
    told
}

fn tell_routes(agent: &Agent, routes: Vec<IpNetwork>) {
    let me = agent.identity.node;
    let told = |state: &State| state.catalog.host(me).map(|host| HostFact::clone(host));
    if agent.read(told).is_none_or(|before| before.routes == routes) {
        // Before it has joined it says nothing of itself.
        return;
    }
    let written = agent.update(|state| {
        let fact = told(state).map(|before| Value::Host(HostFact { routes, ..before }));
        Ok((fact.map(|fact| (Key::Host, Some(fact))).into_iter().collect(), Writes::default()))
    });
    if let Err(failure) = written {
        tracing::warn!("this host's routes are not told to the others: {}", failure.message);
    }
}

/// Says when a route of this host and a network's subnet come to overlap, and when they do not any more.
fn tell_overlaps(agent: &Agent, before: &mut BTreeSet<(Name, String)>) {
    let now: BTreeSet<(Name, String)> = agent.read(|state| {
        let networks = state.catalog.networks();
        networks
            .flat_map(|name| {
                let overlaps = network::overlapping_routes(state, name).into_iter();
                overlaps.map(|(node, overlap)| (node, (name.clone(), overlap)))
            })
            .filter(|(node, _)| *node == agent.identity.node)
            .map(|(_, overlap)| overlap)
            .collect()
    });
    for (network, overlap) in now.difference(before) {
        tracing::warn!("network {network}: {overlap}");
        agent.events.record("network", format!("{network}: {overlap}"), "agent");
    }
    for (network, overlap) in before.difference(&now) {
        agent.events.record("network", format!("{network}: no longer so: {overlap}"), "agent");
    }
    *before = now;
}

/// Regions of networks, and how full they are in percent.
type Fill = BTreeMap<(Name, Region), u64>;

/// Those that are full, given those that were.
fn full(fill: &Fill, before: &BTreeSet<(Name, Region)>) -> BTreeSet<(Name, Region)> {
    let is_full = |(region, percent): &(&(Name, Region), &u64)| {
        **percent >= FULL || **percent >= ROOM && before.contains(region)
    };
    fill.iter().filter(is_full).map(|(region, _)| region.clone()).collect()
}

/// Says how full the fullest network is, and names those that are nearly full: on one host, which speaks for all.
fn tell_capacity(agent: &Agent, before: &mut BTreeSet<(Name, Region)>) {
    let (fill, speaks) = agent.read(|state| {
        let networks = state.view.networks().iter();
        let fill: Fill = networks
            .flat_map(|(name, view)| queries::fill(view).map(|(region, of)| ((name.clone(), region), of)))
            .collect();
        let live = state.catalog.hosts().filter(|(node, _)| !state.suspended.contains(node));
        let first = live.min_by_key(|(_, host)| host.number).map(|(node, _)| node);
        (fill, first == Some(agent.identity.node))
    });
    for region in [Region::Endpoint, Region::Vip] {
        let fullest = fill.iter().filter(|((_, of), _)| *of == region).map(|(_, percent)| *percent).max();
        let gauge = agent.metrics.fullest_network_percent.with_label_values(&[queries::word_of(region)]);
        gauge.set(i64::try_from(fullest.unwrap_or_default()).unwrap_or(i64::MAX));
    }
    *before = full(&fill, before);
    let problem = |(name, region): &(Name, Region)| {
        let what = queries::word_of(*region);
        // Without the figure, which the gauge has: another text would be another failure.
        let error = format!(
            "{ROOM} % of its {what} or more are in use; see svc-agent network inspect {name}; a network does not \
             grow: create a larger one beside it, with --subnet, and move to it"
        );
        (format!("capacity/{name}/{what}"), error)
    };
    let told = if speaks { before.iter().map(problem).collect() } else { Vec::new() };
    agent.report("capacity/", told);
}
