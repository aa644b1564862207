//! The namespaces that this host's networks and attachments live in, and what is open in each.
//!
//! A network's namespace is made here and kept by the holder; a container's is opened where its attachment
//! says and let go of the moment it dies. All handles into a namespace are here and nowhere else.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use dns::{Server, Zone, ZoneHandle};
use lb::{Balancer, Real};
use overlay::{Enter, Handles, LinuxKernel, Space};
use rustix::fs::MemfdFlags;

use crate::holder;
use crate::model::Name;
use crate::netns::{Concern, LegacyTables, Monitor, Namespace, Netlink, Resolved, ResolverSockets, Watcher};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::local::{LocalAttachment, StoredPlace};
use crate::runtime::touched::Touched;

mod error;
mod kept;

pub use error::SpaceError;

/// A container's namespace with everything that is open in it.
pub struct Container {
    /// Holds the namespace.
    pub namespace: Namespace,
    /// Route netlink for the overlay; closed when dropped.
    _netlink: Netlink,
    /// Its balancing table. Taken while a blocking thread works on it.
    pub balancer: Arc<Mutex<Balancer>>,
    /// Its resolver; the host's own namespace has none.
    pub resolver: Option<Resolver>,
    /// Whether it is the host's own.
    pub host: bool,
    /// Tells of rules of the older iptables in it; `None` if that cannot be told.
    pub legacy: Option<LegacyTables>,
    /// Hears of changes in it; the host's own has one already.
    _monitor: Option<Monitor>,
}

/// A running resolver.
pub struct Resolver {
    server: Server,
    /// What it answers from.
    pub zone: ZoneHandle,
    /// Where 127.0.0.11:53 is redirected to.
    pub port: u16,
    /// Its sockets and notes, to be given to a new holder.
    kept: [OwnedFd; 3],
}

/// A network's namespace.
struct NetworkSpace {
    namespace: Namespace,
    _netlink: Netlink,
    _monitor: Monitor,
}

/// All of them.
pub struct Spaces {
    holder: Arc<holder::Client>,
    watcher: Watcher,
    kernel: SharedKernel,
    networks: BTreeMap<Name, NetworkSpace>,
    paths: Option<NetworkSpace>,
    /// By cookie.
    pub containers: BTreeMap<u64, Container>,
    _host: (Netlink, Monitor),
    touched: Arc<Touched>,
    forwarder: dns::Forwarder,
    stats: Arc<dns::Stats>,
}

/// The kernel, shared between the reconciler that works on it and this registry, which opens and closes namespaces.
pub type SharedKernel = Arc<LinuxKernel>;

/// Runs work inside a namespace for the overlay crate, which never changes namespace itself.
struct Inside(Namespace);

impl Enter for Inside {
    fn enter(&self, work: Box<dyn FnOnce() -> io::Result<()> + Send>) -> io::Result<()> {
        self.0.run(work).map_err(io::Error::other)?
    }
}

fn netfilter_in(namespace: &Namespace) -> Result<netfilter::Socket, SpaceError> {
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
    namespace.monitor(concern, own, move || touched.touch(&space)).map_err(SpaceError::Open)
}

impl Spaces {
    /// Opens the host's own namespace.
    ///
    /// # Errors
    /// When a socket cannot be opened in it.
    pub fn open(
        agent: &Agent,
        holder: Arc<holder::Client>,
        watcher: Watcher,
        forwarder: dns::Forwarder,
        stats: Arc<dns::Stats>,
    ) -> Result<Self, SpaceError> {
        let kernel = SharedKernel::default();
        let touched = Arc::clone(&agent.touched);
        let (netlink, own) = Self::register(&kernel, Space::Host, &agent.host_namespace)?;
        let monitor = listen(&touched, Space::Host, &agent.host_namespace, own)?;
        Ok(Self {
            holder,
            watcher,
            kernel,
            networks: BTreeMap::new(),
            paths: None,
            containers: BTreeMap::new(),
            _host: (netlink, monitor),
            touched,
            forwarder,
            stats,
        })
    }

