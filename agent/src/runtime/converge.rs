//! Makes this host's kernel hold what the view says: the one loop that acts.
//!
//! Order for live traffic: the overlay's additions, then balancing and names, then the overlay's removals. Errors
//! end here as problems of objects; one bad object never blocks the others.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use overlay::{Phase, Reconciler};
use tokio::sync::{mpsc, oneshot};

use crate::model::{Head, Name, NodeId};
use crate::netns::Death;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::derived::{self, Derived, Linked};
use crate::runtime::events::lock;
use crate::runtime::local::{LocalAttachment, list};
use crate::runtime::paths;
use crate::runtime::spaces::{SharedKernel, Spaces};
use crate::runtime::touched::Pace;
use crate::runtime::tunnel_ports::{self, TunnelPorts};
use crate::runtime::verbs::{self, takeover};
use crate::store::Writes;
use crate::view::{NetworkView, ViewChanges};

mod balancing;
mod local;
mod neighbours;
mod outcome;
mod places;
mod repair;
mod sysctls;
mod trials;
mod ways;

/// A namespace's ruleset is looked at this often; it costs a round trip where nobody touched it.
const BALANCER_CHECK: Duration = Duration::from_millis(500);
/// The overlay is read as a whole and compared this often, for what no event tells.
const OVERLAY_CHECK: Duration = Duration::from_secs(10);
/// In so many parts, or a host with a thousand containers would do nothing else for a second.
const OVERLAY_PARTS: u32 = 10;
/// Share of the flows that a namespace may track from which on it is a problem.
const TRACKED_FULL_PERCENT: u8 = 80;
/// And below which it is none any more.
const TRACKED_ROOM_PERCENT: u8 = 70;
/// At least this long between two turns of one namespace's balancing.
const TURN_MIN: Duration = Duration::from_millis(1);
/// What was put off (slots to be deleted after a shrink) is done this long after.
const DEFERRED: Duration = Duration::from_millis(50);

/// The loop's state.
pub struct Converger {
    agent: Arc<Agent>,
    spaces: Spaces,
    overlay: Reconciler<SharedKernel>,
    views: BTreeMap<Name, Arc<NetworkView>>,
    derived: BTreeMap<Name, Derived>,
    local: local::Local,
    /// Of these, those that do not stand, and what is said of each: their copies have no link.
    fenced: BTreeMap<(Name, Name), String>,
    links: BTreeMap<Name, u16>,
    balancer_checked: Instant,
    /// The namespace that was asked last how many flows it tracks.
    asked_last: u64,
    overlay_checked: Instant,
    /// Namespaces whose balancing must be looked at in any case: new ones, and those with work put off.
    due: BTreeSet<u64>,
    /// Those in which stale flows are to be looked for, and the one in which that was done last.
    sweeps: BTreeSet<u64>,
    swept_last: u64,
    drift_seen: u64,
    /// The holder that has what we keep.
    held_by: u32,
    /// When the namespaces that were touched are looked at.
    pace: Pace,
    /// Namespaces that an earlier agent attached: their balancing stays as it is until the catalog is complete.
    adopted: BTreeSet<u64>,
    /// What each namespace's balancing last covered: a namespace is due when this changes.
    covered: BTreeMap<u64, Vec<(Name, Vec<IpAddr>)>>,
    /// Which state of the attachments was compared with that.
    covered_revision: Option<u64>,
    /// Of which state of the attachments, and with which fenced, all interfaces are known.
    remembered: Option<(u64, Vec<(Name, Name)>)>,
    /// Counts changes of networks' definitions.
    definitions: u64,
    targets: trials::Targets,
    /// Namespaces, and whether flows there may go untracked, as last seen.
    untracking: BTreeMap<u64, bool>,
    /// How full each namespace's table of flows is, as last seen.
    tracked: BTreeMap<u64, netfilter::conntrack::Usage>,
    /// Namespaces whose table of flows is nearly full.
    full: BTreeSet<u64>,
    /// What of each namespace's balancing cannot be made true, until the next turn says otherwise.
    balancer_problems: BTreeMap<u64, Vec<(String, String)>>,
    /// Namespaces that have ended and are not out of the catalog yet.
    unburied: BTreeSet<u64>,
    /// Hosts to which no path leads: their replicas get no new flows from here.
    away: Arc<BTreeSet<NodeId>>,
    /// How many neighbours the machine has resolved.
    neighbours: neighbours::Neighbours,
    /// Who has the tunnels' port, if it is not ours.
    port_holder: crate::runtime::port_holder::Holder,
}

