//! From settings to a running agent, and to its end.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api::types::{Failure, FailureKind};
use crate::cluster::{Cluster, KeyRing};
use crate::config::{Settings, Sources, Start};
use crate::limits;
use crate::model::{Name, NodeId};
use crate::netns::{Namespace, Watcher};
use crate::runtime::agent::{Agent, Identity, State, chain, refused};
use crate::runtime::claiming::{self, Books};
use crate::runtime::converge::Converger;
use crate::runtime::events::{Events, lock, unix_time_ms};
use crate::runtime::local::{LocalAttachment, list};
use crate::runtime::metrics::Metrics;
use crate::runtime::peers::{self, PeerHandler};
use crate::runtime::problems::Problems;
use crate::runtime::spaces::{self, Spaces};
use crate::runtime::verbs::addressing::{self, Grants};
use crate::runtime::{health, host, key_file, log, memory, paths, probing, records, tunnel_ports, verbs};
use crate::store::Store;
use crate::{api, docker, holder};

mod bare;
mod forgetting;
mod holding;
mod identity;
mod joining;
mod moving;
mod notify;
mod surroundings;
mod twin;
mod upkeep;
mod upstreams;

pub use bare::Bare;
pub use notify::readiness;

/// Sockets and namespaces that stay open for one attachment, with room.
const FILES_PER_ATTACHMENT: u64 = 13;
/// On a network and host, because of the ports of a bridge.
const ATTACHMENTS_MAX: u64 = 1_000;
/// For that many on each of some networks, peers, and clients of the API.
const FILES_WANTED: u64 = 65_536;
/// Namespace deaths that may wait.
const DEATHS_MAX: usize = 1_024;

/// Runs the agent until SIGTERM or `leave`.
///
/// # Errors
/// Why it could not start; nothing is left running then.
pub fn run(settings: Settings, sources: Sources, start: Start) -> Result<(), Failure> {
    memory::frugal();
    let limiter = log::begin(&settings);
    let attachments = limits::raise_file_limit(FILES_WANTED) / FILES_PER_ATTACHMENT;
    if attachments < ATTACHMENTS_MAX {
        tracing::warn!("files may be open for {attachments} attachments only; raise LimitNOFILE (ulimit -n)");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| refused(format!("the runtime cannot start: {error}"), &[]))?;
    let teller = limiter.clone();
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            teller.tell(Instant::now());
        }
    });
    let mut holder = None;
    let ended = runtime.block_on(run_agent(settings, sources, start, &mut holder));
    limiter.tell(Instant::now());
    // A blocking call that hangs must not keep a stopped agent alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let (Err(_), Some(holder)) = (&ended, holder) {
        holder.end_unused();
    }
    match ended? {
        Some(before) => Err(moving::start_anew(before)),
        None => Ok(()),
    }
}

