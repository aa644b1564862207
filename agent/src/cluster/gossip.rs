//! Chitchat over sealed frames, kept running.
//!
//! Chitchat carries heartbeats and a few published strings. What hurts in it, and what is done about it here:
//! - its server loop ends when a socket returns an error: ours never does;
//! - it panics on some messages that no correct peer sends, and beyond about 1,290 hosts: the loop is started again,
//!   as a further generation, because peers take no lower versions of one they know;
//! - its messages grow by 50 bytes per host: what no datagram of 1,200 bytes holds goes over a stream;
//! - a value of 70,000 bytes blocks all that follow: [`super::publish`] refuses long ones;
//! - a deleted key can lead to a reset of a host's state later on: nothing is ever deleted;
//! - dead generations stay in every message: they are dropped after about a minute, and who is dead is remembered elsewhere.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
};
use tokio::sync::{mpsc, watch};

use super::datagram::{Datagrams, GOSSIP_BYTES_MAX};
use super::publish::Published;
use super::shared::{Gossip, Shared, locked};
use super::stream::Pool;
use crate::model::NodeId;

/// Received messages that wait for chitchat.
const QUEUE: usize = 1_024;
/// Wait before a loop that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Until a dead generation is dropped, in units of the silence after which a host is suspended: about a minute. After
/// half of it, it is not told to others any more.
const DEAD_GRACE: u32 = 16;
/// Low bits of chitchat's generation: restarts of the loop within one incarnation.
const RESTART_BITS: u32 = 16;
/// Largest incarnation: what is left of chitchat's generation.
pub(super) const INCARNATION_MAX: u64 = u64::MAX >> RESTART_BITS;

/// The running loop, for those who talk to it; `None` while there is none.
pub(super) type Running = watch::Receiver<Option<Arc<ChitchatHandle>>>;

/// Reads a host's identity out of chitchat's; `None` if it is none of ours.
pub(super) fn identity(id: &ChitchatId) -> Option<(NodeId, u64)> {
    Some((id.node_id.parse().ok()?, id.generation_id >> RESTART_BITS))
}

/// What the loop is made of.
#[derive(Clone)]
pub(super) struct Wires {
    pub shared: Arc<Shared>,
    pub datagrams: Arc<Datagrams>,
    pub pool: Arc<Pool>,
}

#[async_trait]
impl Transport for Wires {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, received) = mpsc::channel(QUEUE);
        *locked(&self.shared.gossip) = Some(sender);
        Ok(Box::new(Wired { wires: self.clone(), received }))
    }
}

struct Wired {
    wires: Wires,
    received: mpsc::Receiver<Gossip>,
}

#[async_trait]
impl Socket for Wired {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let bytes = message.serialize_to_vec();
        if bytes.len() <= GOSSIP_BYTES_MAX {
            self.wires.datagrams.send_gossip(to, bytes).await;
        } else {
            self.wires.pool.gossip(to, bytes);
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let Some((from, bytes)) = self.received.recv().await else {
                // A newer loop has taken the queue over: this one is about to be dropped.
                return std::future::pending().await;
            };
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                Ok(message) => return Ok((from, message)),
                Err(_) => self.wires.shared.stats.malformed.add(1),
            }
        }
    }
}

/// Keeps a gossip loop running until it is dropped.
pub(super) async fn run(
    wires: Wires,
    (interval, failure_after): (Duration, Duration),
    published: Arc<Published>,
    running: watch::Sender<Option<Arc<ChitchatHandle>>>,
) {
    for restart in 0..1_u64 << RESTART_BITS {
        let config = config(&wires.shared, interval, failure_after, restart);
        match spawn_chitchat(config, published.all(), &wires).await {
            Ok(handle) => {
                let handle = Arc::new(handle);
                let shared = Arc::clone(&wires.shared);
                let changed = move |_: chitchat::KeyChangeEvent<'_>| shared.changed.notify_one();
                handle
                    .with_chitchat(|chitchat| chitchat.subscribe_event("", changed.clone()).forever())
                    .await;
                let ended = handle.termination_watcher();
                let _abort = AbortOnDrop(Arc::clone(&handle));
                running.send_replace(Some(handle));
                published.repeat();
                let error = ended.await.err();
                running.send_replace(None);
                tracing::error!(?error, "the gossip loop ended; it is started again");
            }
            Err(error) => tracing::error!(%error, "the gossip loop cannot be started"),
        }
        wires.shared.stats.gossip_restarts.add(1);
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// Chitchat's loop is a task of its own: it must not outlive the one that keeps it.
struct AbortOnDrop(Arc<ChitchatHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn config(shared: &Shared, interval: Duration, failure_after: Duration, restart: u64) -> ChitchatConfig {
    let generation = shared.own.incarnation << RESTART_BITS | restart;
    ChitchatConfig {
        chitchat_id: ChitchatId::new(shared.own.node.to_string(), generation, shared.advertise),
        cluster_id: shared.keys().cluster().to_string(),
        gossip_interval: interval,
        listen_addr: shared.advertise,
        // Seeds are ours to try: chitchat's are fixed, and drops whom it has not seen for long.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: 8.0,
            sampling_window_size: 100,
            // The default of 10 s lets one gap spoil the mean for long.
            max_interval: Duration::from_secs(1),
            initial_interval: interval,
            dead_node_grace_period: failure_after.saturating_mul(DEAD_GRACE),
        },
        marked_for_deletion_grace_period: Duration::from_secs(3_600),
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}
