//! What claimants and members say to each other, and what they write down.
//!
//! Requests and replies travel sealed between hosts of one cluster, as JSON.
use serde::{Deserialize, Serialize};

use crate::catalog::facts::ClaimKey;
use crate::model::NodeId;

/// A member: its number and who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Node number, from 1.
    pub number: u32,
    /// Identity.
    pub node: NodeId,
}

/// One promise in a member's table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// What is promised.
    pub key: ClaimKey,
    /// To whom.
    pub claimant: NodeId,
    /// In which of its attempts.
    pub attempt: u64,
}

/// What a member is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Promise me this key.
    Promise {
        /// What is claimed.
        key: ClaimKey,
        /// Who claims.
        claimant: NodeId,
        /// Grows with every claim the claimant starts, over restarts; never used twice.
        attempt: u64,
        /// Numbers of the members that the claimant counts, ascending.
        view: Vec<u32>,
    },
    /// I no longer claim, or hold, this key in this attempt, and never shall again.
    Withdraw {
        /// What was claimed.
        key: ClaimKey,
        /// By whom.
        claimant: NodeId,
        /// In which attempt.
        attempt: u64,
    },
    /// Do you still claim or hold this key in this attempt? Asked of the claimant that a [`Reply::Taken`] named. If it does
    /// not ([`Reply::NotHeld`]), the asker may send that [`Request::Withdraw`] in its name: so a promise that outlived a lost
    /// withdrawal is cleared by whoever meets it.
    Check {
        /// What is wanted.
        key: ClaimKey,
        /// The attempt that stands in the way.
        attempt: u64,
    },
    /// Agree that a member is removed for good.
    Remove {
        /// The member to be removed.
        member: Member,
        /// Who removes it.
        remover: NodeId,
        /// In which of its attempts; from the same counter as claims.
        attempt: u64,
        /// Numbers of all members that the remover counts, the one to be removed included.
        view: Vec<u32>,
    },
    /// That attempt to remove a member has failed and is over: what was frozen for it thaws.
    Keep {
        /// The member that stays.
        member: Member,
        /// Who gave up removing it.
        remover: NodeId,
        /// In which attempt.
        attempt: u64,
    },
    /// A removal has been agreed: apply it, and adopt these promises. Any member that has applied it may say so.
    Removed {
        /// The member that is removed.
        member: Member,
        /// The merged tables of the members that agreed.
        table: Vec<Entry>,
    },
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Promised, and written down.
    Promised {
        /// What is promised.
        key: ClaimKey,
        /// In which attempt.
        attempt: u64,
        /// The member's whole table if a node number was claimed; else empty.
        table: Vec<Entry>,
    },
    /// Refused: it is promised to somebody, or conflicts with what is.
    Taken {
        /// What was claimed.
        key: ClaimKey,
        /// In which attempt.
        attempt: u64,
        /// The promise that stands in the way.
        holder: Entry,
    },
    /// Refused: the claimant's list of members is not the one this member knows.
    StaleView {
        /// What was claimed; nothing for a removal.
        key: Option<ClaimKey>,
        /// In which attempt.
        attempt: u64,
        /// Confirmed members.
        members: Vec<Member>,
        /// Nodes that hold a promise of a number that is not known to be confirmed. Other claims count them; a joiner waits
        /// until they are confirmed, withdrawn or removed.
        pending: Vec<Member>,
        /// Members that have been removed.
        removed: Vec<Member>,
        /// Members whose removal was agreed to but not yet applied: nothing is promised until then.
        leaving: Vec<Member>,
    },
    /// Refused: the one asked has no confirmed node number, or does not know the network.
    NotReady {
        /// What was claimed.
        key: ClaimKey,
        /// In which attempt.
        attempt: u64,
    },
    /// Refused for good: the claimant has been removed from the cluster.
    Removed,
    /// Refused: the member's table is full.
    Full {
        /// What was claimed.
        key: ClaimKey,
        /// In which attempt.
        attempt: u64,
    },
    /// Answers [`Request::Withdraw`]: nothing is promised to that claimant in that attempt.
    Withdrawn {
        /// What was claimed.
        key: ClaimKey,
        /// In which attempt.
        attempt: u64,
    },
    /// Answers [`Request::Check`]: claimed or held in that attempt.
    Held,
    /// Answers [`Request::Check`]: that attempt is over.
    NotHeld,
    /// Answers [`Request::Remove`]: agreed and written down, with the member's whole table.
    Agreed {
        /// The attempt that was agreed to.
        attempt: u64,
        /// The member's promises.
        table: Vec<Entry>,
    },
    /// Answers [`Request::Keep`].
    Kept,
    /// Answers [`Request::Removed`].
    Applied,
}

/// An agreement to remove a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leaving {
    /// Who is to be removed.
    pub member: Member,
    /// By whom.
    pub remover: NodeId,
    /// In which of its attempts.
    pub attempt: u64,
}

/// A change of a member's durable state; [`super::Promises`] is the fold of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persist {
    /// Insert or replace the promise of this key to this claimant.
    Promise(Entry),
    /// Delete the promise of this key to this claimant.
    Release {
        /// Of what.
        key: ClaimKey,
        /// To whom.
        claimant: NodeId,
    },
    /// A member is known to be confirmed.
    Member(Member),
    /// This node is itself a member from now on.
    Joined(Member),
    /// The removal of a member was agreed to.
    Leaving(Leaving),
    /// The agreement to this remover's attempt is over.
    Staying(Leaving),
    /// A member has been removed: its promises end, its number is never used again.
    Removed(Member),
}

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// Members may have been asked. Not to be used.
    Pending,
    /// A majority has promised. The only state in which the key may be used.
    Confirmed,
    /// Given up for good: members are being told, nothing of it may be used.
    Withdrawing,
}

/// A claim in its claimant's own books.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// What is claimed.
    pub key: ClaimKey,
    /// In which attempt.
    pub attempt: u64,
    /// How far it has come.
    pub state: ClaimState,
    /// The members that were asked.
    pub members: Vec<Member>,
    /// Numbers removed when they were asked.
    pub removed: Vec<u32>,
}

/// A change of a claimant's books.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimPersist {
    /// Insert or replace the record of this key.
    Put(ClaimRecord),
    /// Delete the record of this key, if it is of this attempt.
    Forget {
        /// Of which key.
        key: ClaimKey,
        /// Of which attempt.
        attempt: u64,
    },
}
