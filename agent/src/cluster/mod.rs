//! The sealed transport between hosts: who is there, and requests with answers. Payloads are bytes to it.
//!
//! ```text
//!                        Cluster (this file)
//!   members, publish       |          |        request, Handler
//!        members.rs ---- gossip.rs   stream/    sealed requests over TCP, one connection per direction and pair
//!        liveness.rs       |          |
//!        seeds.rs        datagram.rs  |         sealed datagrams over UDP, same port
//!                          |          |
//!                        shared.rs: session.rs (whose frames are taken), seal.rs, key.rs
//! ```
//! A frame counts only if it can be shown to be made for this process, now: a datagram names the receiver's boot nonce
//! and a growing count, a connection begins with nonces of both ends. So frames that were recorded earlier, of this host
//! or of others, do nothing; at most they are answered with a sealed hello that is not larger.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::model::NodeId;

mod complaints;
mod datagram;
mod foreign;
mod gossip;
pub mod key;
pub mod liveness;
mod members;
mod publish;
mod rate;
mod seal;
mod seeds;
mod session;
mod shared;
mod sockets;
mod stats;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

pub use complaints::{KeyComplaint, Unreadable};
pub use foreign::Foreign;
pub use key::{ClusterId, ClusterKey, KeyFileError, KeyId, KeyRing, KeyRingError};
pub use members::{Member, Members};
pub use publish::{KEY_BYTES_MAX, KEYS_MAX, PublishError, VALUE_BYTES_MAX};
pub use sockets::SocketError;
pub use stats::{Counter, Stats};
pub use stream::{BODY_BYTES_MAX, Reply, RequestError, StreamError};

use datagram::Datagrams;
use gossip::{INCARNATION_MAX, Running, Wires};
use publish::Published;
use seeds::Seeds;
use shared::{Departed, Maxima, Shared, locked};
use stream::{Pool, Server};

/// UDP and TCP port, unless set otherwise.
pub const PORT: u16 = 7946;
/// Time between two gossip rounds, unless set otherwise.
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);
/// Silence after which a host is suspended, unless set otherwise.
pub const FAILURE_AFTER: Duration = Duration::from_millis(3_500);

/// Time for the sockets to be closed; they are at the first look but for bad luck.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Peers that a goodbye is pushed to.
const GOODBYE_PEERS: usize = 256;
/// Removed hosts that are told so; of more the latest.
const REMOVED_MAX: usize = 64;
/// For so long: who is cut off longer is answered when it says something.
const FAREWELL_TIME: Duration = Duration::from_secs(3_600);

/// What a transport is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// This host.
    pub node: NodeId,
    /// Start count of this agent, persisted before it speaks; below 2^48.
    pub incarnation: u64,
    /// Name for people.
    pub name: String,
    /// Where datagrams and connections are taken.
    pub listen: SocketAddr,
    /// Where peers reach it: a specific address, with a port.
    pub advertise: SocketAddr,
    /// Where to look for the cluster: `ADDRESS`, `NAME`, each with or without `:PORT`.
    pub seeds: Vec<String>,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// Time between two gossip rounds.
    pub gossip_interval: Duration,
    /// How many times longer than usual all other periods are: 1 but where one machine carries many hosts.
    pub slowed: u32,
    /// Silence after which a host is suspended.
    pub failure_after: Duration,
    /// The newest incarnations of peers that were seen before this start; older ones are refused.
    pub max_incarnations: BTreeMap<NodeId, u64>,
    /// Who founded the cluster that this host belongs to, if it belongs to one.
    pub founder: Option<NodeId>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The host.
    pub node: NodeId,
    /// Start count of its agent.
    pub incarnation: u64,
    /// Where it can be asked back.
    pub address: SocketAddr,
}

/// Answers requests of peers.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Many run at a time. The future is dropped at any await when the peer has given up or gone,
    /// so what must not be half done belongs into a task of its own. An answer is at most [`BODY_BYTES_MAX`] long.
    async fn handle(&self, peer: Peer, request: Vec<u8>) -> Vec<u8>;
}

/// Another process speaks with this host's node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateIdentity {
    /// Where it is.
    pub address: SocketAddr,
    /// When it was seen last.
    pub at: Instant,
}

/// Why a transport was not started. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address that peers are to use is none.
    #[error("cannot advertise {advertise}: peers need a specific address and a port")]
    Advertise {
        /// The address.
        advertise: SocketAddr,
    },
    /// The start count is out of range.
    #[error("incarnation {incarnation} is out of range 1 to {INCARNATION_MAX}")]
    Incarnation {
        /// The start count.
        incarnation: u64,
    },
    /// The sockets could not be opened.
    #[error("cannot take frames of other hosts")]
    Sockets(#[source] SocketError),
}

