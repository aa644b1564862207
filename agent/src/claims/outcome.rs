//! How claims come out, and what is said about claims that are over.
use super::message::{ClaimRecord, ClaimState, Entry, Member, Reply, Request};
use super::view::View;
use crate::model::NodeId;

/// How a claim came out. All but [`Outcome::Confirmed`] leave the claim withdrawing, with nothing to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A majority has promised: the key may be used once the step's changes are written.
    Confirmed {
        /// For a node number, the members' merged tables: hand them to [`super::Promises::join`] in the same transaction.
        adopted: Vec<Entry>,
    },
    /// So many members have promised it, or something that conflicts with it, to somebody else that no majority is left.
    Lost {
        /// What stands in the way; of several the one that most members named.
        holder: Entry,
    },
    /// Too few members answered in time.
    NoMajority {
        /// How many promised.
        answered: usize,
        /// How many would have been enough.
        needed: usize,
        /// Who answered, and could not promise it: not ready, or full.
        refused: Vec<NodeId>,
        /// Who did not answer.
        silent: Vec<NodeId>,
    },
    /// Members know others than this claimant counts: claim anew with this view.
    StaleView {
        /// What was counted, and what members have said of members and removals since.
        view: View,
        /// Numbers promised to nodes that are not known to be members. A claim other than of a node number counts them (add them
        /// to the view); a joiner waits.
        pending: Vec<Member>,
    },
    /// This node has been removed from the cluster; it must give up everything.
    Removed,
}

/// Why no claim was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Nobody is known who could promise.
    #[error("no member of the cluster is known")]
    NoMembers,
    /// A lower number is neither a known member nor known to be removed.
    #[error("node number {gap} is not known yet although higher ones are; wait for its facts")]
    Gap {
        /// The lowest unknown number.
        gap: u32,
    },
    /// Node numbers are settled in order.
    #[error("node number {number} cannot be claimed: the next one is {next}")]
    NotNext {
        /// The number claimed.
        number: u32,
        /// The only number that this view allows.
        next: u32,
    },
    /// A claimant of anything but a node number is a member itself.
    #[error("this node has no node number yet")]
    NotMember,
}

/// Answers [`Request::Check`] from this claimant's books: the record of that key, if there is one. A withdrawing attempt is
/// over.
pub fn answer_check(record: Option<&ClaimRecord>, attempt: u64) -> Reply {
    match record {
        Some(record) if record.attempt == attempt && record.state != ClaimState::Withdrawing => Reply::Held,
        _ => Reply::NotHeld,
    }
}

/// What to send to a member whose promise arrived when its claim was over: a withdrawal, unless `record`, this node's
/// record of that key, says that the attempt is pending or confirmed.
pub fn stray_promise(me: NodeId, reply: &Reply, record: Option<&ClaimRecord>) -> Option<Request> {
    let Reply::Promised { key, attempt, .. } = reply else { return None };
    let over = answer_check(record, *attempt) == Reply::NotHeld;
    over.then(|| Request::Withdraw { key: key.clone(), claimant: me, attempt: *attempt })
}
