//! Notices that something in a namespace has changed, whoever changed it.
//!
//! What the kernel says is not read, only that it says something: what is there is looked at afterwards, as a whole.
//! So an event that was lost, or misread, can do no harm.
use std::io;
use std::time::Duration;

use futures::FutureExt;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use tokio::task::JoinHandle;

use super::{Error, Namespace};

/// Events come in bursts; they are one change when they are this close together.
const GATHER: Duration = Duration::from_millis(10);
/// Room for a burst. When it overflows the kernel says so once, which is an event like any other.
const BUFFER_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 16;

// Groups of include/uapi/linux/rtnetlink.h, RTNLGRP_*.
const LINKS: u32 = 1;
const NEIGHBOURS: u32 = 3;
const FOUR_ADDRESSES: u32 = 5;
const FOUR_ROUTES: u32 = 7;
const SIX_ADDRESSES: u32 = 9;
const SIX_ROUTES: u32 = 11;
/// Forwarding and the reverse-path filter, of all sysctls the only ones that are told of.
const FOUR_SETTINGS: u32 = 24;
const SIX_SETTINGS: u32 = 25;
/// NFNLGRP_NFTABLES (include/uapi/linux/netfilter/nfnetlink.h).
const TABLES: u32 = 7;

/// Whose namespace it is: what is worth hearing of there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The host's own. Not its neighbours and routes, which change all the time and hold nothing of ours.
    Host,
    /// A network's.
    Network,
    /// A container's. Not its neighbours, and not its tables: each change of any table in any namespace would be offered to
    /// each of a thousand listeners (net/netlink/af_netlink.c, netlink_broadcast_filtered); to ask for the number of
    /// a ruleset costs less.
    Container,
}

/// What has changed in a namespace. The greater may be both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Links, or what they carry.
    Links,
    /// nf_tables tables.
    Tables,
}

impl Concern {
    fn groups(self) -> &'static [u32] {
        match self {
            Self::Host => &[LINKS, FOUR_ADDRESSES, SIX_ADDRESSES, FOUR_SETTINGS, SIX_SETTINGS],
            Self::Container => &[LINKS, FOUR_ADDRESSES, SIX_ADDRESSES, FOUR_ROUTES, SIX_ROUTES],
            Self::Network => &[
                LINKS,
                NEIGHBOURS,
                FOUR_ADDRESSES,
                SIX_ADDRESSES,
                FOUR_ROUTES,
                SIX_ROUTES,
                FOUR_SETTINGS,
                SIX_SETTINGS,
            ],
        }
    }
}

/// Listens in a namespace. Dropped, it ends, and its sockets, which would keep the namespace alive, are closed.
#[derive(Debug)]
pub struct Monitor {
    task: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Namespace {
    /// Calls `changed` with what it was soon after anything of concern has changed inside: links, addresses, forwarding
    /// entries; or tables. What is said to come from one of the `own` sockets (their port numbers) does not count; the
    /// kernel does not always say (forwarding entries; links before 6.2), so our own changes are heard of too.
    ///
    /// # Errors
    /// [`Error::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn monitor(
        &self,
        concern: Concern,
        own: Vec<u32>,
        changed: impl Fn(Changed) + Send + Sync + 'static,
    ) -> Result<Monitor, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (route, tables) = self.open_socket("the sockets of a monitor", || {
            let _entered = runtime.enter();
            let tables = (concern != Concern::Container).then(|| listen(NETLINK_NETFILTER, &[TABLES]));
            Ok((listen(NETLINK_ROUTE, concern.groups())?, tables.transpose()?))
        })?;
        let task = runtime.spawn(async move {
            loop {
                let (what, sender) = tokio::select! {
                    sender = sender(&route) => (Changed::Links, sender),
                    sender = sender_in(tables.as_ref()) => (Changed::Tables, sender),
                };
                match sender {
                    Ok(sender) if own.contains(&sender) => {}
                    Ok(_) => {
                        tokio::time::sleep(GATHER).await;
                        drop(drain(&route));
                        // Whose they are is looked at here too: whoever adds a link adds tables of his own with it.
                        let senders = tables.as_ref().map(drain).unwrap_or_default();
                        let foreign = senders.iter().any(|sender| !own.contains(sender));
                        changed(if foreign { Changed::Tables } else { what });
                    }
                    Err(error) => return tracing::error!("changes are not heard of any more: {error}"),
                }
            }
        });
        Ok(Monitor { task })
    }
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    // A default that is larger does no harm either.
    let _kept = rustix::net::sockopt::set_socket_recv_buffer_size(socket.socket_ref(), BUFFER_BYTES);
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

/// The port number of the socket that asked for the next change; 0 of the kernel's own, and where it does not say.
async fn sender(socket: &TokioSocket) -> io::Result<u32> {
    // A netlink header, of which the last four bytes are the port (include/uapi/linux/netlink.h).
    let mut head = Vec::with_capacity(HEADER_BYTES);
    match socket.recv(&mut head).await {
        // Some of it was lost.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
        Err(error) => Err(error),
        Ok(()) => Ok(head.get(12..16).and_then(|port| port.try_into().ok()).map_or(0, u32::from_ne_bytes)),
    }
}

/// As [`sender`]; without a socket it waits for ever.
async fn sender_in(socket: Option<&TokioSocket>) -> io::Result<u32> {
    match socket {
        Some(socket) => sender(socket).await,
        None => std::future::pending().await,
    }
}

/// Takes what is there; whose changes they were.
fn drain(socket: &TokioSocket) -> Vec<u32> {
    std::iter::from_fn(|| sender(socket).now_or_never()?.ok()).collect()
}
