//! Clusters of many hosts in this process: the product's agents without a kernel (see [`agent::runtime::start::Bare`]),
//! each at an address of its own on the loopback interface of the sandbox, where they can be cut off from each other.
//! Several processes may each have a part of one cluster.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::api::types::{Failure, NetworkCreate, Wait};
use agent::catalog::facts::{Key, Value};
use agent::cluster::{ClusterKey, KeyRing};
use agent::config::{JoinAddress, Start};
use agent::model::{Head, Name, NodeId};
use agent::runtime::agent::{Agent, State};
use agent::runtime::start::Bare;
use agent::runtime::verbs;
use agent::store::Writes;
use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;
use tokio::runtime::Runtime;

mod facts;
mod watch;

use facts::{NETWORK, SUBNET, registration, replica};
pub use watch::Seen;
use watch::Watchers;

/// Until a host has joined, or what was written is everywhere. Nobody promised it.
const LIMIT: Duration = Duration::from_secs(60);
/// Slowed hosts are waited for as many times longer, up to this.
const SLOWED_MAX: u32 = 5;
/// Changes whose way to all hosts is followed, of those in a second: to follow each would cost more than the change.
const FOLLOWED_PER_SECOND: u32 = 50;
/// Open files for a few hundred hosts; the kernel gives a process no more unless told to (fs.nr_open).
pub const FILES_WANTED: u64 = 1 << 20;
/// Disks in memory: many hosts on one disk would measure the disk.
const MEMORY: &str = "/dev/shm";

/// What the hosts are like.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// Services of each host, with one attachment and one replica each: a third of its facts, 255 at most.
    pub services: u32,
    /// How many times longer than the product's all periods between hosts are.
    pub slowed: u32,
}

impl Nature {
    /// The product at its own pace, with 100 facts on each host: those of its services, and the one that names it.
    pub const PLAIN: Self = Self { services: 33, slowed: 1 };
}

/// The cluster. Dropped, it is gone.
pub struct Simulated {
    watchers: Watchers,
    hosts: Vec<Bare>,
    nature: Nature,
    keys: KeyRing,
    started: u32,
    directory: TempDir,
    // Dropped last: hosts end on it.
    runtime: Runtime,
}

impl Simulated {
    /// Founds a cluster of one host.
    ///
    /// # Errors
    /// When the host does not start.
    pub fn found(nature: Nature) -> Result<Self> {
        let mut cluster = Self::part(nature, 0)?;
        cluster.start(1, &Start::Init)?;
        let first = Arc::clone(cluster.hosts[0].agent());
        let network = NetworkCreate {
            name: NETWORK.to_owned(),
            subnets: vec![SUBNET.parse()?],
            wait: Wait { milliseconds: 0 },
            ..NetworkCreate::default()
        };
        // A task of its own: only those may block their thread for the store.
        let made =
            cluster.runtime.spawn(async move { verbs::network::create(&first, network, "test").await });
        cluster.runtime.block_on(made)?.map_err(failed)?;
        Ok(cluster)
    }

    /// A part, without a host yet, of a cluster that another process has founded; `before` hosts are of other parts that
    /// come before it.
    ///
    /// # Errors
    /// When there is no place for its hosts' state.
    pub fn part(nature: Nature, before: u32) -> Result<Self> {
        // Each host has a connection to and from each other one.
        agent::limits::raise_file_limit(FILES_WANTED);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let memory = Path::new(MEMORY);
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let random = std::array::from_fn(|index| u8::try_from(index).unwrap_or_default());
        let keys = KeyRing::parse(&ClusterKey::found(random).to_text())?;
        let (watchers, hosts) = (Watchers::default(), Vec::new());
        Ok(Self { watchers, hosts, nature, keys, started: before, directory, runtime })
    }

