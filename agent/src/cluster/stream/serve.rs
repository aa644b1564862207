//! Connections that peers dial: their requests are handled, their gossip is handed on.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::assemble::{Assembler, Progress};
use super::handshake::{self, Proven};
use super::queue::{self, Ended, Lane, Queue};
use super::record::{Receiver, StreamError};
use super::{IN_FLIGHT_MAX, messages};
use crate::cluster::shared::{Shared, locked};
use crate::cluster::wire::{Message, Refusal};
use crate::cluster::{Handler, Peer};
use crate::model::NodeId;

/// Connections in all.
const CONNECTIONS_MAX: usize = 2_048;
/// Connections of one address that have not proven the key yet.
const UNPROVEN_PER_ADDRESS_MAX: usize = 16;
/// Connections that have not proven the key yet, in all.
const UNPROVEN_MAX: usize = 256;
/// Proven connections of one node: a restarted one may overlap with what is left of its predecessor.
const CONNECTIONS_PER_NODE_MAX: usize = 8;
/// Time to prove the key.
const PROOF_TIMEOUT: Duration = Duration::from_secs(3);
/// A dialler pings every five seconds at least; one that is silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Wait after the system refused to accept, for lack of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A number per key that goes down again when its guard is dropped.
struct Tally<K>(Mutex<HashMap<K, usize>>);

struct Counted<K: Copy + Eq + std::hash::Hash> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Copy + Eq + std::hash::Hash> Tally<K> {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn count(self: &Arc<Self>, key: K, each_max: usize, keys_max: usize) -> Option<Counted<K>> {
        let mut counts = locked(&self.0);
        if counts.get(&key).copied().unwrap_or(0) >= each_max || counts.values().sum::<usize>() >= keys_max {
            return None;
        }
        *counts.entry(key).or_default() += 1;
        Some(Counted { tally: Arc::clone(self), key })
    }
}

impl<K: Copy + Eq + std::hash::Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = locked(&self.tally.0);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// Takes connections.
pub(in crate::cluster) struct Server {
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    unproven: Arc<Tally<IpAddr>>,
    nodes: Arc<Tally<NodeId>>,
}

impl Server {
    pub(in crate::cluster) fn new(shared: Arc<Shared>, handler: Arc<dyn Handler>) -> Arc<Self> {
        Arc::new(Self { shared, handler, unproven: Tally::new(), nodes: Tally::new() })
    }

    /// Accepts until it is dropped, and with it all connections.
    pub(in crate::cluster) async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => self.begin(stream, from, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, from: SocketAddr, connections: &mut JoinSet<()>) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let unproven = self.unproven.count(from.ip(), UNPROVEN_PER_ADDRESS_MAX, UNPROVEN_MAX);
        let (Some(unproven), true) = (unproven, connections.len() < CONNECTIONS_MAX) else {
            self.shared.stats.connections_refused.add(1);
            return;
        };
        let server = Arc::clone(self);
        connections.spawn(async move {
            let proving = handshake::accept(&server.shared, from, stream);
            let proven =
                tokio::time::timeout(PROOF_TIMEOUT, proving).await.unwrap_or(Err(StreamError::Silent));
            drop(unproven);
            let (proven, counted) = match proven {
                Ok(proven) => {
                    let counted =
                        server.nodes.count(proven.peer.node, CONNECTIONS_PER_NODE_MAX, CONNECTIONS_MAX);
                    (proven, counted)
                }
                Err(error) => {
                    server.shared.stats.connections_refused.add(1);
                    tracing::debug!(%from, %error, "a connection was not proven");
                    return;
                }
            };
            let Some(_counted) = counted else { return server.shared.stats.connections_refused.add(1) };
            server.shared.stats.connections_accepted.add(1);
            if let Err(error) = Connection::begin(&server, proven).serve().await {
                tracing::debug!(%from, %error, "a connection ended");
            }
        });
    }
}

/// A proven connection. Its handlers are dropped with it.
struct Connection {
    server: Arc<Server>,
    peer: Peer,
    receiver: Receiver,
    writes: Queue,
    writer: JoinSet<Result<(), StreamError>>,
    assembler: Assembler,
    handlers: JoinSet<()>,
    running: Arc<Mutex<HashMap<u64, AbortHandle>>>,
}