    /// The kernel as the overlay sees it. Clones share the handles.
    pub fn kernel(&self) -> SharedKernel {
        Arc::clone(&self.kernel)
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

    /// Opens an attachment's namespace, unless it is open.
    ///
    /// # Errors
    /// When it is gone, another one, or a socket cannot be opened in it.
    pub fn ensure_container(
        &mut self,
        agent: &Agent,
        record: &LocalAttachment,
        zone: Zone,
    ) -> Result<(), SpaceError> {
        // Taken in any case: a handle left there would keep the namespace alive.
        let opened = lock(&agent.opened).remove(&record.cookie);
        if self.containers.contains_key(&record.cookie) {
            return Ok(());
        }
        let resolved = match opened {
            Some(resolved) => resolved,
            None => find_again(&self.holder, record).ok_or(SpaceError::Gone)?,
        };
        if resolved.namespace.cookie() != record.cookie {
            return Err(SpaceError::Gone);
        }
        let opened = self.open_container(agent, record, &resolved.namespace, zone);
        let container = opened.inspect_err(|_| self.kernel.remove(&Space::Container(record.cookie)))?;
        let inode = container.namespace.inode();
        if !container.host
            && let Err(error) = self.watcher.watch(record.cookie, inode, resolved.place)
        {
            tracing::error!("the end of {} will not be noticed: {}", record.key(), chain(&error));
        }
        self.containers.insert(record.cookie, container);
        Ok(())
    }

    fn open_container(
        &self,
        agent: &Agent,
        record: &LocalAttachment,
        namespace: &Namespace,
        zone: Zone,
    ) -> Result<Container, SpaceError> {
        let host = record.place == StoredPlace::Host;
        let tables = netfilter_in(namespace)?;
        let (netlink, monitor) = match host {
            true => (namespace.rtnetlink().map_err(SpaceError::Open)?, None),
            false => {
                let space = Space::Container(record.cookie);
                let (netlink, mut own) = Self::register(&self.kernel, space.clone(), namespace)?;
                own.push(tables.port());
                (netlink, Some(listen(&self.touched, space, namespace, own)?))
            }
        };
        let balancer = Balancer::new(Real::new(tables));
        let legacy = namespace.legacy_tables();
        let legacy =
            legacy.inspect_err(|error| tracing::warn!("{}: its flows are all tracked", chain(error))).ok();
        let resolver = if host { None } else { Some(self.start_resolver(agent, namespace, zone)?) };
        Ok(Container {
            namespace: namespace.clone(),
            _netlink: netlink,
            balancer: Arc::new(Mutex::new(balancer)),
            resolver,
            host,
            legacy,
            _monitor: monitor,
        })
    }

    /// The sockets that the holder keeps, so that look-ups wait through a restart, or new ones.
    fn start_resolver(
        &self,
        agent: &Agent,
        namespace: &Namespace,
        zone: Zone,
    ) -> Result<Resolver, SpaceError> {
        let name = holder::resolver_name(namespace.cookie());
        let kept = self.holder.get(&name).map_err(SpaceError::Holder)?;
        let (sockets, notes) = match kept.and_then(sockets_of) {
            Some((sockets, Some(notes))) => (sockets, notes),
            kept => {
                let notes = rustix::fs::memfd_create("svc-agent-look-ups", MemfdFlags::CLOEXEC);
                let notes = File::from(notes.map_err(|error| SpaceError::Notes(error.into()))?);
                let sockets = match kept {
                    // Of an agent that noted nothing.
                    Some((sockets, _)) => sockets,
                    None => namespace.bind_resolver().map_err(SpaceError::Open)?,
                };
                let files = [sockets.udp.as_fd(), sockets.tcp.as_fd(), notes.as_fd()];
                self.holder.put(&name, &files).map_err(SpaceError::Holder)?;
                (sockets, notes)
            }
        };
        let files = [sockets.udp.as_fd(), sockets.tcp.as_fd(), notes.as_fd()];
        let [Ok(udp), Ok(tcp), Ok(note)] = files.map(|file| file.try_clone_to_owned()) else {
            return Err(SpaceError::Copy);
        };
        let zone = ZoneHandle::new(zone);
        let settings = crate::runtime::converge::resolver_settings(agent);
        let server = Server::start(
            dns::Sockets { udp: sockets.udp, tcp: sockets.tcp, notes },
            zone.clone(),
            self.forwarder.clone(),
            Arc::clone(&self.stats),
            settings,
        )
        .map_err(SpaceError::Resolver)?;
        Ok(Resolver { server, zone, port: sockets.port, kept: [udp, tcp, note] })
    }

    /// Whether flows of the namespace that need no tracking may go without. Not where rules of the older iptables stand,
    /// which never see untracked packets as part of a flow, and not in the host's own, which is full of other tables.
    pub fn may_untrack(&self, cookie: u64) -> bool {
        self.containers.get(&cookie).is_some_and(|container| {
            !container.host && container.legacy.as_ref().is_some_and(|legacy| !legacy.present())
        })
    }

    /// Closes every handle into a container's namespace. With `tables`, removes our table from it first.
    pub async fn drop_container(&mut self, cookie: u64, tables: bool) {
        let Some(container) = self.containers.remove(&cookie) else { return };
        drop(self.watcher.unwatch(cookie));
        if tables {
            let balancer = Arc::clone(&container.balancer);
            let removed = tokio::task::spawn_blocking(move || lock(&balancer).remove()).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!("the balancing table of a detached namespace stays: {}", chain(&error));
            }
        }
        if !container.host {
            self.kernel.remove(&Space::Container(cookie));
            if let Err(error) = self.holder.drop_name(&holder::resolver_name(cookie)) {
                tracing::warn!("the holder keeps a resolver's sockets: {}", chain(&error));
            }
        }
        if let Some(resolver) = container.resolver {
            resolver.server.stop().await;
        }
    }