    /// Lets one more host join, and waits until it has a node number, all facts of the others, and all of them know it.
    /// Returns how long that took.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn join(&mut self) -> Result<Duration> {
        let before = self.heads();
        let begun = Instant::now();
        self.join_at_once(1)?;
        let joiner = Arc::clone(self.hosts.last().context("no host")?.agent());
        for (owner, head) in before {
            self.runtime.block_on(reached(&joiner, owner, head))?;
        }
        let me = joiner.identity.node;
        let own = Head { incarnation: joiner.identity.incarnation, version: 1 };
        for host in &self.hosts {
            self.runtime.block_on(reached(host.agent(), me, own))?;
            ensure!(host.agent().read(|state| state.catalog.host(me).is_some()), "a host without a name");
        }
        Ok(begun.elapsed())
    }

    /// Lets so many more hosts join at once, and waits until each has a node number.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn join_at_once(&mut self, count: u32) -> Result<()> {
        let through = JoinAddress { host: address(self.started - 1).to_string(), port: None };
        self.start(count, &Start::Join(vec![through]))
    }

    fn start(&mut self, count: u32, start: &Start) -> Result<()> {
        let first = self.hosts.len();
        for _ in 0..count {
            let (address, number) = (address(self.started), self.started);
            let directory = self.directory.path().join(number.to_string());
            let name = format!("host-{number}");
            let (keys, start, slowed) = (self.keys.clone(), start.clone(), self.nature.slowed);
            let starting = async move { Bare::start(&name, address, directory, keys, start, slowed).await };
            let host = self.runtime.block_on(self.runtime.spawn(starting))?.map_err(failed)?;
            self.watchers.follow(&self.runtime, host.agent());
            self.hosts.push(host);
            self.started += 1;
        }
        for host in &self.hosts[first..] {
            let identity = &host.agent().identity;
            let named = Head { incarnation: identity.incarnation, version: 1 };
            self.runtime.block_on(reached(host.agent(), identity.node, named))?;
        }
        Ok(())
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The agents.
    pub fn agents(&self) -> Vec<Arc<Agent>> {
        self.hosts.iter().map(|host| Arc::clone(host.agent())).collect()
    }

    /// What they are like.
    pub fn nature(&self) -> Nature {
        self.nature
    }

    /// What runs them.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Lets some hosts say that they have their attachments, services and replicas; returns when all know them.
    ///
    /// # Errors
    /// When it takes more than a minute for one of them.
    pub fn fill(&self, of: std::ops::Range<usize>) -> Result<()> {
        let mut heads = Vec::new();
        for at in of {
            let agent = self.hosts[at].agent();
            let (number, mut facts) = (number(agent).context("no number")?, Vec::new());
            for index in 0..self.nature.services {
                let service = format!("service-{at}-{index}");
                facts.extend(registration(number, agent.stamp(), index, &service)?);
            }
            heads.push((agent.identity.node, self.write(at, facts)?));
        }
        for host in &self.hosts {
            for (owner, head) in &heads {
                self.runtime.block_on(reached(host.agent(), *owner, *head))?;
            }
        }
        Ok(())
    }

    /// Registers a service of one replica on a host; how long until each host has taken it up.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn register(&self, at: usize, service: &str) -> Result<Duration> {
        let agent = self.hosts[at].agent();
        let name: Name = service.parse()?;
        let number = number(agent).context("no number")?;
        let facts = registration(number, agent.stamp(), self.nature.services, service)?;
        let begun = Instant::now();
        let head = self.write(at, facts)?;
        let seen = self.watchers.watch(agent.identity.node, head, begun);
        let took = self.runtime.block_on(seen.everywhere(LIMIT))?;
        for host in &self.hosts {
            let serves = |state: &State| {
                let network = state.view.networks().get(&NETWORK.parse().ok()?)?;
                Some(!network.services.get(&name)?.replicas.is_empty())
            };
            let name = &host.agent().identity.name;
            ensure!(host.agent().read(serves) == Some(true), "{name} does not serve {service}");
        }
        Ok(took)
    }

    /// Changes weights of replicas, `per_second` in all, dealt out over the hosts, for so long. Returns of a sample of
    /// them how long it took until all hosts had taken the change up.
    ///
    /// # Errors
    /// When a change cannot be written, or is not everywhere within a minute.
    pub fn churn(&self, per_second: u32, time: Duration) -> Result<Vec<Duration>> {
        self.change(per_second, time, per_second.div_ceil(FOLLOWED_PER_SECOND))
    }

    /// As [`Simulated::churn`], and follows none of them: some hosts may be cut off.
    ///
    /// # Errors
    /// When a change cannot be written.
    pub fn stir(&self, per_second: u32, time: Duration) -> Result<()> {
        self.change(per_second, time, u32::MAX).map(drop)
    }

    fn change(&self, per_second: u32, time: Duration, followed_of: u32) -> Result<Vec<Duration>> {
        let each = Duration::from_secs(1) * u32::try_from(self.hosts.len())? / per_second;
        let mut tasks = tokio::task::JoinSet::new();
        for (at, host) in self.hosts.iter().enumerate() {
            let (agent, watchers) = (Arc::clone(host.agent()), self.watchers.clone());
            let later = each * u32::try_from(at)? / u32::try_from(self.hosts.len())?;
            let services = self.nature.services;
            let work = change_on(agent, watchers, at, (later, each, time), services, followed_of);
            tasks.spawn_on(work, self.runtime.handle());
        }
        let mut took = Vec::new();
        self.runtime.block_on(async {
            while let Some(ended) = tasks.join_next().await {
                for seen in ended?? {
                    took.push(seen.everywhere(LIMIT).await?);
                }
            }
            anyhow::Ok(took)
        })
    }

    fn write(&self, at: usize, facts: Vec<(Key, Value)>) -> Result<Head> {
        let agent = Arc::clone(self.hosts[at].agent());
        let batch = facts.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let written = self.runtime.spawn(async move { agent.write(batch, Writes::default()) });
        self.runtime.block_on(written)?.map_err(failed)
    }

    /// Ends a host without a word and returns how long it took until all others had suspended it.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn kill(&mut self, at: usize) -> Result<Duration> {
        let host = self.hosts.remove(at);
        let node = host.agent().identity.node;
        self.watchers.forget(node);
        let begun = Instant::now();
        self.runtime.block_on(host.stop());
        for host in &self.hosts {
            self.runtime.block_on(until(host.agent(), |state| state.suspended.contains(&node)))?;
        }
        Ok(begun.elapsed())
    }

    /// Until every host has all others for live and knows as much as they.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn agree(&self) -> Result<()> {
        self.agree_on(&self.heads())
    }

    /// Until every host has all that are named for live and knows as much of them.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn agree_on(&self, heads: &BTreeMap<NodeId, Head>) -> Result<()> {
        for host in &self.hosts {
            let alive = |state: &State| heads.keys().all(|node| live(state, *node));
            self.runtime.block_on(until(host.agent(), alive))?;
            for (owner, head) in heads {
                self.runtime.block_on(reached(host.agent(), *owner, *head))?;
            }
        }
        Ok(())
    }

    /// Until every host of `at` has every other of them for live and every remaining one for suspended.
    ///
    /// # Errors
    /// When it takes more than a minute.
    pub fn parted(&self, at: std::ops::Range<usize>) -> Result<()> {
        for (index, host) in self.hosts.iter().enumerate() {
            let as_cut = |state: &State| {
                let others = self.hosts.iter().enumerate();
                let same = |other| at.contains(&other) == at.contains(&index);
                others.into_iter().all(|(other, it)| same(other) == live(state, it.agent().identity.node))
            };
            self.runtime.block_on(until(host.agent(), as_cut))?;
        }
        Ok(())
    }

    /// Where a host is reached.
    pub fn address(&self, at: usize) -> IpAddr {
        self.hosts[at].agent().identity.address
    }

    /// How far each host's own facts have come.
    pub fn heads(&self) -> BTreeMap<NodeId, Head> {
        let own = |host: &Bare| (host.agent().identity.node, *host.agent().own_head.borrow());
        self.hosts.iter().map(own).collect()
    }

    /// Bytes that the transports of all hosts have sent since they started.
    pub fn bytes_sent(&self) -> u64 {
        let stats = self.hosts.iter().filter_map(|host| Some(host.agent().cluster.get()?.stats()));
        stats.map(|stats| stats.datagram_bytes_sent.get() + stats.stream_bytes_sent.get()).sum()
    }
}

