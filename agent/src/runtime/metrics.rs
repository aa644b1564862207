//! Metrics, declared once: the doc comment is the help text.
//!
//! Base units, `_total` for counters, labels from fixed sets only: a service's or host's name is never a label.
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// A metric that can be made from its name, help and labels.
trait Declared: Sized {
    fn declare(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! declared {
    ($($kind:ty => |$options:ident, $labels:ident| $make:expr;)*) => {$(
        impl Declared for $kind {
            fn declare(registry: &Registry, name: &str, help: &str, $labels: &[&str]) -> prometheus::Result<Self> {
                let $options = Opts::new(name, help);
                let metric = $make?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            }
        }
    )*};
}

declared! {
    IntCounter => |options, _labels| Self::with_opts(options);
    IntGauge => |options, _labels| Self::with_opts(options);
    IntCounterVec => |options, labels| Self::new(options, labels);
    IntGaugeVec => |options, labels| Self::new(options, labels);
    Histogram => |options, _labels| Self::with_opts(
        HistogramOpts::from(options).buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
    );
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal $(, $label:literal)*;)*) => {
        /// Every metric of the agent.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)*
        }

        impl Metrics {
            /// Registers all of them.
            ///
            /// # Errors
            /// When two share a name or a name is malformed: a mistake in this file.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(let $field = <$kind>::declare(&registry, $name, concat!($($help),+).trim(), &[$($label),*])?;)*
                Ok(Self { registry, $($field),* })
            }

