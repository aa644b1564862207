//! One outgoing connection per peer address, made when it is needed.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::record::StreamError;
use super::{BODY_BYTES_MAX, dial};
use crate::cluster::shared::{Shared, locked};
use crate::cluster::wire::Refusal;
use crate::model::NodeId;

/// Peer addresses with a connection, or one in the making.
const LINKS_MAX: usize = 2_048;
/// Requests and gossip that wait for a connection.
const QUEUE_MAX: usize = 512;

/// A peer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The host that answered; an address may have changed hands.
    pub node: NodeId,
    /// Start count of its agent.
    pub incarnation: u64,
    /// What its handler returned.
    pub body: Vec<u8>,
}

/// Why a request has no answer. It may have been handled all the same, unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection could be made. The request was not handled.
    #[error("cannot reach the agent at {to}")]
    Connect {
        /// The peer.
        to: SocketAddr,
        /// Why not.
        #[source]
        source: Arc<StreamError>,
    },
    /// The connection ended before the answer.
    #[error("the connection to the agent at {to} ended before its answer")]
    Lost {
        /// The peer.
        to: SocketAddr,
    },
    /// The answer did not come in time.
    #[error("the agent at {to} did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// The peer.
        to: SocketAddr,
        /// The time that was given.
        after: Duration,
    },
    /// Too many requests of this host wait there, or for it. The request was not handled.
    #[error("the agent at {to} has too many requests of this host to handle; try again later")]
    Busy {
        /// The peer.
        to: SocketAddr,
    },
    /// The request or its answer is larger than a body may be.
    #[error("a request to the agent at {to}, or its answer, is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge {
        /// The peer.
        to: SocketAddr,
    },
    /// The peer's handler did not finish.
    #[error("the agent at {to} failed to handle the request; see its log")]
    Failed {
        /// The peer.
        to: SocketAddr,
    },
    /// The transport has been stopped here. The request was not handled.
    #[error("the transport of this host has been stopped")]
    Stopped,
}

impl RequestError {
    pub(super) fn refused(to: SocketAddr, refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy => Self::Busy { to },
            Refusal::TooLarge => Self::TooLarge { to },
            Refusal::Failed => Self::Failed { to },
        }
    }
}

/// Where a request's outcome goes.
pub(super) type Answer = oneshot::Sender<Result<Reply, RequestError>>;

/// What a link is asked to do.
pub(super) enum Command {
    Request { id: u64, body: Vec<u8>, answer: Answer },
    Cancel { id: u64 },
    Gossip { data: Vec<u8>, at: Instant },
}

/// Tells the peer that nobody waits any more when the caller's future is dropped.
struct Waiting {
    commands: mpsc::Sender<Command>,
    id: u64,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            // A full queue: the peer handles the request for nothing.
            let _ = self.commands.try_send(Command::Cancel { id: self.id });
        }
    }
}

#[derive(Default)]
struct Links {
    by_address: HashMap<SocketAddr, mpsc::Sender<Command>>,
    tasks: JoinSet<()>,
    stopped: bool,
}

/// Outgoing connections.
pub(in crate::cluster) struct Pool {
    shared: Arc<Shared>,
    links: Mutex<Links>,
    ids: AtomicU64,
}

impl Pool {
    pub(in crate::cluster) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, links: Mutex::default(), ids: AtomicU64::new(1) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends a request and awaits its answer.
    pub(in crate::cluster) async fn request(
        self: &Arc<Self>,
        to: SocketAddr,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        self.shared.stats.requests_sent.add(1);
        let outcome = self.exchange(to, body, timeout).await;
        if outcome.is_err() {
            self.shared.stats.request_errors.add(1);
        }
        outcome
    }

    async fn exchange(
        self: &Arc<Self>,
        to: SocketAddr,
        body: Vec<u8>,
        after: Duration,
    ) -> Result<Reply, RequestError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(RequestError::TooLarge { to });
        }
        let (answer, answered) = oneshot::channel();
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let commands = self.command(to, Command::Request { id, body, answer })?;
        let mut waiting = Waiting { commands, id, answered: false };
        let outcome = tokio::time::timeout(after, answered).await;
        waiting.answered = outcome.is_ok();
        match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(RequestError::Lost { to }),
            Err(_) => Err(RequestError::TimedOut { to, after }),
        }
    }

    /// Sends a gossip message that is too large for a datagram. It is dropped if it cannot go soon.
    pub(in crate::cluster) fn gossip(self: &Arc<Self>, to: SocketAddr, data: Vec<u8>) {
        let fits = data.len() <= super::record::GOSSIP_BYTES_MAX;
        if fits && self.command(to, Command::Gossip { data, at: Instant::now() }).is_ok() {
            self.shared.stats.gossip_streamed.add(1);
        } else {
            self.shared.stats.gossip_dropped.add(1);
        }
    }

    /// Ends all connections; requests that wait fail.
    pub(in crate::cluster) async fn stop(&self) {
        self.abort().shutdown().await;
    }

    /// Ends all connections without waiting: when what it returns is dropped.
    pub(in crate::cluster) fn abort(&self) -> JoinSet<()> {
        let mut links = locked(&self.links);
        links.stopped = true;
        links.by_address.clear();
        std::mem::take(&mut links.tasks)
    }

    /// Removes a link that has nothing to do. `false` if a command came in between.
    pub(super) fn retire(&self, to: SocketAddr, commands: &mpsc::Receiver<Command>) -> bool {
        let mut links = locked(&self.links);
        // Commands are queued under the same lock, so none can slip in after the look.
        let idle = commands.is_empty();
        if idle {
            links.by_address.remove(&to);
        }
        idle
    }

    fn command(
        self: &Arc<Self>,
        to: SocketAddr,
        command: Command,
    ) -> Result<mpsc::Sender<Command>, RequestError> {
        let mut links = locked(&self.links);
        if links.stopped {
            return Err(RequestError::Stopped);
        }
        let sender = match links.by_address.get(&to) {
            Some(sender) => sender.clone(),
            None if links.by_address.len() >= LINKS_MAX => return Err(RequestError::Busy { to }),
            None => {
                let (sender, receiver) = mpsc::channel(QUEUE_MAX);
                links.by_address.insert(to, sender.clone());
                while links.tasks.try_join_next().is_some() {}
                links.tasks.spawn(dial::run(Arc::clone(self), to, receiver));
                sender
            }
        };
        match sender.try_send(command) {
            Ok(()) => Ok(sender),
            Err(mpsc::error::TrySendError::Full(_)) => Err(RequestError::Busy { to }),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                // The link's task has died: the next command makes another.
                links.by_address.remove(&to);
                Err(RequestError::Lost { to })
            }
        }
    }
}
