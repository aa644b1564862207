//! What the service manager is told (sd_notify): when this host is ready, why it is not yet, and that it lives.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::runtime::agent::Agent;
use crate::runtime::events::lock;

/// Between two looks at whether the host is ready.
const INTERVAL: Duration = Duration::from_millis(100);

/// Whether this host does its work, or why not yet.
///
/// # Errors
/// What is missing.
pub fn readiness(agent: &Agent) -> Result<(), &'static str> {
    let (number, synced) = agent.read(|state| (state.books.promises.number(), state.synced));
    if agent.is_removed() {
        return Err("this host was removed from its cluster");
    }
    if number.is_none() {
        return Err("this host has not joined its cluster yet");
    }
    if !synced {
        return Err("this host has not synced with another one yet");
    }
    if agent.applied.borrow().is_empty() {
        return Err("nothing has been applied yet");
    }
    Ok(())
}

/// Says once that the host is ready, what it waits for until then, and, where a watchdog listens, that rounds go on: an
/// agent whose loop hangs is ended by it, and forwarding goes on meanwhile. Without a service manager it says nothing.
pub(super) async fn tell(agent: Arc<Agent>) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut ready = false;
    let mut waiting = "";
    let mut said = Instant::now();
    loop {
        if !ready {
            match readiness(&agent) {
                Ok(()) => {
                    ready = true;
                    agent.told_ready.store(true, Ordering::Relaxed);
                    say(&[NotifyState::Ready, NotifyState::Status("ready")]);
                }
                Err(why) if why != waiting => {
                    waiting = why;
                    say(&[NotifyState::Status(why)]);
                }
                Err(_) => {}
            }
        }
        if let Some(limit) = watchdog
            && said.elapsed() >= limit / 4
            && lives(lock(&agent.rounded).elapsed(), limit)
        {
            said = Instant::now();
            say(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(if ready { watchdog.map_or(Duration::MAX, |limit| limit / 8) } else { INTERVAL })
            .await;
    }
}

/// Whether the last round ended so lately that the loop is not taken to hang: it makes two a second.
fn lives(since_round: Duration, watchdog: Duration) -> bool {
    since_round < watchdog / 2
}

/// Has the settings read again. Of an agent that is not ready yet nothing is said: its end would be taken for readiness.
pub(super) fn reload(agent: &Agent, read: impl FnOnce()) {
    if !agent.told_ready.load(Ordering::Relaxed) {
        return read();
    }
    let now = NotifyState::monotonic_usec_now().ok();
    say(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
    read();
    say(&[NotifyState::Ready]);
}

/// The agent is about to end.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_is_not_said_to_live() {
        let watchdog = Duration::from_secs(30);
        assert!(lives(Duration::from_secs(1), watchdog));
        assert!(!lives(Duration::from_secs(15), watchdog));
    }
}
