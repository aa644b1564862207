//! The network between the hosts: latency, loss, reordering, duplicates, cuts of one direction.
//!
//! A request travels like one over TCP: what a cut or a loss swallows is sent again, later and later, until the link is
//! given up (`SILENCE_MAX` of the transport). Requests of one link are not kept in order, as the transport does not.
//! Gossip is a datagram: it comes or it does not.
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::cluster::Cluster;
use crate::cluster::BODY_BYTES_MAX;
use crate::cluster::liveness::Beat;
use crate::model::NodeId;
use crate::runtime::messages::{Answer, Request};

/// When a segment is sent, in milliseconds after the first time: RFC 6298 with Linux' minimum of 200 ms.
const SENT_AFTER_MS: [u64; 5] = [0, 200, 600, 1_400, 3_000];
/// A link that is silent for so long is given up, and what waits for an answer there fails.
const SILENCE_MAX_MS: u64 = 4_000;
/// Connecting to a machine that is down fails after so long.
const CONNECT_MS: u64 = 1_500;
/// In a world as small as this no request or answer is larger, in bytes of JSON. The transport's bound is much higher.
pub(super) const FRAME_BYTES_MAX: usize = 128 * 1024;
/// One in so many requests is written as JSON and read again, which is what most of a run's time would go into.
const WRITTEN_ONE_IN: usize = 16;

const _: () = assert!(FRAME_BYTES_MAX < BODY_BYTES_MAX);

/// How bad the network is.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// (from, to): nothing passes that way.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) loss_percent: u64,
    pub(super) duplicate_percent: u64,
    /// Latency is up to so much more than the least.
    pub(super) jitter_ms: u64,
}

impl Network {
    pub(super) fn heal(&mut self) {
        *self = Self { jitter_ms: 2, ..Self::default() };
    }
}

type Answered = oneshot::Sender<Answer>;

impl Cluster {
    fn passes(&self, from: usize, to: usize) -> bool {
        let network = self.network.borrow();
        !network.cut.contains(&(from, to)) && !self.random.borrow_mut().chance(network.loss_percent)
    }

    fn latency_ms(&self) -> u64 {
        let jitter_ms = self.network.borrow().jitter_ms;
        1 + self.random.borrow_mut().between(0..jitter_ms + 1)
    }

    /// Asks another host; `None` if no answer comes in time, whether or not the request was handled.
    pub(super) async fn ask(
        self: &Rc<Self>,
        from: usize,
        to: NodeId,
        request: Request,
        limit_ms: u64,
    ) -> Option<Answer> {
        let to = self.reachable(from, to)?;
        let (answered, answer) = oneshot::channel();
        let request = self.as_received(request);
        self.carry(from, to, 0, move |cluster| cluster.take(from, to, request, answered));
        let answer = self.clock.within(limit_ms.min(SILENCE_MAX_MS), answer).await?.ok()?;
        self.heard(from, to);
        Some(answer)
    }

    /// Where a node takes requests is known by its facts or its heartbeat.
    fn reachable(&self, from: usize, to: NodeId) -> Option<usize> {
        let host = self.hosts[from].borrow();
        let running = host.running.as_ref()?;
        let known = running.state.catalog.host(to).is_some() || running.beats.contains_key(&to);
        known.then(|| self.index_of(to)).flatten()
    }

    /// Carries something over, sent again while it does not pass.
    fn carry(
        self: &Rc<Self>,
        from: usize,
        to: usize,
        attempt: usize,
        arrive: impl FnOnce(&Rc<Self>) + 'static,
    ) {
        if self.passes(from, to) {
            return self.arrive(to, self.latency_ms(), arrive);
        }
        let Some(next) = SENT_AFTER_MS.get(attempt + 1) else {
            // Whoever waits finds out by itself that the link is silent.
            return self.clock.after(SILENCE_MAX_MS, move || drop(arrive));
        };
        let cluster = Rc::clone(self);
        self.clock.after(next - SENT_AFTER_MS[attempt], move || {
            cluster.carry(from, to, attempt + 1, arrive);
        });
    }

    /// What comes to a host that is stopped waits there until it goes on.
    fn arrive(self: &Rc<Self>, to: usize, delay_ms: u64, arrive: impl FnOnce(&Rc<Self>) + 'static) {
        let cluster = Rc::clone(self);
        self.clock.after(delay_ms, move || {
            if cluster.clock.is_stopped(to) {
                return cluster.arrive(to, 20, arrive);
            }
            arrive(&cluster);
        });
    }

    fn take(self: &Rc<Self>, from: usize, to: usize, request: Request, answered: Answered) {
        if self.hosts[to].borrow().running.is_none() {
            // A machine that runs refuses at once; one that is down says nothing.
            let silent_ms = if self.hosts[to].borrow().machine_down { CONNECT_MS } else { 1 };
            return self.clock.after(silent_ms, move || drop(answered));
        }
        let again = self.random.borrow_mut().chance(self.network.borrow().duplicate_percent);
        if again {
            let request = request.clone();
            self.arrive(to, self.latency_ms() * 10, move |cluster| drop(cluster.answer(from, to, request)));
        }
        let Some(answer) = self.answer(from, to, request) else { return };
        let answer = self.as_received(answer);
        // Nobody waits for it any more where the asker went down meanwhile.
        self.carry(to, from, 0, move |_| drop(answered.send(answer)));
    }

    /// What its reader makes of it.
    fn as_received<T: serde::Serialize + serde::de::DeserializeOwned>(&self, message: T) -> T {
        if self.random.borrow_mut().below(WRITTEN_ONE_IN) > 0 {
            return message;
        }
        let json = serde_json::to_vec(&message).unwrap();
        if json.len() > FRAME_BYTES_MAX {
            self.violated(format!("a message takes {} bytes", json.len()));
        }
        serde_json::from_slice(&json).unwrap()
    }

    /// A datagram of gossip: all heartbeats that the sender knows, answered with those that the receiver knows.
    pub(super) fn gossip(self: &Rc<Self>, from: usize, to: usize, answer: bool) {
        let beats = match &self.hosts[from].borrow().running {
            Some(running) => running.beats.clone(),
            None => return,
        };
        if !self.passes(from, to) {
            return;
        }
        self.arrive(to, self.latency_ms(), move |cluster| {
            if cluster.hosts[to].borrow().running.is_none() {
                return;
            }
            cluster.heard(to, from);
            cluster.hosts[to].borrow_mut().take_beats(&beats);
            if answer {
                cluster.gossip(to, from, false);
            }
        });
    }

    /// A frame that can only have been made just now came from a host itself.
    fn heard(&self, at: usize, from: usize) {
        let (node, incarnation) = {
            let host = self.hosts[from].borrow();
            (host.node, host.incarnation)
        };
        if let Some(running) = &mut self.hosts[at].borrow_mut().running {
            running.liveness.heard(self.clock.now(), node, incarnation);
            running.beats.entry(node).or_insert(Beat { incarnation, heartbeat: 0 });
        }
    }
}