            /// Names of all metrics, as `/metrics` shows them (histograms by their base name).
            pub const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

metrics! {
    /// Always 1; the label tells the version that runs.
    build_info: IntGaugeVec = "svc_agent_build_info", "version";
    /// 1 once this host has joined, synced and applied its first state.
    ready: IntGauge = "svc_agent_ready";
    /// Hosts of the cluster, this one included, by state (live, suspended).
    hosts: IntGaugeVec = "svc_agent_hosts", "state";
    /// Times that this host held another one to be suspended.
    suspensions: IntCounter = "svc_agent_host_suspensions_total";
    /// Networks in the catalog.
    networks: IntGauge = "svc_agent_networks";
    /// Attachments by place (local, remote).
    attachments: IntGaugeVec = "svc_agent_attachments", "place";
    /// Services in the catalog.
    services: IntGauge = "svc_agent_services";
    /// Services in the catalog that have no serving replica.
    services_without_replica: IntGauge = "svc_agent_services_without_replica";
    /// Replicas by state (serving, quiescing).
    replicas: IntGaugeVec = "svc_agent_replicas", "state";
    /// Facts in the catalog.
    facts: IntGauge = "svc_agent_facts";
    /// Share of addresses in use of the network that has the greatest, in percent, by region (endpoints, vips).
    fullest_network_percent: IntGaugeVec = "svc_agent_fullest_network_percent", "region";
    /// Objects that fail on this host now.
    problems: IntGauge = "svc_agent_problems";
    /// Seconds since the oldest change that this host knows and has not applied; 0 when none.
    behind_seconds: IntGauge = "svc_agent_behind_seconds";
    /// Rounds that made the kernel hold what the catalog says, by result (ok, problems).
    converges: IntCounterVec = "svc_agent_converges_total", "result";
    /// Seconds that a round took.
    converge_seconds: Histogram = "svc_agent_converge_duration_seconds";
    /// Operations on the kernel, by part (overlay, balancer).
    kernel_operations: IntCounterVec = "svc_agent_kernel_operations_total", "part";
    /// Times that the kernel did not hold what had been written and was repaired, by part.
    drift_repaired: IntCounterVec = "svc_agent_drift_repaired_total", "part";
    /// Conntrack entries deleted because their replica had gone.
    flows_deleted: IntCounter = "svc_agent_flows_deleted_total";
    /// Flows that the kernel tracks, in this host's own namespace (host) and in the container's that has most of them
    /// (fullest_container).
    tracked_flows: IntGaugeVec = "svc_agent_conntrack_entries", "namespace";
    /// Flows that each namespace may track (net.netfilter.nf_conntrack_max); 0 if not known.
    tracked_flows_max: IntGauge = "svc_agent_conntrack_entries_max";
    /// Neighbour entries of the whole machine by family (ipv4, ipv6), permanent ones included, which are not limited: the
    /// kernel tells no other number. How many of them are this host's own is svc_agent_neighbour_entries_permanent.
    neighbours: IntGaugeVec = "svc_agent_neighbour_entries", "family";
    /// Neighbour entries that the kernel refused because there were too many, by family.
    neighbours_refused: IntCounterVec = "svc_agent_neighbour_table_fulls_total", "family";
    /// Permanent neighbour entries of this host's networks, by family.
    neighbours_permanent: IntGaugeVec = "svc_agent_neighbour_entries_permanent", "family";
    /// Neighbour entries, without permanent ones, that the machine may have (gc_thresh3), by family; 0 if not known.
    neighbours_max: IntGaugeVec = "svc_agent_neighbour_entries_max", "family";
    /// Paths to other live hosts through the tunnel, by what was found (fine, narrow, damaging, dead, unknown).
    paths: IntGaugeVec = "svc_agent_paths", "state";
    /// Times that a path came to carry nothing.
    paths_died: IntCounter = "svc_agent_path_deaths_total";
    /// 1 while checksums of tunnels are left to the underlay's device, 0 since it was found to damage them.
    offload: IntGauge = "svc_agent_checksum_offload";
    /// Look-ups and datagrams to a VIP that were tried in namespaces of this host's attachments, by what came of them
    /// (passed, unanswered, failed, wrong, unjudged).
    probes: IntCounterVec = "svc_agent_probes_total", "outcome";
    /// Attachments of this host in whose namespace what was tried fails, by what it was (names, vips).
    probes_failing: IntGaugeVec = "svc_agent_probes_failing", "probe";
    /// Packets that a fence dropped (tunnel: from strangers or user sockets; source: foreign addresses).
    fence_drops: IntCounterVec = "svc_agent_fence_dropped_packets_total", "fence";
    /// Changes of health of local replicas, by what they became.
    health_changes: IntCounterVec = "svc_agent_health_changes_total", "health";
    /// Look-ups by outcome.
    dns_queries: IntCounterVec = "svc_agent_dns_queries_total", "outcome";
    /// What forwarding came to beside the outcomes: answers from the cache or after their time, upstreams that failed or ask
    /// us in turn, queries without an upstream to ask.
    dns_forwarding: IntCounterVec = "svc_agent_dns_forwarding_total", "event";
    /// Claims by result (confirmed, lost, no_majority).
    claims: IntCounterVec = "svc_agent_claims_total", "result";
    /// Datagrams and requests of other hosts by direction (in, out).
    cluster_frames: IntCounterVec = "svc_agent_cluster_frames_total", "direction";
    /// Bytes of sealed frames by direction (in, out).
    cluster_bytes: IntCounterVec = "svc_agent_cluster_bytes_total", "direction";
    /// Frames that did not open, by reason.
    cluster_unopened: IntCounterVec = "svc_agent_cluster_frames_unopened_total", "reason";
    /// Frames refused because they are replayed, of a stale incarnation, or not made for this process.
    cluster_replays: IntCounter = "svc_agent_cluster_replays_total";
    /// Requests to other hosts that failed.
    cluster_request_errors: IntCounter = "svc_agent_cluster_request_errors_total";
    /// Hosts that say they do not know our key.
    key_complaints: IntGauge = "svc_agent_key_complaints";
    /// Resident memory in bytes.
    resident_bytes: IntGauge = "svc_agent_resident_memory_bytes";
    /// Unix time in seconds at which the agent started.
    start_time: IntGauge = "svc_agent_start_time_seconds";
}

impl Metrics {
    /// Begins every series whose labels are known at 0: `increase()` misses the first event of one that does not exist.
    pub fn begin(&self) {
        let series: [(&IntCounterVec, &[&str]); 11] = [
            (&self.dns_forwarding, &["cache", "stale", "upstream_failure", "no_upstream", "loop"]),
            (&self.converges, &["ok", "problems"]),
            (&self.probes, &["passed", "unanswered", "failed", "wrong", "unjudged"]),
            (&self.kernel_operations, &["overlay", "balancer"]),
            (&self.drift_repaired, &["overlay", "balancer"]),
            (&self.fence_drops, &["tunnel", "source"]),
            (&self.health_changes, &["starting", "serving", "failing", "draining"]),
            (&self.claims, &["confirmed", "lost", "no_majority"]),
            (&self.cluster_frames, &["in", "out"]),
            (&self.cluster_bytes, &["in", "out"]),
            (
                &self.cluster_unopened,
                &["truncated", "version", "kind", "unknown_key", "bad_tag", "malformed"],
            ),
        ];
        for (counter, labels) in series {
            for label in labels {
                counter.with_label_values(&[label]);
            }
        }
        for outcome in dns::Outcome::ALL {
            self.dns_queries.with_label_values(&[outcome.as_str()]);
        }
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// When encoding fails, which it does only for a metric without samples of its kind.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }
}

/// Sets a counter that is counted elsewhere to `value`; never lets it fall.
pub fn raise(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}

/// A count as a gauge value.
pub fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Resident memory of this process in bytes, from /proc/self/statm (pages of the system's size).
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_well_formed_and_have_units() {
        let metrics = Metrics::new().unwrap();
        metrics.build_info.with_label_values(&["x"]).set(1);
        let text = metrics.text().unwrap();
        assert!(text.contains("svc_agent_build_info{version=\"x\"} 1"));
        for name in Metrics::NAMES {
            assert!(name.starts_with("svc_agent_"), "{name}");
        }
    }

    #[test]
    fn a_raised_counter_never_falls() {
        let metrics = Metrics::new().unwrap();
        raise(&metrics.flows_deleted, 5);
        raise(&metrics.flows_deleted, 3);
        assert_eq!(metrics.flows_deleted.get(), 5);
    }
}
