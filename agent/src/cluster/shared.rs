//! What all tasks of the transport share, and what each frame does to it.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};

use super::complaints::{Complaints, Unreadables};
use super::foreign::Foreigners;
use super::key::KeyRing;
use super::liveness::Liveness;
use super::rate::Limiter;
use super::seal::{Notice, Sealer, Unopened};
use super::session::{Destinations, Reason, Sessions, Verdict};
use super::stats::Stats;
use super::wire::Speaker;
use super::{Config, DuplicateIdentity};
use crate::model::NodeId;

/// Answers to strangers, in clear, a second: over all, and to one address.
const NOTICES_PER_SECOND: (f64, f64) = (10.0, 1.0);
/// Sealed hellos a second: over all, and to one address. A restarted host is greeted by all of a full cluster at once.
const HELLOS_PER_SECOND: (f64, f64) = (300.0, 20.0);

/// Received gossip: where an answer goes, and the message.
pub(super) type Gossip = (SocketAddr, Vec<u8>);
/// The newest incarnation heard of, per node.
pub(super) type Maxima = Arc<BTreeMap<NodeId, u64>>;

/// Takes a lock that no holder keeps over an await, and whose data a panicking holder cannot have left half changed.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Shared {
    pub own: Speaker,
    pub advertise: SocketAddr,
    /// Where connections come from, unless unspecified.
    pub source: IpAddr,
    pub slowed: u32,
    pub sealer: Sealer,
    pub stats: Arc<Stats>,
    pub sessions: Mutex<Sessions>,
    pub liveness: Mutex<Liveness>,
    pub destinations: Mutex<Destinations>,
    pub complaints: Mutex<Complaints>,
    pub unreadables: Mutex<Unreadables>,
    /// Who founded this host's cluster, once it is of one.
    pub founder: Mutex<Option<NodeId>>,
    pub foreigners: Mutex<Foreigners>,
    pub datagram_notices: Mutex<Limiter>,
    pub stream_notices: Mutex<Limiter>,
    pub hellos: Mutex<Limiter>,
    pub duplicate: Mutex<Option<DuplicateIdentity>>,
    /// The newest incarnation of ourselves that a peer told of; 0 for none above ours.
    pub superseded: AtomicU64,
    /// Who said last that this host was removed. Nothing undoes that: node ids are not used again.
    pub removed_by: Mutex<Option<SocketAddr>>,
    /// Processes of hosts that were removed, as they were known then: they may not know.
    pub removed: Mutex<Vec<Departed>>,
    pub counter: AtomicU64,
    pub maxima: watch::Sender<Maxima>,
    /// Where received gossip goes; replaced when the gossip loop is started again.
    pub gossip: Mutex<Option<mpsc::Sender<Gossip>>>,
    /// Something about a peer changed that members are derived from.
    pub changed: Notify,
}

/// A process of a host that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Departed {
    pub address: SocketAddr,
    pub boot: u64,
    /// Until when it is told.
    pub until: Instant,
}

