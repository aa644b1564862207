//! What is explored: the cluster, what its hosts want, and how the protocol may be broken.
use super::HOSTS;
use crate::catalog::facts::ClaimKey;
use crate::claims::{Member, Reply, Request};

/// A way to break the protocol, to show that the explorer notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// Promises are answered but not written.
    PromiseNotWritten,
    /// A late withdrawal releases a newer attempt.
    WithdrawIgnoresAttempt,
    /// The claimant withdraws without having written so, and may finish the claim after a restart.
    WithdrawalNotWritten,
    /// A joiner starts with an empty table.
    TableNotAdopted,
    /// Members do not refuse claimants who count fewer than they do.
    StaleViewAccepted,
    /// Half of the members is taken for a majority.
    HalfIsEnough,
    /// The members' tables are not merged at a removal.
    RemovalWithoutTable,
}

/// What is explored.
pub(super) struct Model {
    /// Hosts that are members from the start; the first of them founded the cluster.
    pub(super) members: usize,
    /// Hosts that may join, after the members.
    pub(super) joiners: usize,
    /// What each host wants besides a node number.
    pub(super) wants: [Option<ClaimKey>; HOSTS],
    /// Who removes whom, one after the other, by index.
    pub(super) removals: &'static [(usize, usize)],
    /// Pairs of hosts, lower index first, that never hear from each other.
    pub(super) cut: &'static [(usize, usize)],
    /// Nobody gives up, and who removes hosts claims when that is done.
    pub(super) patient: bool,
    /// How often each host may start each claim.
    pub(super) starts: u8,
    /// Crashes in all.
    pub(super) crashes: u32,
    /// Whether a confirmed claim may be given back.
    pub(super) releases: bool,
    /// Leaves out replies that only hasten what may happen at any time anyway (refusals: the deadline is an event of its own) or that
    /// only end repetitions (acknowledgements: a message may always arrive again). Far fewer states, the same safety.
    pub(super) lean: bool,
    pub(super) sabotage: Sabotage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Payload {
    Request(Request),
    Reply(Reply),
    /// The fact that somebody is a member.
    Member(Member),
}
