//! What changed, when, on whose request: a bounded history that clients can follow.
use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::watch;

use crate::api::types::Event;

/// How many events are kept; a client that falls further behind sees the gap in the sequence.
const KEPT: usize = 4_096;

/// The history.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Adds an event and logs it.
    pub fn record(&self, subject: &str, message: impl Into<String>, origin: &str) {
        let message = message.into();
        tracing::info!(subject, origin, "{message}");
        let mut kept = lock(&self.kept);
        let sequence = *self.last.borrow() + 1;
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event {
            sequence,
            time_ms: unix_time_ms(),
            subject: subject.to_owned(),
            message,
            origin: origin.to_owned(),
        });
        drop(kept);
        self.last.send_replace(sequence);
    }

    /// Events after `sequence`, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Event> {
        lock(&self.kept).iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Sees the sequence of the last event.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

/// Wall time for people; nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "shown, and never compared")]
pub fn unix_time_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Locks; a poisoned lock is taken over, since the data behind our locks is consistent between statements.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded_and_ordered() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.record("network", format!("{n}"), "agent");
        }
        let all = events.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all.first().map(|e| e.sequence), Some(11));
        assert!(all.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence));
        assert_eq!(events.after(all.last().unwrap().sequence - 1).len(), 1);
    }
}
