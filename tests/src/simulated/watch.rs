//! Tells when every host has taken a change up, for many changes at once.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent::model::{Head, NodeId};
use agent::runtime::agent::Agent;
use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

/// A change that is waited for.
struct Awaited {
    owner: NodeId,
    head: Head,
    begun: Instant,
    /// Hosts that do not have it yet.
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<Duration>>>,
}

impl Awaited {
    fn seen(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Who waits may have given up.
            let _unheard = done.map(|done| done.send(self.begun.elapsed()));
        }
    }
}

/// Tells when all hosts have a change.
#[derive(Debug)]
pub struct Seen(oneshot::Receiver<Duration>);

impl Seen {
    /// How long it took from the request until the last host had it.
    ///
    /// # Errors
    /// When it takes longer than `limit` from now.
    pub async fn everywhere(self, limit: Duration) -> Result<Duration> {
        let waited = tokio::time::timeout(limit, self.0).await;
        let waited = waited.with_context(|| format!("not everywhere within {} s", limit.as_secs()))?;
        waited.context("a host has ended meanwhile")
    }
}

/// One task for each host.
#[derive(Clone, Default)]
pub(super) struct Watchers(BTreeMap<NodeId, mpsc::UnboundedSender<Arc<Awaited>>>);

impl Watchers {
    pub(super) fn follow(&mut self, runtime: &Runtime, agent: &Arc<Agent>) {
        let (sender, inbox) = mpsc::unbounded_channel();
        self.0.insert(agent.identity.node, sender);
        runtime.spawn(follow(Arc::clone(agent), inbox));
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    pub(super) fn watch(&self, owner: NodeId, head: Head, begun: Instant) -> Seen {
        let (done, seen) = oneshot::channel();
        let (left, done) = (AtomicUsize::new(self.0.len()), Mutex::new(Some(done)));
        let awaited = Arc::new(Awaited { owner, head, begun, left, done });
        for watcher in self.0.values() {
            // A host that has ended never has it: the wait then runs out.
            let _ended = watcher.send(Arc::clone(&awaited));
        }
        Seen(seen)
    }
}

async fn follow(agent: Arc<Agent>, mut inbox: mpsc::UnboundedReceiver<Arc<Awaited>>) {
    let mut applied = agent.applied.subscribe();
    let mut open: Vec<Arc<Awaited>> = Vec::new();
    loop {
        tokio::select! {
            awaited = inbox.recv() => match awaited {
                Some(awaited) => open.push(awaited),
                None => return,
            },
            changed = applied.changed(), if !open.is_empty() => if changed.is_err() { return },
        }
        let heads = Arc::clone(&applied.borrow_and_update());
        open.retain(|awaited| {
            let there = heads.get(&awaited.owner).is_some_and(|head| *head >= awaited.head);
            if there {
                awaited.seen();
            }
            !there
        });
    }
}
