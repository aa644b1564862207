//! What goes on beside the verbs: settings read again, old things forgotten.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Sources};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::local::list;
use crate::runtime::start::forgetting::Forgetting;
use crate::runtime::{memory, verbs};
use crate::store::Writes;

/// Saves what the transport learned, publishes this host's head, says what others complain of, forgets what is old.
pub(super) async fn housekeep(agent: Arc<Agent>) {
    let Some(cluster) = agent.cluster.get() else { return };
    let mut complaints_seen = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut maxima = cluster.max_incarnations();
    let mut forgetting = Forgetting::new(Instant::now());
    let mut low = 0;
    loop {
        ticks.tick().await;
        memory::hand_back(&mut low);
        let complaints = cluster.complaints();
        if complaints.len() > complaints_seen
            && let Some(last) = complaints.last()
        {
            agent.events.record("host", last.to_string(), "transport");
        }
        complaints_seen = complaints.len();
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
