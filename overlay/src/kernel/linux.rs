//! The real kernel: route netlink, netfilter, /proc/sys and a packet socket, each opened in its namespace by
//! the caller.
mod announce;
mod entries;
mod links;
mod observe;
mod offload;
mod request;
mod tables;
mod ways;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;

use super::{Kernel, KernelError, Look};
use crate::{Observed, Op, Space};

/// Runs work inside a namespace.
pub trait Enter: Send + Sync {
    /// Runs `work` on a thread that is in the namespace, waits for it and answers what it answered.
    fn enter(&self, work: Box<dyn FnOnce() -> io::Result<()> + Send>) -> io::Result<()>;
}

/// What the overlay needs of a namespace, opened there by the caller.
pub struct Handles {
    /// A route netlink socket of the namespace; its connection is driven by the caller.
    pub route: rtnetlink::Handle,
    /// A netfilter socket of the namespace.
    pub netfilter: netfilter::Socket,
    /// The namespace itself (nsfs), to move links into.
    pub namespace: Arc<OwnedFd>,
    /// A way in, for /proc/sys/net and packet sockets.
    pub enter: Arc<dyn Enter>,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// The kernel of this machine, as far as namespaces were handed over.
#[derive(Default)]
pub struct LinuxKernel {
    open: RwLock<BTreeMap<Space, Arc<Open>>>,
}

/// A namespace that can be worked in.
struct Open {
    space: Space,
    route: rtnetlink::Handle,
    netfilter: Arc<Mutex<netfilter::Socket>>,
    namespace: Arc<OwnedFd>,
    enter: Arc<dyn Enter>,
    /// Interface indexes by name, as last seen: a request per entry would double the cost of bulk writes.
    indexes: Mutex<HashMap<String, u32>>,
}

impl fmt::Debug for LinuxKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxKernel").field("spaces", &self.spaces()).finish()
    }
}

impl LinuxKernel {
    /// No namespaces yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a namespace over, in place of an earlier one of this name.
    pub fn insert(&self, space: Space, handles: Handles) {
        let Handles { route, netfilter, namespace, enter } = handles;
        let netfilter = Arc::new(Mutex::new(netfilter));
        let indexes = Mutex::new(HashMap::new());
        let open = Open { space: space.clone(), route, netfilter, namespace, enter, indexes };
        self.write().insert(space, Arc::new(open));
    }

    /// Takes a namespace back: every handle into it is closed once what is running has ended.
    pub fn remove(&self, space: &Space) {
        self.write().remove(space);
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Space, Arc<Open>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, space: &Space) -> Result<Arc<Open>, KernelError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(space).cloned().ok_or_else(|| KernelError::NoSpace(space.clone()))
    }
}

impl Open {
    /// Runs blocking work with the netfilter socket.
    async fn netfilter<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut netfilter::Socket) -> Result<T, netfilter::Error> + Send + 'static,
    ) -> Result<T, KernelError> {
        let socket = Arc::clone(&self.netfilter);
        let work = move || work(&mut socket.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = tokio::task::spawn_blocking(work).await.map_err(|_| KernelError::Worker)?;
        outcome.map_err(KernelError::Netfilter)
    }

    /// Runs blocking work inside the namespace. `what` names it in an error.
    async fn inside<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, KernelError> {
        let enter = Arc::clone(&self.enter);
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        let work = move || {
            let value = work()?;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        };
        let run = move || enter.enter(Box::new(work));
        let outcome = tokio::task::spawn_blocking(run).await.map_err(|_| KernelError::Worker)?;
        outcome.map_err(|source| KernelError::Io { what: what.to_owned(), source })?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(KernelError::Worker)
    }
}

#[async_trait]
impl Kernel for LinuxKernel {
    fn spaces(&self) -> Vec<Space> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError> {
        self.open(space)?.observe(look).await
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        let open = self.open(space)?;
        match op {
            Op::TakeSix { name } => open.take_six(name).await,
            Op::SetSysctl { key, value } => open.set_sysctl(key, value).await,
            Op::AddVxlan { link_space, .. } => open.add_vxlan(&*self.open(link_space)?, op).await,
            Op::AddVeth { name, mtu, peer } => {
                open.add_veth(name, *mtu, peer, &*self.open(&peer.space)?).await
            }
            Op::SetOffload { name, on } => open.set_offload(name, *on).await,
            Op::SetTable { table } => open.set_table(table.clone()).await,
            Op::ChangeElements { family, set, add, delete } => {
                open.change_elements(*family, set.clone(), add.clone(), delete.clone()).await
            }
            Op::SetChain { family, name, chain } => {
                open.set_chain(*family, name.clone(), chain.clone()).await
            }
            Op::DeleteChain { family, name } => open.delete_chain(*family, name.clone()).await,
            Op::SetWay { mac, port } => open.set_way(*mac, port).await,
            Op::DeleteWay { mac } => open.delete_way(*mac).await,
            Op::DeleteTable { family } => open.delete_table(*family).await,
            Op::SetForwardException { family } => open.set_forward_exception(*family, true).await,
            Op::DeleteForwardException { family } => open.set_forward_exception(*family, false).await,
            Op::Announce { name, address, mac } => open.announce(name, *address, *mac).await,
            _ => match open.request_for(op).await {
                // The link was made anew since its index was learned.
                Err(error) if error.errno() == Some(libc::ENODEV) && open.forget_indexes() => {
                    open.request_for(op).await
                }
                outcome => outcome,
            },
        }
    }
}
