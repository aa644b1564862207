//! Sockets that paths to other hosts are tried with, and one that sees what arrives for a tunnel.
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rustix::net::{netdevice, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{Error, Namespace};

/// Answers of some seconds from hundreds of hosts.
const BUFFER_BYTES: usize = 4 << 20;
const PACKET_BYTES_MAX: usize = 65_536;
/// Enough of a packet to see who sent it.
const HEAD_BYTES: usize = 256;
/// Packets of a tap that are looked at in one turn.
const LOOKED_AT_MAX: usize = 64;

/// Sends whole packets and datagrams, and receives what ICMP says to either. None of it waits.
#[derive(Debug)]
pub struct ProbeSockets {
    icmp: Socket,
    udp: UdpSocket,
    buffer: Vec<u8>,
}

impl Namespace {
    /// Opens them inside.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open_probes(&self) -> Result<ProbeSockets, Error> {
        self.open_socket("the sockets of probes", || {
            let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            icmp.set_header_included_v4(true)?;
            icmp.set_nonblocking(true)?;
            // What some packet made the kernel believe of the path must not decide what others find.
            sockopt::set_ip_mtu_discover(&icmp, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
            // Beyond what net.core.rmem_max leaves to others.
            sockopt::set_socket_recv_buffer_size_force(&icmp, BUFFER_BYTES)?;
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            udp.set_nonblocking(true)?;
            Ok(ProbeSockets { icmp, udp, buffer: vec![0; PACKET_BYTES_MAX] })
        })
    }

    /// Opens a tap on what arrives in this namespace and passes the filter, before any rule judges it.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn tap_tunnel(&self, six: bool, filter: &[SockFilter]) -> Result<TunnelTap, Error> {
        let protocol = if six { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
        self.open_socket("a packet socket", || {
            let protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
            socket.attach_filter(filter)?;
            socket.set_nonblocking(true)?;
            Ok(TunnelTap { socket })
        })
    }
}

impl ProbeSockets {
    /// Sends a packet that has its own IP header.
    ///
    /// # Errors
    /// What send(2) returns; EMSGSIZE above the device's MTU.
    pub fn send_packet(&self, to: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        self.icmp.send_to(packet, &SocketAddr::from((to, 0)).into()).map(drop)
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// What send(2) returns.
    pub fn send_datagram(&self, to: Ipv4Addr, port: u16, content: &[u8]) -> io::Result<()> {
        self.udp.send_to(content, (to, port)).map(drop)
    }

    /// The index of a device of that name in this namespace.
    pub fn device(&self, name: &str) -> Option<u32> {
        netdevice::name_to_index(&self.udp, name).ok()
    }

    /// Shows every packet that has come in.
    pub fn receive(&mut self, mut see: impl FnMut(&[u8])) {
        // What a burst has filled is emptied in one turn; more comes with the next.
        for _ in 0..BUFFER_BYTES / HEAD_BYTES {
            match (&self.icmp).read(&mut self.buffer) {
                Ok(length) => see(self.buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Sees what arrives for a tunnel.
#[derive(Debug)]
pub struct TunnelTap {
    socket: Socket,
}

impl TunnelTap {
    /// Shows the heads of packets that have come in, from their IP header on.
    pub fn receive(&self, mut see: impl FnMut(&[u8])) {
        let mut buffer = [0; HEAD_BYTES];
        for _ in 0..LOOKED_AT_MAX {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => see(buffer.get(..length).unwrap_or_default()),
                Err(_) => return,
            }
        }
    }
}
