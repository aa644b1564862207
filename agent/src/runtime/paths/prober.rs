//! Sends probes and takes in what comes back.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addresses::VNI_PATHS;
use crate::model::NodeId;
use crate::netns::{Namespace, ProbeSockets, TunnelTap};
use crate::paths::{Answer, NOBODYS_PORT, Offload, Path, Probe, Tag, address, answer, datagram, echo};
use crate::paths::{outer_source, tunnel_filter};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::paths::Endpoint;
use crate::runtime::paths::found::KeptOffload;
use crate::view::inner_mtu;

/// Between two rounds of one path.
const ROUND: Duration = Duration::from_secs(1);
/// Packets sent in one turn of 100 ms, over all paths: with 300 hosts a round then takes 1.5 s.
const PACKETS_MAX: usize = 60;
/// Between two looks at who is there.
const LOOK: Duration = Duration::from_secs(1);
/// So long it is believed what was last seen of a peer's frames.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(5);
/// What was found stays so long while it cannot be looked at: the tunnel is missing, or the host is suspended.
const KEPT: Duration = Duration::from_secs(60);
/// Less no IPv4 host may have (RFC 791).
const FULL_MIN: u32 = 68;

/// Tries paths.
pub(super) struct Prober {
    pub(super) agent: Arc<Agent>,
    nonce: u64,
    round: u64,
    pub(super) ways: BTreeMap<NodeId, Way>,
    nodes: BTreeMap<Ipv4Addr, NodeId>,
    /// With the cookie of the namespace that they are in.
    sockets: Option<(u64, ProbeSockets)>,
    /// Open while a peer is not heard.
    tap: Option<TunnelTap>,
    looked: Option<Instant>,
    /// The tunnel's device, as it was when all was in place.
    device: Option<u32>,
    /// There is nothing to try paths through, since then.
    paused: Option<Instant>,
    pub(super) offload: Offload,
    /// Who it was that found checksums damaged.
    pub(super) damaged_by: Vec<String>,
    /// These, when checksums began to be computed here.
    pub(super) suspects: BTreeSet<NodeId>,
}

/// The way to one host.
pub(super) struct Way {
    pub(super) path: Path,
    pub(super) peer: Peer,
    due: Instant,
    /// It is not among the live hosts, since then.
    gone: Option<Instant>,
    /// This round, and the one before, whose answers may still come.
    rounds: [u64; 2],
    /// When its own probes last arrived.
    pub(super) heard: Option<Instant>,
    /// Where its frames last came from on the underlay, before any rule judged them.
    pub(super) source: Option<(IpAddr, Instant)>,
}

/// What is known of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) name: String,
    inner: Ipv4Addr,
    pub(super) underlay: IpAddr,
    pub(super) port: u16,
}

