//! Hosts without a kernel, many in one process: all of an agent but what acts on the machine. `make bench` measures
//! clusters of them.
//!
//! State, store, transport, claims and the loops between hosts are the product's; facts are in force where the view has
//! taken them up. Nothing is attached, probed, resolved or served to an operator.
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{build, identity, joining, start_cluster, upkeep};
use crate::api::types::Failure;
use crate::cluster::KeyRing;
use crate::config::{Settings, Start};
use crate::netns::Namespace;
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::claiming::{self, Books};
use crate::runtime::events::lock;
use crate::runtime::peers;
use crate::store::Store;

/// A host without a kernel. Dropped, it is dead: nothing says goodbye.
#[derive(Debug)]
pub struct Bare {
    agent: Arc<Agent>,
    tasks: JoinSet<()>,
}

impl Bare {
    /// Starts a host that reaches the others, and is reached, at `address`; what it keeps is in `directory`. Returns
    /// before it has joined. All periods between hosts are `slowed` times as long as they are (1 is the product), so that
    /// one machine can carry that many times as many. To be called on a runtime of several threads.
    ///
    /// # Errors
    /// What the product's start is refused for.
    pub async fn start(
        name: &str,
        address: IpAddr,
        directory: PathBuf,
        keys: KeyRing,
        start: Start,
        slowed: u32,
    ) -> Result<Self, Failure> {
        let failure_after = Settings::default().failure_after * slowed;
        let node = name.to_owned();
        let settings = Settings { node, state_dir: directory, failure_after, ..Settings::default() };
        let store = Store::open(&settings.state_dir).map_err(|error| refused(chain(&error), &[]))?;
        let identity = identity::identify(&store, &settings, &keys, address)?;
        let books = Books::load(&store, identity.node).map_err(|error| refused(chain(&error), &[]))?;
        let namespace = Namespace::current().map_err(|error| refused(chain(&error), &[]))?;
        let (leaving, _nobody_leaves) = mpsc::channel(1);
        let agent = build(settings, store, identity, books, namespace, leaving, slowed)?;
        agent.derive_all();
        agent.reassert_all();
        start_cluster(&agent, keys, &start).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(take_up(Arc::clone(&agent)));
        tasks.spawn(peers::run(Arc::clone(&agent)));
        tasks.spawn(peers::sync(Arc::clone(&agent)));
        tasks.spawn(peers::save(Arc::clone(&agent)));
        tasks.spawn(claiming::upkeep::run(Arc::clone(&agent)));
        tasks.spawn(joining::join(Arc::clone(&agent), start));
        tasks.spawn(upkeep::housekeep(Arc::clone(&agent)));
        Ok(Self { agent, tasks })
    }

    /// The agent, to be asked and written to.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Ends it silently and returns when its sockets are closed.
    pub async fn stop(mut self) {
        self.agent.stop.send_replace(true);
        self.tasks.shutdown().await;
        if let Some(cluster) = self.agent.cluster.get() {
            cluster.stop().await;
        }
    }
}

/// In place of the converge loop: what the view holds is in force.
async fn take_up(agent: Arc<Agent>) {
    loop {
        let heads = {
            let mut state = lock(&agent.state);
            drop(std::mem::take(&mut state.pending));
            state.pending_since = None;
            state.catalog.heads()
        };
        agent.applied.send_replace(Arc::new(heads));
        *lock(&agent.rounded) = Instant::now();
        agent.changed.notified().await;
    }
}
