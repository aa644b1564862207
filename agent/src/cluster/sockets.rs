//! Opens the sockets that frames are taken on.
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes of datagrams that wait to be read; the kernel may grant less.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {listen} ({transport}); another process may use it, or the address is not this host's"
)]
pub struct SocketError {
    listen: SocketAddr,
    transport: &'static str,
    #[source]
    source: io::Error,
}

/// Opens both sockets, or none.
pub(super) fn open(listen: SocketAddr) -> Result<(UdpSocket, TcpListener), SocketError> {
    let failed = |transport| move |source| SocketError { listen, transport, source };
    let udp = open_udp(listen).map_err(failed("UDP"))?;
    let tcp = open_tcp(listen).map_err(failed("TCP"))?;
    Ok((udp, tcp))
}

fn new(listen: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), kind, Some(protocol))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_udp(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new(listen, Type::DGRAM, Protocol::UDP)?;
    // A smaller buffer loses gossip under load, which repeats itself.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.bind(&SockAddr::from(listen))?;
    UdpSocket::from_std(socket.into())
}

fn open_tcp(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(listen, Type::STREAM, Protocol::TCP)?;
    // Connections of the process before linger in TIME_WAIT for a minute.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(listen))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
