//! What agents say to each other over sealed connections: one request, one answer, both JSON.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::types::{Deregister, Done, Drain, Failure, Problem};
use crate::catalog::Update;
use crate::claims;
use crate::model::{Head, Name, NodeId};

/// A request to another host's agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The sender's own facts, or the newest part of them.
    Push(Update),
    /// What the sender knows; answered with what it lacks.
    Sync {
        /// The sender's heads.
        heads: BTreeMap<NodeId, Head>,
        /// Of owners of which the sender lacks only what has just become known, nothing is wanted: they tell it themselves.
        #[serde(default)]
        settled: bool,
    },
    /// A step of a claim.
    Claim(claims::Request),
    /// What the receiver adopted when it applied a removal that the sender missed.
    RemovalTable {
        /// Who was removed.
        member: claims::Member,
    },
    /// Answered once `owner`'s facts up to `head` are in force here, or after `milliseconds`.
    WaitApplied {
        /// Whose facts.
        owner: NodeId,
        /// Up to where.
        head: Head,
        /// Problems of this network are told in the answer.
        network: Option<Name>,
        /// How long at most.
        milliseconds: u64,
    },
    /// What is behind and what fails on that host.
    Status,
    /// Take out a replica that lives there.
    Deregister(Deregister),
    /// Drain a replica that lives there.
    Drain(Drain),
    /// Grant the sender an address of a block that the receiver holds.
    Grant {
        /// The network.
        network: Name,
        /// The address.
        address: std::net::IpAddr,
    },
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Push`: how far the sender's facts are known here now.
    Have(Head),
    /// To `Sync`.
    Updates(Vec<Update>),
    /// To `Claim`.
    Claim(claims::Reply),
    /// To `RemovalTable`: nothing where it was not applied.
    RemovalTable(Option<Vec<claims::Entry>>),
    /// To `WaitApplied`.
    Applied {
        /// Whether it is in force.
        applied: bool,
        /// Objects of the network that fail here.
        problems: Vec<Problem>,
    },
    /// To `Status`.
    Status {
        /// Heads in force there.
        applied: BTreeMap<NodeId, Head>,
        /// What fails there.
        problems: Vec<Problem>,
    },
    /// To `Deregister` and `Drain`.
    Done(Result<Done, Failure>),
    /// To `Grant`: granted, or the reason against it.
    Grant(Result<(), String>),
    /// The request was not understood: the sender is of another version.
    NotUnderstood(String),
}

impl Answer {
    /// Which answer it is. For error texts: an answer itself may be of megabytes.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Have(_) => "have",
            Self::Updates(_) => "updates",
            Self::Claim(_) => "claim",
            Self::RemovalTable(_) => "removal_table",
            Self::Applied { .. } => "applied",
            Self::Status { .. } => "status",
            Self::Done(_) => "done",
            Self::Grant(_) => "grant",
            Self::NotUnderstood(_) => "not_understood",
        }
    }
}
