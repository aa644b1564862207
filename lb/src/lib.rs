//! Virtual-IP balancing in one namespace: a plain desired state, made true in nftables.
//!
//! [`Desired`] goes in, [`Balancer::reconcile`] makes it true, in the namespace whose [`netfilter::Socket`] it was
//! given. Data flows one way:
//!
//! ```text
//! Desired -> services (what changed, by pointer) -> wanted (validated; weights -> slots)
//!         -> plan (pure: wanted + mirror -> one transaction) -> kernel (real | fake | faulty)
//!         -> mirror (follows) ; flows (which conntrack entries are stale)
//! ```
//!
//! The rules never change ([`rules`]); everything that varies is an element of a map ([`element`]). The crate knows
//! nothing of overlays, names or catalogs.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub mod address;
mod balancer;
pub mod element;
mod flows;
pub mod kernel;
pub mod mirror;
pub mod plan;
pub mod rules;
mod services;
pub mod slots;
mod table;
pub mod transaction;
pub mod untracked;
mod vips;
pub mod wanted;

pub use balancer::Balancer;
pub use flows::Stale;
pub use kernel::real::Real;
pub use vips::Vips;

/// The name of our table, in families ip and, where IPv6 addresses occur, ip6. Everything in it is ours.
pub const TABLE_NAME: &str = "svc-agent";

/// Everything one namespace's balancing table shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Redirects of the namespace's own look-ups: what is sent to `from` goes to `to`.
    pub redirects: Vec<Redirect>,
    /// The VIP ranges of the networks this namespace is on; what is sent to an address of a range that no
    /// service serves is refused at once by translating it to `own`, port 0.
    pub ranges: Vec<VipRange>,
    /// Addresses of endpoints on the networks this namespace is on. Flows between them and this namespace's own
    /// addresses are not tracked, but for replicas' ([`untracked`]); none = every flow is tracked.
    pub peers: Vec<AddressRange>,
    /// Services, shared between namespaces; two `Arc`s that are the same pointer are equal. Sorted by name, a change
    /// is found in one pass over the pointers; unsorted, it is found as well and costs more.
    pub services: Vec<Arc<Service>>,
}

/// A UDP and TCP redirect, used for the resolver: 127.0.0.11:53 to a free high port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Redirect {
    /// The address and port that clients use.
    pub from: SocketAddr,
    /// Where they are answered.
    pub to: SocketAddr,
}

/// A range of addresses in which every address is a VIP or refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipRange {
    /// First address of the range.
    pub first: IpAddr,
    /// Last address of the range, included.
    pub last: IpAddr,
    /// This namespace's own address on that network, of the same family.
    pub own: IpAddr,
}

/// A range of addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    /// First address of the range.
    pub first: IpAddr,
    /// Last address of the range, included.
    pub last: IpAddr,
}

/// A service as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `network/name`, for messages only.
    pub name: String,
    /// Virtual addresses, of either family; each balances over the replicas' addresses of its family.
    pub vips: Vec<IpAddr>,
    /// Declared ports; empty = the whole address (every port, TCP, UDP, SCTP and ICMP echo).
    pub ports: Vec<Port>,
    /// Replicas known, sorted by address; only those with `state` Serving and weight > 0 get new flows.
    pub replicas: Vec<Replica>,
}

/// A declared port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The port that clients use.
    pub public: u16,
    /// The port that replicas listen on.
    pub target: u16,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its addresses on the network, at most one per family; shared by the services that it is a replica of.
    pub addresses: Arc<[IpAddr]>,
    /// Share of new flows, 0 to 256.
    pub weight: u16,
    /// What it may be sent.
    pub state: ReplicaState,
}

/// What a replica may be sent. A replica that is no longer in the list gets nothing: its flows are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaState {
    /// New flows.
    Serving,
    /// No new flows; established TCP flows go on, UDP flows move.
    Quiescing,
}

/// What a call has done, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chains and elements added or deleted; 0 = everything was as it should be.
    pub changes: usize,
    /// Something has to wait for a later transaction: call again.
    pub pending: bool,
    /// And it is not only that stale flows are to be deleted.
    pub tables_pending: bool,
    /// What of the desired state cannot be made true; all else is.
    pub problems: Vec<Problem>,
    /// Flows that led to somebody they must not go to any more.
    pub flows_deleted: usize,
}

/// A part of the desired state that cannot be made true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The service, range or redirect.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A failed operation on a namespace. The next call of [`Balancer::reconcile`] reads what the namespace holds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be found out what the kernel can do; nothing has changed.
    #[error("cannot try nftables in the namespace")]
    Features {
        /// Why.
        source: netfilter::Error,
    },
    /// The ruleset's generation could not be read; nothing has changed.
    #[error("cannot read the ruleset's generation")]
    Generation {
        /// Why.
        source: netfilter::Error,
    },
    /// The table could not be read; nothing has changed.
    #[error("cannot read table {family:?} {TABLE_NAME}")]
    Read {
        /// Its family.
        family: netfilter::Family,
        /// Why.
        source: netfilter::Error,
    },
    /// The table could not be changed; it is as it was, unless the answer alone was lost.
    #[error("cannot change table {family:?} {TABLE_NAME}")]
    Commit {
        /// Its family.
        family: netfilter::Family,
        /// Why.
        source: netfilter::Error,
    },
    /// It could not be settled which flows are not tracked: the tables of others could not be read, or ours not changed.
    /// Balancing is not hindered, unless new replicas' flows would go untracked.
    #[error("cannot change table {family:?} {}", untracked::TABLE_NAME)]
    Untracked {
        /// Its family.
        family: netfilter::Family,
        /// Why.
        source: netfilter::Error,
    },
    /// Somebody changes the ruleset all the time; the table is as it was.
    #[error("table {family:?} {TABLE_NAME} could not be changed: the ruleset changed under it {tries} times")]
    Restless {
        /// Its family.
        family: netfilter::Family,
        /// How often it was tried.
        tries: u32,
    },
    /// The tables are right, but flows to replicas that have gone may live on.
    #[error("cannot delete stale flows")]
    Flows {
        /// Why.
        source: netfilter::Error,
    },
}
