//! Brings the metrics up to date when they are scraped.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::limits;
use crate::neighbours;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::runtime::metrics::{gauge, raise, resident_bytes};
use crate::view::ReplicaState;

/// The metrics as Prometheus scrapes them.
///
/// # Errors
/// When they cannot be encoded.
pub fn text(agent: &Arc<Agent>) -> prometheus::Result<String> {
    catalog(agent);
    transport(agent);
    for outcome in dns::Outcome::ALL {
        let counter = agent.metrics.dns_queries.with_label_values(&[outcome.as_str()]);
        raise(&counter, agent.dns_stats.outcome(outcome));
    }
    let stats = &agent.dns_stats;
    for (event, count) in [
        ("cache", &stats.cache_hits),
        ("stale", &stats.stale),
        ("upstream_failure", &stats.upstream_failures),
        ("no_upstream", &stats.no_upstream),
        ("loop", &stats.loops),
    ] {
        let counter = agent.metrics.dns_forwarding.with_label_values(&[event]);
        raise(&counter, count.load(Ordering::Relaxed));
    }
    kernel(agent);
    agent.metrics.problems.set(gauge(lock(&agent.problems).len()));
    agent.metrics.resident_bytes.set(i64::try_from(resident_bytes()).unwrap_or(i64::MAX));
    agent.metrics.ready.set(i64::from(crate::runtime::start::readiness(agent).is_ok()));
    agent.metrics.text()
}

fn catalog(agent: &Agent) {
    let metrics = &agent.metrics;
    agent.read(|state| {
        let hosts = state.catalog.hosts().count();
        let suspended = state.suspended.len();
        metrics.hosts.with_label_values(&["live"]).set(gauge(hosts.saturating_sub(suspended)));
        metrics.hosts.with_label_values(&["suspended"]).set(gauge(suspended));
        metrics.networks.set(gauge(state.view.networks().len()));
        let (mut services, mut without, mut serving, mut quiescing, mut attachments) = (0, 0, 0, 0, 0);
        for network in state.view.networks().values() {
            attachments += network.attachments.len();
            services += network.services.len();
            for service in network.services.values() {
                let live = service.replicas.iter().filter(|it| it.state == ReplicaState::Serving).count();
                serving += live;
                quiescing += service.replicas.len() - live;
                without += usize::from(live == 0);
            }
        }
        let local = state.local.len();
        metrics.attachments.with_label_values(&["local"]).set(gauge(local));
        metrics.attachments.with_label_values(&["remote"]).set(gauge(attachments.saturating_sub(local)));
        metrics.services.set(gauge(services));
        metrics.services_without_replica.set(gauge(without));
        metrics.replicas.with_label_values(&["serving"]).set(gauge(serving));
        metrics.replicas.with_label_values(&["quiescing"]).set(gauge(quiescing));
        metrics.facts.set(gauge(state.catalog.owners().map(|(_, owner)| owner.len()).sum()));
        let behind = state.pending_since.map_or(0, |since| since.elapsed().as_secs());
        metrics.behind_seconds.set(i64::try_from(behind).unwrap_or(i64::MAX));
    });
}

/// How full the kernel's tables are that others fill, too.
fn kernel(agent: &Agent) {
    let metrics = &agent.metrics;
    let host = limits::number("net/netfilter/nf_conntrack_count").unwrap_or_default();
    metrics.tracked_flows.with_label_values(&["host"]).set(i64::try_from(host).unwrap_or(i64::MAX));
    // Where it is not told the numbers stay as they are.
    let Ok(tables) = neighbours::read() else { return };
    for (family, table) in neighbours::FAMILIES.iter().zip(tables) {
        let set = |gauge: &prometheus::IntGaugeVec, value: u64| {
            gauge.with_label_values(&[family]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        raise(&metrics.neighbours_refused.with_label_values(&[family]), table.refused);
        set(&metrics.neighbours, table.entries);
        set(&metrics.neighbours_max, table.limit);
    }
}

/// What the transport counts.
fn transport(agent: &Agent) {
    let metrics = &agent.metrics;
    let Some(cluster) = agent.cluster.get() else { return };
    let stats = cluster.stats();
    let frames = |direction| metrics.cluster_frames.with_label_values(&[direction]);
    raise(&frames("out"), stats.datagrams_sent.get() + stats.requests_sent.get());
    raise(&frames("in"), stats.datagrams_received.get() + stats.requests_handled.get());
    let bytes = |direction| metrics.cluster_bytes.with_label_values(&[direction]);
    raise(&bytes("out"), stats.datagram_bytes_sent.get() + stats.stream_bytes_sent.get());
    raise(&bytes("in"), stats.datagram_bytes_received.get() + stats.stream_bytes_received.get());
    for (reason, counter) in [
        ("truncated", &stats.unopened_truncated),
        ("version", &stats.unopened_version),
        ("kind", &stats.unopened_kind),
        ("unknown_key", &stats.unopened_unknown_key),
        ("bad_tag", &stats.unopened_bad_tag),
        ("malformed", &stats.malformed),
    ] {
        raise(&metrics.cluster_unopened.with_label_values(&[reason]), counter.get());
    }
    let replays = stats.replayed.get() + stats.stale_incarnation.get() + stats.not_fresh.get();
    raise(&metrics.cluster_replays, replays);
    raise(&metrics.cluster_request_errors, stats.request_errors.get());
    metrics.key_complaints.set(gauge(cluster.complaints().len()));
}
