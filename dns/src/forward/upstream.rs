//! One server: how it is asked, how it is doing, and whether it asks us in turn.
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use hickory_proto::op::{DnsRequest, DnsResponse, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, DnsRequestSender};
use hickory_resolver::net::{DnsError, NetError};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams sent to a server for one query, each from a socket of its own.
const DATAGRAMS_MAX: u8 = 2;
/// Top-level domain of our markers, which nobody has.
const MARKER_DOMAIN: &str = "svc-agent-loop";
/// Between two markers sent to one server.
const MARKER_INTERVAL_MS: u64 = 10_000;

/// A server that forwarded queries are sent to. Times are milliseconds since the forwarder began.
///
/// It is asked with hickory's streams but without its pool (0.26.3): that goes on neither after SERVFAIL nor REFUSED nor
/// beyond two dead servers, sends a datagram three times from as many sockets, and knows no scoped address.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Until when it is asked last; 0: it does well.
    shunned_until_ms: AtomicU64,
    /// Until when it is not asked, since it asks us.
    loops_until_ms: AtomicU64,
    /// What a query of ours that comes back is known by.
    marker: u64,
    marker_due_ms: AtomicU64,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            shunned_until_ms: AtomicU64::new(0),
            loops_until_ms: AtomicU64::new(0),
            marker: rand::random(),
            marker_due_ms: AtomicU64::new(0),
        }
    }

    /// The reply to one query: over UDP, over TCP where that is truncated.
    pub(super) async fn ask(&self, request: DnsRequest, time_out: Duration) -> Result<DnsResponse, NetError> {
        let mut stream = UdpClientStream::builder(self.address, Connected::default())
            .with_timeout(Some(time_out))
            // The kernel's ephemeral ports: hickory's own choice (1,024 and up) could be 4789 or 14789, where replies
            // would run into the tunnel's filters.
            .with_os_port_selection(true)
            .with_max_retries(DATAGRAMS_MAX)
            .with_retry_interval_floor(u64::try_from(time_out.as_millis() / 2).unwrap_or(u64::MAX))
            .build();
        let reply = first(stream.send_message(request.clone())).await?;
        if !reply.truncation {
            return DnsError::from_response(reply).map_err(NetError::from);
        }
        // Its tasks end with it, and so does the connection.
        let provider = Connected::default();
        let stream = TcpClientStream::exchange(self.address, None, time_out, None, provider.clone()).await?;
        let reply = first(stream.send(request)).await?;
        DnsError::from_response(reply).map_err(NetError::from)
    }

    /// Whether it is to be asked before others. Once a penalty is over one query finds out how it does, and not all
    /// that come meanwhile.
    pub(super) fn is_preferred(&self, now_ms: u64, trial: Duration) -> bool {
        let until = self.shunned_until_ms.load(Ordering::Relaxed);
        let next = now_ms.saturating_add(millis(trial));
        until == 0
            || until <= now_ms
                && self
                    .shunned_until_ms
                    .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }

    pub(super) fn shun(&self, until_ms: u64) {
        self.shunned_until_ms.store(until_ms, Ordering::Relaxed);
    }

    pub(super) fn does_well(&self) {
        self.shunned_until_ms.store(0, Ordering::Relaxed);
    }

    pub(super) fn leave_out(&self, until_ms: u64) {
        self.loops_until_ms.store(until_ms, Ordering::Relaxed);
    }

    pub(super) fn is_left_out(&self, now_ms: u64) -> bool {
        self.loops_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Whether a question is this server's marker.
    pub(super) fn is_marked(&self, marker: u64) -> bool {
        self.marker == marker
    }

    /// The question that shows whether it asks us, unless that was found out just before.
    pub(super) fn marker_query(&self, now_ms: u64) -> Option<Query> {
        let due = self.marker_due_ms.load(Ordering::Relaxed);
        let next = now_ms.saturating_add(MARKER_INTERVAL_MS);
        let taken =
            self.marker_due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if due > now_ms || !taken {
            return None;
        }
        let name = Name::from_ascii(format!("{:016x}.{MARKER_DOMAIN}.", self.marker)).ok()?;
        Some(Query::query(name, RecordType::HINFO))
    }
}

/// The number in a marker's name.
pub(super) fn marker_in(name: &Name) -> Option<u64> {
    let mut labels = name.iter();
    let (number, domain, end) = (labels.next()?, labels.next()?, labels.next());
    if end.is_some() || !domain.eq_ignore_ascii_case(MARKER_DOMAIN.as_bytes()) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()
}

async fn first(
    mut replies: impl futures::Stream<Item = Result<DnsResponse, NetError>> + Unpin,
) -> Result<DnsResponse, NetError> {
    replies.next().await.unwrap_or(Err(NetError::NoConnections))
}

/// tokio's sockets, those of UDP connected: so a port that nobody listens at is known at once, by the ICMP error, which
/// Linux tells only a connected socket. (hickory sends with an address, which Linux allows on one.)
#[derive(Clone, Default)]
struct Connected(TokioRuntimeProvider);

impl RuntimeProvider for Connected {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = Socket;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        time_out: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.0.connect_tcp(server, bind, time_out)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(Socket(socket))
        })
    }
}

/// A socket whose reader is woken by an error, too: tokio's (1.54) is by data only.
struct Socket(UdpSocket);

#[async_trait::async_trait]
impl DnsUdpSocket for Socket {
    type Time = <TokioRuntimeProvider as RuntimeProvider>::Timer;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, context, buffer)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let error = || self.0.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
        loop {
            self.0.ready(Interest::READABLE | Interest::ERROR).await?;
            match self.0.try_recv_from(buffer) {
                Err(nothing) if nothing.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
            if let Ok(error) = self.0.try_io(Interest::ERROR, error) {
                return Err(error);
            }
        }
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.0, context, bytes, to)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
