//! Tries in each attachment's namespace what its tables promise, and makes problems of what fails.
//!
//! What is tried is what the last round of the converge loop left in force. It costs an attachment two datagrams every
//! 1.5 s, and no socket stays open: what holds a namespace would outlive it.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::probing::Trial;
use crate::runtime::agent::Agent;

mod line;
mod prober;

use prober::Prober;

/// Answers are read, and what is due is sent, this often at most.
const TICK: Duration = Duration::from_millis(100);

/// What is tried for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub cookie: u64,
    /// Its name among problems.
    pub object: String,
    /// At least one.
    pub trials: Vec<Trial>,
}

/// Runs until the agent stops.
pub async fn run(agent: Arc<Agent>) {
    if !agent.settings.load().probes {
        return;
    }
    let mut shown = agent.probed.subscribe();
    let mut prober = Prober::new(Arc::clone(&agent));
    loop {
        let targets = Arc::clone(&shown.borrow_and_update());
        // Namespaces are entered and errors looked after by system calls that take their time where there are many.
        let turn = tokio::task::spawn_blocking(move || {
            prober.follow(&targets, Instant::now());
            let next = prober.turn(Instant::now());
            (prober, next)
        });
        let next;
        (prober, next) = match turn.await {
            Ok(turned) => turned,
            Err(error) => {
                tracing::error!("trials begin anew: {error}");
                (Prober::new(Arc::clone(&agent)), Some(Instant::now() + TICK))
            }
        };
        let earliest = tokio::time::Instant::now() + TICK;
        let idle = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = idle => {}
            changed = shown.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep_until(earliest).await;
    }
}
