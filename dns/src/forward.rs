//! Asking the host's upstreams for names that are not ours.
//!
//! The sockets are opened by whoever polls these futures: the agent's own threads, which stay in the host's namespace, so
//! that a loopback upstream (127.0.0.53) is the host's.
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query, ResponseCode};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsHandle;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{NameServerPool, PoolContext, ResponseCache, TlsConfig, TtlConfig};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::stats::{Stats, add};

/// How upstreams are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Until a server that is silent counts as failed.
    pub server_timeout: Duration,
    /// Until the next server is asked too, while the first is silent.
    pub hedge_delay: Duration,
    /// Until the client gets SERVFAIL; a little less than the 5 s after which the libraries ask again.
    pub deadline: Duration,
    /// For how long a server that was silent or unreachable is asked last.
    pub penalty: Duration,
    /// Replies kept, over all namespaces.
    pub cache_entries: u64,
    /// Queries under way, over all namespaces; each holds a socket or two.
    pub in_flight_max: usize,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self {
            server_timeout: Duration::from_secs(2),
            hedge_delay: Duration::from_millis(200),
            deadline: Duration::from_millis(4_500),
            penalty: Duration::from_secs(5),
            cache_entries: 2_048,
            in_flight_max: 512,
        }
    }
}

/// Forwards queries of all namespaces; clones are the same forwarder.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    settings: ForwardSettings,
    stats: Arc<Stats>,
    state: ArcSwap<State>,
    permits: Semaphore,
    started: Instant,
}

/// What changes with the upstreams. The cache does too: other upstreams may have other names.
struct State {
    upstreams: Vec<Arc<Upstream>>,
    cache: ResponseCache,
}

/// One server. A pool of its own each: hickory's pool of many neither goes on after SERVFAIL or REFUSED nor, with the first
/// two dead, to the third (read in 0.26.3).
struct Upstream {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
    /// Milliseconds since the forwarder began until which it is asked last.
    shunned_until_ms: AtomicU64,
}

/// What a client asked for besides the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("there is no upstream to ask")]
    NoUpstream,
    #[error("too many forwarded queries are under way")]
    OverLimit,
    /// With what the first server said that said anything.
    #[error("no upstream gave a useful reply")]
    Failed(Option<ResponseCode>),
}

impl Forwarder {
    /// A forwarder without upstreams: every forwarded query is SERVFAIL until [`Self::set_upstreams`].
    pub fn new(settings: ForwardSettings, stats: Arc<Stats>) -> Self {
        let state = State { upstreams: Vec::new(), cache: cache(&settings) };
        Self(Arc::new(Inner {
            settings,
            stats,
            state: ArcSwap::from_pointee(state),
            permits: Semaphore::new(settings.in_flight_max),
            started: Instant::now(),
        }))
    }

    /// Replaces the upstreams, in order of preference. The same list again changes nothing; another one empties the cache.
    /// Queries under way end with the servers they began with.
    pub fn set_upstreams(&self, servers: &[SocketAddr]) {
        if self.upstreams() == servers {
            return;
        }
        let upstreams =
            servers.iter().filter_map(|server| Upstream::new(*server, &self.0.settings)).map(Arc::new);
        let state = State { upstreams: upstreams.collect(), cache: cache(&self.0.settings) };
        self.0.state.store(Arc::new(state));
    }

