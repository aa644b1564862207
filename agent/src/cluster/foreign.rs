//! Hosts of another cluster that has the same key: it was founded apart, and its node numbers, VNIs and addresses are
//! not ours. They are told by who founded their cluster, which every member publishes with its heartbeat. Nothing of
//! theirs is taken, and nothing is said to them.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::members::Seen;
use super::publish::FOUNDER;
use super::shared::{Shared, locked};
use crate::model::NodeId;

/// Foreign hosts kept; the one that was silent longest goes first.
const FOREIGN_MAX: usize = 64;
/// So long after its last frame such a host is spoken of: it tries again every second while it looks for us.
const FOREIGN_AGE: Duration = Duration::from_secs(30);

/// A host of another cluster with our key, which found us or which we looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its identity.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where it takes frames.
    pub address: SocketAddr,
    /// Who founded its cluster.
    pub founder: NodeId,
    /// Who founded ours.
    pub ours: NodeId,
    last: Instant,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, address, founder, ours, .. } = self;
        write!(
            f,
            "host {name} ({address}) is of another cluster with the same key: host {founder} founded it, and {ours} \
             this one; nothing is exchanged with it. Clusters never merge: join its hosts here one by one (on each: \
             svc-agent leave, then run --join), or take its address out of --join"
        )
    }
}

/// Which foreign hosts were met.
#[derive(Default)]
pub(super) struct Foreigners(Vec<Foreign>);

impl Foreigners {
    /// Whether it was not known before.
    fn note(&mut self, foreign: Foreign) -> bool {
        let first = !self.0.iter().any(|it| it.node == foreign.node);
        self.0.retain(|it| it.node != foreign.node);
        if self.0.len() == FOREIGN_MAX
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].last)
        {
            self.0.remove(oldest);
        }
        self.0.push(foreign);
        first
    }

    /// A frame that was refused came from this address.
    pub(super) fn heard(&mut self, now: Instant, from: SocketAddr) {
        self.0.iter_mut().filter(|it| it.address == from).for_each(|it| it.last = now);
    }

    /// Those that were heard lately, or are looked for here.
    pub(super) fn now(&self, now: Instant, looked_for: impl Fn(SocketAddr) -> bool) -> Vec<Foreign> {
        let current =
            |it: &&Foreign| now.saturating_duration_since(it.last) < FOREIGN_AGE || looked_for(it.address);
        self.0.iter().filter(current).cloned().collect()
    }
}

/// Leaves out who is of another cluster, and takes no frame of it any more. A host that belongs to none yet joins that
/// of the first member that speaks to it: hearsay may be of any.
pub(super) fn kin(now: Instant, shared: &Shared, mut seen: Vec<Seen>) -> Vec<Seen> {
    let mut own = locked(&shared.founder);
    seen.retain(|it| {
        let Some(theirs) = it.strings.as_ref().and_then(founder) else { return true };
        match *own {
            Some(ours) if ours == theirs => true,
            Some(ours) => {
                refuse(now, shared, it, theirs, ours);
                false
            }
            None if locked(&shared.sessions).has_spoken(it.node) => {
                *own = Some(theirs);
                true
            }
            None => false,
        }
    });
    seen
}

fn founder(strings: &BTreeMap<String, String>) -> Option<NodeId> {
    strings.get(FOUNDER)?.parse().ok()
}

fn refuse(now: Instant, shared: &Shared, seen: &Seen, founder: NodeId, ours: NodeId) {
    let node = seen.node;
    {
        let mut sessions = locked(&shared.sessions);
        if sessions.is_forgotten(node) {
            // Others still tell of it for a while.
            return;
        }
        sessions.forget(node);
    }
    locked(&shared.liveness).forget(node);
    let name = seen.strings.as_ref().and_then(|it| it.get(super::publish::NAME)).cloned().unwrap_or_default();
    let foreign = Foreign { node, name, address: seen.address, founder, ours, last: now };
    let line = foreign.to_string();
    if locked(&shared.foreigners).note(foreign) {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(number: u16, last: Instant) -> Foreign {
        let node = NodeId(number.into());
        let address = SocketAddr::from(([192, 0, 2, 1], number));
        Foreign { node, name: format!("h{number}"), address, founder: NodeId(7), ours: NodeId(8), last }
    }

    #[test]
    fn foreign_hosts_are_bounded_and_spoken_of_while_they_are_heard_or_looked_for() {
        let (mut all, begin) = (Foreigners::default(), Instant::now());
        for number in 1..2_000 {
            assert!(all.note(foreign(number, begin)));
        }
        assert!(!all.note(foreign(1_999, begin)));
        assert_eq!(all.now(begin, |_| false).len(), FOREIGN_MAX);
        let (first, second) = (foreign(1_999, begin), foreign(1_998, begin));
        all.heard(begin + FOREIGN_AGE / 2, first.address);
        let left = all.now(begin + FOREIGN_AGE, |address| address == second.address);
        let left: Vec<NodeId> = left.iter().map(|it| it.node).collect();
        assert_eq!(left, [second.node, first.node]);
        assert!(all.now(begin + FOREIGN_AGE * 2, |_| false).is_empty());
    }
}
