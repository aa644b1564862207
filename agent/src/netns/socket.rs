//! Sockets and handles that are opened inside a namespace and used outside it.
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Deref;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::AsyncSocket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::{Error, Namespace};

/// Where a container's resolver is reached (the redirect of port 53 leads to a high port of it).
const RESOLVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Ports tried first: above the default of `ip_local_port_range`, where neither services nor clients are found.
const RESOLVER_PORTS: std::ops::RangeInclusive<u16> = 61_053..=65_453;
const RESOLVER_PORT_STEP: usize = 100;
/// Tries to get one port for both protocols from what the kernel picks, once all of [`RESOLVER_PORTS`] are taken.
const ANY_PORT_TRIES: usize = 16;
/// Look-ups wait here while the agent restarts. The kernel caps it at `net.core.rmem_max` (and doubles it).
const RESOLVER_BUFFER_BYTES: usize = 1 << 20;
const LOOPBACK_INDEX: u32 = 1;
/// The kernel caps it at `net.core.somaxconn`.
const RESOLVER_BACKLOG: i32 = 1024;

/// The resolver's sockets, non-blocking, both on 127.0.0.11 and on one port.
#[derive(Debug)]
pub struct ResolverSockets {
    /// For `tokio::net::UdpSocket::from_std`.
    pub udp: UdpSocket,
    /// For `tokio::net::TcpListener::from_std`; listens already.
    pub tcp: TcpListener,
    /// Where 127.0.0.11:53 is to be redirected to.
    pub port: u16,
}

/// A route netlink handle into a namespace. Dropping it ends the connection's task and so closes the socket, which
/// would keep the namespace alive; a clone of the inner handle then fails with `RequestFailed`.
pub struct Netlink {
    handle: rtnetlink::Handle,
    port: u32,
    task: JoinHandle<()>,
}

impl Netlink {
    /// The number by which the kernel knows this socket in its namespace.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Whether the socket has closed itself, as it does with the first error of its own: there was no memory for a
    /// request, as an example. What is asked of it then fails for ever.
    pub fn is_closed(&self) -> bool {
        self.task.is_finished()
    }

    /// Closes the socket before it returns; a drop closes it soon after.
    pub async fn close(mut self) {
        self.task.abort();
        // It says "cancelled", which is what was asked for.
        let _ended = (&mut self.task).await;
    }
}

impl Deref for Netlink {
    type Target = rtnetlink::Handle;
    fn deref(&self) -> &Self::Target {
        &self.handle
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Namespace {
    /// Brings `lo` up and binds the resolver's sockets.
    ///
    /// # Errors
    /// [`Error::Socket`]; EADDRINUSE when no port was free for both protocols.
    pub fn bind_resolver(&self) -> Result<ResolverSockets, Error> {
        self.open_socket("the resolver's sockets", bind_resolver_here)
    }

    /// Opens route netlink inside, driven by the current runtime.
    ///
    /// # Errors
    /// [`Error::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn rtnetlink(&self) -> Result<Netlink, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle, port) = self.open_socket("route netlink", || {
            let _entered = runtime.enter();
            let (mut connection, handle, _) = rtnetlink::new_connection()?;
            // It would be bound with the first request.
            let address = connection.socket_mut().socket_mut().bind_auto()?;
            Ok((connection, handle, address.port_number()))
        })?;
        Ok(Netlink { handle, port, task: runtime.spawn(connection) })
    }
}

/// Opens a TCP connection from inside a namespace, in the caller's runtime.
///
/// # Errors
/// `TimedOut` when nothing answered within `timeout`, `ConnectionRefused` when the other side said no, and what
/// else connect(2) returns; [`Error`] in an error of kind `Other` when no socket could be had.
pub async fn connect_in(namespace: &Namespace, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = namespace
        .open_socket("a TCP socket", || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })
        .map_err(io::Error::other)?;
    tokio::time::timeout(timeout, socket.connect(to))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn bind_resolver_here() -> io::Result<ResolverSockets> {
    // A socket that is bound to 127.0.0.11 while that is nobody's address never sends from it: its answers would come
    // from 127.0.0.1, and no client would take them (net/ipv4/af_inet.c, __inet_bind: inet_saddr stays 0).
    bring_loopback_up()?;
    let fixed = RESOLVER_PORTS.step_by(RESOLVER_PORT_STEP);
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for port in fixed.chain(std::iter::repeat_n(0, ANY_PORT_TRIES)) {
        match bind_resolver_at(port) {
            Ok(sockets) => return Ok(sockets),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// In the calling thread's namespace; nothing changes where it is up.
fn bring_loopback_up() -> io::Result<()> {
    let mut link = LinkMessage::default();
    // The first link of each namespace (net/core/dev.c, loopback_net_init).
    link.header.index = LOOPBACK_INDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
    // The kernel answers before the send returns.
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

fn bind_resolver_at(port: u16) -> io::Result<ResolverSockets> {
    let udp = resolver_socket(Type::DGRAM, Protocol::UDP, port)?;
    udp.set_recv_buffer_size(RESOLVER_BUFFER_BYTES)?;
    let udp = UdpSocket::from(udp);
    let port = udp.local_addr()?.port();
    let tcp = resolver_socket(Type::STREAM, Protocol::TCP, port)?;
    tcp.listen(RESOLVER_BACKLOG)?;
    Ok(ResolverSockets { udp, tcp: tcp.into(), port })
}

fn resolver_socket(kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // Somebody may have taken 127.0.0.1/8 from lo, and 127.0.0.11 with it.
    socket.set_freebind_v4(true)?;
    socket.bind(&SockAddr::from(SocketAddr::from((RESOLVER_ADDRESS, port))))?;
    Ok(socket)
}
