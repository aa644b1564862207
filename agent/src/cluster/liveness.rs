//! Which hosts are live. Pure: time is an argument.
//!
//! A host is live while news of it keeps coming: its heartbeat grows in what peers tell, or a frame that can only
//! have been made just now comes from the host itself. Chitchat's own detector decides whom to gossip with, not this:
//! its phi after one long gap would be slower than the bound that a host's death must be noticed in.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::NodeId;

#[cfg(test)]
mod tests;

/// If nobody looked for so many gossip intervals (a second), then this host was stopped or starved, and its peers are not to
/// blame.
const PAUSE: u32 = 5;

/// A host's heartbeat as some peer tells it. Grows with the incarnation first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beat {
    /// Start count of the host's agent.
    pub incarnation: u64,
    /// Count of its gossip rounds within the incarnation.
    pub heartbeat: u64,
}

#[derive(Clone, Debug)]
struct Host {
    beat: Beat,
    /// When news of it came last.
    heard: Instant,
    /// First news since it was suspended: it takes a second, later one to be live again on hearsay alone.
    rumoured: Option<Instant>,
    live: bool,
    since: Instant,
    /// The incarnation that said goodbye.
    left: Option<u64>,
}

impl Host {
    fn turn(&mut self, live: bool, now: Instant) {
        if self.live != live {
            self.live = live;
            self.since = now;
        }
        self.rumoured = None;
    }
}

/// Liveness of every other host, as seen from this one.
#[derive(Clone, Debug)]
pub struct Liveness {
    failure_after: Duration,
    confirm_after: Duration,
    hosts: BTreeMap<NodeId, Host>,
    observed: Option<Instant>,
}

impl Liveness {
    /// A host is suspended when there was no news of it for `failure_after`. On hearsay it is live once two pieces of
    /// news came that are `confirm_after` (a gossip interval) apart: what a peer has not yet heard of a dead host looks
    /// like one piece of news, and after a partition such news come together.
    pub fn new(failure_after: Duration, confirm_after: Duration) -> Self {
        Self { failure_after, confirm_after, hosts: BTreeMap::new(), observed: None }
    }

    /// A fresh frame came from the host itself: it is live.
    pub fn heard(&mut self, now: Instant, node: NodeId, incarnation: u64) {
        let beat = Beat { incarnation, heartbeat: 0 };
        let host = self.host(now, node, beat);
        if incarnation < host.beat.incarnation || host.left.is_some_and(|left| incarnation <= left) {
            return;
        }
        host.left = None;
        host.beat = host.beat.max(beat);
        host.heard = now;
        host.turn(true, now);
    }

    /// The host says goodbye: it is suspended until a later incarnation of it speaks.
    pub fn left(&mut self, now: Instant, node: NodeId, incarnation: u64) {
        let host = self.host(now, node, Beat { incarnation, heartbeat: 0 });
        if incarnation >= host.beat.incarnation && host.left.is_none_or(|left| left < incarnation) {
            host.left = Some(incarnation);
            host.turn(false, now);
        }
    }

    /// Takes the heartbeats as they are known now, and suspends hosts of which there was no news.
    /// Call it several times a second: a longer silence of the caller counts as a pause of this host.
    pub fn observe(&mut self, now: Instant, beats: impl IntoIterator<Item = (NodeId, Beat)>) {
        self.forgive_pause(now);
        for (node, beat) in beats {
            let confirm_after = self.confirm_after;
            let known = self.hosts.contains_key(&node);
            let host = self.host(now, node, beat);
            let news = beat > host.beat && host.left.is_none_or(|left| beat.incarnation > left);
            if !known || !news {
                continue;
            }
            host.left = None;
            host.beat = beat;
            host.heard = now;
            match host.rumoured {
                _ if host.live => {}
                Some(first) if now.saturating_duration_since(first) >= confirm_after => host.turn(true, now),
                Some(_) => {}
                None => host.rumoured = Some(now),
            }
        }
        for host in self.hosts.values_mut() {
            if now.saturating_duration_since(host.heard) >= self.failure_after {
                host.turn(false, now);
            }
        }
    }

    /// Whether a host is live, and since when it is or is not; `None` if it was never heard of.
    pub fn state(&self, node: NodeId) -> Option<(bool, Instant)> {
        self.hosts.get(&node).map(|host| (host.live, host.since))
    }

    /// Drops what is known of a host.
    pub fn forget(&mut self, node: NodeId) {
        self.hosts.remove(&node);
    }

    fn host(&mut self, now: Instant, node: NodeId, beat: Beat) -> &mut Host {
        self.hosts.entry(node).or_insert(Host {
            beat,
            heard: now,
            rumoured: None,
            live: false,
            since: now,
            left: None,
        })
    }

    fn forgive_pause(&mut self, now: Instant) {
        let gap = self.observed.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.observed = Some(now);
        if gap >= PAUSE * self.confirm_after {
            for host in self.hosts.values_mut() {
                host.heard = (host.heard + gap).min(now);
            }
        }
    }
}
