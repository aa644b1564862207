//! A client that connects all the time, whatever becomes of its connections.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::error::Error;
use super::gap::Attempt;
use crate::bed;
use crate::netns::Namespace;

/// Between the beginnings of two connections.
pub(super) const INTERVAL: Duration = Duration::from_millis(5);
/// After that long without an answer a connection has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(1);
/// Connections of one client; it ends there.
const ATTEMPTS_MAX: usize = 20_000;

/// What the client did.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// Connections that have ended, in order of their ends.
    pub(super) attempts: Vec<Attempt>,
    /// When those were begun that are under way.
    under_way: BTreeSet<Duration>,
    /// When the last one was begun.
    last: Duration,
}

impl Record {
    /// Until when it is complete: of every connection begun before, it is known what became of it.
    pub(super) fn settled(&self) -> Duration {
        self.under_way.first().copied().unwrap_or(self.last)
    }

    pub(super) fn begun(&mut self, at: Duration) {
        self.under_way.insert(at);
        self.last = at;
    }

    pub(super) fn ended(&mut self, attempt: Attempt) {
        self.under_way.remove(&attempt.at);
        self.attempts.push(attempt);
    }
}

/// The client. Dropped, it stops.
pub(super) struct Flows {
    started: Instant,
    stop: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    /// Begins a connection from inside the namespace every [`INTERVAL`], not waiting for earlier ones.
    pub(super) fn start(place: &str, namespace: &Namespace, to: SocketAddr) -> Result<Self, Error> {
        let (started, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let record = Arc::new(Mutex::new(Record::default()));
        let (noted, stopped, namespace) = (Arc::clone(&record), Arc::clone(&stop), namespace.clone());
        let failed = |what| move |source| Error::Do { what, place: place.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("start the client's runtime"))?;
        let client = move || {
            // A client that waits for its turn and then hurries sees failures that are its own.
            bed::take_precedence();
            let connect = connect_until(&stopped, started, to, &noted);
            // A thread that cannot enter the namespace records nothing, which whoever waits will see.
            let _not_entered = namespace.run(|| runtime.block_on(connect));
        };
        let thread = std::thread::Builder::new().name("client".to_owned()).spawn(client);
        Ok(Self { started, stop, record, thread: Some(thread.map_err(failed("start the client"))?) })
    }

    /// Now, as the attempts' times count it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What it has done so far.
    pub(super) fn so_far(&self) -> Record {
        locked(&self.record).clone()
    }

    /// Stops, waits for the connections that are under way, and returns all.
    pub(super) fn finish(mut self) -> Vec<Attempt> {
        self.stop();
        self.so_far().attempts
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic would have been printed; the record is what it is.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn connect_until(stop: &AtomicBool, started: Instant, to: SocketAddr, record: &Mutex<Record>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut open = JoinSet::new();
    for _ in 0..ATTEMPTS_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::select! {
            _ = ticks.tick() => {
                let at = started.elapsed();
                locked(record).begun(at);
                open.spawn(async move { Attempt { at, answer: ask(to).await } });
            }
            Some(ended) = open.join_next() => note(record, ended),
        }
    }
    while let Some(ended) = open.join_next().await {
        note(record, ended);
    }
}

fn note(record: &Mutex<Record>, ended: Result<Attempt, tokio::task::JoinError>) {
    if let Ok(attempt) = ended {
        locked(record).ended(attempt);
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the server that answers a new connection.
async fn ask(to: SocketAddr) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let mut bytes = [0; 256];
        let length = stream.read(&mut bytes).await.ok()?;
        let line = std::str::from_utf8(bytes.get(..length)?).ok()?;
        Some(line.split_once(' ')?.0.to_owned())
    };
    tokio::time::timeout(LIMIT, ask).await.ok().flatten()
}
