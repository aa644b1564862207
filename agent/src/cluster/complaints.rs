//! Who says that it cannot open our frames. Unauthenticated, so it is shown and changes nothing.
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use super::key::KeyId;
use super::seal::Notice;

/// Complaints kept, one per peer address; the oldest goes first.
const COMPLAINTS_MAX: usize = 64;

/// A peer says that a frame of ours does not open there. Anybody who can see our frames can forge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyComplaint {
    /// The address that the frame went to.
    pub from: SocketAddr,
    /// The key that sealed it.
    pub key_id: KeyId,
    /// Whether the peer has a key with this id, which then is another key, or another cluster's.
    pub known: bool,
    /// When it said so last.
    pub at: SystemTime,
}

impl std::fmt::Display for KeyComplaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, key_id, known, .. } = self;
        if *known {
            write!(
                f,
                "host {from} has another key with our key id {key_id}: wrong cluster key here, or there?"
            )
        } else {
            write!(f, "host {from} does not know our key id {key_id}: wrong cluster key here?")
        }
    }
}

#[derive(Default)]
pub(super) struct Complaints(VecDeque<KeyComplaint>);

impl Complaints {
    /// Whether it is the first of this peer.
    pub(super) fn note(&mut self, at: SystemTime, from: SocketAddr, notice: Notice) -> bool {
        let before = self.0.len();
        self.0.retain(|complaint| complaint.from != from);
        let first = self.0.len() == before;
        if self.0.len() == COMPLAINTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(KeyComplaint { from, key_id: notice.key_id, known: notice.known, at });
        first
    }

    pub(super) fn all(&self) -> Vec<KeyComplaint> {
        self.0.iter().cloned().collect()
    }
}
