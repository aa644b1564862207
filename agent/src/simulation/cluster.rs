//! All hosts of a run, the clock, the network between them, and what is written down of what happened.
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::clock::Clock;
use super::host::Host;
use super::network::Network;
use super::random::Random;
use crate::model::NodeId;

/// Lines of history that are kept: the last ones.
const HISTORY_MAX: usize = 2_000;

/// A way to break the product, to see that a run notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// Promises are answered but not on disk.
    PromisesNotKept,
    /// Half of the members is taken for a majority: each host believes that a claim is confirmed one promise too early.
    HalfIsEnough,
    /// Nobody compares heads, nor asks who has started again what it has: a push that is missed is never made up for.
    NoSync,
}

pub(super) struct Cluster {
    pub(super) clock: Rc<Clock>,
    pub(super) random: RefCell<Random>,
    pub(super) network: RefCell<Network>,
    pub(super) hosts: Vec<RefCell<Host>>,
    /// Nodes that were removed for good: what they still hold does not count.
    pub(super) gone: RefCell<BTreeSet<NodeId>>,
    /// Whether a host goes away for so long that others take over from it.
    pub(super) long_away: Cell<bool>,
    /// Whether operators go on.
    pub(super) busy: Cell<bool>,
    /// Verbs under way.
    pub(super) verbs: Cell<usize>,
    pub(super) counts: RefCell<Counts>,
    pub(super) sabotage: Sabotage,
    history: Option<RefCell<Vec<String>>>,
    violation: RefCell<Option<String>>,
}

/// What happened in a run; so that one in which nothing happens does not pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) joined: usize,
    pub(super) networks: usize,
    pub(super) attached: usize,
    pub(super) taken_over: usize,
    pub(super) registered: usize,
    pub(super) claimed: usize,
    pub(super) granted: usize,
    pub(super) removed: usize,
    pub(super) crashed: usize,
    pub(super) refused: usize,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.joined += other.joined;
        self.networks += other.networks;
        self.attached += other.attached;
        self.taken_over += other.taken_over;
        self.registered += other.registered;
        self.claimed += other.claimed;
        self.granted += other.granted;
        self.removed += other.removed;
        self.crashed += other.crashed;
        self.refused += other.refused;
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, sabotage: Sabotage, remember: bool) -> Rc<Self> {
        let mut random = Random::new(seed);
        let hosts = (0..random.between(3..7)).map(|at| {
            // Ties are broken by node id, so the order of ids is not that of joining.
            let node = NodeId((random.between(1..1 << 20) << 8) + at + 1);
            RefCell::new(Host::new(node, sabotage))
        });
        let hosts = hosts.collect();
        Rc::new(Self {
            clock: Clock::new(),
            random: RefCell::new(random),
            network: RefCell::default(),
            hosts,
            gone: RefCell::default(),
            long_away: Cell::new(false),
            busy: Cell::new(true),
            verbs: Cell::new(0),
            counts: RefCell::default(),
            sabotage,
            history: remember.then(RefCell::default),
            violation: RefCell::default(),
        })
    }

    pub(super) fn index_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.try_borrow().is_ok_and(|host| host.node == node))
    }

    /// Notes what happened. The text is made only where somebody will read it.
    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        let Some(history) = &self.history else { return };
        let mut history = history.borrow_mut();
        if history.len() >= HISTORY_MAX {
            history.remove(0);
        }
        history.push(format!("{:>7} ms  {}", self.clock.now_ms(), text()));
    }

    /// An invariant does not hold; the first that is noticed counts.
    pub(super) fn violated(&self, what: String) {
        self.note(|| format!("VIOLATED: {what}"));
        self.violation.borrow_mut().get_or_insert(what);
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.history.as_ref().map(|history| history.borrow().clone()).unwrap_or_default()
    }

    /// Hosts that run and have not been removed.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> + '_ {
        let runs = |at: &usize| {
            let host = self.hosts[*at].borrow();
            host.running.is_some() && !self.gone.borrow().contains(&host.node)
        };
        (0..self.hosts.len()).filter(runs)
    }
}
