//! A kernel in memory, with the real one's refusals.
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{HOST_SYSCTLS, Kernel, KernelError, Look, NETWORK_SYSCTLS, PATHS_SYSCTLS};
use crate::{Link, LinkKind, Observed, Op, Space, World};

/// A kernel in memory. Not an approximation of timing or packets: of state alone.
#[derive(Debug, Default)]
pub struct FakeKernel {
    world: Mutex<World>,
}

/// Sysctls that a fresh namespace has on and not off, as a kernel with br_netfilter shows them.
const ON: &[&str] = &[
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
    "net/ipv6/conf/default/accept_ra",
    "net/ipv4/conf/all/send_redirects",
    "net/ipv4/conf/default/send_redirects",
];

impl FakeKernel {
    /// No namespaces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a namespace as the kernel makes it: with a loopback link that is down.
    pub fn insert(&self, space: Space) {
        let lo = Link {
            index: 1,
            kind: LinkKind::Other,
            alias: None,
            mtu: 65536,
            mac: Some(crate::Mac([0; 6])),
            up: false,
            takes_six: true,
            offload: true,
            controller: None,
            port: None,
            peer_index: None,
        };
        let keys = match &space {
            Space::Host => &[HOST_SYSCTLS, &["net/ipv6/conf/default/accept_ra"]].concat(),
            Space::Network(_) => NETWORK_SYSCTLS,
            Space::Paths => PATHS_SYSCTLS,
            Space::Container(_) => &[][..],
        };
        let value = |key: &str| match key {
            // Destination unreachable, source quench, time exceeded and parameter problem (net/ipv4/icmp.c).
            "net/ipv4/icmp_ratemask" => "6168",
            key if ON.contains(&key) => "1",
            _ => "0",
        };
        let sysctls = keys.iter().map(|key| ((*key).to_owned(), value(key).to_owned()));
        let observed = Observed {
            links: [("lo".to_owned(), lo)].into(),
            sysctls: sysctls.collect(),
            ..Observed::default()
        };
        self.world().spaces.insert(space, observed);
    }

    /// Drops a namespace with all it holds; other ends of its veth pairs go too.
    pub fn remove(&self, space: &Space) {
        let mut world = self.world();
        let names: Vec<String> = world
            .spaces
            .get(space)
            .map(|observed| observed.links.keys().cloned().collect())
            .unwrap_or_default();
        for name in names {
            // A link that went with another one's deletion is gone already.
            let _ = world.apply(space, &Op::DeleteLink { name });
        }
        world.spaces.remove(space);
    }

    /// The state, to look at or to change as another tool would.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    fn spaces(&self) -> Vec<Space> {
        self.world().spaces.keys().cloned().collect()
    }

    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError> {
        let mut observed = self.world().spaces.get(space).cloned();
        if let Some(observed) = &mut observed {
            leave_out_unread(space, observed);
            if look == Look::Links {
                drop(observed.take_tables());
            }
        }
        observed.ok_or_else(|| KernelError::NoSpace(space.clone()))
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        self.world()
            .apply(space, op)
            .map_err(|errno| KernelError::Refused(std::io::Error::from_raw_os_error(errno)))
    }
}

/// What is there and not asked for: the tables of bridges and tunnels are read in networks' namespaces alone.
fn leave_out_unread(space: &Space, observed: &mut Observed) {
    let network = matches!(space, Space::Network(_) | Space::Paths);
    for link in observed.links.values_mut().filter(|link| network || !link.is_ours()) {
        link.takes_six = link.kind != LinkKind::Veth;
    }
    if network {
        return;
    }
    observed.neighbours.clear();
    observed.tunnels.clear();
    observed.forwarding.clear();
    match space {
        Space::Host => observed.routes.clear(),
        _ => observed.tables.clear(),
    }
}
