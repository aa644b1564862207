//! A link: the task that keeps the outgoing connection to one address.
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::assemble::{Assembler, Progress};
use super::handshake::{self, Proven};
use super::pool::{Answer, Command, Pool, Reply, RequestError};
use super::queue::{self, Lane, Queue};
use super::record::{Receiver, StreamError};
use super::{IN_FLIGHT_MAX, messages};
use crate::cluster::shared::{Shared, locked};
use crate::cluster::wire::{Message, Speaker};

/// Connecting and proving together. A lost SYN is sent again after 1 s, so one loss is survived.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Time between two looks at a connection, and two pings while an answer is awaited.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two pings while nothing is awaited: of hundreds of hosts, each has a connection with each other one.
const QUIET_PING_INTERVAL: Duration = Duration::from_secs(5);
/// A peer that owes an answer and is silent for this long is given up. Longer than a stop of 3 s, shorter than what TCP
/// takes to send again after a partition of this length.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// A connection that carried nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Gossip that has waited this long is out of date.
const GOSSIP_AGE_MAX: Duration = Duration::from_secs(1);

/// A request in flight.
struct Asked {
    answer: Answer,
    /// Tells the task that sends the request to cancel it; dropped with the answer, it just ends.
    cancel: oneshot::Sender<()>,
}

type Waiting = Arc<Mutex<HashMap<u64, Asked>>>;
type Moved = Arc<Mutex<Instant>>;

/// Serves an address until it was idle for long.
pub(super) async fn run(pool: Arc<Pool>, to: SocketAddr, mut commands: mpsc::Receiver<Command>) {
    loop {
        let idle_max = IDLE_MAX * pool.shared().slowed;
        let first = match tokio::time::timeout(idle_max, commands.recv()).await {
            Ok(Some(Command::Cancel { .. })) => continue,
            Ok(Some(first)) => first,
            Ok(None) => return,
            Err(_) if pool.retire(to, &commands) => return,
            Err(_) => continue,
        };
        let shared = pool.shared();
        match connect(shared, to).await {
            Ok(proven) => {
                shared.stats.connections_dialled.add(1);
                if Link::begin(shared, to, proven).serve(first, &mut commands).await == End::Idle
                    && pool.retire(to, &commands)
                {
                    return;
                }
            }
            Err(error) => {
                shared.stats.dial_failures.add(1);
                refuse(shared, to, first, &mut commands, error);
            }
        }
    }
}

async fn connect(shared: &Arc<Shared>, to: SocketAddr) -> Result<Proven, StreamError> {
    let connecting = async {
        let socket = socket(shared.source, to).map_err(StreamError::Connect)?;
        let stream = socket.connect(to).await.map_err(StreamError::Connect)?;
        handshake::dial(shared, to, stream).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(StreamError::Silent))
}

/// Bound to the address that this host listens on, if that is one: firewalls between hosts know no other.
fn socket(source: IpAddr, to: SocketAddr) -> io::Result<TcpSocket> {
    let source = source.to_canonical();
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if !source.is_unspecified() && source.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// Fails everything that waits for a connection that could not be made.
fn refuse(
    shared: &Shared,
    to: SocketAddr,
    first: Command,
    commands: &mut mpsc::Receiver<Command>,
    error: StreamError,
) {
    let source = Arc::new(error);
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            Command::Request { answer, .. } => {
                // The caller may have gone.
                let _ = answer.send(Err(RequestError::Connect { to, source: Arc::clone(&source) }));
            }
            Command::Gossip { .. } => shared.stats.gossip_dropped.add(1),
            Command::Cancel { .. } => {}
        }
        next = commands.try_recv().ok();
    }
}

#[derive(PartialEq, Eq)]
enum End {
    Idle,
    Broken,
}

/// A proven connection. Its tasks end with it.
struct Link {
    shared: Arc<Shared>,
    to: SocketAddr,
    waiting: Waiting,
    moved: Moved,
    used: Instant,
    pinged: Instant,
    /// Since when the peer owes an answer, if it does.
    owed: Instant,
    writes: Queue,
    tasks: JoinSet<()>,
    halves: JoinSet<Result<(), StreamError>>,
}

impl Link {
    fn begin(shared: &Arc<Shared>, to: SocketAddr, proven: Proven) -> Self {
        let waiting = Waiting::default();
        let moved = Arc::new(Mutex::new(Instant::now()));
        let (writes, queued) = queue::channel();
        let mut halves = JoinSet::new();
        let written = Arc::clone(&moved);
        halves.spawn(queue::write(proven.sender, queued, move || *locked(&written) = Instant::now()));
        halves.spawn(read(proven.receiver, proven.peer, to, Arc::clone(&waiting), Arc::clone(&moved)));
        let (shared, tasks, now) = (Arc::clone(shared), JoinSet::new(), Instant::now());
        Self { shared, to, waiting, moved, used: now, pinged: now, owed: now, writes, tasks, halves }
    }