/// Why keys were not replaced; the old ones stand.
#[derive(Debug, thiserror::Error)]
#[error(
    "the new keys are of cluster {found}, this host is in {expected}; a host changes its cluster by leave and join"
)]
pub struct OtherClusterError {
    expected: ClusterId,
    found: ClusterId,
}

/// A running transport. Dropping it ends it silently, as [`Cluster::stop`] does, without waiting.
pub struct Cluster {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    seeds: Arc<Seeds>,
    published: Arc<Published>,
    running: Running,
    members: watch::Receiver<Members>,
    maxima: watch::Receiver<Maxima>,
    gossip_interval: Duration,
    datagrams: Weak<Datagrams>,
    tasks: Mutex<JoinSet<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its tasks keep the pool, and the pool them.
        drop(self.pool.abort());
    }
}

impl Cluster {
    /// Opens the sockets and begins to speak.
    ///
    /// # Errors
    /// What is wrong with the settings, or which socket could not be opened.
    pub async fn start(config: Config, handler: Arc<dyn Handler>) -> Result<Self, StartError> {
        check(&config)?;
        let (udp, tcp) = sockets::open(config.listen).map_err(StartError::Sockets)?;
        let shared = Arc::new(Shared::new(&config, boot_nonce(), Instant::now()));
        let datagrams = Arc::new(Datagrams::new(udp, config.listen.is_ipv6(), Arc::clone(&shared)));
        let pool = Pool::new(Arc::clone(&shared));
        let published = Published::new(&config.name, config.founder);
        let (seeds, names) = Seeds::new(config.advertise, &config.seeds);
        let own = Member {
            node: config.node,
            name: config.name,
            incarnation: config.incarnation,
            address: config.advertise,
            live: true,
            left: false,
            since: Instant::now(),
            published: BTreeMap::new(),
        };
        let (members_sender, members) =
            watch::channel(Members::new(BTreeMap::from([(own.node, own.clone())])));
        let (running_sender, running) = watch::channel(None);
        let maxima = shared.maxima.subscribe();
        let wires =
            Wires { shared: Arc::clone(&shared), datagrams: Arc::clone(&datagrams), pool: Arc::clone(&pool) };
        let times = (config.gossip_interval, config.failure_after);
        let (mut tasks, socket) = (JoinSet::new(), Arc::downgrade(&datagrams));
        let farewells = Arc::clone(&datagrams);
        tasks.spawn(async move { datagrams.run().await });
        tasks.spawn(async move { farewells.bid_farewell().await });
        tasks.spawn(Server::new(Arc::clone(&shared), handler).run(tcp));
        tasks.spawn(gossip::run(wires, times, Arc::clone(&published), running_sender));
        tasks.spawn(Arc::clone(&published).run(Arc::clone(&shared), running.clone()));
        let looks =
            members::run(Arc::clone(&shared), Arc::clone(&published), own, running.clone(), members_sender);
        tasks.spawn(looks);
        tasks.spawn(Arc::clone(&seeds).run(members.clone(), running.clone()));
        tasks.spawn(Arc::clone(&seeds).look_up(names, Arc::clone(&shared)));
        let (gossip_interval, tasks) = (config.gossip_interval, Mutex::new(tasks));
        let datagrams = socket;
        Ok(Self {
            shared,
            pool,
            seeds,
            published,
            running,
            members,
            maxima,
            gossip_interval,
            datagrams,
            tasks,
        })
    }

