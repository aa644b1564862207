//! Hosts of another cluster that has the same key: it was founded apart, and its node numbers, VNIs and addresses are
//! not ours. They are told by who founded their cluster, which every member publishes with its heartbeat. Nothing of
//! theirs is taken. All that is said to them is a hello when they speak, so that who looks for us knows us to be there.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::members::Seen;
use super::publish::FOUNDER;
use super::shared::{Shared, locked};
use crate::model::NodeId;

/// Foreign hosts kept; the one that was silent longest goes first.
const FOREIGN_MAX: usize = 64;
/// So long after its last frame such a host is spoken of: it tries again every second while it looks for us, and
/// answers with a hello while we look for it.
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
    /// When a frame of it came last; `None` while others only tell of it, as they do of hosts that are long gone.
    last: Option<Instant>,
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
    /// What is to be said, if it is heard and was not known before.
    fn note(&mut self, foreign: Foreign) -> Option<String> {
        let first = !self.knows(foreign.node);
        let line = (first && foreign.last.is_some()).then(|| foreign.to_string());
        self.0.retain(|it| it.node != foreign.node);
        if self.0.len() == FOREIGN_MAX
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].last)
        {
            self.0.remove(oldest);
        }
        self.0.push(foreign);
        line
    }

    /// Whether this host was told apart as one of another cluster.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.0.iter().any(|it| it.node == node)
    }

    /// A frame of this host was refused. What is to be said, if others had only told of it before.
    pub(super) fn heard(&mut self, now: Instant, node: NodeId) -> Option<String> {
        let foreign = self.0.iter_mut().find(|it| it.node == node)?;
        foreign.last.replace(now).is_none().then(|| foreign.to_string())
    }

    /// Those that were heard lately: of each address the one that was heard last, and none where a live host of ours
    /// is, this one included. Whoever joined us under a new identity was theirs at the same address before.
    pub(super) fn now(&self, now: Instant, is_ours: impl Fn(SocketAddr) -> bool) -> Vec<Foreign> {
        let lately = |last: Instant| now.saturating_duration_since(last) < FOREIGN_AGE;
        let mut last_of: BTreeMap<SocketAddr, &Foreign> = BTreeMap::new();
        for foreign in self.0.iter().filter(|it| it.last.is_some_and(lately) && !is_ours(it.address)) {
            let latest = last_of.entry(foreign.address).or_insert(foreign);
            if foreign.last >= latest.last {
                *latest = foreign;
            }
        }
        last_of.into_values().cloned().collect()
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
    let heard = {
        let mut sessions = locked(&shared.sessions);
        if sessions.is_forgotten(node) {
            // Others still tell of it for a while.
            return;
        }
        let heard = sessions.has_spoken(node);
        sessions.forget(node);
        heard
    };
    locked(&shared.liveness).forget(node);
    let name = seen.strings.as_ref().and_then(|it| it.get(super::publish::NAME)).cloned().unwrap_or_default();
    // What others tell of it may be a minute old; it may be one of ours by now, or gone.
    let last = heard.then_some(now);
    let foreign = Foreign { node, name, address: seen.address, founder, ours, last };
    if let Some(line) = locked(&shared.foreigners).note(foreign) {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(number: u16, last: Option<Instant>) -> Foreign {
        let node = NodeId(number.into());
        let address = SocketAddr::from(([192, 0, 2, 1], number));
        Foreign { node, name: format!("h{number}"), address, founder: NodeId(7), ours: NodeId(8), last }
    }

    fn nodes(told: &[Foreign]) -> Vec<NodeId> {
        told.iter().map(|it| it.node).collect()
    }

    fn nobody(_: SocketAddr) -> bool {
        false
    }

    #[test]
    fn foreign_hosts_are_bounded_and_spoken_of_while_they_are_heard() {
        let (mut all, begin) = (Foreigners::default(), Instant::now());
        for number in 1..2_000 {
            assert!(all.note(foreign(number, Some(begin))).is_some());
        }
        assert!(all.note(foreign(1_999, Some(begin))).is_none());
        assert_eq!(all.now(begin, nobody).len(), FOREIGN_MAX);
        all.heard(begin + FOREIGN_AGE / 2, NodeId(1_999));
        assert_eq!(nodes(&all.now(begin + FOREIGN_AGE, nobody)), [NodeId(1_999)]);
        assert!(all.now(begin + FOREIGN_AGE * 2, nobody).is_empty());
    }

    #[test]
    fn nobody_is_spoken_of_of_whom_others_only_tell() {
        let (mut all, begin) = (Foreigners::default(), Instant::now());
        assert_eq!(all.note(foreign(1, None)), None);
        assert!(all.now(begin, nobody).is_empty());
        assert!(all.heard(begin, NodeId(1)).is_some_and(|line| line.contains("host h1 (192.0.2.1:1)")));
        assert_eq!(all.heard(begin, NodeId(1)), None);
        assert_eq!(nodes(&all.now(begin, nobody)), [NodeId(1)]);
    }

    #[test]
    fn an_address_is_named_once_and_not_at_all_while_a_host_of_ours_is_there() {
        let (mut all, begin) = (Foreigners::default(), Instant::now());
        let later = begin + FOREIGN_AGE / 2;
        let successor = Foreign { address: foreign(1, None).address, ..foreign(2, Some(later)) };
        all.note(successor.clone());
        all.note(foreign(1, Some(begin)));
        assert_eq!(nodes(&all.now(later, nobody)), [successor.node]);
        assert!(all.now(later, |address| address == successor.address).is_empty());
    }
}
