//! Claims: how the cluster settles what must be unique, without a leader.
//!
//! A claimant asks every member directly. Each member promises a key to one claimant, writes that down and only
//! then answers; a majority of **all** members makes the claim. Suspended members count, until `node rm`. There is no
//! ballot: who does not get a majority withdraws and takes another key. So a key has two holders only if a member
//! promised it twice, which it never does.
//!
//! # Why a growing cluster stays sound
//!
//! Majorities of two member lists that differ by one member always share a member; of lists further apart they need
//! not. Four rules keep every pair of quorums connected:
//!
//! 1. Node numbers are settled in order: number n needs a majority of 1..n-1 (less the removed ones), and is claimed
//!    only by one who knows that n-1 is *confirmed*. Numbers are never used twice.
//! 2. Who has promised number n counts n from that moment, and refuses claimants who do not count it
//!    ([`Reply::StaleView`]). So once n is confirmed, no list without n finds a majority any more.
//! 3. A promise of a node number carries the promiser's whole table. The joiner adopts the union before it is a
//!    member, so a claim that had a majority of 1..n-1 has one of 1..n as well.
//! 4. A node answers as a member only when its own number is confirmed. A number that was promised and then
//!    abandoned merely makes majorities larger until it is withdrawn.
//!
//! By the same table a joiner learns which parts of its own blocks were promised before its number was ([`conflicts`]).
//!
//! A removal follows the same pattern (see [`Removal`]): agreement freezes the old list, the agreeing members' tables are
//! merged, and whoever applies the removal adopts them.
//!
//! `explorer.rs` checks these rules exhaustively on small clusters, against this very code.
//!
//! Nothing here does I/O, reads a clock or draws random numbers. Every step returns what to write, what to send and what
//! came out, **in that order**: write durably, then send, then act.
mod claimant;
mod conflict;
mod message;
mod outcome;
mod promises;
mod removal;
mod view;

pub use claimant::{Claimant, Resume, Step};
pub use conflict::{Place, Places, conflicts};
pub use message::{ClaimPersist, ClaimRecord, ClaimState, Entry, Leaving, Member, Persist, Reply, Request};
pub use outcome::{Outcome, StartError, answer_check, stray_promise};
pub use promises::{PROMISES_MAX, Promises};
pub use removal::{Removal, RemovalOutcome, RemovalStep};
pub use view::{View, majority, removal_majority};

#[cfg(test)]
mod explorer;
#[cfg(test)]
mod tests;
