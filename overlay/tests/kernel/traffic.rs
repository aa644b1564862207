//! Real packets: datagrams, streams and raw frames, each with a deadline.
#![allow(unsafe_code, reason = "packet sockets have no safe wrapper here")]
#![allow(clippy::cast_possible_truncation, reason = "constants and sizes that are known to fit")]
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::bed::Namespace;

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence is waited for where nothing must arrive.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Sends a datagram until it is answered; the source that the server saw, or `None` after `patience`.
pub(crate) fn exchange(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
    size: usize,
    patience: Duration,
) -> Option<IpAddr> {
    let socket = server.run(|| UdpSocket::bind(SocketAddr::new(any(address), 0)).unwrap());
    let port = socket.local_addr().unwrap().port();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mine = client.run(|| UdpSocket::bind(SocketAddr::new(any(address), 0)).unwrap());
    mine.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let deadline = Instant::now() + patience;
    let mut buffer = vec![0; 65536];
    while Instant::now() < deadline {
        // An unreachable network is silence, too.
        let _ = mine.send_to(&vec![7; size], (address, port));
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            assert_eq!(length, size);
            socket.send_to(b"back", from).unwrap();
            if mine.recv_from(&mut buffer).is_ok() {
                return Some(from.ip());
            }
        }
    }
    None
}

pub(crate) fn reaches(client: &Namespace, server: &Namespace, address: &str) -> bool {
    exchange(client, server, address.parse().unwrap(), 100, PATIENCE).is_some()
}

pub(crate) fn is_silent(client: &Namespace, server: &Namespace, address: &str) -> bool {
    exchange(client, server, address.parse().unwrap(), 100, SILENCE).is_none()
}

/// Streams so many bytes to a server and back.
pub(crate) fn stream(client: &Namespace, server: &Namespace, address: IpAddr, size: usize) -> io::Result<()> {
    let listener = server.run(|| TcpListener::bind(SocketAddr::new(any(address), 0)))?;
    let port = listener.local_addr()?.port();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> io::Result<()> {
            let (mut socket, _) = listener.accept()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut all = vec![0; size];
            socket.read_exact(&mut all)?;
            socket.write_all(&all)
        });
        let mut socket =
            client.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&vec![3; size])?;
        let mut back = vec![0; size];
        socket.read_exact(&mut back)?;
        echo.join().unwrap()
    })
}

/// Sends one don't-fragment datagram; the error number, if the sender gets one at once.
pub(crate) fn send_unfragmented(from: &Namespace, to: IpAddr, size: usize) -> Option<i32> {
    let socket = from.run(|| UdpSocket::bind(SocketAddr::new(any(to), 0)).unwrap());
    let probe: libc::c_int = libc::IP_PMTUDISC_DO;
    // SAFETY: the option's value lives over the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            std::ptr::from_ref(&probe).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
    socket.send_to(&vec![1; size], (to, 9)).err().and_then(|error| error.raw_os_error())
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// A raw socket on one link.
pub(crate) struct Tap(OwnedFd);

impl Tap {
    pub(crate) fn open(namespace: &Namespace, link: &str) -> Self {
        let link = std::ffi::CString::new(link).unwrap();
        namespace.run(|| {
            // SAFETY: plain calls; results are checked, the descriptor is owned at once, the address is whole.
            unsafe {
                let all = (libc::ETH_P_ALL as u16).to_be();
                let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
                assert!(raw >= 0, "{}", io::Error::last_os_error());
                let socket = OwnedFd::from_raw_fd(raw);
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = all;
                address.sll_ifindex = libc::if_nametoindex(link.as_ptr()) as i32;
                assert!(address.sll_ifindex > 0, "no link {link:?}");
                let length = size_of::<libc::sockaddr_ll>() as u32;
                assert_eq!(libc::bind(raw, std::ptr::from_ref(&address).cast(), length), 0);
                let wait = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
                let size = size_of::<libc::timeval>() as u32;
                let option = std::ptr::from_ref(&wait).cast();
                libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, option, size);
                Self(socket)
            }
        })
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the frame lives over the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(usize::try_from(sent).ok(), Some(frame.len()), "{}", io::Error::last_os_error());
    }

    /// The first frame that fits, within `patience`.
    pub(crate) fn wait(&self, patience: Duration, fits: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 65536];
        while Instant::now() < deadline {
            // SAFETY: the buffer lives over the call and has the length given.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(got) else { continue };
            if fits(&buffer[..length]) {
                return Some(buffer[..length].to_vec());
            }
        }
        None
    }
}

/// An Ethernet frame.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An ARP packet (RFC 826): operation 1 asks, 2 answers.
pub(crate) fn arp(operation: u8, from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &from.0, &from.1.octets(), &to.0, &to.1.octets()].concat()
}

/// A UDP datagram in IPv4, checksums left out of UDP.
pub(crate) fn datagram(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(payload.len() + 8).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((udp_length + 20).to_be_bytes());
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    seal(&mut header);
    let udp =
        [&40000_u16.to_be_bytes()[..], &port.to_be_bytes(), &udp_length.to_be_bytes(), &[0, 0]].concat();
    [header, udp, payload.to_vec()].concat()
}

/// Writes the checksum of an IPv4 header without options (RFC 791).
fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// An IPv4 packet in two fragments, the first with so many bytes of payload, a multiple of 8.
pub(crate) fn in_two(packet: &[u8], first: u8) -> [Vec<u8>; 2] {
    let (header, payload) = packet.split_at(20);
    let (head, tail) = payload.split_at(first.into());
    [(0x20, 0, head), (0, first / 8, tail)].map(|(more, offset, part)| {
        let mut header = header.to_vec();
        header[2..4].copy_from_slice(&u16::try_from(part.len() + 20).unwrap().to_be_bytes());
        header[6..8].copy_from_slice(&[more, offset]);
        seal(&mut header);
        [&header, part].concat()
    })
}

/// A frame as VXLAN carries it (RFC 7348).
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let head = [&[8, 0, 0, 0][..], &vni.to_be_bytes()[1..], &[0]].concat();
    [&head[..], frame].concat()
}
