//! Health checks, run inside the replica's own namespace by its own host.
//!
//! The rule is pure ([`Judge`]); a task per checked replica feeds it and reports what changed.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use crate::catalog::facts::{Check, Health, Probe};
use crate::netns::{self, Namespace};

#[cfg(test)]
mod tests;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Connected (TCP), or answered 2xx or 3xx (HTTP).
    Passed,
    /// An answer that says no: refused, reset, or another status.
    Refused(String),
    /// Nothing within the time-out.
    TimedOut,
}

/// Decides a replica's health from outcomes: serving after the first success, failing at once on a
/// refusal, and after `failures` time-outs in a row.
#[derive(Clone, Debug)]
pub struct Judge {
    health: Health,
    timeouts: u32,
    failures: u32,
}

impl Judge {
    /// Goes on from what the replica's fact says, so that one which died while nobody looked is found out. A drained
    /// one may have established flows, and whether it serves is not known: as one that fails.
    pub fn new(stands: Health, failures: u32) -> Self {
        let health = if stands == Health::Draining { Health::Failing } else { stands };
        Self { health, timeouts: 0, failures: failures.max(1) }
    }

    /// The health after what was judged so far.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes an outcome in; returns the health after it.
    pub fn judge(&mut self, outcome: &Outcome) -> Health {
        match outcome {
            Outcome::Passed => {
                self.timeouts = 0;
                self.health = Health::Serving;
            }
            Outcome::Refused(_) => {
                self.timeouts = 0;
                self.fail();
            }
            Outcome::TimedOut => {
                self.timeouts = self.timeouts.saturating_add(1);
                if self.timeouts >= self.failures {
                    self.fail();
                }
            }
        }
        self.health
    }

    /// A replica that never served stays "starting": it has nothing to fail from.
    fn fail(&mut self) {
        if self.health == Health::Serving {
            self.health = Health::Failing;
        }
    }
}

/// A change of health; what the first conclusive check found; or another reason not to serve than the last one.
#[derive(Clone, Debug)]
pub struct Verdict<K> {
    /// Which replica.
    pub replica: K,
    /// Its health now.
    pub health: Health,
    /// Why, in words.
    pub reason: String,
}

/// Runs `check` against `address` inside `namespace` until the receiver is gone or the task is aborted.
pub async fn run<K: Clone>(
    replica: K,
    mut judge: Judge,
    check: Check,
    namespace: Arc<Namespace>,
    address: IpAddr,
    verdicts: mpsc::Sender<Verdict<K>>,
) {
    let mut told: Option<(Health, String)> = None;
    let began = judge.health();
    let mut ticks = tokio::time::interval(Duration::from_millis(check.interval_ms.clamp(100, 3_600_000)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = probe(&check, &namespace, address).await;
        let health = judge.judge(&outcome);
        let reason = describe(&outcome, &check, address);
        if is_news(told.as_ref(), began, health, &outcome, &reason) {
            told = Some((health, reason.clone()));
            if verdicts.send(Verdict { replica: replica.clone(), health, reason }).await.is_err() {
                return;
            }
        }
    }
}

/// Whether anybody is to hear of an outcome. One time-out of a replica that serves says nothing yet.
fn is_news(
    told: Option<&(Health, String)>,
    began: Health,
    health: Health,
    outcome: &Outcome,
    reason: &str,
) -> bool {
    match told {
        None => health != began || health != Health::Serving || *outcome == Outcome::Passed,
        Some((last, why)) => health != *last || (health != Health::Serving && why != reason),
    }
}

fn describe(outcome: &Outcome, check: &Check, address: IpAddr) -> String {
    let target = match &check.probe {
        Probe::Tcp { port } => format!("tcp {}", SocketAddr::new(address, *port)),
        Probe::Http { port, path } => format!("http {}{path}", SocketAddr::new(address, *port)),
    };
    match outcome {
        Outcome::Passed => format!("check of {target} passed"),
        Outcome::Refused(why) => format!("check of {target} failed: {why}"),
        Outcome::TimedOut => format!("check of {target} timed out after {} ms", check.timeout_ms),
    }
}

async fn probe(check: &Check, namespace: &Namespace, address: IpAddr) -> Outcome {
    let limit = Duration::from_millis(check.timeout_ms.max(1));
    match tokio::time::timeout(limit, attempt(&check.probe, namespace, address, limit)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Outcome::TimedOut,
    }
}

async fn attempt(probe: &Probe, namespace: &Namespace, address: IpAddr, limit: Duration) -> Outcome {
    let port = match probe {
        Probe::Tcp { port } | Probe::Http { port, .. } => *port,
    };
    let stream = match netns::connect_in(namespace, SocketAddr::new(address, port), limit).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Outcome::TimedOut,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    match probe {
        Probe::Tcp { .. } => Outcome::Passed,
        Probe::Http { path, .. } => match http_status(stream, address, path).await {
            Ok(status) if status.is_success() || status.is_redirection() => Outcome::Passed,
            Ok(status) => Outcome::Refused(format!("it answered {status}")),
            Err(error) => Outcome::Refused(error),
        },
    }
}

async fn http_status(
    stream: tokio::net::TcpStream,
    address: IpAddr,
    path: &str,
) -> Result<hyper::StatusCode, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, host)
        .header(hyper::header::USER_AGENT, concat!("svc-agent/", env!("CARGO_PKG_VERSION")))
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    // The connection is driven here and not in a task of its own, so nothing outlives the check.
    let answer = async { sender.send_request(request).await };
    tokio::pin!(answer);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // An answer that came together with the connection's end is there by now; else this is the error.
        _ended = connection => answer.await,
    };
    answer.map(|answer| answer.status()).map_err(|error| error.to_string())
}