    /// Ends the holder, with `leave`.
    pub fn end_holder(&self) {
        if let Err(error) = self.holder.end() {
            tracing::warn!("the holder does not end: {}", chain(&error));
        }
    }
}

/// Where to look for an attachment's namespace.
pub fn target(place: &StoredPlace) -> crate::netns::Target {
    match place {
        StoredPlace::Path(path) => crate::netns::Target::Path(path.into()),
        StoredPlace::Pid(pid) => crate::netns::Target::Pid(*pid),
        StoredPlace::Host => crate::netns::Target::Host,
    }
}

/// Lets go of what a crash left in the holder: the resolver's sockets of namespaces that nothing is attached through (they
/// would keep them alive), and namespaces of networks that were made just before and not written down.
pub fn drop_strangers(holder: &holder::Client, wanted: &BTreeSet<u64>, networks: &BTreeSet<Name>) {
    for entry in holder.list().unwrap_or_default() {
        let cookie = entry.name.strip_prefix("resolver/").and_then(|text| text.parse().ok());
        let network = entry.name.strip_prefix("network/").and_then(|text| text.parse().ok());
        if cookie.is_some_and(|cookie: u64| !wanted.contains(&cookie))
            || network.is_some_and(|network: Name| !networks.contains(&network))
        {
            drop(holder.drop_name(&entry.name));
        }
    }
}

/// Removes our balancing tables from a namespace that is attached no more.
///
/// # Errors
/// When the namespace cannot be worked in.
pub fn remove_table(namespace: &Namespace) -> Result<(), SpaceError> {
    Balancer::new(Real::new(netfilter_in(namespace)?)).remove().map_err(SpaceError::Table)
}

/// The namespace of an attachment that an earlier agent made, if it lives: by the resolver's sockets that the holder
/// kept, which stay in it whatever its path or first process has become; else by the place it was found at.
pub fn find_again(holder: &holder::Client, record: &LocalAttachment) -> Option<Resolved> {
    let kept = holder.get(&holder::resolver_name(record.cookie)).ok().flatten();
    let namespace = kept.and_then(|files| Namespace::of_socket(files.first()?.as_fd()).ok());
    let resolved = match namespace {
        Some(namespace) => {
            let place = crate::netns::resume(&namespace, &target(&record.place), None)?;
            Resolved { namespace, place }
        }
        None => crate::netns::resolve(&target(&record.place), None).ok()?,
    };
    (resolved.namespace.cookie() == record.cookie).then_some(resolved)
}

/// UDP first, TCP second, as they were put, and then the notes of look-ups that wait.
fn sockets_of(files: Vec<OwnedFd>) -> Option<(ResolverSockets, Option<File>)> {
    let mut files = files.into_iter();
    let udp = std::net::UdpSocket::from(files.next()?);
    let tcp = std::net::TcpListener::from(files.next()?);
    let port = udp.local_addr().ok()?.port();
    Some((ResolverSockets { udp, tcp, port }, files.next().map(File::from)))
}

/// Where clients ask.
pub fn resolver_address() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 0, 0, 11).into(), 53)
}
