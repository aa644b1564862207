//! The resolver of one namespace on sockets that the caller opened there.
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::answer::Ttls;
use crate::forward::Forwarder;
use crate::handle::ZoneHandle;
use crate::stats::Stats;
use handler::Handler;
use udp::Udp;

mod handler;
mod notes;
mod reply;
mod request;
mod tcp;
mod udp;

/// What one namespace's resolver works with. Whoever keeps these over a restart of the process loses no look-up by it.
#[derive(Debug)]
pub struct Sockets {
    /// Bound inside the namespace.
    pub udp: UdpSocket,
    /// Listening inside the namespace, on the same port.
    pub tcp: TcpListener,
    /// Where queries are noted that wait for upstreams: an empty file that can be read and written, best in memory, or the
    /// one of the resolver that had the sockets before. About a megabyte at most, nearly always one page.
    pub notes: File,
}

/// What bounds one namespace's resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Forwarded queries under way or waiting for room; one more is SERVFAIL. Names of our own never wait for these.
    pub forwarded: usize,
    /// Queries that wait for the first sync; one more is SERVFAIL.
    pub waiting: usize,
    /// TCP connections; one more waits in the listener's backlog.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { forwarded: 1_024, waiting: 128, connections: 64 }
    }
}

/// Settings of a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// How long answers may be kept.
    pub ttls: Ttls,
    /// What bounds it.
    pub limits: Limits,
    /// How long a name that we may not have learned yet is waited for, before the first sync.
    pub sync_wait: Duration,
    /// How long a TCP connection may stay idle, or take to read what we wrote.
    pub idle: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            ttls: Ttls::default(),
            limits: Limits::default(),
            sync_wait: Duration::from_secs(1),
            idle: Duration::from_secs(5),
        }
    }
}

/// Why a resolver does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The UDP socket could not be given to the runtime; it is closed.
    #[error("cannot serve names on the UDP socket")]
    Udp(#[source] std::io::Error),
    /// The TCP listener could not be given to the runtime; both sockets are closed.
    #[error("cannot serve names on the TCP listener")]
    Tcp(#[source] std::io::Error),
}

/// A running resolver. Dropping it ends it and closes its sockets (not other descriptors of them).
pub struct Server {
    loops: JoinSet<()>,
    udp: Arc<tokio::net::UdpSocket>,
    tcp: Arc<tokio::net::TcpListener>,
    notes: Arc<File>,
}

impl Server {
    /// Serves on sockets that were opened and bound inside the namespace. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When a socket cannot be made non-blocking or registered with the runtime; nothing is served then.
    pub fn start(
        sockets: Sockets,
        zone: ZoneHandle,
        forwarder: Forwarder,
        stats: Arc<Stats>,
        settings: ServerSettings,
    ) -> Result<Self, ServerError> {
        let Sockets { udp, tcp, notes } = sockets;
        let asynchronous = udp.set_nonblocking(true).and_then(|()| tokio::net::UdpSocket::from_std(udp));
        let socket = asynchronous.map_err(ServerError::Udp)?;
        let asynchronous = tcp.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(tcp));
        let listener = asynchronous.map_err(ServerError::Tcp)?;

        let handler = Arc::new(Handler::new(zone, forwarder, stats, settings));
        let (udp, tcp, notes) = (Arc::new(socket), Arc::new(listener), Arc::new(notes));
        let mut loops = JoinSet::new();
        loops.spawn(Udp::new(Arc::clone(&udp), Arc::clone(&notes), Arc::clone(&handler), settings).serve());
        loops.spawn(tcp::serve(Arc::clone(&tcp), handler, settings));
        Ok(Self { loops, udp, tcp, notes })
    }

    /// What it was started with ([`Sockets`], in this order), for whoever is to keep it.
    pub fn files(&self) -> [BorrowedFd<'_>; 3] {
        [self.udp.as_fd(), self.tcp.as_fd(), self.notes.as_fd()]
    }

    /// Ends it. Queries under way are dropped, and so are their clients' connections; the sockets are closed on return.
    pub async fn stop(mut self) {
        self.loops.shutdown().await;
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}
