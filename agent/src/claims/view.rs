//! Who counts, and how many of them are enough.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::message::Member;
use crate::model::NodeId;

/// The smallest count that is more than half of `members`; 1 of 1, 2 of 2, 2 of 3, 3 of 4.
pub fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// How many of the remaining members must agree to remove one of `members` (the one to be removed included).
///
/// It is a majority of those who remain. With an odd count of members that equals a majority of all, and two sides can
/// never both have one. With an **even** count it is exactly half: if the cluster is cut into two equal halves and
/// operators on both sides remove hosts of the other one at the same time, both succeed, and two clusters with one id go on, each
/// handing out the same keys. Nothing can tell that case from one half having burnt down, which is what the command is
/// for; so the command says it, and asks for confirmation when the count is even and half of it is silent.
pub fn removal_majority(members: usize) -> usize {
    majority(members.saturating_sub(1))
}

/// The members that a claimant counts, and the numbers that it knows to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    members: BTreeMap<u32, NodeId>,
    removed: BTreeSet<u32>,
}

impl View {
    /// From confirmed members (and, for claims other than of node numbers, pending ones) and removed numbers.
    pub fn new(members: impl IntoIterator<Item = Member>, removed: impl IntoIterator<Item = u32>) -> Self {
        let removed: BTreeSet<u32> = removed.into_iter().collect();
        let members = members.into_iter().map(|m| (m.number, m.node));
        Self {
            members: members.filter(|(number, _)| *number > 0 && !removed.contains(number)).collect(),
            removed,
        }
    }

    /// Numbers and nodes, by number.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().map(|(&number, &node)| Member { number, node })
    }

    /// Numbers that have been removed.
    pub fn removed(&self) -> impl Iterator<Item = u32> + '_ {
        self.removed.iter().copied()
    }

    /// The numbers counted, ascending; what a request carries.
    pub fn numbers(&self) -> Vec<u32> {
        self.members.keys().copied().collect()
    }

    /// Whether this node is counted.
    pub fn counts(&self, node: NodeId) -> bool {
        self.members.values().any(|&counted| counted == node)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is counted.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members make a majority.
    pub fn majority(&self) -> usize {
        majority(self.members.len())
    }

    /// The number that a joiner claims next: one above the highest that was ever settled.
    pub fn next_number(&self) -> u32 {
        let highest = self.members.keys().chain(&self.removed).max().copied().unwrap_or(0);
        highest.saturating_add(1)
    }

    /// The lowest number that is neither counted nor removed although a higher one is: what this view has still to learn.
    pub fn gap(&self) -> Option<u32> {
        (1..self.next_number()).find(|n| !self.members.contains_key(n) && !self.removed.contains(n))
    }
}