    async fn serve(mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> End {
        self.obey(first);
        let mut ticks = tokio::time::interval(PING_INTERVAL * self.shared.slowed);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return End::Broken,
                },
                _ = ticks.tick() => {
                    if let Some(end) = self.look(Instant::now()) {
                        return end;
                    }
                }
                Some(ended) = self.halves.join_next() => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(to = %self.to, %error, "a connection ended");
                    }
                    return End::Broken;
                }
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Request { id, body, answer } => self.ask(id, body, answer),
            Command::Cancel { id } => {
                let asked = locked(&self.waiting).remove(&id);
                // Its task ends only after this.
                let _ = asked.map(|asked| asked.cancel.send(()));
            }
            Command::Gossip { data, at } => {
                self.used = Instant::now();
                if at.elapsed() > GOSSIP_AGE_MAX || !self.writes.try_put(Message::Gossip { data }) {
                    self.shared.stats.gossip_dropped.add(1);
                }
            }
        }
    }

    fn ask(&mut self, id: u64, body: Vec<u8>, answer: Answer) {
        self.used = Instant::now();
        if answer.is_closed() {
            return;
        }
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= IN_FLIGHT_MAX {
            let _ = answer.send(Err(RequestError::Busy { to: self.to }));
            return;
        }
        let (cancel, cancelled) = oneshot::channel();
        let owes = !waiting.is_empty() || *locked(&self.moved) < self.pinged;
        waiting.insert(id, Asked { answer, cancel });
        drop(waiting);
        if !owes {
            self.owed = self.used;
        }
        self.tasks.spawn(ask(self.writes.clone(), id, body, cancelled));
    }

    fn look(&mut self, now: Instant) -> Option<End> {
        let (moved, asked) = (*locked(&self.moved), !locked(&self.waiting).is_empty());
        let owes = asked || moved < self.pinged;
        let slowed = self.shared.slowed;
        if owes && now.saturating_duration_since(self.owed.max(moved)) >= SILENCE_MAX * slowed {
            return Some(End::Broken);
        }
        if !asked && now.saturating_duration_since(self.used) >= IDLE_MAX * slowed {
            return Some(End::Idle);
        }
        // Also while an answer comes in: the other end must hear that somebody still takes it. A full queue moves, or
        // ends by silence.
        if asked || now.saturating_duration_since(self.pinged) >= QUIET_PING_INTERVAL * slowed {
            let _ = self.writes.try_put(Message::Ping);
            self.pinged = now;
            if !owes {
                self.owed = now;
            }
        }
        None
    }
}

/// Sends a request, and its cancellation if it comes to that, in this order.
async fn ask(writes: Queue, id: u64, body: Vec<u8>, mut cancelled: oneshot::Receiver<()>) {
    let lane = Lane::of(body.len());
    // `Pool::request` has refused what is too large.
    let Some(messages) = messages(id, &body) else { return };
    for message in messages {
        tokio::select! {
            biased;
            outcome = &mut cancelled => {
                if outcome.is_ok() {
                    let _ = writes.put(lane, Message::Cancel { id }).await;
                }
                return;
            }
            put = writes.put(lane, message) => if put.is_err() { return },
        }
    }
    drop(body);
    if cancelled.await.is_ok() {
        // The connection may have ended.
        let _ = writes.put(lane, Message::Cancel { id }).await;
    }
}

async fn read(
    mut receiver: Receiver,
    peer: Speaker,
    to: SocketAddr,
    waiting: Waiting,
    moved: Moved,
) -> Result<(), StreamError> {
    let mut assembler = Assembler::default();
    loop {
        let message = receiver.next().await?;
        *locked(&moved) = Instant::now();
        let (id, outcome) = match message {
            Message::Pong => continue,
            Message::Refused { id, refusal } => (id, Some(Err(RequestError::refused(to, refusal)))),
            Message::First { id, .. } | Message::More { id, .. } if !locked(&waiting).contains_key(&id) => {
                // Cancelled: the rest of the answer was on its way.
                assembler.forget(id);
                continue;
            }
            Message::First { id, total, data } => (id, reply(peer, to, assembler.first(id, total, data))?),
            Message::More { id, data } => (id, reply(peer, to, assembler.more(id, &data))?),
            Message::Cancel { .. } | Message::Ping | Message::Gossip { .. } => {
                return Err(StreamError::Protocol("it asks on a connection that it has not dialled"));
            }
        };
        let Some(outcome) = outcome else { continue };
        let asked = locked(&waiting).remove(&id);
        // The caller may have gone.
        let _ = asked.map(|asked| asked.answer.send(outcome));
    }
}

/// What a record of an answer means to the one who waits; `None` while more is to come.
fn reply(
    peer: Speaker,
    to: SocketAddr,
    progress: Progress,
) -> Result<Option<Result<Reply, RequestError>>, StreamError> {
    match progress {
        Progress::Whole(body) => Ok(Some(Ok(Reply { node: peer.node, incarnation: peer.incarnation, body }))),
        Progress::Waiting => Ok(None),
        Progress::TooLarge => Ok(Some(Err(RequestError::TooLarge { to }))),
        Progress::Busy => Ok(Some(Err(RequestError::Busy { to }))),
        Progress::Violation => Err(StreamError::Protocol("the parts of an answer contradict each other")),
    }
}
