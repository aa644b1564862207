//! Whose frames are taken: freshness, incarnations, replays. Pure; time is an argument.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::seal::Token;
use super::wire::{Envelope, Speaker};
use crate::model::NodeId;

#[cfg(test)]
mod tests;

/// Hosts whose incarnations are kept; far above what gossip carries (about 1,290).
const NODES_MAX: usize = 16_384;
/// Addresses whose boot nonce is kept.
const ADDRESSES_MAX: usize = 4_096;
/// Datagrams that can still be sent again when a hello comes back, and whose notices are believed.
const PENDING_MAX: usize = 256;
/// How long a process may be silent before another one with the same incarnation is taken for its successor.
const SILENCE: Duration = Duration::from_secs(10);

/// A sliding window over counters: each is accepted once, and none that is 128 or more behind the highest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    highest: u64,
    /// Bit n: `highest - n` was seen.
    seen: u128,
}

impl Window {
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if let Some(ahead) = counter.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            self.seen =
                u32::try_from(ahead).ok().and_then(|ahead| self.seen.checked_shl(ahead)).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let behind = self.highest - counter;
        let Some(bit) = u32::try_from(behind).ok().and_then(|behind| 1_u128.checked_shl(behind)) else {
            return false;
        };
        let fresh = self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

/// What is done with a frame that opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was made for this process, and is taken for the first time.
    Accept,
    /// It may be old: drop it, and tell its sender our boot nonce. `newest` as in [`super::wire::Hello`].
    Greet {
        /// Whether the sender's incarnation is older than one we have heard of.
        stale: bool,
        /// The newest incarnation of the sender that we have heard of.
        newest: u64,
    },
    /// Drop it.
    Refuse(Reason),
}

/// Why a frame that opened was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// We sent it ourselves: a seed is our own address.
    Own,
    /// Another process speaks as this node.
    Duplicate,
    /// Two processes speak as one peer in one incarnation.
    OtherProcess,
    /// Taken before.
    Replayed,
    /// The process is of another cluster.
    Forgotten,
    /// The node was removed.
    Removed,
    /// No room for a further node.
    Full,
}

struct Session {
    incarnation: u64,
    boot: u64,
    window: Window,
    heard: Instant,
}

/// What this process knows of the processes that speak to it.
pub(super) struct Sessions {
    own: Speaker,
    maxima: BTreeMap<NodeId, u64>,
    sessions: HashMap<NodeId, Session>,
    /// By which process of it: another one is heard out once more, so that it can learn why nobody speaks to it.
    forgotten: BTreeMap<NodeId, u64>,
    removed: BTreeSet<NodeId>,
    changed: bool,
}

impl Sessions {
    pub(super) fn new(own: Speaker, mut maxima: BTreeMap<NodeId, u64>) -> Self {
        while maxima.len() > NODES_MAX {
            maxima.pop_last();
        }
        Self {
            own,
            maxima,
            sessions: HashMap::new(),
            forgotten: BTreeMap::new(),
            removed: BTreeSet::new(),
            changed: false,
        }
    }

    /// The newest incarnation heard of, per node: to be persisted.
    pub(super) fn maxima(&self) -> &BTreeMap<NodeId, u64> {
        &self.maxima
    }

