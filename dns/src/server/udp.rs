//! DNS over UDP.
//!
//! A loop of our own in front of the same handler: hickory's reads ahead, and what an agent has read when it is killed nobody
//! answers. Here a query that can be answered at once stays in the socket until its answer is sent, so the agent that
//! comes next, which takes the socket over, finds it there. Killed between the two, it is answered twice, which clients ignore.
//! What has to wait for its answer is noted first ([`super::notes`]).
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ServerSettings;
use super::handler::Handler;
use super::notes::{Note, Notes};
use super::reply;
use super::request::{Parsed, parse};
use crate::stats::{Outcome, add};

/// A query is no longer: 12 bytes of header, a name of 255, and EDNS.
const QUERY_MAX: usize = 4_096;
/// Queries answered before other tasks get their turn.
const BURST: usize = 32;
/// Pause after a socket's error that does not go away by being read.
const RETRY: Duration = Duration::from_millis(100);

/// One namespace's UDP side.
pub(super) struct Udp {
    socket: Arc<UdpSocket>,
    handler: Arc<Handler>,
    notes: Arc<Notes>,
    waiting: JoinSet<()>,
    waiting_max: usize,
}

impl Udp {
    /// Begins with the queries that an earlier agent left noted in `notes`.
    pub(super) fn new(
        socket: Arc<UdpSocket>,
        notes: Arc<File>,
        handler: Arc<Handler>,
        settings: ServerSettings,
    ) -> Self {
        // Those that wait for upstreams and for the first sync have bounds of their own. This one is for both, and for
        // what is on its way out.
        let waiting_max = settings.limits.forwarded + settings.limits.waiting + BURST;
        let (notes, left) = Notes::begin(notes);
        let notes = Arc::new(notes);
        let mut udp = Self { socket, handler, notes, waiting: JoinSet::new(), waiting_max };
        for (note, client, query) in left {
            match parse(&query, client, Protocol::Udp) {
                Parsed::Request(request) if is_a_client(client) => udp.answer_later(request, Some(note)),
                _ => udp.notes.clear(note),
            }
        }
        udp
    }

    /// Answers until it is aborted.
    pub(super) async fn serve(mut self) {
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            let mut outcome = self.socket.ready(Interest::READABLE).await.map(drop);
            for _ in 0..BURST {
                if outcome.is_err() {
                    break;
                }
                outcome = self.answer_next(&mut buffer).await;
            }
            while self.waiting.try_join_next().is_some() {}
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Of an answer to a client that had closed its socket: read, and so gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot read what clients ask the resolver");
                    sleep(RETRY).await;
                }
                Ok(()) => tokio::task::yield_now().await,
            }
        }
    }

    /// Answers the query at the head of the queue, or has it answered when its answer is there.
    async fn answer_next(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let (length, client) = self.socket.try_peek_from(buffer)?;
        let query = &buffer[..length];
        let parsed = match is_a_client(client) {
            true => parse(query, client, Protocol::Udp),
            false => Parsed::Nothing,
        };
        match parsed {
            Parsed::Nothing => {}
            Parsed::Malformed(reply) => {
                self.handler.stats().count(Outcome::Malformed);
                send(&self.socket, &reply, client).await;
            }
            Parsed::Request(request) => match self.handler.reply_at_once(&request) {
                Some(reply) => send_reply(&self.socket, &self.handler, &request, &reply).await,
                None if self.waiting.len() < self.waiting_max => {
                    let note = self.notes.write(client, query);
                    self.answer_later(request, note);
                }
                None => {
                    send_reply(&self.socket, &self.handler, &request, &self.handler.over_limit()).await;
                }
            },
        }
        // Nobody else reads here, so this is the one that was looked at.
        self.socket.try_recv_from(&mut []).map(drop)
    }

    fn answer_later(&mut self, request: Box<Request>, note: Option<Note>) {
        // Weak: when the resolver has ended its socket is closed, whatever still waits.
        let (socket, handler) = (Arc::downgrade(&self.socket), Arc::clone(&self.handler));
        let notes = Arc::clone(&self.notes);
        self.waiting.spawn(async move {
            let reply = handler.reply(&request).await;
            let Some(socket) = socket.upgrade() else { return };
            send_reply(&socket, &handler, &request, &reply).await;
            note.into_iter().for_each(|note| notes.clear(note));
        });
    }
}

async fn send_reply(socket: &UdpSocket, handler: &Handler, request: &Request, reply: &reply::Reply) {
    match reply::encode_datagram(request, reply) {
        Ok((bytes, truncated)) => {
            if truncated {
                add(&handler.stats().truncated);
            }
            send(socket, &bytes, request.src()).await;
        }
        Err(error) => tracing::debug!(%error, "a reply could not be encoded"),
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "a reply was not sent");
    }
}

/// Port 0 cannot be answered, and an address of many must not be.
fn is_a_client(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}