/// What one round takes out of the shared state.
struct Snapshot {
    changes: ViewChanges,
    heads: BTreeMap<NodeId, Head>,
    revision: u64,
    synced: bool,
    peers: BTreeSet<IpAddr>,
    paths: Option<overlay::Paths>,
    ports: TunnelPorts,
}

/// TTLs in force.
pub fn ttls(agent: &Agent) -> dns::Ttls {
    let settings = agent.settings.load();
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    dns::Ttls {
        vip: seconds(settings.ttl_vip),
        movable: seconds(settings.ttl_movable),
        negative: seconds(settings.ttl_negative),
    }
}

/// Settings of each container's resolver.
pub fn resolver_settings(agent: &Agent) -> dns::ServerSettings {
    let limits = dns::Limits { forwarded: agent.settings.load().forward_limit, ..dns::Limits::default() };
    dns::ServerSettings { ttls: ttls(agent), limits, ..dns::ServerSettings::default() }
}

impl Converger {
    /// Takes the opened namespaces.
    pub fn new(
        agent: Arc<Agent>,
        spaces: Spaces,
        links: BTreeMap<Name, u16>,
        adopted: BTreeSet<u64>,
    ) -> Self {
        let overlay = Reconciler::new(spaces.kernel()).journal(sysctls::journal(Arc::clone(&agent)));
        let now = Instant::now();
        let held_by = agent.holder_pid.load(Ordering::Relaxed);
        Self {
            agent,
            spaces,
            overlay,
            views: BTreeMap::new(),
            derived: BTreeMap::new(),
            local: local::Local::default(),
            fenced: BTreeMap::new(),
            links,
            balancer_checked: now,
            asked_last: 0,
            overlay_checked: now,
            due: BTreeSet::new(),
            sweeps: BTreeSet::new(),
            swept_last: 0,
            drift_seen: 0,
            held_by,
            pace: Pace::default(),
            adopted,
            covered: BTreeMap::new(),
            covered_revision: None,
            remembered: None,
            definitions: 0,
            targets: trials::Targets::default(),
            untracking: BTreeMap::new(),
            tracked: BTreeMap::new(),
            full: BTreeSet::new(),
            balancer_problems: BTreeMap::new(),
            unburied: BTreeSet::new(),
            away: Arc::default(),
            neighbours: neighbours::Neighbours::default(),
            port_holder: crate::runtime::port_holder::Holder::default(),
        }
    }