/// Until the agent ends; the address that it is to leave for another, if that is why.
async fn run_agent(
    settings: Settings,
    sources: Sources,
    start: Start,
    reached: &mut Option<Arc<holder::Client>>,
) -> Result<Option<IpAddr>, Failure> {
    let fail = |error: &dyn std::error::Error| refused(chain(error), &[]);
    let keys = key_file::load(&settings.key_file)?;
    let store = Store::open(&settings.state_dir).map_err(|error| refused(chain(&error), error.hints()))?;
    let host_namespace = Namespace::current().map_err(|error| fail(&error))?;
    let address = identity::advertised(&settings, &host_namespace).await?;
    identity::refuse_other_family(&start, address)?;
    let identity = identity::identify(&store, &settings, &keys, address)?;
    let books = Books::load(&store, identity.node).map_err(|error| fail(&error))?;
    if books.promises.number().is_none() && start == Start::Known {
        let hints = [
            "found a new cluster on the first host: svc-agent run --init",
            "join one on every other: svc-agent run --join ADDR",
        ];
        return Err(Failure {
            kind: FailureKind::Usage,
            message: "this host belongs to no cluster yet".to_owned(),
            hints: hints.map(str::to_owned).to_vec(),
        });
    }
    let listener = api::server::open(&settings.socket).await.map_err(|error| fail(&error))?;
    let metrics = open_metrics(&settings).await?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let holder = holder::ensure(&settings.holder_socket, &program).map_err(|error| fail(&error))?;
    let holder = Arc::clone(reached.insert(Arc::new(holder)));
    let (deaths_sender, deaths) = mpsc::channel(DEATHS_MAX);
    let watcher = Watcher::start(deaths_sender).map_err(|error| fail(&error))?;
    let (leaving, leave_requests) = mpsc::channel(1);
    let pid = holder.ping().map_err(|error| fail(&error))?.pid;
    let agent = build(settings, store, identity, books, host_namespace, leaving, 1)?;
    agent.holder_pid.store(pid, std::sync::atomic::Ordering::Relaxed);
    tunnel_ports::refuse_taken(&agent)?;
    let adopted = sweep(&agent, &holder)?;

    let links: BTreeMap<Name, u16> =
        agent.store.meta("links").map_err(|error| fail(&error))?.unwrap_or_default();
    let serve_stale = agent.settings.load().serve_stale;
    let forwarding = dns::ForwardSettings { serve_stale, ..dns::ForwardSettings::default() };
    let forwarder = dns::Forwarder::new(forwarding, Arc::clone(&agent.dns_stats));
    forwarder.set_upstreams(&host::upstreams(&agent));
    let spaces = Spaces::begin(&agent, holder, watcher, forwarder.clone(), Arc::clone(&agent.dns_stats))
        .map_err(|error| fail(&error))?;
    let mut tasks = JoinSet::new();
    let api = tokio::spawn(api::server::serve(Arc::clone(&agent), listener));
    if let Some(listener) = metrics {
        tasks.spawn(api::server::serve_metrics(Arc::clone(&agent), listener));
    }
    paths::take_up(&agent);
    agent.derive_all();
    agent.reassert_all();
    let mut converge =
        tokio::spawn(Converger::new(Arc::clone(&agent), spaces, links, adopted).run(deaths, leave_requests));
    start_cluster(&agent, keys, &start).await?;
    tasks.spawn(peers::run(Arc::clone(&agent)));
    tasks.spawn(peers::sync(Arc::clone(&agent)));
    tasks.spawn(peers::save(Arc::clone(&agent)));
    tasks.spawn(claiming::upkeep::run(Arc::clone(&agent)));
    tasks.spawn(health::run(Arc::clone(&agent)));
    tasks.spawn(paths::run(Arc::clone(&agent)));
    tasks.spawn(probing::run(Arc::clone(&agent)));
    tasks.spawn(upstreams::follow(Arc::clone(&agent), forwarder));
    tasks.spawn(holding::watch(Arc::clone(&agent), program));
    tasks.spawn(joining::join(Arc::clone(&agent), start));
    tasks.spawn(upkeep::housekeep(Arc::clone(&agent)));
    tasks.spawn(surroundings::follow(Arc::clone(&agent)));
    tasks.spawn(tunnel_ports::follow(Arc::clone(&agent)));
    tasks.spawn(notify::tell(Arc::clone(&agent)));
    tasks.spawn(docker::serve(Arc::clone(&agent)));
    tasks.spawn(docker::follow(Arc::clone(&agent)));
    tasks.spawn(docker::follow_containers(Arc::clone(&agent)));
    let (moving, moved) = oneshot::channel();
    tasks.spawn(moving::follow(Arc::clone(&agent), moving));
    let end = wait_for_end(&agent, &sources, &mut converge, moved).await;
    if !matches!(end, End::Moved(_)) {
        notify::stopping();
    }
    agent.stop.send_replace(true);
    tasks.shutdown().await;
    if matches!(end, End::Asked | End::Moved(_)) {
        // It ends between two rounds, never inside one.
        drop(tokio::time::timeout(Duration::from_secs(5), &mut converge).await);
    }
    peers::save_now(&agent).await;
    upkeep::keep_removal(&agent);
    if let Some(cluster) = agent.cluster.get() {
        cluster.stop().await;
    }
    drop(tokio::time::timeout(Duration::from_secs(2), api).await);
    drop(std::fs::remove_file(&agent.settings.load().socket));
    if let Some(failure) = agent.unfit.get() {
        return Err(failure.clone());
    }
    match end {
        End::Moved(to) => {
            tracing::info!(
                "this host's address is {to} now, it was {}: starting anew",
                agent.identity.address
            );
            return Ok(Some(agent.identity.address));
        }
        End::Asked => tracing::info!("stopped; forwarding, balancing and the resolvers' sockets stay"),
        End::Left => tracing::info!("this host has left its cluster"),
        End::Failed => {
            return Err(refused("the converge loop failed; see the log", &["start the agent again"]));
        }
    }
    Ok(None)
}

/// Why the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By a signal: what the kernel holds stays.
    Asked,
    /// By `leave`: the converge loop has removed everything and ended.
    Left,
    /// The converge loop failed.
    Failed,
    /// This host has another address now: the agent is to start anew.
    Moved(IpAddr),
}

