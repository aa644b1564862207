//! Who is in the cluster, derived from what chitchat and liveness say.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chitchat::{Chitchat, NodeState};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::foreign;
use super::gossip::{Running, identity};
use super::liveness::{Beat, Liveness};
use super::publish::{LEFT, NAME, Published, user_key};
use super::shared::{Shared, locked};
use crate::model::NodeId;

#[cfg(test)]
mod tests;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Members remembered; above what chitchat carries.
const MEMBERS_MAX: usize = 4_096;

/// A host of the cluster, this one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Start count of its agent: the newest that was seen.
    pub incarnation: u64,
    /// Where it takes frames, UDP and TCP.
    pub address: SocketAddr,
    /// Whether there was news of it lately; if not, it is suspended.
    pub live: bool,
    /// Whether it said goodbye; then it is not live.
    pub left: bool,
    /// Since when it is live, or not, as seen here.
    pub since: Instant,
    /// What its newest incarnation published. Kept while it is suspended.
    pub published: BTreeMap<String, String>,
}

/// All members that were seen since the start, and not forgotten.
pub type Members = Arc<BTreeMap<NodeId, Member>>;

/// What chitchat holds of one generation of a host.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub node: NodeId,
    pub beat: Beat,
    pub generation: u64,
    pub version: u64,
    pub address: SocketAddr,
    /// `None` if it is what it was at the last look.
    pub strings: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug)]
struct Known {
    incarnation: u64,
    generation: u64,
    version: u64,
    address: SocketAddr,
    strings: BTreeMap<String, String>,
}

/// Remembers what chitchat drops.
#[derive(Default)]
pub(super) struct Registry {
    known: BTreeMap<NodeId, Known>,
}

impl Registry {
    fn is_current(&self, node: NodeId, generation: u64, version: u64) -> bool {
        self.known.get(&node).is_some_and(|known| (known.generation, known.version) == (generation, version))
    }

    /// Takes what chitchat holds. Of several generations of one host the newest counts.
    pub(super) fn take(&mut self, now: Instant, seen: Vec<Seen>, liveness: &mut Liveness) {
        let mut newest: BTreeMap<NodeId, Seen> = BTreeMap::new();
        for seen in seen {
            match newest.get(&seen.node) {
                Some(other) if other.generation >= seen.generation => {}
                _ => drop(newest.insert(seen.node, seen)),
            }
        }
        liveness.observe(now, newest.values().map(|seen| (seen.node, seen.beat)));
        for seen in newest.into_values() {
            // A generation is taken once its first strings are there: until then the one before stays whole. Chitchat
            // begins again at version 0 with a host that it had dropped.
            let Some(strings) = seen.strings.filter(|strings| strings.contains_key(NAME)) else { continue };
            let order = (seen.generation, seen.version);
            let known = self.known.get(&seen.node);
            if known.is_some_and(|known| (known.generation, known.version) > order)
                || known.is_none() && self.known.len() >= MEMBERS_MAX
            {
                continue;
            }
            let incarnation = seen.beat.incarnation;
            if strings.contains_key(LEFT) {
                liveness.left(now, seen.node, incarnation);
            }
            let (generation, version, address) = (seen.generation, seen.version, seen.address);
            self.known.insert(seen.node, Known { incarnation, generation, version, address, strings });
        }
    }

    pub(super) fn forget(&mut self, forgotten: impl Fn(NodeId) -> bool) {
        self.known.retain(|node, _| !forgotten(*node));
    }

    /// The members beside this host.
    pub(super) fn members(&self, liveness: &Liveness) -> BTreeMap<NodeId, Member> {
        let member = |(node, known): (&NodeId, &Known)| {
            let (live, since) = liveness.state(*node)?;
            let strings = known.strings.iter();
            let member = Member {
                node: *node,
                name: known.strings.get(NAME).cloned().unwrap_or_default(),
                incarnation: known.incarnation,
                address: known.address,
                live,
                left: !live && known.strings.contains_key(LEFT),
                since,
                published: strings
                    .filter_map(|(key, value)| Some((user_key(key)?.to_owned(), value.clone())))
                    .collect(),
            };
            Some((*node, member))
        };
        self.known.iter().filter_map(member).collect()
    }
}

/// Looks several times a second, and when something changed, until it is dropped.
pub(super) async fn run(
    shared: Arc<Shared>,
    published: Arc<Published>,
    own: Member,
    mut running: Running,
    members: watch::Sender<Members>,
) {
    let mut registry = Registry::default();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL * shared.slowed);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.changed.notified() => {}
        }
        let handle = running.borrow_and_update().clone();
        let seen = match handle {
            Some(handle) => handle.with_chitchat(|chitchat| look(chitchat, &registry)).await,
            None => Vec::new(),
        };
        let seen = foreign::kin(Instant::now(), &shared, seen);
        let mut now_members = {
            let mut liveness = locked(&shared.liveness);
            registry.take(Instant::now(), seen, &mut liveness);
            let sessions = locked(&shared.sessions);
            registry.forget(|node| sessions.is_forgotten(node));
            registry.members(&liveness)
        };
        now_members.insert(own.node, Member { published: published.user(), ..own.clone() });
        members.send_if_modified(|members| {
            let changed = **members != now_members;
            if changed {
                *members = Arc::new(now_members);
            }
            changed
        });
    }
}

fn look(chitchat: &Chitchat, registry: &Registry) -> Vec<Seen> {
    let own = chitchat.self_chitchat_id();
    let others = chitchat.node_states().iter().filter(|(id, _)| id.node_id != own.node_id);
    others
        .filter_map(|(id, state)| {
            let (node, incarnation) = identity(id)?;
            let (generation, version) = (id.generation_id, state.max_version());
            let strings = (!registry.is_current(node, generation, version)).then(|| strings(state));
            let heartbeat = u64::from(state.heartbeat());
            let beat = Beat { incarnation, heartbeat };
            Some(Seen { node, beat, generation, version, address: id.gossip_advertise_addr, strings })
        })
        .collect()
}

fn strings(state: &NodeState) -> BTreeMap<String, String> {
    state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