    /// The upstreams now, in order of preference.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.0.state.load().upstreams.iter().map(|upstream| upstream.address).collect()
    }

    /// The reply to one query, from the cache or an upstream, with its own response code.
    pub(crate) async fn resolve(&self, query: Query, flags: Flags) -> Result<Message, ForwardError> {
        let state = self.0.state.load_full();
        if state.upstreams.is_empty() {
            add(&self.0.stats.no_upstream);
            return Err(ForwardError::NoUpstream);
        }
        // The cache does not tell a reply with DNSSEC records from one without.
        let cacheable = flags == Flags::default();
        if cacheable && let Some(reply) = state.cache.get(&query, Instant::now()).and_then(into_message) {
            add(&self.0.stats.cache_hits);
            return Ok(reply);
        }
        let Ok(_permit) = self.0.permits.try_acquire() else { return Err(ForwardError::OverLimit) };
        let race = self.race(&state, request(query.clone(), flags));
        let result = timeout(self.0.settings.deadline, race).await.unwrap_or(Err(None));
        let reply = result.map_err(ForwardError::Failed)?;
        if cacheable {
            state.cache.insert(query, reply.clone(), Instant::now());
        }
        into_message(reply).ok_or(ForwardError::Failed(None))
    }

    /// Asks one server after the other: the next when one fails, or while it is silent. The first useful reply wins.
    async fn race(&self, state: &State, request: DnsRequest) -> Result<Reply, Option<ResponseCode>> {
        let mut servers = self.by_preference(state).into_iter();
        let mut pending = FuturesUnordered::new();
        let mut silent = Vec::new();
        let mut said = None;
        loop {
            if let Some(server) = servers.next() {
                silent.push((Arc::clone(&server), Instant::now()));
                pending.push(self.exchange(server, request.clone()));
            }
            let more = servers.len() > 0;
            let (server, result) = tokio::select! {
                finished = pending.next() => finished.ok_or(said)?,
                () = sleep(self.0.settings.hedge_delay), if more => continue,
            };
            silent.retain(|(other, _)| !Arc::ptr_eq(other, &server));
            match result {
                Ok(reply) => {
                    self.shun_slower(&silent);
                    return Ok(reply);
                }
                Err(code) => said = said.or(code),
            }
        }
    }

    /// Servers that were still silent when a later one had answered: their time-out will never be seen.
    fn shun_slower(&self, silent: &[(Arc<Upstream>, Instant)]) {
        for (server, asked) in silent {
            if asked.elapsed() >= self.0.settings.hedge_delay {
                self.shun(server);
            }
        }
    }

    fn shun(&self, server: &Upstream) {
        let until = self.now_ms().saturating_add(millis(self.0.settings.penalty));
        server.shunned_until_ms.store(until, Ordering::Relaxed);
        add(&self.0.stats.upstream_failures);
    }

    fn by_preference(&self, state: &State) -> Vec<Arc<Upstream>> {
        let now = self.now_ms();
        let mut servers = state.upstreams.clone();
        // Cached: the order must not change while it is sorted.
        servers.sort_by_cached_key(|server| server.shunned_until_ms.load(Ordering::Relaxed) > now);
        servers
    }

    /// One server's reply, or the code of one that is no use.
    async fn exchange(&self, server: Arc<Upstream>, request: DnsRequest) -> (Arc<Upstream>, Exchanged) {
        let result = match server.pool.send(request).next().await {
            Some(Ok(response)) => DnsError::from_response(response).map_err(NetError::from),
            Some(Err(error)) => Err(error),
            None => Err(NetError::NoConnections),
        };
        let exchanged = match result {
            Ok(response) => Ok(Ok(response.into_message())),
            Err(error @ NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(Err(error)),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                add(&self.0.stats.upstream_failures);
                Err(Some(code))
            }
            Err(error) => {
                tracing::debug!(server = %server.address, %error, "upstream failed");
                self.shun(&server);
                Err(None)
            }
        };
        if exchanged.is_ok() {
            server.shunned_until_ms.store(0, Ordering::Relaxed);
        }
        (server, exchanged)
    }

    fn now_ms(&self) -> u64 {
        millis(self.0.started.elapsed())
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarder").field(&self.upstreams()).finish()
    }
}

/// A reply as the cache keeps it: a negative one without data is an `Err` there.
type Reply = Result<Message, NetError>;
type Exchanged = Result<Reply, Option<ResponseCode>>;

impl Upstream {
    fn new(address: SocketAddr, settings: &ForwardSettings) -> Option<Self> {
        let mut options = ResolverOpts::default();
        options.timeout = settings.server_timeout;
        // The kernel's ephemeral ports: hickory's own choice (1,024 and up) could be 4789 or 14789, where replies would run
        // into the tunnel's filters.
        options.os_port_selection = true;
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let config = NameServerConfig::new(address.ip(), true, connections.into());
        let tls = match TlsConfig::new() {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(server = %address, %error, "upstream left out");
                return None;
            }
        };
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = NameServerPool::from_config([config], context, TokioRuntimeProvider::default());
        Some(Self { address, pool, shunned_until_ms: AtomicU64::new(0) })
    }
}

fn cache(settings: &ForwardSettings) -> ResponseCache {
    ResponseCache::new(settings.cache_entries, TtlConfig::default())
}

fn request(query: Query, flags: Flags) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.edns_set_dnssec_ok = flags.dnssec_ok;
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = flags.checking_disabled;
    message.queries.push(query);
    let edns = message.edns.get_or_insert_with(Edns::new);
    edns.set_max_payload(options.edns_payload_len).set_dnssec_ok(flags.dnssec_ok);
    DnsRequest::new(message, options)
}

fn into_message(reply: Reply) -> Option<Message> {
    let no_records = match reply {
        Ok(message) => return Some(message),
        Err(NetError::Dns(DnsError::NoRecordsFound(no_records))) => no_records,
        Err(_) => return None,
    };
    let mut message = Message::query();
    message.metadata.response_code = no_records.response_code;
    message.authorities = match (no_records.authorities, no_records.soa) {
        (Some(authorities), _) => authorities.to_vec(),
        (None, Some(soa)) => vec![soa.into_record_of_rdata()],
        (None, None) => Vec::new(),
    };
    Some(message)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