    /// All hosts that were seen since the start, suspended ones and this one included. Changes with each change of
    /// theirs but their heartbeat.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.members.clone()
    }

    /// Publishes a short string with this host's heartbeat; live hosts see it within about three gossip intervals.
    ///
    /// # Errors
    /// Key, value or number of keys is above its limit; nothing has changed.
    pub fn publish(&self, key: &str, value: &str) -> Result<(), PublishError> {
        self.published.publish(key, value)
    }

    /// Asks the agent at an address, whoever it is: the reply says who answered. A body is at most
    /// [`BODY_BYTES_MAX`] long. Dropping the future cancels the request.
    ///
    /// # Errors
    /// Why there is no answer; the request may have been handled all the same unless the variant says otherwise.
    pub async fn request(
        &self,
        to: SocketAddr,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        self.pool.request(to, body, timeout).await
    }

    /// Tries this address, too, until a live member is found there; for members known from before this start.
    pub fn add_seed(&self, address: SocketAddr) {
        self.seeds.add(address);
    }

    /// Tries this address no more, unless a member is there.
    pub fn remove_seed(&self, address: SocketAddr) {
        self.seeds.remove(address);
    }

    /// Takes a host out of the members, and no frame of it any more while this process runs. It is told, once and again,
    /// as it may be cut off now.
    pub fn remove(&self, node: NodeId) {
        let address = self.members.borrow().get(&node).map(|member| member.address);
        if let Some(address) = address {
            self.seeds.remove(address);
        }
        let boot = locked(&self.shared.sessions).remove(node);
        if let (Some(address), Some(boot)) = (address, boot) {
            let mut removed = locked(&self.shared.removed);
            removed.truncate(REMOVED_MAX - 1);
            removed.insert(0, Departed { address, boot, until: Instant::now() + FAREWELL_TIME });
        }
        locked(&self.shared.liveness).forget(node);
        self.shared.changed.notify_one();
    }

    /// The newest incarnation seen of each host, to be persisted for [`Config::max_incarnations`].
    pub fn max_incarnations(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, u64>>> {
        self.maxima.clone()
    }

    /// Replaces the keys: the first seals, each opens.
    ///
    /// # Errors
    /// They are of another cluster.
    pub fn set_keys(&self, keys: KeyRing) -> Result<(), OtherClusterError> {
        let (expected, found) = (self.shared.keys().cluster(), keys.cluster());
        if expected != found {
            return Err(OtherClusterError { expected, found });
        }
        self.shared.sealer.replace(keys);
        Ok(())
    }

    /// Counters, for metrics.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// Who said that our frames do not open there, newest last. Unauthenticated: to be shown, not acted on.
    pub fn complaints(&self) -> Vec<KeyComplaint> {
        locked(&self.shared.complaints).all(Instant::now())
    }

    /// Whose frames have not opened here in the last seconds. Unauthenticated: to be shown, not acted on.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        locked(&self.shared.unreadables).now(Instant::now())
    }

    /// What is wrong between this host and others, a line for each: complaints, and hosts of another cluster.
    pub fn notices(&self) -> Vec<String> {
        let complaints = self.complaints().into_iter().map(|it| it.to_string());
        complaints.chain(self.foreign().into_iter().map(|it| it.to_string())).collect()
    }

    /// Hosts of another cluster that has the same key; they are no members, and nothing of theirs is taken.
    pub fn foreign(&self) -> Vec<Foreign> {
        let members = self.members.borrow().clone();
        let is_ours = |address| members.values().any(|member| member.live && member.address == address);
        locked(&self.shared.foreigners).now(Instant::now(), is_ours)
    }

    /// Who founded the cluster that this host belongs to, or is about to join.
    pub fn founder(&self) -> Option<NodeId> {
        *locked(&self.shared.founder)
    }

    /// This host belongs to that cluster from now on, and says so.
    pub fn set_founder(&self, founder: NodeId) {
        *locked(&self.shared.founder) = Some(founder);
        self.published.found(founder);
    }

    /// Another host that speaks with this host's node id, if one was seen.
    pub fn duplicate(&self) -> Option<DuplicateIdentity> {
        *locked(&self.shared.duplicate)
    }

    /// Which member, where, has said that this host was removed from the cluster.
    pub fn removed_by(&self) -> Option<SocketAddr> {
        *locked(&self.shared.removed_by)
    }

    /// As was said to an earlier start of this host.
    pub fn set_removed_by(&self, by: SocketAddr) {
        locked(&self.shared.removed_by).get_or_insert(by);
    }

    /// The newest incarnation of this host that a peer has seen, if it is newer than this one: peers then refuse this
    /// one, and it has to start again with a higher count.
    pub fn superseded(&self) -> Option<u64> {
        Some(self.shared.superseded.load(Ordering::Relaxed)).filter(|newest| *newest > 0)
    }

    /// Ends silently: peers suspend this host after [`Config::failure_after`], unless it is back by then.
    /// When it returns, the sockets are closed.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *locked(&self.tasks));
        tasks.shutdown().await;
        self.pool.stop().await;
        // Chitchat's own task has been told to end, and keeps the socket until it has.
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while self.datagrams.strong_count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Says goodbye, then ends: peers suspend this host at once. Takes three gossip intervals.
    pub async fn leave(&self) {
        self.published.leave();
        for _ in 0..3 {
            publish::push(&self.published.all(), &self.running, GOODBYE_PEERS).await;
            tokio::time::sleep(self.gossip_interval).await;
        }
        self.stop().await;
    }
}

fn check(config: &Config) -> Result<(), StartError> {
    let Config { advertise, incarnation, .. } = *config;
    if advertise.ip().is_unspecified() || advertise.ip().is_multicast() || advertise.port() == 0 {
        return Err(StartError::Advertise { advertise });
    }
    if !(1..=INCARNATION_MAX).contains(&incarnation) {
        return Err(StartError::Incarnation { incarnation });
    }
    Ok(())
}

/// Random, and never 0, which means unknown.
fn boot_nonce() -> u64 {
    rand::random::<u64>().max(1)
}
