//! Several transports in one process, on loopback.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;

mod attack;
mod membership;
mod relay;
mod requests;

/// Bytes of the large answer. Without optimisation the cipher takes 0.3 s of CPU a megabyte, instead of 3 ms.
const LARGE: usize = if cfg!(debug_assertions) { 4_000_000 } else { 20_000_000 };

/// How long is waited for what has no promised time: a busy machine stops a process for a second and more.
const SOON: Duration = Duration::from_secs(10);

/// A handler; the first byte of a request says what it does.
#[derive(Default)]
struct Echo {
    /// Requests that were dropped before their end.
    dropped: Arc<AtomicU32>,
    /// Opened by one request for another that waits.
    gate: Notify,
}

struct CountDrop(Option<Arc<AtomicU32>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, peer: Peer, request: Vec<u8>) -> Vec<u8> {
        match request.first() {
            Some(b'w') => {
                let mut guard = CountDrop(Some(Arc::clone(&self.dropped)));
                tokio::time::sleep(Duration::from_secs(1)).await;
                guard.0 = None;
                b"waited".to_vec()
            }
            Some(b'g') => {
                self.gate.notified().await;
                request
            }
            Some(b'o') => {
                // Kept for who does not wait yet.
                self.gate.notify_one();
                request
            }
            Some(b'b') => vec![7; LARGE],
            Some(b'x') => vec![7; BODY_BYTES_MAX + 1],
            Some(b'p') => panic!("as asked"),
            Some(b'a') => format!("{} {} {}", peer.node, peer.incarnation, peer.address).into_bytes(),
            _ => request,
        }
    }
}

/// A loopback address and a port there that nobody has, for UDP and TCP.
fn free_address() -> SocketAddr {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let host = LAST.fetch_add(1, Ordering::Relaxed) + 2 + (std::process::id() << 8);
    // 127.64.0.0/10 by process and test: no two runs share an address.
    let ip = Ipv4Addr::from(0x7f40_0000 | host & 0x003f_ffff);
    // Below those that sockets without a port get (ip_local_port_range): one of another test, bound to all addresses, would
    // have it meanwhile.
    SocketAddr::from((ip, 10_000 + u16::try_from(host % 20_000).unwrap()))
}

fn key(first: u8) -> KeyRing {
    ClusterKey::found([first; 44]).into()
}

fn config(node: u64, address: SocketAddr, seeds: &[SocketAddr]) -> Config {
    Config {
        node: NodeId(node),
        incarnation: 1,
        name: format!("h{node}"),
        listen: address,
        advertise: address,
        seeds: seeds.iter().map(SocketAddr::to_string).collect(),
        keys: key(1),
        gossip_interval: GOSSIP_INTERVAL,
        slowed: 1,
        failure_after: FAILURE_AFTER,
        max_incarnations: BTreeMap::new(),
        founder: None,
    }
}

async fn start(config: Config) -> Cluster {
    Cluster::start(config, Arc::new(Echo::default())).await.unwrap()
}

/// Several hosts that join at the first.
async fn hosts(count: u64) -> (Vec<Cluster>, Vec<SocketAddr>) {
    let addresses: Vec<SocketAddr> = (0..count).map(|_| free_address()).collect();
    let mut hosts = Vec::new();
    for (node, address) in (1..).zip(&addresses) {
        hosts.push(start(config(node, *address, &addresses[..1])).await);
    }
    for host in &hosts {
        wait(host, Duration::from_secs(10), |members| live(members) == (1..=count).collect::<Vec<_>>()).await;
    }
    (hosts, addresses)
}

fn live(members: &Members) -> Vec<u64> {
    members.values().filter(|member| member.live).map(|member| member.node.0).collect()
}

/// Waits until the members are as wanted, and says how long that took.
async fn wait(host: &Cluster, limit: Duration, wanted: impl Fn(&Members) -> bool) -> Duration {
    let begun = Instant::now();
    let mut members = host.members();
    let waited = tokio::time::timeout(limit, members.wait_for(|members| wanted(members))).await.is_ok();
    assert!(waited, "not within {limit:?}: {:#?} {:?}", host.members().borrow(), host.stats());
    begun.elapsed()
}

/// Waits until something holds.
async fn until(limit: Duration, mut wanted: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

fn is_live(node: u64) -> impl Fn(&Members) -> bool {
    move |members| members.get(&NodeId(node)).is_some_and(|member| member.live)
}

fn is_suspended(node: u64) -> impl Fn(&Members) -> bool {
    move |members| members.get(&NodeId(node)).is_some_and(|member| !member.live)
}
