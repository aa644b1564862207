//! Sees to it that there is a holder, and that it is the one that our descriptors are with.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::holder;
use crate::runtime::agent::{Agent, chain};

/// A holder that has ended is replaced within this time. Until then all goes on, but an agent that ends as well would
/// take its networks with it.
const INTERVAL: Duration = Duration::from_millis(500);

/// So many looks in a row find none before one is started: a service manager that started the one before starts it again.
const LOOKS: u32 = 4;

/// Starts a holder in place of one that has ended. What it is to hold is put there by the converge loop, which sees that it
/// is another one.
pub(super) async fn watch(agent: Arc<Agent>, program: PathBuf) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut failing, mut missed) = (false, 0);
    loop {
        ticks.tick().await;
        let known = agent.holder_pid.load(Ordering::Relaxed);
        if known == 0 {
            return;
        }
        let (path, program) = (agent.settings.load().holder_socket.clone(), program.clone());
        let of_agent = Arc::clone(&agent);
        let ended = move || of_agent.holder_pid.load(Ordering::Relaxed) == 0;
        let patient = missed < LOOKS && managed();
        let Ok(found) = tokio::task::spawn_blocking(move || present(&path, &program, patient, &ended)).await
        else {
            return;
        };
        missed = if matches!(found, Ok(None)) { missed + 1 } else { 0 };
        match &found {
            Ok(Some(pid)) if *pid != known => {
                let pid = *pid;
                if agent.holder_pid.compare_exchange(known, pid, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                {
                    let line = format!(
                        "the holder (pid {known}) had ended; another one (pid {pid}) takes its place"
                    );
                    agent.events.record("host", line, "agent");
                    agent.changed.notify_one();
                }
            }
            Ok(_) => {}
            // Said once, not twice a second.
            Err(error) if !failing => tracing::error!("no holder: {}", chain(error)),
            Err(_) => {}
        }
        failing = found.is_err();
    }
}

/// Whether a service manager started this process: then it may have started the holder, too.
fn managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The holder's process: the one that answers, or else a new one, unless we are patient or have ended it ourselves.
fn present(
    path: &Path,
    program: &Path,
    patient: bool,
    ended: &dyn Fn() -> bool,
) -> Result<Option<u32>, holder::Error> {
    match holder::Client::connect(path) {
        Ok(client) => client.ping().map(|pong| Some(pong.pid)),
        Err(_) if patient || ended() => Ok(None),
        Err(_) => holder::ensure(path, program)?.ping().map(|pong| Some(pong.pid)),
    }
}
