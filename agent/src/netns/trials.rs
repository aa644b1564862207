//! Sockets of trials, opened in many namespaces in one go.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::{Error, Namespace, enter};

/// How a trial's UDP socket is opened. It never waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// As a program opens it that asks one server: the source is the kernel's choice, and refusals are told.
    Connected(SocketAddr),
    /// At an own address and any port, to be sent something by itself.
    Bound(IpAddr),
}

impl Namespace {
    /// Opens sockets, each in its namespace, on one thread, which costs a fraction of a thread for each. What could not be
    /// opened has its error in its place.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn open_trials(wanted: &[(Self, Opening)]) -> Result<Vec<io::Result<UdpSocket>>, Error> {
        enter::on_thread(|| {
            let mut inside = None;
            let open_in = |(namespace, opening): &(Self, Opening)| {
                if inside != Some(namespace.cookie()) {
                    inside = None;
                    enter::join_network(namespace.as_fd())?;
                    inside = Some(namespace.cookie());
                }
                open(*opening)
            };
            wanted.iter().map(open_in).collect()
        })
    }
}

fn open(opening: Opening) -> io::Result<UdpSocket> {
    let socket = match opening {
        Opening::Bound(own) => UdpSocket::bind((own, 0))?,
        Opening::Connected(to) if to.is_ipv4() => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        Opening::Connected(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.set_nonblocking(true)?;
    match opening {
        Opening::Connected(to) => socket.connect(to)?,
        // A network's first address was one of broadcasts before kernel 5.14.
        Opening::Bound(own) if own.is_ipv4() => socket.set_broadcast(true)?,
        Opening::Bound(_) => {}
    }
    Ok(socket)
}