async fn open_metrics(settings: &Settings) -> Result<Option<tokio::net::TcpListener>, Failure> {
    let Some(address) = settings.metrics else { return Ok(None) };
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            let hint = "give --metrics another address, or turn it off: --metrics ''";
            Err(refused(format!("metrics cannot be served on {address}: {error}"), &[hint]))
        }
    }
}

fn build(
    settings: Settings,
    store: Store,
    identity: Identity,
    books: Books,
    host_namespace: Namespace,
    leaving: mpsc::Sender<oneshot::Sender<Vec<String>>>,
    slowed: u32,
) -> Result<Arc<Agent>, Failure> {
    let fail = |error: crate::store::StoreError| refused(chain(&error), &[]);
    let (mut catalog, unreadable) = records::load(&store).map_err(fail)?;
    for what in unreadable {
        tracing::error!("left out of the catalog, it is not readable: {what}");
    }
    catalog.restart(identity.node, identity.incarnation);
    catalog.raise_clock(store.meta("clock").map_err(fail)?.unwrap_or_default());
    let (local, unreadable) = store.local::<LocalAttachment>().map_err(fail)?;
    for what in unreadable {
        tracing::error!("left out of the attachments, it is not readable: {what}");
    }
    let granted = Grants::load(&store).map_err(fail)?;
    let docker: docker::Books =
        store.meta::<docker::Saved>(docker::KEY).map_err(fail)?.unwrap_or_default().into();
    let freed = addressing::take_up(&store, Instant::now()).map_err(fail)?;
    let state = State {
        suspended: store.meta("suspended").map_err(fail)?.unwrap_or_default(),
        local: local
            .into_iter()
            .map(|it| ((it.network.clone(), it.name.clone()), it))
            .collect::<BTreeMap<_, _>>()
            .into(),
        freed,
        granted,
        leases: docker.leases().collect(),
        docker,
        ..State::new(catalog, books, identity.node)
    };
    let head = state.catalog.head(identity.node);
    let metrics = Metrics::new().map_err(|error| refused(error.to_string(), &[]))?;
    metrics.begin();
    metrics.build_info.with_label_values(&[crate::version()]).set(1);
    metrics.start_time.set(i64::try_from(unix_time_ms() / 1_000).unwrap_or_default());
    Ok(Arc::new(Agent {
        identity,
        settings: ArcSwap::from_pointee(settings),
        store,
        state: Mutex::new(state),
        changed: Notify::new(),
        touched: Default::default(),
        own_head: watch::Sender::new(head),
        awaited: watch::Sender::default(),
        applied: watch::Sender::default(),
        settled: Mutex::default(),
        cluster: OnceLock::new(),
        problems: Mutex::new(Problems::default()),
        events: Events::default(),
        metrics,
        verbs: tokio::sync::Mutex::new(()),
        revision: watch::Sender::new(0),
        applied_local: watch::Sender::new(0),
        opened: Mutex::default(),
        namespaces: Mutex::default(),
        opened_revision: watch::Sender::new(0),
        zones: Mutex::default(),
        interfaces: Mutex::default(),
        host_namespace,
        dns_stats: Arc::new(dns::Stats::default()),
        holder_pid: 0.into(),
        paths: paths::Shown::default(),
        probed: watch::Sender::default(),
        rounded: Mutex::new(Instant::now()),
        told_ready: false.into(),
        slowed,
        docker: Default::default(),
        unfit: OnceLock::new(),
        started: Instant::now(),
        leaving,
        stop: watch::Sender::new(false),
    }))
}

/// Attachments whose namespace ended while no agent ran, or with the last boot, are taken out; those that a crash left
/// half made or half removed are removed; the others are opened. Returns the namespaces that are opened.
fn sweep(agent: &Arc<Agent>, holder: &holder::Client) -> Result<BTreeSet<u64>, Failure> {
    let records: Vec<LocalAttachment> = agent.read(|state| state.local.values().cloned().collect());
    let (mut gone, mut kept, mut unfinished) = (Vec::new(), BTreeSet::new(), Vec::new());
    for record in records {
        let same_boot = record.boot_id == agent.identity.boot_id;
        let found = if same_boot { spaces::find_again(holder, &record) } else { None };
        match found {
            Some(resolved) if record.announced && !record.detaching => {
                kept.insert(record.cookie);
                lock(&agent.opened).insert(record.cookie, resolved);
            }
            Some(resolved) => {
                unfinished.push(resolved.namespace);
                gone.push(record);
            }
            None => gone.push(record),
        }
    }
    for namespace in unfinished.iter().filter(|namespace| !kept.contains(&namespace.cookie())) {
        if let Err(error) = spaces::remove_table(namespace) {
            tracing::warn!("the balancing table of a detached namespace stays: {}", chain(&error));
        }
    }
    if !gone.is_empty() {
        let names: Vec<String> = gone.iter().map(LocalAttachment::key).collect();
        agent.events.record("attachment", format!("{}: gone while no agent ran", list(&names)), "agent");
        verbs::detach::withdraw(agent, &gone)?;
    }
    let links: BTreeMap<Name, u16> =
        agent.store.meta("links").map_err(|error| refused(chain(&error), &[]))?.unwrap_or_default();
    let attached: Vec<Name> =
        agent.read(|state| state.local.keys().map(|(network, _)| network.clone()).collect());
    spaces::drop_strangers(holder, &kept, &links.into_keys().chain(attached).collect());
    Ok(kept)
}