/// One host's part of [`Simulated::churn`]; what is followed.
async fn change_on(
    agent: Arc<Agent>,
    watchers: Watchers,
    at: usize,
    (later, each, time): (Duration, Duration, Duration),
    services: u32,
    followed_of: u32,
) -> Result<Vec<Seen>> {
    let number = number(&agent).context("no number")?;
    let begun = tokio::time::Instant::now() + later;
    let mut ticks = tokio::time::interval_at(begun, each);
    let (mut seen, mut turn) = (Vec::new(), u32::try_from(at)?);
    while begun.elapsed() < time {
        ticks.tick().await;
        let index = turn % services;
        let service = format!("service-{at}-{index}");
        let weight = u16::try_from(turn / services % 256)? + 1;
        let (key, value) = replica(number, index, &service, weight)?;
        let asked = Instant::now();
        let head = agent.write(vec![(key, Some(value))], Writes::default()).map_err(failed)?;
        if turn % followed_of == followed_of - 1 {
            seen.push(watchers.watch(agent.identity.node, head, asked));
        }
        turn += 1;
    }
    Ok(seen)
}

fn live(state: &State, node: NodeId) -> bool {
    !state.suspended.contains(&node)
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow!("{}", failure.message)
}

fn address(index: u32) -> IpAddr {
    // 127.0.0.1 stays free.
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + index).into()
}

fn number(agent: &Agent) -> Option<u32> {
    agent.read(|state| state.books.promises.number())
}

/// Until what is so at one host is so at another.
fn limit(agent: &Agent) -> Duration {
    LIMIT * agent.slowed.min(SLOWED_MAX)
}

async fn reached(agent: &Agent, owner: NodeId, head: Head) -> Result<()> {
    let name = &agent.identity.name;
    let said = || agent.events.after(0).into_iter().map(|event| event.message).collect::<Vec<_>>();
    ensure!(
        agent.wait_applied(owner, head, limit(agent)).await,
        "{name} has not heard {head} of {owner}; it said {:?}",
        said()
    );
    Ok(())
}

/// Until a host's state is so; looked at whenever something was derived.
async fn until(agent: &Agent, holds: impl Fn(&State) -> bool) -> Result<()> {
    let mut revision = agent.revision.subscribe();
    let wait = async {
        while !agent.read(&holds) {
            revision.changed().await?;
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(limit(agent), wait).await;
    waited.with_context(|| {
        format!("{} does not see it within {} s", agent.identity.name, limit(agent).as_secs())
    })?
}
