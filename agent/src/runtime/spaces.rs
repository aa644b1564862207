//! The namespaces that this host's networks and attachments live in, and what is open in each.
//!
//! A network's namespace is made here and kept by the holder; a container's is opened where its attachment
//! says and let go of the moment it dies. All handles into a namespace are here and nowhere else.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use dns::{Server, Zone, ZoneHandle};
use lb::{Balancer, Real};
use overlay::{LinuxKernel, Space};
use rustix::fs::MemfdFlags;

use crate::holder;
use crate::model::Name;
use crate::netns::{LegacyTables, Monitor, Namespace, Netlink, ResolverSockets, Watcher};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::local::{LocalAttachment, StoredPlace};
use crate::runtime::touched::Touched;

mod earlier;
mod error;
mod handles;
mod kept;

pub use earlier::{drop_strangers, find_again, remove_table};
pub use error::SpaceError;

use handles::netfilter_in;

/// So many containers' tables are removed at once.
const AT_ONCE: usize = 16;

/// A container's namespace with everything that is open in it.
pub struct Container {
    /// Holds the namespace.
    pub namespace: Namespace,
    /// Route netlink for the overlay; closed when dropped.
    netlink: Netlink,
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

/// What others than the loop may use of a container's namespace, each for a moment.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The namespace.
    pub namespace: Namespace,
    /// As [`Container::balancer`].
    pub balancer: Arc<Mutex<Balancer>>,
    /// Where our resolver is asked in it, at 127.0.0.11.
    pub resolver_port: Option<u16>,
}

/// A running resolver.
pub struct Resolver {
    server: Server,
    /// What it answers from.
    pub zone: ZoneHandle,
    /// Where 127.0.0.11:53 is redirected to.
    pub port: u16,
}

/// A network's namespace.
struct NetworkSpace {
    namespace: Namespace,
    netlink: Netlink,
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
    /// What the holder was to let go of and has not: it would keep namespaces alive.
    unreleased: BTreeSet<String>,
    host: (Netlink, Monitor),
    touched: Arc<Touched>,
    forwarder: dns::Forwarder,
    stats: Arc<dns::Stats>,
}

/// The kernel, shared between the reconciler that works on it and this registry, which opens and closes namespaces.
pub type SharedKernel = Arc<LinuxKernel>;

impl Spaces {
    /// Opens the host's own namespace.
    ///
    /// # Errors
    /// When a socket cannot be opened in it.
    pub fn begin(
        agent: &Agent,
        holder: Arc<holder::Client>,
        watcher: Watcher,
        forwarder: dns::Forwarder,
        stats: Arc<dns::Stats>,
    ) -> Result<Self, SpaceError> {
        let kernel = SharedKernel::default();
        let touched = Arc::clone(&agent.touched);
        let host = Self::open(&kernel, &touched, Space::Host, &agent.host_namespace)?;
        Ok(Self {
            holder,
            watcher,
            kernel,
            networks: BTreeMap::new(),
            paths: None,
            containers: BTreeMap::new(),
            unreleased: BTreeSet::new(),
            host,
            touched,
            forwarder,
            stats,
        })
    }

    /// The kernel as the overlay sees it. Clones share the handles.
    pub fn kernel(&self) -> SharedKernel {
        Arc::clone(&self.kernel)
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
        self.unreleased.remove(&holder::resolver_name(record.cookie));
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
                let (netlink, monitor) = Self::open(&self.kernel, &self.touched, space, namespace)?;
                (netlink, Some(monitor))
            }
        };
        let balancer = Balancer::new(Real::new(tables));
        let legacy = namespace.legacy_tables();
        let legacy =
            legacy.inspect_err(|error| tracing::warn!("{}: its flows are all tracked", chain(error))).ok();
        let resolver = if host { None } else { Some(self.start_resolver(agent, namespace, zone)?) };
        Ok(Container {
            namespace: namespace.clone(),
            netlink,
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
        Ok(Resolver { server, zone, port: sockets.port })
    }

    /// Whether flows of the namespace that need no tracking may go without. Not where rules of the older iptables stand,
    /// which never see untracked packets as part of a flow, and not in the host's own, which is full of other tables.
    pub fn may_untrack(&self, cookie: u64) -> bool {
        self.containers.get(&cookie).is_some_and(|container| {
            !container.host && container.legacy.as_ref().is_some_and(|legacy| !legacy.present())
        })
    }

    /// Removes our table from a container's namespace and closes every handle into it.
    ///
    /// # Errors
    /// When the table cannot be removed: the namespace stays open then, to be tried again. Or when the holder keeps the
    /// resolver's sockets; [`Self::release_again`] tries again.
    pub async fn drop_container(&mut self, cookie: u64) -> Result<(), SpaceError> {
        let Some(container) = self.containers.get(&cookie) else { return Ok(()) };
        remove_balancing(Arc::clone(&container.balancer)).await?;
        self.close_container(cookie).await
    }

    /// As [`Self::drop_container`], of all: the kernel's waits for its readers, of which there are some for each table, go
    /// on beside each other.
    pub async fn drop_containers(&mut self) -> Vec<(u64, Result<(), SpaceError>)> {
        let all: Vec<(u64, Arc<Mutex<Balancer>>)> =
            self.containers.iter().map(|(cookie, it)| (*cookie, Arc::clone(&it.balancer))).collect();
        let mut dropped = Vec::new();
        for some in all.chunks(AT_ONCE) {
            let removals =
                some.iter().map(|(_, balancer)| tokio::spawn(remove_balancing(Arc::clone(balancer))));
            let removals: Vec<_> = removals.collect();
            for ((cookie, _), removal) in some.iter().zip(removals) {
                let outcome = match removal.await.unwrap_or(Ok(())) {
                    Ok(()) => self.close_container(*cookie).await,
                    Err(error) => Err(error),
                };
                dropped.push((*cookie, outcome));
            }
        }
        dropped
    }

    async fn close_container(&mut self, cookie: u64) -> Result<(), SpaceError> {
        let Some(container) = self.containers.remove(&cookie) else { return Ok(()) };
        drop(self.watcher.unwatch(cookie));
        if let Some(resolver) = container.resolver {
            resolver.server.stop().await;
        }
        if container.host {
            return Ok(());
        }
        self.kernel.remove(&Space::Container(cookie));
        self.release(holder::resolver_name(cookie))
    }

    /// Ends the holder, with `leave`.
    pub fn end_holder(&self) {
        if let Err(error) = self.holder.end() {
            tracing::warn!("the holder does not end: {}", chain(&error));
        }
    }
}

async fn remove_balancing(balancer: Arc<Mutex<Balancer>>) -> Result<(), SpaceError> {
    let removed = tokio::task::spawn_blocking(move || lock(&balancer).remove()).await;
    // A thread that panicked is said where it did.
    removed.unwrap_or(Ok(())).map_err(SpaceError::Table)
}

/// Where to look for an attachment's namespace.
pub fn target(place: &StoredPlace) -> crate::netns::Target {
    match place {
        StoredPlace::Path(path) => crate::netns::Target::Path(path.into()),
        StoredPlace::Pid(pid) => crate::netns::Target::Pid(*pid),
        StoredPlace::Host => crate::netns::Target::Host,
    }
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