async fn start_cluster(agent: &Arc<Agent>, keys: KeyRing, start: &Start) -> Result<(), Failure> {
    let settings = agent.settings.load_full();
    let address = SocketAddr::new(agent.identity.address, settings.gossip_port);
    let known: Vec<SocketAddr> = agent.read(|state| {
        let hosts = state.catalog.hosts().filter(|(node, _)| *node != agent.identity.node);
        hosts.map(|(_, host)| verbs::node::address_of(host)).collect()
    });
    let moved_from = twin::moved_from(agent, address);
    if let Some(before) = moved_from {
        let line = format!("its address was {} and is {} now", before.ip(), address.ip());
        agent.events.record("host", line, "agent");
    }
    let moved_from = moved_from.filter(|before| !moving::was_here(before.ip()));
    let asked = match start {
        _ if moved_from.is_some() => Vec::new(),
        Start::Join(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Start::Known | Start::Init => Vec::new(),
    };
    let max_incarnations = agent.store.meta::<Vec<(NodeId, u64)>>("incarnations");
    let max_incarnations = max_incarnations.map_err(|error| refused(chain(&error), &[]))?.unwrap_or_default();
    let config = crate::cluster::Config {
        node: agent.identity.node,
        incarnation: agent.identity.incarnation,
        name: agent.identity.name.clone(),
        listen: address,
        advertise: address,
        seeds: asked,
        keys,
        gossip_interval: crate::cluster::GOSSIP_INTERVAL * agent.slowed,
        slowed: agent.slowed,
        failure_after: settings.failure_after,
        max_incarnations: max_incarnations.into_iter().collect(),
        founder: joining::founder(agent, start)?,
    };
    let cluster =
        Cluster::start(config, Arc::new(PeerHandler(Arc::clone(agent)))).await.map_err(|error| {
            let hint = format!(
                "see what has port {}: ss -lntup; or give --gossip-port another",
                settings.gossip_port
            );
            refused(chain(&error), &[&hint])
        })?;
    if let Some(before) = moved_from {
        twin::refuse(agent, &cluster, before).await?;
    }
    for address in known {
        cluster.add_seed(address);
    }
    upkeep::recall_removal(agent, &cluster).map_err(|error| refused(chain(&error), &[]))?;
    drop(agent.cluster.set(cluster));
    Ok(())
}

/// Until SIGTERM, SIGINT, `leave`, or the converge loop's end; says which. SIGHUP reads the
/// settings again.
async fn wait_for_end(
    agent: &Arc<Agent>,
    sources: &Sources,
    converge: &mut tokio::task::JoinHandle<()>,
    mut moved: oneshot::Receiver<IpAddr>,
) -> End {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        tracing::error!("signals cannot be received");
        return End::Asked;
    };
    let mut stop = agent.stop.subscribe();
    loop {
        tokio::select! {
            _ = terminate.recv() => return End::Asked,
            _ = interrupt.recv() => return End::Asked,
            _ = hangup.recv() => notify::reload(agent, || upkeep::reload(agent, sources)),
            _ = stop.wait_for(|stop| *stop) => return End::Asked,
            Ok(address) = &mut moved, if !moved.is_terminated() => return End::Moved(address),
            ended = &mut *converge => {
                if let Err(error) = ended {
                    tracing::error!("the converge loop ended: {error}");
                    return End::Failed;
                } else {
                    // It ends by itself only for `leave`, which stops the agent once it has answered.
                    let mut stop = agent.stop.subscribe();
                    drop(tokio::time::timeout(Duration::from_secs(10), stop.wait_for(|stop| *stop)).await);
                }
                return End::Left;
            }
        }
    }
}
