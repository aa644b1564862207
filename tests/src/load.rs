//! Traffic that goes on while something is broken, and single questions to servers.
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    shared: Arc<Shared>,
    thread: JoinHandle<Tally>,
}

/// Between a load and its thread.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    good: AtomicU64,
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
    /// From the begin to the end.
    pub ran: Duration,
    /// How much of that the thread was ready to run and had no processor.
    pub starved: Duration,
}

impl Tally {
    /// How often it worked in a second, on average.
    pub fn per_second(&self) -> f64 {
        self.good_f64() / self.ran.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn good_f64(&self) -> f64 {
        f64::from(u32::try_from(self.good).unwrap_or(u32::MAX))
    }

    /// What several that went on at the same time came to together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.good += other.good;
        for (said, count) in &other.failures {
            *self.failures.entry(said.clone()).or_default() += count;
        }
        if other.slowest > self.slowest {
            (self.slowest, self.slowest_at) = (other.slowest, other.slowest_at);
        }
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        (self.ran, self.starved) = (self.ran.max(other.ran), self.starved.max(other.starved));
        self
    }
}

impl Load {
    /// Does `work` every `interval`, or as fast as it goes where it takes longer.
    pub fn start(interval: Duration, mut work: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let with = Arc::clone(&shared);
        let pace = move |started: Instant| started + interval;
        let thread = std::thread::spawn(move || again_and_again(&with, pace, &mut work));
        Self { shared, thread }
    }

    /// Does `work` inside a namespace, each time `interval` after the last was due: what is late follows at once, so that
    /// the rate is kept over what slows single ones down.
    pub fn steady(
        namespace: &Namespace,
        interval: Duration,
        mut work: impl FnMut() -> io::Result<()> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (with, namespace) = (Arc::clone(&shared), namespace.clone());
        let mut due = Instant::now();
        let pace = move |_| {
            due += interval;
            due
        };
        let mut inside = move || namespace.run(|| again_and_again(&with, pace, &mut work));
        let thread = std::thread::spawn(move || inside().expect("a namespace"));
        Self { shared, thread }
    }

    /// Clients in one container that together make so many new connections a second; each reads a server's answer.
    pub fn clients(namespace: &Namespace, to: SocketAddr, count: u32, per_second: u32) -> Vec<Self> {
        let interval = Duration::from_secs(1) * count / per_second;
        (0..count).map(|_| Self::steady(namespace, interval, move || greeted(to))).collect()
    }

    /// New connections to a server, one after the other.
    pub fn connections(namespace: Namespace, to: SocketAddr, interval: Duration) -> Self {
        Self::start(interval, move || ask_tcp(&namespace, to, LIMIT).map(drop))
    }

    /// How often it has worked so far.
    pub fn good(&self) -> u64 {
        self.shared.good.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load's thread")
    }
}

fn again_and_again(
    shared: &Shared,
    mut next: impl FnMut(Instant) -> Instant,
    work: &mut dyn FnMut() -> io::Result<()>,
) -> Tally {
    let (began, starved) = (Instant::now(), starved());
    let (mut tally, mut last_good) = (Tally::default(), began);
    while !shared.stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        match work() {
            Ok(()) => {
                tally.good += 1;
                shared.good.store(tally.good, Ordering::Relaxed);
                tally.longest_gap = tally.longest_gap.max(last_good.elapsed());
                last_good = Instant::now();
            }
            Err(error) => *tally.failures.entry(error.to_string()).or_default() += 1,
        }
        if started.elapsed() > tally.slowest {
            tally.slowest = started.elapsed();
            tally.slowest_at = started - began;
        }
        pause(next(started).saturating_duration_since(Instant::now()));
    }
    tally.ran = began.elapsed();
    tally.starved = self::starved().saturating_sub(starved);
    tally
}

/// How long this thread has waited for a processor since its begin; zero where the kernel does not count.
fn starved() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// One connection from the thread's own namespace, up to the end of the server's answer.
fn greeted(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // Ended by a reset: 500 ports a second that rest for a minute would be more than there are.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    let mut bytes = [0; 128];
    let mut length = 0;
    while !bytes[..length].ends_with(b"\n") {
        match stream.read(&mut bytes[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    Ok(())
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

/// A process that does nothing but take time. Dropped, it is gone.
#[derive(Debug)]
pub struct Burner(Child);

impl Burner {
    /// Starts one.
    pub fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Self(command.spawn().expect("a shell"))
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        // It has not ended by itself.
        let _gone = (self.0.kill(), self.0.wait());
    }
}