    /// A copy of the maxima if they have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Arc<BTreeMap<NodeId, u64>>> {
        std::mem::take(&mut self.changed).then(|| Arc::new(self.maxima.clone()))
    }

    /// Takes nothing from this node any more, as long as its process runs.
    pub(super) fn forget(&mut self, node: NodeId) {
        let boot = self.sessions.remove(&node).map_or(0, |session| session.boot);
        if self.forgotten.len() < NODES_MAX {
            self.forgotten.insert(node, boot);
        }
    }

    /// Takes nothing from this node any more, whatever process of it speaks. Returns the boot nonce of the last one.
    pub(super) fn remove(&mut self, node: NodeId) -> Option<u64> {
        let session = self.sessions.remove(&node);
        if self.removed.len() < NODES_MAX {
            self.removed.insert(node);
        }
        session.map(|session| session.boot)
    }

    /// Whether a frame of this node was taken since the start.
    pub(super) fn has_spoken(&self, node: NodeId) -> bool {
        self.sessions.contains_key(&node)
    }

    pub(super) fn is_forgotten(&self, node: NodeId) -> bool {
        self.forgotten.contains_key(&node) || self.removed.contains(&node)
    }

    /// Whether an envelope can only have been made for this process.
    pub(super) fn is_fresh(&self, envelope: &Envelope) -> bool {
        envelope.receiver == self.own.boot
    }

    /// Judges a datagram.
    pub(super) fn judge(&mut self, now: Instant, envelope: &Envelope) -> Verdict {
        let fresh = self.is_fresh(envelope);
        match self.admit(now, envelope.speaker, fresh) {
            Verdict::Accept => {}
            other => return other,
        }
        let session = self.sessions.get_mut(&envelope.speaker.node);
        let first = session.is_some_and(|session| session.window.accept(envelope.counter));
        if first { Verdict::Accept } else { Verdict::Refuse(Reason::Replayed) }
    }

    /// Judges a speaker; `fresh` if its frame can only have been made for this process.
    pub(super) fn admit(&mut self, now: Instant, speaker: Speaker, fresh: bool) -> Verdict {
        let Speaker { node, incarnation, boot } = speaker;
        if node == self.own.node {
            return self.judge_own(boot, fresh);
        }
        if self.removed.contains(&node) {
            return Verdict::Refuse(Reason::Removed);
        }
        if self.forgotten.get(&node) == Some(&boot) {
            return Verdict::Refuse(Reason::Forgotten);
        }
        let newest = self.maxima.get(&node).copied().unwrap_or(0);
        if incarnation < newest {
            return Verdict::Greet { stale: true, newest };
        }
        if !fresh {
            return Verdict::Greet { stale: false, newest };
        }
        if newest == 0 && self.maxima.len() >= NODES_MAX && !self.maxima.contains_key(&node) {
            return Verdict::Refuse(Reason::Full);
        }
        self.forgotten.remove(&node);
        self.changed |= self.maxima.insert(node, incarnation) != Some(incarnation);
        let begun = Session { incarnation, boot, window: Window::default(), heard: now };
        let session = self.sessions.entry(node).or_insert(begun);
        if (session.incarnation, session.boot) != (incarnation, boot) {
            let silent = now.saturating_duration_since(session.heard) >= SILENCE;
            if session.incarnation == incarnation && !silent {
                return Verdict::Refuse(Reason::OtherProcess);
            }
            *session = Session { incarnation, boot, window: Window::default(), heard: now };
        }
        session.heard = now;
        Verdict::Accept
    }

    fn judge_own(&self, boot: u64, fresh: bool) -> Verdict {
        if boot == self.own.boot {
            Verdict::Refuse(Reason::Own)
        } else if fresh {
            Verdict::Refuse(Reason::Duplicate)
        } else {
            // Perhaps an old frame of ours: only an answer to our nonce proves that somebody else is there.
            Verdict::Greet { stale: false, newest: self.own.incarnation }
        }
    }
}

struct Pending {
    counter: u64,
    /// The boot nonce that it was sent with.
    receiver: u64,
    to: SocketAddr,
    token: Token,
    message: Vec<u8>,
}

/// What this process knows of the addresses that it speaks to.
#[derive(Default)]
pub(super) struct Destinations {
    boots: HashMap<SocketAddr, u64>,
    order: VecDeque<SocketAddr>,
    pending: VecDeque<Pending>,
}

impl Destinations {
    /// The boot nonce of the process at an address; 0 if unknown.
    pub(super) fn boot(&self, address: SocketAddr) -> u64 {
        self.boots.get(&address).copied().unwrap_or(0)
    }

    /// Notes the boot nonce that a fresh frame from `address` named. The address that was learnt first goes first.
    pub(super) fn learn(&mut self, address: SocketAddr, boot: u64) {
        if self.boots.insert(address, boot).is_some() {
            return;
        }
        self.order.push_back(address);
        if self.order.len() > ADDRESSES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.boots.remove(&oldest);
        }
    }

    /// Keeps a datagram until its hello comes, or until others have taken its place.
    pub(super) fn sent(&mut self, counter: u64, to: SocketAddr, token: Token, message: Vec<u8>) {
        let receiver = self.boot(to);
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending { counter, receiver, to, token, message });
    }

    /// A fresh hello echoed `counter`: the process behind the address that we wrote to has nonce `boot`.
    /// Hands out the message, which has to be sent again, once: not if it did name that nonce.
    pub(super) fn greeted(&mut self, counter: u64, boot: u64) -> Option<(SocketAddr, Vec<u8>)> {
        let index = self.pending.iter().position(|pending| pending.counter == counter)?;
        let pending = self.pending.remove(index)?;
        self.learn(pending.to, boot);
        (pending.receiver != boot).then_some((pending.to, pending.message))
    }

    /// The address to which a datagram with this token went, if we sent one lately.
    pub(super) fn noticed(&self, token: Token) -> Option<SocketAddr> {
        self.pending.iter().find(|pending| pending.token == token).map(|pending| pending.to)
    }
}
