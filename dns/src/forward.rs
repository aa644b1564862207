//! Asking the host's upstreams for names that are not ours.
//!
//! The sockets are opened by whoever polls these futures: the agent's own threads, which stay in the host's namespace, so
//! that a loopback upstream (127.0.0.53) is the host's.
mod flights;
mod replies;
mod upstream;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query, ResponseCode};
use hickory_proto::rr::Name;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};

use crate::stats::{Stats, add};
use flights::Flights;
use replies::{Replies, Reply, into_message};
use upstream::{Upstream, marker_in, millis};

pub(crate) use flights::Room;

/// Servers that wait for the reply to one query at once.
const SERVERS_AT_ONCE: usize = 3;

/// How long a client waits for a new reply before it gets an old one (RFC 8767, 5).
const STALE_PATIENCE: Duration = Duration::from_millis(1_800);

/// How upstreams are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Until a server that is silent counts as failed. Halfway it is sent the query again.
    pub server_timeout: Duration,
    /// Until the next server is asked too, while the first is silent.
    pub hedge_delay: Duration,
    /// Until the client gets SERVFAIL; a little less than the 5 s after which the libraries ask again.
    pub deadline: Duration,
    /// For how long a server that was silent or unreachable is asked last.
    pub penalty: Duration,
    /// For how long a server that asks us in turn is not asked.
    pub loop_penalty: Duration,
    /// Replies kept, over all namespaces.
    pub cache_entries: u64,
    /// For how long a reply may serve after its time while no upstream answers (RFC 8767); zero: not at all.
    pub serve_stale: Duration,
    /// Different questions under way over all namespaces, besides eight that each has room for in any case. Each holds at
    /// most six sockets: two for each of three servers. More wait.
    pub in_flight_max: usize,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self {
            server_timeout: Duration::from_secs(2),
            hedge_delay: Duration::from_millis(200),
            deadline: Duration::from_millis(4_500),
            penalty: Duration::from_secs(5),
            loop_penalty: Duration::from_secs(60),
            cache_entries: 2_048,
            serve_stale: Duration::ZERO,
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
    changed: Notify,
    /// Milliseconds since the forwarder began until which nobody who has an old reply is made to wait for a new one.
    stale_until_ms: AtomicU64,
    room: Semaphore,
    started: Instant,
}

/// What changes with the upstreams. The replies do too: other upstreams may have other names.
struct State {
    upstreams: Vec<Arc<Upstream>>,
    replies: Replies,
    flights: Flights,
}

