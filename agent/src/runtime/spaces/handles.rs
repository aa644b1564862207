//! What is open in each namespace for the overlay, and hears of changes there.
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use overlay::{Enter, Handles, Look, Space};

use super::{SharedKernel, SpaceError, Spaces};
use crate::netns::{Changed, Concern, Monitor, Namespace, Netlink};
use crate::runtime::agent::Agent;
use crate::runtime::touched::Touched;

/// Runs work inside a namespace for the overlay crate, which never changes namespace itself.
struct Inside(Namespace);

impl Enter for Inside {
    fn enter(&self, work: Box<dyn FnOnce() -> io::Result<()> + Send>) -> io::Result<()> {
        self.0.run(work).map_err(io::Error::other)?
    }
}

pub(super) fn netfilter_in(namespace: &Namespace) -> Result<netfilter::Socket, SpaceError> {
    namespace.run(netfilter::Socket::open).map_err(SpaceError::Open)?.map_err(SpaceError::Netfilter)
}

/// Notes every change in a namespace.
fn listen(
    touched: &Arc<Touched>,
    space: Space,
    namespace: &Namespace,
    own: Vec<u32>,
) -> Result<Monitor, SpaceError> {
    let concern = match &space {
        Space::Host => Concern::Host,
        Space::Network(_) | Space::Paths => Concern::Network,
        Space::Container(_) => Concern::Container,
    };
    let touched = Arc::clone(touched);
    let changed = move |changed| {
        let look = match changed {
            Changed::Links => Look::Links,
            Changed::Tables => Look::All,
        };
        touched.touch(&space, look);
    };
    namespace.monitor(concern, own, changed).map_err(SpaceError::Open)
}

impl Spaces {
    /// What the overlay needs in a namespace, and what hears of changes there that it does not make.
    pub(super) fn open(
        kernel: &SharedKernel,
        touched: &Arc<Touched>,
        space: Space,
        namespace: &Namespace,
    ) -> Result<(Netlink, Monitor), SpaceError> {
        let (netlink, own) = Self::register(kernel, space.clone(), namespace)?;
        Ok((netlink, listen(touched, space, namespace, own)?))
    }

    /// Opens again what has closed itself after an error. A line for each namespace in which that fails.
    pub fn reopen(&mut self, agent: &Agent) -> Vec<(String, SpaceError)> {
        let (kernel, touched) = (&self.kernel, &self.touched);
        let mut failed = Vec::new();
        if self.host.0.is_closed() {
            match Self::open(kernel, touched, Space::Host, &agent.host_namespace) {
                Ok(host) => self.host = host,
                Err(error) => failed.push(("host".to_owned(), error)),
            }
        }
        for (name, network) in self.networks.iter_mut().filter(|(_, network)| network.netlink.is_closed()) {
            let space = Space::Network(name.to_string());
            match Self::open(kernel, touched, space, &network.namespace) {
                Ok((netlink, monitor)) => (network.netlink, network._monitor) = (netlink, monitor),
                Err(error) => failed.push((format!("network/{name}"), error)),
            }
        }
        if let Some(paths) = self.paths.as_mut().filter(|paths| paths.netlink.is_closed()) {
            match Self::open(kernel, touched, Space::Paths, &paths.namespace) {
                Ok((netlink, monitor)) => (paths.netlink, paths._monitor) = (netlink, monitor),
                Err(error) => failed.push(("paths".to_owned(), error)),
            }
        }
        let closed = self.containers.iter_mut().filter(|(_, it)| !it.host && it.netlink.is_closed());
        for (cookie, container) in closed {
            let space = Space::Container(*cookie);
            match Self::open(kernel, touched, space, &container.namespace) {
                Ok((netlink, monitor)) => (container.netlink, container._monitor) = (netlink, Some(monitor)),
                Err(error) => failed.push((format!("namespace/{cookie}"), error)),
            }
        }
        failed
    }

    /// Opens what the overlay needs in a namespace; the port numbers of its sockets are told as well.
    fn register(
        kernel: &SharedKernel,
        space: Space,
        namespace: &Namespace,
    ) -> Result<(Netlink, Vec<u32>), SpaceError> {
        let netlink = namespace.rtnetlink().map_err(SpaceError::Open)?;
        let file = namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| SpaceError::Open(crate::netns::Error::Identity { source }))?;
        let netfilter = netfilter_in(namespace)?;
        let ports = vec![netlink.port(), netfilter.port()];
        let handles = Handles {
            route: netlink.clone(),
            netfilter,
            namespace: Arc::new(file),
            enter: Arc::new(Inside(namespace.clone())),
        };
        kernel.insert(space, handles);
        Ok((netlink, ports))
    }
}
