//! One claim of a key at a time: two attempts at once would undo each other's promises.
use std::sync::Arc;

use tokio::sync::watch;

use crate::catalog::facts::ClaimKey;
use crate::claims::ClaimState;
use crate::runtime::agent::Agent;
use crate::runtime::claiming::Books;
use crate::runtime::events::lock;

/// The right to claim a key; over when it is dropped.
pub(super) struct Turn {
    agent: Arc<Agent>,
    key: ClaimKey,
    /// Its end wakes who waits.
    _ended: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.agent.state).books.running.remove(&self.key);
    }
}

/// What to do about a key that is wanted.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is held already.
    Held,
    /// Somebody else here claims it; look again when that is over.
    Wait(watch::Receiver<()>),
    /// Claim it.
    Claim(watch::Sender<()>),
}

/// Waits for the turn to claim a key; `None` if it is held by then.
pub(super) async fn take(agent: &Arc<Agent>, key: &ClaimKey) -> Option<Turn> {
    loop {
        let next = next(&mut lock(&agent.state).books, key);
        match next {
            Next::Held => return None,
            // An error says that the sender is gone, which is what is waited for.
            Next::Wait(mut ended) => drop(ended.changed().await),
            Next::Claim(ended) => {
                return Some(Turn { agent: Arc::clone(agent), key: key.clone(), _ended: ended });
            }
        }
    }
}

pub(crate) fn next(books: &mut Books, key: &ClaimKey) -> Next {
    // Whether a takeover may be made is asked each time: the attachment that it was for may itself have been taken over since.
    let lasts = !matches!(key, ClaimKey::Takeover { .. });
    if lasts && books.claims.get(key).is_some_and(|record| record.state == ClaimState::Confirmed) {
        return Next::Held;
    }
    if let Some(running) = books.running.get(key) {
        return Next::Wait(running.clone());
    }
    let (sender, receiver) = watch::channel(());
    books.running.insert(key.clone(), receiver);
    Next::Claim(sender)
}

#[cfg(test)]
mod tests;