impl Connection {
    fn begin(server: &Arc<Server>, proven: Proven) -> Self {
        let Proven { peer, advertise, receiver, sender } = proven;
        let peer = Peer { node: peer.node, incarnation: peer.incarnation, address: advertise };
        let (writes, queued) = queue::channel();
        let mut writer = JoinSet::new();
        writer.spawn(queue::write(sender, queued, || ()));
        Self {
            server: Arc::clone(server),
            peer,
            receiver,
            writes,
            writer,
            assembler: Assembler::default(),
            handlers: JoinSet::new(),
            running: Arc::default(),
        }
    }

    async fn serve(mut self) -> Result<(), StreamError> {
        let silence_max = SILENCE_MAX * self.server.shared.slowed;
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(silence_max, self.receiver.next()) => {
                    message.unwrap_or(Err(StreamError::Silent))?
                }
                Some(ended) = self.writer.join_next() => return ended.unwrap_or(Ok(())),
            };
            while self.handlers.try_join_next().is_some() {}
            self.take(message)?;
        }
    }

    fn take(&mut self, message: Message) -> Result<(), StreamError> {
        match message {
            Message::First { id, total, data } => {
                if locked(&self.running).contains_key(&id) {
                    return Err(StreamError::Protocol("it uses one request id twice"));
                }
                let progress = self.assembler.first(id, total, data);
                self.progress(id, progress)?;
            }
            Message::More { id, data } => {
                let progress = self.assembler.more(id, &data);
                self.progress(id, progress)?;
            }
            Message::Cancel { id } => {
                self.assembler.forget(id);
                let running = locked(&self.running).remove(&id);
                if let Some(running) = running {
                    running.abort();
                }
            }
            // A full queue moves, which tells the dialler as much as a pong.
            Message::Ping => drop(self.writes.try_put(Message::Pong)),
            Message::Gossip { data } => {
                let queue = locked(&self.server.shared.gossip).clone();
                if queue.is_none_or(|queue| queue.try_send((self.peer.address, data)).is_err()) {
                    self.server.shared.stats.gossip_dropped.add(1);
                }
            }
            Message::Pong | Message::Refused { .. } => {
                return Err(StreamError::Protocol("it answers on a connection that it has dialled"));
            }
        }
        Ok(())
    }

    fn progress(&mut self, id: u64, progress: Progress) -> Result<(), StreamError> {
        match progress {
            Progress::Whole(body) if self.handlers.len() < IN_FLIGHT_MAX => self.handle(id, body),
            Progress::Whole(_) | Progress::Busy => self.refuse(id, Refusal::Busy),
            Progress::TooLarge => self.refuse(id, Refusal::TooLarge),
            Progress::Waiting => {}
            Progress::Violation => {
                return Err(StreamError::Protocol("the parts of a request contradict each other"));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, id: u64, refusal: Refusal) {
        self.server.shared.stats.requests_refused.add(1);
        // A full queue: the request ends by its time limit.
        let _ = self.writes.try_put(Message::Refused { id, refusal });
    }

    fn handle(&mut self, id: u64, body: Vec<u8>) {
        self.server.shared.stats.requests_handled.add(1);
        let (handler, peer, writes) = (Arc::clone(&self.server.handler), self.peer, self.writes.clone());
        let running = Arc::clone(&self.running);
        // Held over the spawn, so that a quick handler cannot remove itself before it is entered.
        let mut entered = locked(&self.running);
        let handle = self.handlers.spawn(async move {
            let answer = AssertUnwindSafe(handler.handle(peer, body)).catch_unwind().await;
            // The connection may have ended, then nobody waits for the answer.
            let _ = reply(&writes, id, answer.ok()).await;
            locked(&running).remove(&id);
        });
        entered.insert(id, handle);
    }
}

/// Sends an answer; `None` stands for a handler that panicked.
async fn reply(writes: &Queue, id: u64, answer: Option<Vec<u8>>) -> Result<(), Ended> {
    let Some(answer) = answer else {
        return writes.put(Lane::Small, Message::Refused { id, refusal: Refusal::Failed }).await;
    };
    let Some(messages) = messages(id, &answer) else {
        return writes.put(Lane::Small, Message::Refused { id, refusal: Refusal::TooLarge }).await;
    };
    let lane = Lane::of(answer.len());
    for message in messages {
        writes.put(lane, message).await?;
    }
    Ok(())
}
