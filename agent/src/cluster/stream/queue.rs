//! What waits to be written on a connection: small messages pass large bodies.
use tokio::sync::mpsc;

use super::CHUNK_BYTES;
use super::record::{Sender, StreamError};
use crate::cluster::wire::Message;

/// Small messages that wait.
const SMALL_MAX: usize = 256;
/// Records of large bodies that wait; the socket's buffer holds some more.
const LARGE_MAX: usize = 2;
/// Bodies up to this length are small.
const SMALL_BYTES_MAX: usize = CHUNK_BYTES / 4;

/// Which of the two queues a message goes through. All messages of one body take the same, so they stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Small,
    Large,
}

impl Lane {
    /// The lane of a body of this length.
    pub(super) fn of(body_bytes: usize) -> Self {
        if body_bytes <= SMALL_BYTES_MAX { Self::Small } else { Self::Large }
    }
}

/// The connection has ended.
pub(super) struct Ended;

/// Where messages are put.
#[derive(Clone)]
pub(super) struct Queue {
    small: mpsc::Sender<Message>,
    large: mpsc::Sender<Message>,
}

/// Where they are taken.
pub(super) struct Queued {
    small: mpsc::Receiver<Message>,
    large: mpsc::Receiver<Message>,
}

pub(super) fn channel() -> (Queue, Queued) {
    let (small, small_queued) = mpsc::channel(SMALL_MAX);
    let (large, large_queued) = mpsc::channel(LARGE_MAX);
    (Queue { small, large }, Queued { small: small_queued, large: large_queued })
}

impl Queue {
    /// Waits for room. May be cancelled: then nothing was put.
    pub(super) async fn put(&self, lane: Lane, message: Message) -> Result<(), Ended> {
        let queue = match lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        };
        queue.send(message).await.map_err(|_| Ended)
    }

    /// Puts a small message if there is room.
    pub(super) fn try_put(&self, message: Message) -> bool {
        self.small.try_send(message).is_ok()
    }
}

/// Writes what is queued until nobody can put any more; calls `moved` when the peer must have taken something.
pub(super) async fn write(
    mut sender: Sender,
    mut queued: Queued,
    moved: impl Fn() + Send + 'static,
) -> Result<(), StreamError> {
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = queued.small.recv() => message,
            Some(message) = queued.large.recv() => message,
            else => return Ok(()),
        };
        sender.send(&message).await?;
        // Small records vanish in the socket's buffer, whether the peer is there or not; many large ones do not.
        if matches!(&message, Message::First { data, .. } | Message::More { data, .. } if data.len() == CHUNK_BYTES)
        {
            moved();
        }
    }
}
