//! One entry of an owner: as it travels, and as it is held.
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::facts::{AttachmentFact, HostFact, Key, NetworkDefinition, ReplicaFact, ServiceDefinition, Value};

/// One entry as it travels and rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is about.
    pub key: Key,
    /// The owner's version that wrote it, from 1.
    pub version: u64,
    /// `None` says that the owner withdrew it: a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// A value as it is held: small, and shared with the index and with equal values of other owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Gone,
    Host(Arc<HostFact>),
    Network(Arc<NetworkDefinition>),
    Service(Arc<ServiceDefinition>),
    Attachment(Arc<AttachmentFact>),
    Replica(Arc<ReplicaFact>),
    Claim,
    Removed,
}

impl Stored {
    /// `None` if the value is of another kind than its key.
    pub(super) fn new(key: &Key, value: Option<Value>) -> Option<Self> {
        let Some(value) = value else { return Some(Self::Gone) };
        Some(match (key, value) {
            (Key::Host, Value::Host(fact)) => Self::Host(Arc::new(fact)),
            (Key::Network { .. }, Value::Network(definition)) => Self::Network(Arc::new(definition)),
            (Key::Service { .. }, Value::Service(definition)) => Self::Service(Arc::new(definition)),
            (Key::Attachment { .. }, Value::Attachment(fact)) => Self::Attachment(Arc::new(fact)),
            (Key::Replica { .. }, Value::Replica(fact)) => Self::Replica(Arc::new(fact)),
            (Key::Claim(_), Value::Claim) => Self::Claim,
            (Key::Removed { .. }, Value::Removed) => Self::Removed,
            _ => return None,
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    pub(super) fn value(&self) -> Option<Value> {
        Some(match self {
            Self::Gone => return None,
            Self::Host(fact) => Value::Host(fact.as_ref().clone()),
            Self::Network(definition) => Value::Network(definition.as_ref().clone()),
            Self::Service(definition) => Value::Service(definition.as_ref().clone()),
            Self::Attachment(fact) => Value::Attachment(fact.as_ref().clone()),
            Self::Replica(fact) => Value::Replica(fact.as_ref().clone()),
            Self::Claim => Value::Claim,
            Self::Removed => Value::Removed,
        })
    }

    /// The greatest logical time that the entry mentions.
    pub(super) fn clock(&self, key: &Key) -> u64 {
        let born = match key {
            Key::Network { born, .. } | Key::Service { born, .. } => born.clock,
            _ => 0,
        };
        let written = match self {
            Self::Network(definition) => definition.revision.clock,
            Self::Service(definition) => definition.revision.clock,
            Self::Attachment(fact) => fact.since.clock,
            _ => 0,
        };
        born.max(written)
    }
}

/// A value and the version that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) version: u64,
    pub(super) stored: Stored,
}

impl Held {
    /// Whether it takes the other's place: the later version; of two values with one version, which no honest
    /// owner writes, the one whose JSON sorts last, so that all hosts agree.
    pub(super) fn beats(&self, other: &Self) -> bool {
        if self.version != other.version {
            return self.version > other.version;
        }
        if self.stored == other.stored {
            return false;
        }
        let text = |stored: &Stored| serde_json::to_string(&stored.value()).unwrap_or_default();
        text(&self.stored) > text(&other.stored)
    }
}