impl Prober {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        let kept = KeptOffload::load(&agent);
        let prober = Self {
            nonce: rand::random(),
            round: 0,
            ways: BTreeMap::new(),
            nodes: BTreeMap::new(),
            sockets: None,
            tap: None,
            looked: None,
            device: None,
            paused: None,
            suspects: BTreeSet::new(),
            offload: kept.as_ref().map_or(Offload::On, |_| Offload::Off),
            damaged_by: kept.map(|kept| kept.damaged_by).unwrap_or_default(),
            agent,
        };
        prober.apply_offload();
        prober
    }

    /// What has come in, then what is due; it never waits.
    pub(super) fn turn(&mut self, now: Instant) {
        let (namespace, taken) = match self.agent.paths.endpoint() {
            Endpoint::Absent => return self.pause(now),
            Endpoint::Failing(namespace) if !self.has_device(&namespace) => return self.pause(now),
            Endpoint::Failing(namespace) | Endpoint::Open(namespace) => (namespace, None),
            Endpoint::Taken(namespace, why) => (namespace, Some(why)),
        };
        if let Err(error) = self.open(&namespace) {
            tracing::warn!("paths cannot be tried: {}", chain(&error));
            return;
        }
        self.paused = None;
        self.receive(now);
        let look = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK);
        if look {
            self.looked = Some(now);
            let sockets = self.sockets.as_ref();
            self.device = sockets.and_then(|(_, sockets)| sockets.device(overlay::PATHS));
            self.follow_peers(now);
        }
        let judged = self.send(now);
        if look || judged {
            self.conclude(taken.as_deref(), now);
            self.watch();
        }
    }

    /// Nothing is sent and nothing judged; what was found stays for a while.
    fn pause(&mut self, now: Instant) {
        (self.sockets, self.tap, self.looked, self.device) = (None, None, None, None);
        let since = *self.paused.get_or_insert(now);
        self.ways.values_mut().for_each(|way| way.path.pause());
        if !self.ways.is_empty() && now.saturating_duration_since(since) >= KEPT {
            self.ways.clear();
            self.conclude(None, now);
        }
    }

    /// The tunnel through which paths were tried is still there: that something about it fails does not end it.
    fn has_device(&self, namespace: &Namespace) -> bool {
        let sockets = self.sockets.as_ref().filter(|(cookie, _)| *cookie == namespace.cookie());
        let device = sockets.and_then(|(_, sockets)| sockets.device(overlay::PATHS));
        device.is_some() && device == self.device
    }

    fn open(&mut self, namespace: &Namespace) -> Result<(), crate::netns::Error> {
        let cookie = namespace.cookie();
        if self.sockets.as_ref().is_none_or(|(known, _)| *known != cookie) {
            self.sockets = Some((cookie, namespace.open_probes()?));
        }
        Ok(())
    }

    fn receive(&mut self, now: Instant) {
        let (nonce, nodes, ways) = (self.nonce, &self.nodes, &mut self.ways);
        if let Some((_, sockets)) = &mut self.sockets {
            sockets.receive(|packet| {
                let Some((from, answer)) = answer(packet) else { return };
                let Some(way) = nodes.get(&from).and_then(|node| ways.get_mut(node)) else { return };
                let mine = |tag: &Tag| tag.nonce == nonce && way.rounds.contains(&tag.round);
                match answer {
                    Answer::Request => way.heard = Some(now),
                    Answer::Echo(tag) if mine(&tag) => way.path.note(Probe::Echo(tag.size)),
                    Answer::Refusal(tag) if mine(&tag) => way.path.note(Probe::Datagram),
                    _ => {}
                }
            });
        }
        if let Some(tap) = &self.tap {
            tap.receive(|packet| {
                let Some((source, inner)) = outer_source(packet) else { return };
                if let Some(way) = nodes.get(&inner).and_then(|node| ways.get_mut(node)) {
                    way.source = Some((source, now));
                }
            });
        }
    }

    /// Live hosts come and go, and change what they say of themselves.
    fn follow_peers(&mut self, now: Instant) {
        let me = self.agent.identity.node;
        let Some(own) = self.agent.read(|state| state.catalog.host(me).cloned()) else { return };
        let room = inner_mtu(own.underlay_mtu, own.address);
        let live = self.agent.live_peers();
        let lives: BTreeSet<NodeId> = live.iter().map(|(node, _)| *node).collect();
        for (_, way) in self.ways.iter_mut().filter(|(node, _)| !lives.contains(node)) {
            way.gone.get_or_insert(now);
            way.path.pause();
        }
        // A host that comes and goes is not taken for one to which a path leads each time.
        let kept = |way: &Way| way.gone.is_none_or(|since| now.saturating_duration_since(since) < KEPT);
        self.ways.retain(|node, way| lives.contains(node) || kept(way));
        for (node, host) in live {
            let Some(inner) = address(host.number) else { continue };
            let full = room.min(inner_mtu(host.underlay_mtu, host.address)).max(FULL_MIN);
            let peer = Peer { name: host.name, inner, underlay: host.address, port: host.vxlan_port };
            let way = self.ways.entry(node).or_insert_with(|| Way {
                path: Path::new(full, own.narrow.get(&node).copied()),
                peer: peer.clone(),
                due: now,
                gone: None,
                rounds: [0; 2],
                heard: None,
                source: None,
            });
            if way.peer.underlay != peer.underlay {
                let line =
                    format!("{} is at {} now, it was at {}", peer.name, peer.underlay, way.peer.underlay);
                self.agent.events.record("host", line, "agent");
            }
            way.path.set_full(full);
            (way.peer, way.gone) = (peer, None);
        }
        self.nodes = self.tried().map(|(node, way)| (way.peer.inner, *node)).collect();
    }

    /// The ways that are tried: those to live hosts.
    pub(super) fn tried(&self) -> impl Iterator<Item = (&NodeId, &Way)> {
        self.ways.iter().filter(|(_, way)| way.gone.is_none())
    }

    /// Ends the rounds that are due, and begins others. Whether any was judged.
    fn send(&mut self, now: Instant) -> bool {
        let Some((_, sockets)) = &self.sockets else { return false };
        let mut due: Vec<&mut Way> =
            self.ways.values_mut().filter(|way| way.gone.is_none() && way.due <= now).collect();
        due.sort_by_key(|way| way.due);
        let (mut sent, mut judged) = (0, false);
        for way in due {
            if sent >= PACKETS_MAX {
                break;
            }
            self.round += 1;
            way.rounds = [self.round, way.rounds[0]];
            way.due = now + ROUND;
            judged = true;
            for probe in way.path.next_round() {
                sent += 1;
                let tag = Tag { nonce: self.nonce, round: self.round, size: 0 };
                let to = way.peer.inner;
                let outcome = match probe {
                    Probe::Echo(size) => sockets.send_packet(to, &echo(to, Tag { size, ..tag })),
                    Probe::Datagram => sockets.send_datagram(to, NOBODYS_PORT, &datagram(tag)),
                };
                // What is not sent is not answered.
                if let Err(error) = outcome {
                    tracing::debug!(host = way.peer.name, ?probe, "not sent: {error}");
                }
            }
        }
        judged
    }

    /// While somebody is not heard it is looked at what arrives on the underlay.
    fn watch(&mut self) {
        let unheard = self.tried().any(|(_, way)| way.path.is_dead());
        if !unheard {
            self.tap = None;
        } else if self.tap.is_none() {
            let six = self.agent.identity.address.is_ipv6();
            let filter = tunnel_filter(six, self.agent.settings.load().vxlan_port, VNI_PATHS);
            let tap = self.agent.host_namespace.tap_tunnel(six, &filter);
            let tap = tap.inspect_err(|error| tracing::warn!("what arrives is not seen: {}", chain(error)));
            self.tap = tap.ok();
        }
    }
}
