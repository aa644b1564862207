//! Traffic that goes on while something is broken, and single questions to servers.
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::bed::{Answer, Spread, ask_tcp, ask_udp, spread};
use agent::netns::Namespace;

use crate::cluster::Cluster;
use crate::precedence;
use crate::vm::patient;
use crate::wait::pause;

const LIMIT: Duration = Duration::from_secs(3);

/// Something done again and again on a thread of its own.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it worked.
    pub good: u64,
    /// How often it failed, by what was said.
    pub failures: BTreeMap<String, u64>,
    /// The slowest.
    pub slowest: Duration,
    /// When the slowest began, from the start of it all.
    pub slowest_at: Duration,
    /// The longest time between two that worked.
    pub longest_gap: Duration,
}

impl Load {
    /// Does `work` every `interval`, or as fast as it goes where it takes longer.
    pub fn start(interval: Duration, mut work: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let (mut tally, mut last_good) = (Tally::default(), began);
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                match work() {
                    Ok(()) => {
                        tally.good += 1;
                        tally.longest_gap = tally.longest_gap.max(last_good.elapsed());
                        last_good = Instant::now();
                    }
                    Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
                }
                if started.elapsed() > tally.slowest {
                    tally.slowest = started.elapsed();
                    tally.slowest_at = started - began;
                }
                pause(interval.saturating_sub(started.elapsed()));
            }
            tally
        });
        Self { stop, thread }
    }

    /// New connections to a server, one after the other.
    pub fn connections(namespace: Namespace, to: SocketAddr, interval: Duration) -> Self {
        Self::start(interval, move || ask_tcp(&namespace, to, LIMIT).map(drop))
    }

    /// Ends it.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load's thread")
    }
}

impl Cluster {
    /// One TCP question to a name server of the bed.
    pub fn tcp(&self, from: &str, to: IpAddr, port: u16) -> io::Result<Answer> {
        ask_tcp(&self.namespace(from), SocketAddr::new(to, port), patient(LIMIT))
    }

    /// One UDP question to a name server of the bed.
    pub fn udp(&self, from: &str, to: IpAddr, port: u16) -> io::Result<Answer> {
        ask_udp(&self.namespace(from), SocketAddr::new(to, port), patient(LIMIT))
    }

    /// Many TCP questions, one after the other, none of which may fail.
    pub fn spread(&self, from: &str, to: IpAddr, port: u16, count: usize) -> Spread {
        let spread =
            spread(&self.namespace(from), SocketAddr::new(to, port), count, LIMIT).expect("a namespace");
        assert!(spread.failures.is_empty(), "{from} to {to}:{port}: {spread:?}");
        spread
    }

    /// The error of a connection that must be refused, and how long it took: by the system, not by this process's wait
    /// for its turn on a busy machine.
    pub fn refusal(&self, from: &str, to: IpAddr, port: u16, udp: bool) -> (io::ErrorKind, Duration) {
        let refuse = || {
            // Where it is not permitted the bounds hold on an idle machine.
            let _not_permitted = precedence::take();
            let started = Instant::now();
            let answer = if udp { self.udp(from, to, port) } else { self.tcp(from, to, port) };
            (answer, started.elapsed())
        };
        let ended = std::thread::scope(|scope| scope.spawn(refuse).join());
        match ended.expect("a thread of its own") {
            (Ok(answer), _) => panic!("{from} to {to}:{port}: {} answers", answer.name),
            (Err(error), took) => (error.kind(), took),
        }
    }
}
