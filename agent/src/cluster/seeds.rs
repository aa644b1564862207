//! Addresses that gossip is tried with until a live member is found there.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::IteratorRandom;
use tokio::net::lookup_host;
use tokio::sync::watch;

use super::gossip::Running;
use super::members::Members;
use super::shared::{Shared, locked};

/// Addresses kept.
const SEEDS_MAX: usize = 4_096;
/// Names that are looked up.
const NAMES_MAX: usize = 64;
/// Addresses of one name that are kept.
const ADDRESSES_PER_NAME_MAX: usize = 16;
/// Addresses tried in one round; a partition is bridged by the first that answers.
const TRIED_PER_ROUND: usize = 8;
/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// The first rounds come faster, so that a start is not slower than it must be.
const FIRST_ROUNDS: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300)];
/// Time between two look-ups of the names.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);
/// Time for one look-up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the cluster may be found.
pub(super) struct Seeds {
    own: SocketAddr,
    addresses: Mutex<BTreeSet<SocketAddr>>,
}

/// Reads `ADDRESS`, `ADDRESS:PORT`, or takes the text for a name, with or without a port.
fn parse(seed: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = seed.parse() {
        return Ok(address);
    }
    if let Ok(ip) = seed.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    Err(if seed.contains(':') { seed.to_owned() } else { format!("{seed}:{port}") })
}

impl Seeds {
    /// Addresses and names of `seeds`; those without a port get the port of `own`.
    pub(super) fn new(own: SocketAddr, seeds: &[String]) -> (Arc<Self>, Vec<String>) {
        let mut names = Vec::new();
        let mut addresses = BTreeSet::new();
        for seed in seeds {
            match parse(seed, own.port()) {
                Ok(address) => drop(addresses.insert(address)),
                Err(name) if names.len() < NAMES_MAX => names.push(name),
                Err(name) => tracing::warn!(%name, "too many names to join at; this one is left out"),
            }
        }
        (Arc::new(Self { own, addresses: Mutex::new(addresses) }), names)
    }

    pub(super) fn add(&self, address: SocketAddr) {
        let mut addresses = locked(&self.addresses);
        if addresses.len() < SEEDS_MAX {
            addresses.insert(address);
        }
    }

    pub(super) fn remove(&self, address: SocketAddr) {
        locked(&self.addresses).remove(&address);
    }

    /// What is worth trying: seeds and members, but no address with a live member.
    fn candidates(&self, members: &Members) -> BTreeSet<SocketAddr> {
        let mut candidates = locked(&self.addresses).clone();
        candidates.extend(members.values().filter(|member| !member.left).map(|member| member.address));
        for member in members.values().filter(|member| member.live) {
            candidates.remove(&member.address);
        }
        candidates.remove(&self.own);
        candidates
    }

    /// Tries until it is dropped.
    pub(super) async fn run(self: Arc<Self>, members: watch::Receiver<Members>, mut running: Running) {
        let mut first = FIRST_ROUNDS.into_iter();
        loop {
            let Ok(handle) = running.wait_for(Option::is_some).await.map(|handle| handle.clone()) else {
                return;
            };
            let members = members.borrow().clone();
            let tried = self.candidates(&members).into_iter().sample(&mut rand::rng(), TRIED_PER_ROUND);
            for address in tried {
                // The loop has ended: the next round waits for its successor.
                let _ = handle.as_ref().map(|handle| handle.gossip(address));
            }
            tokio::time::sleep(first.next().unwrap_or(ROUND)).await;
        }
    }

    /// Looks names up again and again: a name may point elsewhere by the time it is needed.
    pub(super) async fn look_up(self: Arc<Self>, names: Vec<String>, shared: Arc<Shared>) {
        while !names.is_empty() {
            for name in &names {
                match tokio::time::timeout(LOOKUP_TIMEOUT, lookup_host(name)).await {
                    Ok(Ok(found)) => found.take(ADDRESSES_PER_NAME_MAX).for_each(|address| self.add(address)),
                    Ok(Err(error)) => tracing::warn!(%name, %error, "cannot look up a host to join at"),
                    Err(_) => tracing::warn!(%name, "looking up a host to join at takes too long"),
                }
            }
            shared.changed.notify_one();
            tokio::time::sleep(LOOKUP_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Member;
    use crate::model::NodeId;

    #[test]
    fn who_is_not_live_is_tried_again_however_long_it_was_away() {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let member = |node, live, left| Member {
            node: NodeId(node),
            name: String::new(),
            incarnation: 1,
            address: address(u16::try_from(node).unwrap()),
            live,
            left,
            since: std::time::Instant::now(),
            published: Default::default(),
        };
        let all =
            [member(1, true, false), member(2, true, false), member(3, false, false), member(4, false, true)];
        let members = Members::new(all.into_iter().map(|member| (member.node, member)).collect());
        let seeds = [address(1), address(2), address(9)].map(|address| address.to_string());
        let (seeds, names) = Seeds::new(address(1), &seeds);
        assert!(names.is_empty());
        assert_eq!(seeds.candidates(&members), BTreeSet::from([address(3), address(9)]));
    }

    #[test]
    fn a_seed_is_an_address_or_a_name_with_or_without_a_port() {
        let address = |text: &str| Ok(text.parse::<SocketAddr>().unwrap());
        assert_eq!(parse("10.0.0.1", 7946), address("10.0.0.1:7946"));
        assert_eq!(parse("10.0.0.1:1", 7946), address("10.0.0.1:1"));
        assert_eq!(parse("::1", 7946), address("[::1]:7946"));
        assert_eq!(parse("[::1]:1", 7946), address("[::1]:1"));
        assert_eq!(parse("h1", 7946), Err("h1:7946".to_owned()));
        assert_eq!(parse("h1:1", 7946), Err("h1:1".to_owned()));
    }
}
