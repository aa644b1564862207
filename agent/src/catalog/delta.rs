//! What hosts tell each other of one owner's facts.
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::entry::Entry;
use crate::model::{Head, NodeId};

/// Everything that an owner wrote after one version and up to another, of one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose facts.
    pub owner: NodeId,
    /// The owner's incarnation.
    pub incarnation: u64,
    /// The version it continues from; 0 makes it complete.
    pub base: u64,
    /// The version it leads to.
    pub head: u64,
    /// The latest value of every key written after `base`, tombstones included.
    pub entries: Vec<Entry>,
}

impl Delta {
    /// Where its reader stands afterwards.
    pub fn reaches(&self) -> Head {
        Head { incarnation: self.incarnation, version: self.head }
    }

    /// Whether it says nothing new to a reader at its base.
    pub fn is_empty(&self) -> bool {
        self.base == self.head
    }
}

/// All of an owner's facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Full {
    /// Whose facts.
    pub owner: NodeId,
    /// How far they have come.
    pub head: Head,
    /// Tombstones up to this version may have been forgotten: what is not in `entries` and was written up to it is gone.
    pub floor: u64,
    /// Every value, and the tombstones after `floor`.
    pub entries: Vec<Entry>,
}

/// The answer to a pull: the least that brings the asker up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The asker has the beginning.
    Delta(Delta),
    /// The asker is of another incarnation, or so far behind that tombstones it needs are forgotten.
    Full(Full),
}

/// What came of something received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What it changed; empty unless the outcome is [`Outcome::Current`].
    pub changes: Changes,
    /// Where this host stands with that owner.
    pub outcome: Outcome,
}

/// Where this host stands with an owner after something was received of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken up, and is what is to be saved.
    Current,
    /// All of it was known, or something later of the same incarnation: saving it would go back.
    Known,
    /// Something before it is missing and nothing was changed: pull from `have`.
    Gap {
        /// How far this host has come.
        have: Head,
    },
    /// It is of an incarnation that has ended, and nothing was changed.
    Stale,
}
