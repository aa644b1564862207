//! What a zone is made of, as plain values.
use std::net::IpAddr;
use std::sync::Arc;

use crate::beside::Beside;
use crate::network::Network;

/// All that one attached namespace may ask about; published as one snapshot. A clone costs a few reference counts.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Our domain, `svc.internal` by default, lower case, without a trailing dot.
    pub domain: Arc<str>,
    /// The networks the namespace is on, in order of attachment: the first that has a name answers it.
    pub networks: Vec<Arc<Network>>,
    /// Whether names that are not ours are forwarded (false when every network of it is internal).
    pub forward: bool,
    /// Whether the catalog has been complete once; before that a name we lack is SERVFAIL, never NXDOMAIN.
    pub synced: bool,
    /// Who else in the namespace knows names; asked after us and before the upstreams.
    pub beside: Option<Beside>,
}

/// A service as names see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Canonical name, lower case.
    pub name: Arc<str>,
    /// Further names of the service, lower case.
    pub aliases: Vec<Arc<str>>,
    /// How the plain name is answered.
    pub mode: Mode,
    /// VIPs of the answer (the older registration's), at most one per family.
    pub vips: Vec<IpAddr>,
    /// Addresses of the serving replicas.
    pub replicas: Vec<IpAddr>,
}

/// How a service's plain name is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With its VIPs.
    Vip,
    /// With the addresses of its serving replicas, in random order.
    RoundRobin,
}

/// An attachment (a container on a network) as names see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name, lower case.
    pub name: Arc<str>,
    /// Further names, lower case.
    pub aliases: Box<[Arc<str>]>,
    /// Its addresses on the network, at most one per family.
    pub addresses: Box<[IpAddr]>,
}