/// What a client asked for besides the question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
        Self(Arc::new(Inner {
            settings,
            stats,
            state: ArcSwap::from_pointee(State::new(&[], &settings)),
            changed: Notify::new(),
            stale_until_ms: AtomicU64::new(0),
            room: Semaphore::new(settings.in_flight_max),
            started: Instant::now(),
        }))
    }

    /// Replaces the upstreams, in order of preference. The same list again changes nothing; another one empties the cache,
    /// and queries under way ask those. Returns whether the list is another one.
    pub fn set_upstreams(&self, servers: &[SocketAddr]) -> bool {
        if self.upstreams() == servers {
            return false;
        }
        self.0.state.store(Arc::new(State::new(servers, &self.0.settings)));
        self.0.changed.notify_waiters();
        true
    }

    /// The upstreams now, in order of preference.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.0.state.load().upstreams.iter().map(|upstream| upstream.address).collect()
    }

    /// Those of the upstreams that ask us in turn, and are left out therefore.
    pub fn loops(&self) -> Vec<SocketAddr> {
        let (state, now) = (self.0.state.load(), self.0.now_ms());
        let looping = state.upstreams.iter().filter(|upstream| upstream.is_left_out(now));
        looping.map(|upstream| upstream.address).collect()
    }

    /// The reply to one query of a namespace, from an upstream or of those kept, with its own response code.
    pub(crate) async fn resolve(
        &self,
        query: Query,
        flags: Flags,
        room: &Room,
    ) -> Result<Message, ForwardError> {
        let late = || match flags.cacheable() {
            true => self.0.state.load().replies.get_late(&query),
            false => None,
        };
        let asked = self.follow(&query, flags, room);
        tokio::pin!(asked);
        let patience = self.patience();
        let outcome = tokio::select! {
            outcome = &mut asked => outcome,
            () = sleep(patience), if patience < self.0.settings.deadline => match late() {
                Some(_) => Err(ForwardError::Failed(None)),
                None => asked.await,
            },
        };
        if outcome.is_ok() || self.0.settings.serve_stale.is_zero() {
            return outcome;
        }
        let reply = late().ok_or(outcome.err().unwrap_or(ForwardError::Failed(None)))?;
        let until = self.0.now_ms().saturating_add(millis(self.0.settings.penalty));
        self.0.stale_until_ms.store(until, Ordering::Relaxed);
        add(&self.0.stats.stale);
        Ok(reply)
    }

    /// How long a client waits that can have an old reply.
    fn patience(&self) -> Duration {
        let settings = &self.0.settings;
        if settings.serve_stale.is_zero() {
            return settings.deadline;
        }
        let failing = self.0.stale_until_ms.load(Ordering::Relaxed) > self.0.now_ms();
        if failing { settings.hedge_delay } else { STALE_PATIENCE }
    }

    /// Asks the upstreams. Where they change meanwhile the new ones are asked: the old ones may be gone with the network
    /// that they were in.
    async fn follow(&self, query: &Query, flags: Flags, room: &Room) -> Result<Message, ForwardError> {
        let deadline = Instant::now() + self.0.settings.deadline;
        loop {
            // Taken before the state is read, so that no change falls between the two.
            let changed = self.0.changed.notified();
            let attempt = self.attempt(query.clone(), flags, room, deadline);
            tokio::pin!(attempt);
            tokio::select! {
                biased;
                reply = &mut attempt => return reply,
                () = changed => {}
            }
            if self.0.state.load().upstreams.is_empty() {
                return attempt.await;
            }
        }
    }

    async fn attempt(
        &self,
        query: Query,
        flags: Flags,
        room: &Room,
        deadline: Instant,
    ) -> Result<Message, ForwardError> {
        let state = self.0.state.load_full();
        if state.upstreams.is_empty() {
            add(&self.0.stats.no_upstream);
            return Err(ForwardError::NoUpstream);
        }
        if let Some(reply) = self.cached(&state, &query, flags) {
            return Ok(reply);
        }
        let key = (query, flags);
        if let Some(flight) = state.flights.join(&key) {
            return flight.await;
        }
        let entered = timeout_at(deadline.into(), room.enter(&self.0.room)).await;
        let Ok(Some(permit)) = entered else { return Err(ForwardError::OverLimit) };
        // Somebody may have asked the same meanwhile.
        if let Some(reply) = self.cached(&state, &key.0, flags) {
            return Ok(reply);
        }
        if let Some(flight) = state.flights.join(&key) {
            drop(permit);
            return flight.await;
        }
        let ask = Arc::clone(&self.0).ask(Arc::clone(&state), key.0.clone(), flags);
        let flight = state.flights.begin(key, ask);
        timeout_at(deadline.into(), flight).await.unwrap_or(Err(ForwardError::Failed(None)))
    }

    /// Whether a question is a marker of ours that an upstream has sent back; that one is left out from now on. Other
    /// hosts' markers are forwarded as any name, so that they find the loops that lead through here.
    pub(crate) fn knows_marker(&self, name: &Name) -> bool {
        let Some(marker) = marker_in(name) else { return false };
        let (state, now) = (self.0.state.load(), self.0.now_ms());
        let Some(upstream) = state.upstreams.iter().find(|upstream| upstream.is_marked(marker)) else {
            return false;
        };
        if !upstream.is_left_out(now) {
            tracing::warn!(server = %upstream.address, "this upstream asks us in turn; it is left out");
            add(&self.0.stats.loops);
        }
        upstream.leave_out(now.saturating_add(millis(self.0.settings.loop_penalty)));
        true
    }

    fn cached(&self, state: &State, query: &Query, flags: Flags) -> Option<Message> {
        if !flags.cacheable() {
            return None;
        }
        let reply = state.replies.get(query)?;
        add(&self.0.stats.cache_hits);
        Some(reply)
    }
}

