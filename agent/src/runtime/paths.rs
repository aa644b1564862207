//! Tries the ways to other hosts, and makes of what it finds: hosts that get no new flows, MTUs, and problems.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::addresses::VNI_PATHS;
use crate::catalog::Catalog;
use crate::model::NodeId;
use crate::netns::Namespace;
use crate::paths::address;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::view::inner_mtu;

mod found;
mod prober;
mod words;

/// Answers are read, and what is due is sent, this often.
const TICK: Duration = Duration::from_millis(100);

/// What the converge loop and the prober tell each other.
#[derive(Debug, Default)]
pub struct Shown {
    endpoint: Mutex<Endpoint>,
    away: Mutex<Arc<BTreeSet<NodeId>>>,
    computes_checksums: AtomicBool,
}

/// What paths are tried through.
#[derive(Clone, Debug, Default)]
pub enum Endpoint {
    /// Not there: nothing is known of any path.
    #[default]
    Absent,
    /// In place in this namespace.
    Open(Namespace),
    /// It was last seen there, and something about it fails: whether it still is there is to be looked at.
    Failing(Namespace),
    /// There, but somebody else has the tunnel's port: no path leads anywhere. With what is known of it.
    Taken(Namespace, String),
}

impl Shown {
    /// Says what there is to try paths through.
    pub fn show(&self, endpoint: Endpoint) {
        *lock(&self.endpoint) = endpoint;
    }

    /// It is to be taken down.
    pub fn close(&self) {
        self.show(Endpoint::Absent);
    }

    /// The hosts to which no path leads.
    pub fn away(&self) -> Arc<BTreeSet<NodeId>> {
        Arc::clone(&lock(&self.away))
    }

    /// Whether checksums of tunnels are left to the underlay's device.
    pub fn leaves_checksums(&self) -> bool {
        !self.computes_checksums.load(Ordering::Relaxed)
    }

    fn endpoint(&self) -> Endpoint {
        lock(&self.endpoint).clone()
    }

    /// Says which hosts no path leads to; whether these are others than before.
    fn set_away(&self, away: BTreeSet<NodeId>) -> bool {
        let mut shown = lock(&self.away);
        let moved = **shown != away;
        if moved {
            *shown = Arc::new(away);
        }
        moved
    }

    fn set_computes_checksums(&self, computes: bool) -> bool {
        self.computes_checksums.swap(computes, Ordering::Relaxed) != computes
    }
}

/// What paths are tried through on this host, once it is a member.
pub fn wanted(catalog: &Catalog, me: NodeId) -> Option<overlay::Paths> {
    let own = catalog.host(me)?;
    let peers = catalog.hosts().filter(|(node, _)| *node != me);
    Some(overlay::Paths {
        vni: VNI_PATHS,
        mtu: inner_mtu(own.underlay_mtu, own.address),
        address: address(own.number)?,
        peers: peers.filter_map(|(_, host)| Some((address(host.number)?, host.address))).collect(),
    })
}

/// What was found of checksums holds over restarts, before the first tunnel is looked at.
pub fn take_up(agent: &Agent) {
    let kept = found::KeptOffload::load(agent).is_some();
    agent.paths.set_computes_checksums(kept);
}

/// Runs until the agent stops.
pub async fn run(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut prober = prober::Prober::new(agent);
    loop {
        ticks.tick().await;
        prober.turn(std::time::Instant::now());
    }
}
