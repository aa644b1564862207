//! A network for tests that make their own attachments.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use overlay::{Attachment, Desired, Host, Network, Remote, Space, Subnet};

/// Its namespace.
pub(crate) fn blue() -> Space {
    Space::Network("blue".to_owned())
}

/// A host in the underlay; this one is the first.
pub(crate) fn vtep(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// The network alone, with "web" attached here; the second host has it, too.
pub(crate) fn with(web: Attachment, remotes: Vec<Arc<Remote>>) -> Desired {
    let network = Network {
        vni: 4097,
        subnets: vec![Subnet {
            cidr: "10.20.0.0/16".parse().unwrap(),
            gateway: "10.20.0.1".parse().unwrap(),
        }],
        mtu: 1450,
        internal: false,
        link_index: 3,
        flood: BTreeSet::from([vtep(2)]),
        remotes: remotes.into(),
        attachments: BTreeMap::from([("web".to_owned(), web)]).into(),
    };
    let host = Host {
        address: vtep(1),
        vxlan_port: 4789,
        former_ports: BTreeSet::new(),
        other_ports: BTreeMap::new(),
        guarded_ports: BTreeSet::new(),
        peers: BTreeSet::from([vtep(2)]),
        link_pool: "169.254.64.0/20".parse().unwrap(),
        offload: true,
    };
    Desired { host, networks: BTreeMap::from([("blue".to_owned(), network)]), paths: None }
}
