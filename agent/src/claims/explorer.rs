//! A small exhaustive explorer: every order of events of a small cluster, run through the real [`Promises`] and [`Claimant`].
//!
//! The network is a set that only grows: a message in it may be delivered at any later time, any number of times, or never.
//! That is loss, delay, reordering and duplication in one, and a host that is down is one to which nothing is delivered. A crash
//! takes what was not written; the restart finishes or withdraws what was pending, both are tried.
//!
//! A host's next state depends on its state and one event alone, so each such pair runs the real code once; the search
//! itself walks over small numbers. States are compared in full, not by hash.
mod host;
mod model;
mod scenarios;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use host::{Host, LOCAL_EVENTS};
use model::{Message, Model};

use crate::catalog::facts::ClaimKey;

const HOSTS: usize = 5;
const WORDS: usize = 5;

/// A state of the whole cluster, as indices: each host's, the messages ever sent, the crashes left.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    hosts: [u32; HOSTS],
    sent: [u64; WORDS],
    crashes: u32,
}

/// What one event does to one host: its next state and the messages it sends.
#[derive(Clone, Copy)]
struct Edge {
    host: u32,
    sent: [u64; WORDS],
}

/// What a search came to.
struct Found {
    states: usize,
    /// The events that led to two holders, if any did.
    violation: Option<Vec<String>>,
    /// Whether some state had this host holding what it wanted; so that a model in which nothing happens does not pass.
    successes: [bool; HOSTS],
}

struct Explorer<'m> {
    model: &'m Model,
    hosts: Vec<Host>,
    host_index: HashMap<Host, u32>,
    holdings: Vec<Vec<ClaimKey>>,
    /// By host state: which hosts it knows to be removed.
    removed: Vec<[bool; HOSTS]>,
    messages: Vec<Message>,
    message_index: HashMap<Message, usize>,
    /// By host state: local events first, then messages; `None` within is "does not apply".
    edges: Vec<Vec<Option<Option<Edge>>>>,
}

impl<'m> Explorer<'m> {
    fn new(model: &'m Model) -> Self {
        Self {
            model,
            hosts: Vec::new(),
            host_index: HashMap::new(),
            holdings: Vec::new(),
            removed: Vec::new(),
            messages: Vec::new(),
            message_index: HashMap::new(),
            edges: Vec::new(),
        }
    }

    fn run(mut self, states_max: usize) -> Found {
        let mut first = State { hosts: [0; HOSTS], sent: [0; WORDS], crashes: self.model.crashes };
        for (at, host) in self.model.initial().into_iter().enumerate() {
            first.hosts[at] = self.host_number(host);
        }
        let mut states = vec![first];
        let mut origins = vec![(0, 0, 0)];
        let mut visited: HashMap<State, (), BuildHasherDefault<FastHasher>> = HashMap::default();
        visited.insert(first, ());
        let mut successes = [false; HOSTS];
        let mut next = 0;
        while next < states.len() {
            let state = states[next];
            for (at, &host) in state.hosts.iter().enumerate() {
                successes[at] |= self.model.satisfied(at, &self.holdings[host as usize]);
            }
            if let Some(clash) = self.clash(&state) {
                let mut events = self.trace(&origins, next);
                events.push(clash);
                return Found { states: states.len(), violation: Some(events), successes };
            }
            let local = (0..HOSTS).flat_map(|at| (0..LOCAL_EVENTS).map(move |event| (at, event)));
            let arrivals = self.messages.iter().enumerate().map(|(n, m)| (m.to, LOCAL_EVENTS + n));
            let sent = |&(_, event): &(usize, usize)| is_sent(&state, event - LOCAL_EVENTS);
            for (at, event) in local.chain(arrivals.filter(sent)).collect::<Vec<_>>() {
                let Some(after) = self.step(&state, at, event) else { continue };
                if visited.insert(after, ()).is_none() {
                    states.push(after);
                    origins.push((next, at, event));
                }
            }
            next += 1;
            assert!(states.len() <= states_max, "more than {states_max} states: the scenario has grown");
        }
        Found { states: states.len(), violation: None, successes }
    }

    fn step(&mut self, state: &State, at: usize, event: usize) -> Option<State> {
        if host::is_crash(event) && state.crashes == 0 {
            return None;
        }
        let edge = self.edge(state.hosts[at], event)?;
        let mut after = *state;
        after.hosts[at] = edge.host;
        for (word, sent) in after.sent.iter_mut().zip(edge.sent) {
            *word |= sent;
        }
        after.crashes -= u32::from(host::is_crash(event));
        (after != *state).then_some(after)
    }

    fn edge(&mut self, host: u32, event: usize) -> Option<Edge> {
        let row = &mut self.edges[host as usize];
        if row.len() <= event {
            row.resize(event + 1, None);
        }
        if let Some(edge) = row[event] {
            return edge;
        }
        let before = &self.hosts[host as usize];
        let after = match event.checked_sub(LOCAL_EVENTS) {
            None => self.model.local(before, event),
            Some(message) => Some(self.model.deliver(before, &self.messages[message])),
        };
        let edge = after.map(|(host, messages)| {
            let mut sent = [0; WORDS];
            for message in messages {
                let bit = self.message_number(message);
                sent[bit / 64] |= 1 << (bit % 64);
            }
            Edge { host: self.host_number(host), sent }
        });
        self.edges[host as usize][event] = Some(edge);
        edge
    }

    fn host_number(&mut self, host: Host) -> u32 {
        if let Some(&known) = self.host_index.get(&host) {
            return known;
        }
        let number = u32::try_from(self.hosts.len()).unwrap();
        self.holdings.push(host.holds());
        self.removed.push(host.removed());
        self.hosts.push(host.clone());
        self.edges.push(Vec::new());
        self.host_index.insert(host, number);
        number
    }

    fn message_number(&mut self, message: Message) -> usize {
        if let Some(&known) = self.message_index.get(&message) {
            return known;
        }
        let number = self.messages.len();
        assert!(number < WORDS * 64, "too many different messages for the bit set");
        self.messages.push(message.clone());
        self.message_index.insert(message, number);
        number
    }

    /// Two hosts that hold keys which exclude each other. What a removed host still holds does not count.
    fn clash(&self, state: &State) -> Option<String> {
        let removed = |at: usize| state.hosts.iter().any(|&host| self.removed[host as usize][at]);
        for one in (0..HOSTS).filter(|&at| !removed(at)) {
            for other in (one + 1..HOSTS).filter(|&at| !removed(at)) {
                for mine in &self.holdings[state.hosts[one] as usize] {
                    for theirs in &self.holdings[state.hosts[other] as usize] {
                        if host::exclude_each_other(mine, theirs) {
                            return Some(format!(
                                "host {one} holds {mine:?} and host {other} holds {theirs:?}"
                            ));
                        }
                    }
                }
            }
        }
        None
    }

    fn trace(&self, origins: &[(usize, usize, usize)], mut at: usize) -> Vec<String> {
        let mut events = Vec::new();
        while at != 0 {
            let (from, host, event) = origins[at];
            events.push(match event.checked_sub(LOCAL_EVENTS) {
                None => format!("host {host}: {}", host::event_name(event)),
                Some(message) => format!("host {host} gets {:?}", self.messages[message]),
            });
            at = from;
        }
        events.reverse();
        events
    }
}

fn is_sent(state: &State, message: usize) -> bool {
    state.sent[message / 64] >> (message % 64) & 1 == 1
}

/// The default hasher takes most of the time of a debug build; nobody attacks this map.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_ne_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}