impl Inner {
    /// Asks for one question within the deadline, and keeps the reply.
    async fn ask(
        self: Arc<Self>,
        state: Arc<State>,
        query: Query,
        flags: Flags,
    ) -> Result<Message, ForwardError> {
        let race = self.race(&state, request(query.clone(), flags));
        let result = timeout(self.settings.deadline, race).await.unwrap_or(Err(None));
        let reply = result.map_err(ForwardError::Failed)?;
        if flags.cacheable() {
            state.replies.put(query, reply.clone());
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
            if pending.len() < SERVERS_AT_ONCE
                && let Some(server) = servers.next()
            {
                silent.push((Arc::clone(&server), Instant::now()));
                pending.push(self.exchange(server, request.clone()));
            }
            let more = pending.len() < SERVERS_AT_ONCE && servers.len() > 0;
            let (server, result) = tokio::select! {
                finished = pending.next() => finished.ok_or(said)?,
                () = sleep(self.settings.hedge_delay), if more => continue,
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
            if asked.elapsed() >= self.settings.hedge_delay {
                self.shun(server);
            }
        }
    }

    fn shun(&self, server: &Arc<Upstream>) {
        server.shun(self.now_ms().saturating_add(millis(self.settings.penalty)));
        add(&self.stats.upstream_failures);
        self.mark(server);
    }

    /// Finds out whether a server that is no use is so because it asks us what we ask it.
    fn mark(&self, server: &Arc<Upstream>) {
        let Some(query) = server.marker_query(self.now_ms()) else { return };
        let (server, time_out) = (Arc::clone(server), self.settings.server_timeout);
        tokio::spawn(async move {
            // What it answers is no matter; whether the question comes back is.
            drop(server.ask(request(query, Flags::default()), time_out).await);
        });
    }

    /// Those that are shunned last; those that ask us not at all.
    fn by_preference(&self, state: &State) -> Vec<Arc<Upstream>> {
        let now = self.now_ms();
        let mut servers: Vec<Arc<Upstream>> =
            state.upstreams.iter().filter(|server| !server.is_left_out(now)).cloned().collect();
        // Cached: the order must not change while it is sorted.
        servers.sort_by_cached_key(|server| !server.is_preferred(now, self.settings.server_timeout));
        servers
    }

    /// One server's reply, or the code of one that is no use.
    async fn exchange(&self, server: Arc<Upstream>, request: DnsRequest) -> (Arc<Upstream>, Exchanged) {
        let exchanged = match server.ask(request, self.settings.server_timeout).await {
            Ok(response) => Ok(Ok(response.into_message())),
            Err(error @ NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(Err(error)),
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                add(&self.stats.upstream_failures);
                self.mark(&server);
                Err(Some(code))
            }
            Err(error) => {
                tracing::debug!(server = %server.address, %error, "upstream failed");
                self.shun(&server);
                Err(None)
            }
        };
        if exchanged.is_ok() {
            server.does_well();
        }
        (server, exchanged)
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

impl State {
    fn new(servers: &[SocketAddr], settings: &ForwardSettings) -> Self {
        let upstreams = servers.iter().map(|server| Arc::new(Upstream::new(*server))).collect();
        Self { upstreams, replies: Replies::new(settings), flights: Flights::default() }
    }
}

impl Flags {
    /// The cache does not tell a reply with DNSSEC records from one without.
    fn cacheable(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarder").field(&self.upstreams()).finish()
    }
}

type Exchanged = Result<Reply, Option<ResponseCode>>;

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
