//! Counters of the resolver, plain atomics that the agent exposes.
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a query. Every query is counted under exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with data of our own.
    Local,
    /// A name of ours without data of the type asked for.
    NoData,
    /// A name that we deny.
    NxDomain,
    /// Answered from an upstream's reply or the cache of those, whatever its response code but SERVFAIL.
    Forwarded,
    /// SERVFAIL: no upstream, none that answers, or the catalog has not been complete yet.
    ServFail,
    /// Refused: another class than IN, a zone transfer.
    Refused,
    /// SERVFAIL because too many queries wait already.
    OverLimit,
    /// FORMERR, NOTIMP or BADVERS. What does not even parse is counted over TCP only.
    Malformed,
}

impl Outcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Local,
        Self::NoData,
        Self::NxDomain,
        Self::Forwarded,
        Self::ServFail,
        Self::Refused,
        Self::OverLimit,
        Self::Malformed,
    ];

    /// Name for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Forwarded => "forwarded",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::OverLimit => "over_limit",
            Self::Malformed => "malformed",
        }
    }
}

/// Counters since the process began; one value may serve all namespaces and the forwarder.
#[derive(Debug, Default)]
pub struct Stats {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Answers sent over UDP with TC set.
    pub truncated: AtomicU64,
    /// Forwarded queries that the cache answered.
    pub cache_hits: AtomicU64,
    /// Replies of an upstream that were no use (time-out, SERVFAIL, REFUSED, a broken connection).
    pub upstream_failures: AtomicU64,
    /// Queries to be forwarded while there was no upstream at all.
    pub no_upstream: AtomicU64,
    /// Forwarded queries answered with a reply whose time was over, since no upstream answered.
    pub stale: AtomicU64,
    /// Times that an upstream was found to ask us what we asked it.
    pub loops: AtomicU64,
}

impl Stats {
    /// Queries that ended so.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        add(&self.outcomes[outcome as usize]);
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
