//! Virtual-IP balancing in one namespace: a plain desired state, made true in nftables.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything one namespace's balancing table shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Redirects of the namespace's own look-ups: what is sent to `from` goes to `to`.
    pub redirects: Vec<Redirect>,
    /// The VIP ranges of the networks this namespace is on; what is sent to an address of a range that no
    /// service serves is refused at once by translating it to `own`, port 0.
    pub ranges: Vec<VipRange>,
    /// Services, shared between namespaces; two `Arc`s that are the same pointer are equal.
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
    /// Its addresses on the network, at most one per family.
    pub addresses: Vec<IpAddr>,
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
