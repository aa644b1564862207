//! How long connect(2) takes. A connection is closed by a reset, so that none lingers.
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::netns::Namespace;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::machine;
use crate::statistics::Summary;

/// Connections before the clock starts: neighbours are resolved, caches are filled.
const WARM_UP: usize = 3;

/// Accepts and closes whatever comes, in several namespaces. Dropped, it ends.
pub(crate) struct Acceptor {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Acceptor {
    /// Listens on one port in each namespace.
    pub(crate) fn start(namespaces: &[Namespace], port: u16) -> Result<Self> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let listen = || {
            let listener = TcpListener::bind(any)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = namespaces.iter().map(|namespace| namespace.open_socket("a listener", listen));
        let listeners: Vec<TcpListener> = listeners.collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let run = move || {
            machine::under_test(1);
            accept_until(&listeners, &seen);
        };
        let thread = std::thread::Builder::new().name("bench-accept".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn accept_until(listeners: &[TcpListener], stop: &AtomicBool) {
    let look = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let mut waiting: Vec<PollFd<'_>> =
        listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
    while !stop.load(Ordering::Relaxed) {
        let _interrupted = rustix::event::poll(&mut waiting, Some(&look));
        for (listener, poll) in listeners.iter().zip(&waiting) {
            while poll.revents().contains(PollFlags::IN) && listener.accept().is_ok() {}
        }
    }
}

/// From where to where; the targets are taken in turn.
pub(crate) struct Way {
    pub(crate) from: Namespace,
    pub(crate) to: Vec<SocketAddrV4>,
}

/// Median time of `count` connects each way, in microseconds. The ways take turns connect by connect.
pub(crate) fn round(ways: &[Way], count: usize, first: usize) -> Result<Vec<f64>> {
    let open = |way: &Way| {
        let sockets = || (0..count + WARM_UP).map(|_| socket()).collect::<std::io::Result<Vec<OwnedFd>>>();
        way.from.open_socket("sockets", sockets)
    };
    let mut sockets: Vec<std::vec::IntoIter<OwnedFd>> =
        ways.iter().map(|way| Ok(open(way)?.into_iter())).collect::<Result<_>>()?;
    let mut times = vec![Vec::with_capacity(count); ways.len()];
    let measured = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            machine::under_test(0);
            for turn in 0..count + WARM_UP {
                for ((way, sockets), times) in ways.iter().zip(&mut sockets).zip(&mut times) {
                    let Some(socket) = sockets.next() else { continue };
                    let target = way.to.get((first + turn) % way.to.len().max(1)).context("no target")?;
                    let begin = Instant::now();
                    rustix::net::connect(&socket, target).with_context(|| format!("connect to {target}"))?;
                    let elapsed = begin.elapsed();
                    if turn >= WARM_UP {
                        times.push(elapsed.as_secs_f64() * 1e6);
                    }
                }
            }
            anyhow::Ok(())
        });
        work.join().map_err(|_| anyhow::anyhow!("the connecting thread has panicked"))?
    });
    measured?;
    times.into_iter().map(|times| Ok(Summary::of(times).context("no connects")?.median)).collect()
}

fn socket() -> std::io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(socket)
}