    /// Runs until the agent stops; kernel state stays.
    pub async fn run(
        mut self,
        mut deaths: mpsc::Receiver<Death>,
        mut leaving: mpsc::Receiver<oneshot::Sender<Vec<String>>>,
    ) {
        let mut stop = self.agent.stop.subscribe();
        let agent = Arc::clone(&self.agent);
        loop {
            let idle = self.due.is_empty() && self.sweeps.is_empty();
            let wait = if idle { BALANCER_CHECK } else { DEFERRED };
            let wait = wait.min(agent.touched.next(&self.pace, Instant::now()).unwrap_or(wait));
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                Some(answer) = leaving.recv() => {
                    let removed = self.remove_all().await;
                    drop(answer.send(removed));
                    return;
                }
                Some(death) = deaths.recv() => {
                    self.unburied.insert(death.id);
                    while let Ok(death) = deaths.try_recv() {
                        self.unburied.insert(death.id);
                    }
                }
                () = agent.changed.notified() => {}
                // Their turn may be later: that is waited for above.
                () = agent.touched.heard.notified() => continue,
                () = tokio::time::sleep(wait) => {}
            }
            if !idle {
                // Packets on their way must have left what a turn deletes (see `Balancer::reconcile`).
                tokio::time::sleep(TURN_MIN).await;
            }
            self.bury();
            self.round().await;
        }
    }

    /// Namespaces died: what was attached through them is gone, everywhere. What cannot be written is tried again.
    fn bury(&mut self) {
        for cookie in std::mem::take(&mut self.unburied) {
            let gone: Vec<LocalAttachment> = self.agent.read(|state| {
                state.local.values().filter(|record| record.cookie == cookie).cloned().collect()
            });
            if gone.is_empty() {
                continue;
            }
            if let Err(failure) = verbs::detach::withdraw(&self.agent, &gone) {
                tracing::error!("a dead namespace's attachments stay in the catalog: {}", failure.message);
                self.unburied.insert(cookie);
                continue;
            }
            let names: Vec<String> = gone.iter().map(LocalAttachment::key).collect();
            let line = format!("{}: its namespace is gone", list(&names));
            self.agent.events.record("attachment", line, "kernel");
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut state = lock(&self.agent.state);
        let changes = std::mem::take(&mut state.pending);
        state.pending_since = None;
        self.views.clone_from(state.view.networks());
        self.local.follow(&state.local);
        let me = self.agent.identity.node;
        self.fenced = takeover::fenced(&state, me)
            .filter_map(|(network, name, conflict)| {
                Some(((network.clone(), name.clone()), takeover::fence_text(&state, conflict)?))
            })
            .collect();
        let peers = state.catalog.hosts().filter(|(node, _)| *node != me).map(|(_, host)| host.address);
        let paths = paths::wanted(&state.catalog, me);
        let ports = tunnel_ports::of(&state.catalog, me, self.agent.settings.load().vxlan_port);
        Snapshot {
            paths,
            ports,
            heads: state.catalog.heads(),
            revision: state.local_revision,
            synced: state.synced,
            peers: peers.collect(),
            changes,
        }
    }

    fn store_problem(&self, now: Instant) -> Option<(String, String)> {
        let store = &self.agent.store;
        // Making room for a call that blocks is not free, and nearly always needless.
        let reason = store.has_failed().then(|| tokio::task::block_in_place(|| store.fails(now)))??;
        Some(("host/state".to_owned(), reason))
    }

    /// One round.
    pub async fn round(&mut self) {
        let began = Instant::now();
        let snapshot = self.snapshot();
        let mut changed = self.derive(&snapshot.changes);
        changed.extend(self.follow_paths());
        let present = self.present();
        let mut problems = self.open_spaces(&present, snapshot.synced);
        if snapshot.paths.is_some() {
            problems.extend(self.open_paths());
        }
        problems.extend(self.keep_again());
        problems.extend(self.store_problem(began));
        let told = |((network, name), why): (&(Name, Name), &String)| {
            (format!("network/{network}/attachment/{name}"), why.clone())
        };
        problems.extend(self.fenced.iter().map(told));
        let desired = self.desired(&present, &snapshot);
        let looks = self.look_again(&desired);
        self.overlay_phase(&desired, Phase::Additions, &mut problems).await;
        self.show_paths(&problems);
        if snapshot.synced {
            self.due.append(&mut self.adopted);
        }
        self.balance(&changed, &looks, &mut problems).await;
        self.publish(snapshot.synced);
        if snapshot.synced {
            // Before that, what is not known yet would be taken for what is wanted no more.
            self.overlay_phase(&desired, Phase::Removals, &mut problems).await;
            self.close_spaces(&present, &mut problems).await;
            self.slow_check(&desired, &mut problems).await;
            self.note_looks(looks, began);
            self.forget_detached();
        }
        self.remember_interfaces().await;
        self.show_trials();
        // Held no longer than needed: the view's next update changes in place and copies nothing then.
        self.views.clear();
        self.finish(snapshot, problems, began);
        *lock(&self.agent.rounded) = Instant::now();
    }

    /// Brings the leaf crates' values up to date; the networks in which anything changed that balancing depends on. Endpoints
    /// are not: with a thousand containers on a network, each that comes would have all others' tables compared.
    fn derive(&mut self, changes: &ViewChanges) -> BTreeSet<Name> {
        let this = self.agent.identity.node;
        let mut changed = BTreeSet::new();
        for name in &changes.networks {
            self.definitions += 1;
            changed.insert(name.clone());
            match self.views.get(name) {
                Some(view) => {
                    self.derived.entry(name.clone()).or_insert_with(|| Derived::new(view)).set_subnets(view);
                }
                None => {
                    self.derived.remove(name);
                }
            }
        }
        for (network, name) in &changes.services {
            let (Some(view), Some(derived)) = (self.views.get(network), self.derived.get_mut(network)) else {
                continue;
            };
            derived.set_service(network, name, view.services.get(name).map(Arc::as_ref), &self.away);
            changed.insert(network.clone());
        }
        for (network, name) in &changes.attachments {
            let (Some(view), Some(derived)) = (self.views.get(network), self.derived.get_mut(network)) else {
                continue;
            };
            derived.set_attachment(this, name, view.attachments.get(name).map(Arc::as_ref));
        }
        changed
    }

    /// Networks that this host has attachments on and that stand.
    fn present(&self) -> BTreeSet<Name> {
        self.local.networks().filter(|network| self.views.contains_key(*network)).cloned().collect()
    }

    fn desired(&mut self, present: &BTreeSet<Name>, snapshot: &Snapshot) -> overlay::Desired {
        let settings = self.agent.settings.load_full();
        let mut networks = BTreeMap::new();
        for name in present {
            let link_index = self.link_index(name);
            let (Some(view), Some(derived)) = (self.views.get(name), self.derived.get_mut(name)) else {
                continue;
            };
            let fenced: BTreeSet<&Name> =
                self.fenced.keys().filter(|(network, _)| network == name).map(|(_, name)| name).collect();
            let linked = Linked { records: self.local.on(name), revision: self.local.revision(), fenced };
            let network =
                derived::overlay_network(derived, view, linked, self.agent.identity.node, link_index);
            networks.insert(name.to_string(), network);
        }
        overlay::Desired {
            host: overlay::Host {
                address: self.agent.identity.address,
                vxlan_port: settings.vxlan_port,
                former_ports: snapshot.ports.former.clone(),
                other_ports: snapshot.ports.others.clone(),
                guarded_ports: snapshot.ports.guarded.clone(),
                peers: snapshot.peers.clone(),
                link_pool: settings.link_pool,
                offload: self.agent.paths.leaves_checksums(),
            },
            networks,
            paths: snapshot.paths.clone(),
        }
    }

    /// A network's place in the link pool: the lowest free one, kept while the network is here.
    fn link_index(&mut self, network: &Name) -> u16 {
        if let Some(index) = self.links.get(network) {
            return *index;
        }
        let taken: BTreeSet<u16> = self.links.values().copied().collect();
        let index = (0..u16::MAX).find(|index| !taken.contains(index)).unwrap_or(u16::MAX);
        self.links.insert(network.clone(), index);
        self.save_links();
        index
    }

    fn save_links(&self) {
        let mut writes = Writes::default();
        let saved =
            writes.put_meta("links", &self.links).and_then(|()| self.agent.store.commit(&writes, true));
        if let Err(error) = saved {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// Removes everything that this host's kernel holds of ours, for `leave`. A line for each thing removed.
    pub async fn remove_all(&mut self) -> Vec<String> {
        // No round ends meanwhile, and with a thousand containers it takes its time: the watchdog is to wait.
        *lock(&self.agent.rounded) = Instant::now() + verbs::leave::LEAVE_LIMIT;
        let mut removed = Vec::new();
        let restore = self.agent.store.meta(sysctls::KEY).unwrap_or_else(|error| {
            removed
                .push(format!("NOT removed: what the host's sysctls were is not known: {}", chain(&error)));
            None
        });
        let restore = restore.unwrap_or_default();
        self.agent.probed.send_replace(Arc::default());
        let cookies: Vec<u64> = self.spaces.containers.keys().copied().collect();
        for cookie in cookies {
            self.retract_handle(cookie);
        }
        for (cookie, dropped) in self.spaces.drop_containers().await {
            let what = format!("balancing table and resolver of namespace {cookie}");
            removed.push(match dropped {
                Ok(()) => what,
                Err(error) => format!("NOT removed: {what}: {}", chain(&error)),
            });
        }
        let teardown = self.overlay.teardown_all(&restore).await;
        removed.extend(teardown.removed);
        for problem in &teardown.problems {
            removed
                .push(format!("NOT removed: {}: {}: {}", problem.object, problem.operation, problem.error));
        }
        for network in self.spaces.networks() {
            // What the holder keeps ends with it.
            drop(self.spaces.drop_network(&network));
            removed.push(format!("namespace of network {network}"));
        }
        if self.spaces.paths().is_some() {
            self.agent.paths.close();
            drop(self.spaces.drop_paths());
            removed.push("namespace of paths".to_owned());
        }
        self.agent.holder_pid.store(0, Ordering::Relaxed);
        self.spaces.end_holder();
        removed.push("the holder process".to_owned());
        removed
    }
}
