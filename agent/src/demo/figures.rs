//! What was measured, for `-o json`. Times are in microseconds or milliseconds, as their names say.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::chart::percentile;
use super::gap::Gap;

/// All figures of one run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) hosts: usize,
    pub(super) containers: usize,
    /// From the start of the first agent until all agree on three live hosts.
    pub(super) cluster_ms: u64,
    /// The command that created the network: it returns once all hosts have it.
    pub(super) network_create_ms: u64,
    /// The slowest of the commands that attached a container.
    pub(super) attach_slowest_ms: u64,
    /// The slowest of the commands that registered a replica: it returns once all hosts use it.
    pub(super) register_slowest_ms: u64,
    pub(super) connections: Connections,
    pub(super) latency: Latency,
    pub(super) datagrams: Connections,
    pub(super) ping_us: u64,
    /// Connections to a service without a replica that serves.
    pub(super) refusal: Times,
    /// From a program's start until the first connection to its service, by way of a health check.
    pub(super) first_check_ms: u64,
    pub(super) replica_killed: Gap,
    pub(super) host_killed: Gap,
    /// From the start of the agent on the host that returns until one of its replicas answers.
    pub(super) host_returned_ms: u64,
    /// Of the whole run but for the removal.
    pub(super) total_ms: u64,
}

/// Who answered.
#[derive(Debug, Default, Serialize)]
pub(super) struct Connections {
    pub(super) tried: u64,
    pub(super) answered_by: BTreeMap<String, u64>,
    pub(super) failed: u64,
}

/// Connecting through the VIP and directly, in turn.
#[derive(Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) vip: Times,
    pub(super) direct: Times,
}

/// A sample of times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Times {
    pub(super) samples: usize,
    pub(super) median_us: u64,
    pub(super) p99_us: u64,
}

impl Times {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent| micros(percentile(&times, percent));
        Self { samples: times.len(), median_us: at(50), p99_us: at(99) }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
