//! The few strings that this host publishes with its heartbeat.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::IteratorRandom;
use tokio::sync::Notify;

use super::gossip::Running;
use super::shared::{Shared, locked};
use crate::model::NodeId;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1_024;
/// Keys of one host.
pub const KEYS_MAX: usize = 16;
/// Peers that are told of a change at once; the others hear of it in the next rounds.
const PUSH_PEERS: usize = 8;
/// Least time between two pushes: changes in between go together.
const PUSH_INTERVAL: Duration = Duration::from_millis(20);

/// Before the keys of users: ours begin otherwise.
const USER: &str = "p/";
/// Key of the host's name.
pub(super) const NAME: &str = "name";
/// Key of a goodbye.
pub(super) const LEFT: &str = "left";
/// Key of who founded the host's cluster.
pub(super) const FOUNDER: &str = "founder";

/// Why a string was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The key is too long.
    #[error("key {key:?} is longer than {KEY_BYTES_MAX} bytes")]
    Key {
        /// Its beginning.
        key: String,
    },
    /// The value is too long for gossip.
    #[error("the value of {key:?} has {bytes} bytes, more than the {VALUE_BYTES_MAX} that gossip carries")]
    Value {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// There are too many keys.
    #[error("{key:?} would be one key more than the {KEYS_MAX} that a host may publish")]
    Full {
        /// The key that has no room.
        key: String,
    },
}

/// The user's key, if it is one.
pub(super) fn user_key(key: &str) -> Option<&str> {
    key.strip_prefix(USER)
}

/// What this host publishes.
pub(super) struct Published {
    strings: Mutex<BTreeMap<String, String>>,
    changed: Notify,
}

impl Published {
    pub(super) fn new(name: &str, founder: Option<NodeId>) -> Arc<Self> {
        let founder = founder.map(|founder| (FOUNDER.to_owned(), founder.to_string()));
        let strings = [(NAME.to_owned(), name.to_owned())].into_iter().chain(founder).collect();
        Arc::new(Self { strings: Mutex::new(strings), changed: Notify::new() })
    }

    pub(super) fn all(&self) -> Vec<(String, String)> {
        locked(&self.strings).iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The user's strings.
    pub(super) fn user(&self) -> BTreeMap<String, String> {
        let strings = locked(&self.strings);
        strings.iter().filter_map(|(key, value)| Some((user_key(key)?.to_owned(), value.clone()))).collect()
    }

    pub(super) fn publish(&self, key: &str, value: &str) -> Result<(), PublishError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(PublishError::Key { key: key.chars().take(KEY_BYTES_MAX).collect() });
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(PublishError::Value { key: key.to_owned(), bytes: value.len() });
        }
        let entry = format!("{USER}{key}");
        let mut strings = locked(&self.strings);
        let user = strings.keys().filter(|key| user_key(key).is_some()).count();
        if user >= KEYS_MAX && !strings.contains_key(&entry) {
            return Err(PublishError::Full { key: key.to_owned() });
        }
        strings.insert(entry, value.to_owned());
        drop(strings);
        self.changed.notify_one();
        Ok(())
    }

    /// Hands everything over once more: the gossip loop may have begun with less.
    pub(super) fn repeat(&self) {
        self.changed.notify_one();
    }

    /// Says who founded this host's cluster.
    pub(super) fn found(&self, founder: NodeId) {
        locked(&self.strings).insert(FOUNDER.to_owned(), founder.to_string());
        self.changed.notify_one();
    }

    /// Marks that this host says goodbye.
    pub(super) fn leave(&self) {
        locked(&self.strings).insert(LEFT.to_owned(), "1".to_owned());
        self.changed.notify_one();
    }

    /// Hands changes to the gossip loop, and tells some peers at once.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>, running: Running) {
        loop {
            self.changed.notified().await;
            push(&self.all(), &running, PUSH_PEERS).await;
            shared.changed.notify_one();
            tokio::time::sleep(PUSH_INTERVAL).await;
        }
    }
}

/// Sets the strings and opens a gossip exchange with up to `peers` live peers.
pub(super) async fn push(strings: &[(String, String)], running: &Running, peers: usize) {
    let Some(handle) = running.borrow().clone() else { return };
    let live: Vec<_> = handle
        .with_chitchat(|chitchat| {
            let state = chitchat.self_node_state();
            for (key, value) in strings {
                state.set(key, value);
            }
            let own = chitchat.self_chitchat_id();
            chitchat.live_nodes().filter(|id| *id != own).map(|id| id.gossip_advertise_addr).collect()
        })
        .await;
    let mut told: Vec<_> = live.into_iter().sample(&mut rand::rng(), peers);
    told.dedup();
    for address in told {
        // The loop has ended: the next one begins with these strings.
        let _ = handle.gossip(address);
    }
}