impl Shared {
    pub(super) fn new(config: &Config, boot: u64, now: Instant) -> Self {
        let own = Speaker { node: config.node, incarnation: config.incarnation, boot };
        let limiter = |(all, each)| Mutex::new(Limiter::new(now, all, each));
        let sessions = Sessions::new(own, config.max_incarnations.clone());
        let maxima = watch::Sender::new(Arc::new(sessions.maxima().clone()));
        Self {
            own,
            advertise: config.advertise,
            source: config.listen.ip(),
            slowed: config.slowed,
            sealer: Sealer::new(config.keys.clone()),
            stats: Arc::default(),
            sessions: Mutex::new(sessions),
            liveness: Mutex::new(Liveness::new(config.failure_after, config.gossip_interval)),
            destinations: Mutex::default(),
            complaints: Mutex::default(),
            unreadables: Mutex::default(),
            founder: Mutex::new(config.founder),
            foreigners: Mutex::default(),
            datagram_notices: limiter(NOTICES_PER_SECOND),
            stream_notices: limiter(NOTICES_PER_SECOND),
            hellos: limiter(HELLOS_PER_SECOND),
            duplicate: Mutex::new(None),
            superseded: AtomicU64::new(0),
            removed_by: Mutex::default(),
            removed: Mutex::default(),
            counter: AtomicU64::new(0),
            maxima,
            gossip: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    pub(super) fn keys(&self) -> Arc<KeyRing> {
        self.sealer.ring()
    }

    /// Judges a speaker by `judge`, publishes a changed maximum, and counts a refusal.
    pub(super) fn judged(
        &self,
        (from, speaker): (SocketAddr, NodeId),
        judge: impl FnOnce(&mut Sessions) -> Verdict,
    ) -> Verdict {
        let (verdict, maxima) = {
            let mut sessions = locked(&self.sessions);
            let verdict = judge(&mut sessions);
            (verdict, sessions.take_changed())
        };
        if let Some(maxima) = maxima {
            self.maxima.send_replace(maxima);
        }
        let stats = &self.stats;
        match verdict {
            Verdict::Accept => {
                let now = Instant::now();
                locked(&self.unreadables).opened(now, from.ip());
                locked(&self.complaints).opened(now, from.ip());
            }
            Verdict::Refuse(Reason::Own) => {}
            Verdict::Greet { stale: true, .. } => stats.stale_incarnation.add(1),
            Verdict::Greet { stale: false, .. } => stats.not_fresh.add(1),
            Verdict::Refuse(Reason::Duplicate) => self.note_duplicate(from),
            Verdict::Refuse(Reason::OtherProcess | Reason::Full) => stats.other_process.add(1),
            Verdict::Refuse(Reason::Replayed) => stats.replayed.add(1),
            Verdict::Refuse(Reason::Removed) => stats.forgotten_sender.add(1),
            Verdict::Refuse(Reason::Forgotten) => {
                stats.forgotten_sender.add(1);
                if let Some(line) = locked(&self.foreigners).heard(Instant::now(), speaker) {
                    tracing::warn!("{line}");
                }
            }
        }
        verdict
    }

    /// A frame that can only have been made just now came from a host itself.
    pub(super) fn heard(&self, now: Instant, speaker: Speaker) {
        let mut liveness = locked(&self.liveness);
        let before = liveness.state(speaker.node).is_some_and(|(live, _)| live);
        liveness.heard(now, speaker.node, speaker.incarnation);
        let after = liveness.state(speaker.node).is_some_and(|(live, _)| live);
        drop(liveness);
        if before != after {
            self.changed.notify_one();
        }
    }

    /// Counts a frame that did not open, and says whether its sender is to be told so in clear, within `limit`.
    pub(super) fn unopened(
        &self,
        now: Instant,
        from: SocketAddr,
        why: Unopened,
        limit: &Mutex<Limiter>,
    ) -> Option<Notice> {
        self.count_unopened(why);
        let notice = why.notice()?;
        locked(&self.unreadables).note(now, from.ip(), notice);
        let allowed = locked(limit).allow(now, from.ip());
        allowed.then(|| {
            self.stats.notices_sent.add(1);
            notice
        })
    }

    pub(super) fn count_unopened(&self, why: Unopened) {
        let stats = &self.stats;
        match why {
            Unopened::Truncated => stats.unopened_truncated.add(1),
            Unopened::Version => stats.unopened_version.add(1),
            Unopened::Kind => stats.unopened_kind.add(1),
            Unopened::UnknownKey(..) => stats.unopened_unknown_key.add(1),
            Unopened::BadTag(..) => stats.unopened_bad_tag.add(1),
            Unopened::Notice(_) => {}
        }
    }

    /// Notes that the peer at `to` could not open a frame that we did send there.
    pub(super) fn complained(&self, to: SocketAddr, notice: Notice) {
        self.stats.notices_received.add(1);
        let first = locked(&self.complaints).note(Instant::now(), to, notice);
        if first {
            let key_id = notice.key_id;
            tracing::warn!(host = %to, %key_id, "a host does not open our frames: wrong cluster key here?");
        }
    }

    /// Notes that a peer has heard of a newer start of this host than this one.
    pub(super) fn told_newest(&self, from: SocketAddr, newest: u64) {
        if newest > self.own.incarnation && self.superseded.fetch_max(newest, Ordering::Relaxed) < newest {
            tracing::error!(
                host = %from, newest, incarnation = self.own.incarnation,
                "peers have seen a newer start of this host and refuse this one: was its state directory restored?"
            );
        }
    }

    /// Notes that a member says that this host was removed.
    pub(super) fn told_removed(&self, from: SocketAddr) {
        if locked(&self.removed_by).replace(from).is_none() {
            tracing::error!(host = %from, "this host was removed from its cluster: the others take nothing of it any more");
        }
    }

    fn note_duplicate(&self, from: SocketAddr) {
        self.stats.duplicate_identity.add(1);
        let before = locked(&self.duplicate).replace(DuplicateIdentity { address: from, at: Instant::now() });
        if before.is_none_or(|before| before.address != from) {
            tracing::error!(host = %from, node = %self.own.node, "another host uses this host's node id: was its state directory copied?");
        }
    }
}
