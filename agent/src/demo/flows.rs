//! A client that connects all the time, whatever becomes of its connections.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::error::Error;
use super::gap::Attempt;
use crate::netns::Namespace;

/// Between the beginnings of two connections.
pub(super) const INTERVAL: Duration = Duration::from_millis(5);
/// After that long without an answer a connection has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(1);
/// Connections of one client; it ends there.
const ATTEMPTS_MAX: usize = 20_000;

/// The client. Dropped, it stops.
pub(super) struct Flows {
    started: Instant,
    stop: Arc<AtomicBool>,
    /// In order of their ends.
    attempts: Arc<Mutex<Vec<Attempt>>>,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    /// Begins a connection from inside the namespace every [`INTERVAL`], not waiting for earlier ones.
    pub(super) fn start(place: &str, namespace: &Namespace, to: SocketAddr) -> Result<Self, Error> {
        let (started, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let (record, stopped, namespace) = (Arc::clone(&attempts), Arc::clone(&stop), namespace.clone());
        let failed = |what| move |source| Error::Do { what, place: place.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed("start the client's runtime"))?;
        let client = move || {
            let connect = connect_until(&stopped, started, to, &record);
            // A thread that cannot enter the namespace records nothing, which whoever waits will see.
            let _not_entered = namespace.run(|| runtime.block_on(connect));
        };
        let thread = std::thread::Builder::new().name("client".to_owned()).spawn(client);
        Ok(Self { started, stop, attempts, thread: Some(thread.map_err(failed("start the client"))?) })
    }

    /// Now, as the attempts' times count it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The connections that have ended so far.
    pub(super) fn so_far(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, waits for the connections that are under way, and returns all.
    pub(super) fn finish(mut self) -> Vec<Attempt> {
        self.stop();
        self.so_far()
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

async fn connect_until(stop: &AtomicBool, started: Instant, to: SocketAddr, record: &Mutex<Vec<Attempt>>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut open = JoinSet::new();
    for _ in 0..ATTEMPTS_MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::select! {
            _ = ticks.tick() => {
                let at = started.elapsed();
                open.spawn(async move { Attempt { at, answer: ask(to).await } });
            }
            Some(ended) = open.join_next() => note(record, ended),
        }
    }
    while let Some(ended) = open.join_next().await {
        note(record, ended);
    }
}

fn note(record: &Mutex<Vec<Attempt>>, ended: Result<Attempt, tokio::task::JoinError>) {
    if let Ok(attempt) = ended {
        record.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
    }
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
