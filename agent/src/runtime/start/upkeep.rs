//! What goes on beside the verbs: settings read again, old things forgotten.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Unreadable};
use crate::config::{self, Sources};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, State, chain};
use crate::runtime::events::lock;
use crate::runtime::local::list;
use crate::runtime::start::forgetting::Forgetting;
use crate::runtime::{memory, verbs};
use crate::store::{StoreError, Writes};

/// Addresses that send what does not open are told this often at most.
const STRANGERS_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Where it is kept who said that this host was removed.
const REMOVED_BY: &str = "removed-by";

/// Takes up that an earlier start was told of this host's removal: nobody need say so again, as who was removed itself asks
/// nobody.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn recall_removal(agent: &Agent, cluster: &Cluster) -> Result<(), StoreError> {
    if let Some(by) = agent.store.meta::<SocketAddr>(REMOVED_BY)? {
        cluster.set_removed_by(by);
    }
    Ok(())
}

/// Keeps who says that this host was removed, once.
pub(super) fn keep_removal(agent: &Agent) {
    let by = agent.cluster.get().and_then(Cluster::removed_by);
    let (Some(by), Ok(None)) = (by, agent.store.meta::<SocketAddr>(REMOVED_BY)) else { return };
    let mut writes = Writes::default();
    match writes.put_meta(REMOVED_BY, &by).and_then(|()| agent.store.commit(&writes, true)) {
        Ok(()) => {
            let line = format!("this host was removed from its cluster, says {by}");
            agent.events.record("host", line, "transport");
        }
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
}

/// Saves what the transport learned, publishes this host's head, says what others complain of, forgets what is old.
pub(super) async fn housekeep(agent: Arc<Agent>) {
    let Some(cluster) = agent.cluster.get() else { return };
    let mut complaints_seen = 0;
    let mut foreign_seen = BTreeSet::new();
    let mut strangers = Strangers::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * agent.slowed);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut maxima = cluster.max_incarnations();
    let mut forgetting = Forgetting::new(Instant::now());
    loop {
        ticks.tick().await;
        memory::hand_back();
        let complaints = cluster.complaints();
        if complaints.len() > complaints_seen
            && let Some(last) = complaints.last()
        {
            agent.events.record("host", last.to_string(), "transport");
        }
        complaints_seen = complaints.len();
        let foreign = cluster.foreign();
        for host in foreign.iter().filter(|host| !foreign_seen.contains(&host.node)) {
            agent.events.record("host", host.to_string(), "transport");
        }
        foreign_seen = foreign.iter().map(|host| host.node).collect();
        keep_removal(&agent);
        tell_unreadable(&agent, &cluster.unreadable(), &mut strangers);
        if maxima.has_changed().unwrap_or(false) {
            let seen: Vec<(NodeId, u64)> =
                maxima.borrow_and_update().iter().map(|(node, incarnation)| (*node, *incarnation)).collect();
            let mut writes = Writes::default();
            let saved =
                writes.put_meta("incarnations", &seen).and_then(|()| agent.store.commit(&writes, true));
            if let Err(error) = saved {
                tracing::warn!("{}", chain(&error));
            }
        }
        verbs::addressing::forget_old(&mut lock(&agent.state), Instant::now());
        forgetting.go_on(&agent).await;
    }
}

/// Who sent frames lately that do not open, without being a member.
#[derive(Debug, Default)]
struct Strangers {
    known: BTreeSet<IpAddr>,
    told: Option<Instant>,
}

/// A member whose frames do not open here has an older or newer key than this host, or another cluster's: a problem. So
/// has whoever else sends such frames, but anybody can: that is an event, now and then, and no problem of ours.
fn tell_unreadable(agent: &Agent, unreadable: &[Unreadable], strangers: &mut Strangers) {
    let member = |from: IpAddr| {
        let named = |state: &State| {
            state.catalog.hosts().find(|(_, it)| it.address == from).map(|(_, it)| it.name.clone())
        };
        agent.read(named)
    };
    let (mut problems, mut others) = (Vec::new(), Vec::new());
    for frames in unreadable {
        match member(frames.from) {
            Some(name) => {
                let advice =
                    format!("give {name} and this host the same key file and restart who had another");
                problems.push((format!("key/{name}"), format!("{frames}; {advice}")));
            }
            None => others.push(frames),
        }
    }
    agent.report("key/", problems);
    let new: Vec<&&Unreadable> = others.iter().filter(|it| !strangers.known.contains(&it.from)).collect();
    let due = strangers.told.is_none_or(|told| told.elapsed() >= STRANGERS_TOLD_EVERY);
    if let (Some(first), true) = (new.first(), due) {
        let more =
            if new.len() > 1 { format!(" (and {} more addresses)", new.len() - 1) } else { String::new() };
        agent.events.record("host", format!("{first}{more}"), "transport");
        strangers.told = Some(Instant::now());
        strangers.known = others.iter().map(|it| it.from).collect();
    }
    strangers.known.retain(|from| others.iter().any(|it| it.from == *from));
}

/// Reads the settings again; what needs a restart is named.
pub(super) fn reload(agent: &Agent, sources: &Sources) {
    match sources.load() {
        Ok(loaded) => {
            let now = agent.settings.load_full();
            let changes = config::changes(&now, &loaded.settings);
            if !changes.needs_restart.is_empty() {
                tracing::warn!(
                    "these settings change with the next start only: {}",
                    list(&changes.needs_restart)
                );
            }
            let line = format!("settings read again; changed: {}", list(&changes.reloadable));
            agent.events.record("host", line, "SIGHUP");
            agent.settings.store(Arc::new(now.reloaded(&loaded.settings)));
            agent.changed.notify_one();
        }
        Err(errors) => tracing::error!("the settings stay as they are: {errors}"),
    }
}
