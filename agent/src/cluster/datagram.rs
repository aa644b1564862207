//! Sealed datagrams: gossip that fits one, hellos, and notices.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::seal::{Kind, NOTICE_BYTES, OVERHEAD_BYTES, Unopened};
use super::session::{Reason, Verdict};
use super::shared::{Departed, Shared, locked};
use super::wire::{ENVELOPE_BYTES, Envelope, Hello};

/// Largest datagram that is sent, in bytes: it crosses any path unfragmented (IPv6's 1280 less its headers).
pub(super) const DATAGRAM_BYTES_MAX: usize = 1_200;
/// Largest gossip message that fits one.
pub(super) const GOSSIP_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - ENVELOPE_BYTES - OVERHEAD_BYTES;
/// Datagrams are read into this; the largest that IP carries is smaller.
const BUFFER_BYTES: usize = 65_536;
/// Between two tellings of hosts that were removed.
const FAREWELL_INTERVAL: Duration = Duration::from_secs(2);

/// The socket that carries datagrams.
pub(super) struct Datagrams {
    socket: UdpSocket,
    v6: bool,
    shared: Arc<Shared>,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket, v6: bool, shared: Arc<Shared>) -> Self {
        Self { socket, v6, shared }
    }

    /// Seals a gossip message and sends it. Failures are counted: gossip repeats itself.
    pub(super) async fn send_gossip(&self, to: SocketAddr, message: Vec<u8>) {
        let receiver = locked(&self.shared.destinations).boot(to);
        let counter = self.next_counter();
        let plain = Envelope { speaker: self.shared.own, receiver, counter }.encode(&message);
        let Some((record, token)) = self.shared.sealer.seal(Kind::Gossip, &[], &plain, rand::random()) else {
            return;
        };
        locked(&self.shared.destinations).sent(counter, to, token, message);
        self.send(to, &record).await;
    }

    /// Receives until the socket breaks, which it does not: errors of single datagrams are counted.
    pub(super) async fn run(&self) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // An error here is an earlier datagram's (ICMP), or memory pressure.
            let Ok((length, from)) = self.socket.recv_from(&mut buffer).await else {
                self.shared.stats.datagram_errors.add(1);
                tokio::task::yield_now().await;
                continue;
            };
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            self.shared.stats.datagrams_received.add(1);
            self.shared.stats.datagram_bytes_received.add(length);
            self.take(Instant::now(), from, buffer[..length].to_vec()).await;
        }
    }

    async fn take(&self, now: Instant, from: SocketAddr, record: Vec<u8>) {
        let length = record.len();
        let (kind, plain) = match self.shared.sealer.open(record, &[]) {
            Ok(opened) => opened,
            Err(why) => return self.take_unopened(now, from, length, why).await,
        };
        let Some((envelope, body)) = Envelope::decode(&plain) else {
            return self.shared.stats.malformed.add(1);
        };
        if !matches!(kind, Kind::Gossip | Kind::Hello) {
            return self.shared.stats.unopened_kind.add(1);
        }
        if kind == Kind::Hello && self.is_farewell(&envelope, body) {
            return self.shared.told_removed(from);
        }
        let speaker = envelope.speaker.node;
        match self.shared.judged((from, speaker), |sessions| sessions.judge(now, &envelope)) {
            Verdict::Refuse(Reason::Removed) if kind == Kind::Gossip => {
                return self.greet(now, from, length, &envelope, Hello::REMOVED).await;
            }
            Verdict::Accept => self.shared.heard(now, envelope.speaker),
            // A hello is never answered, so two hosts cannot greet each other for ever.
            Verdict::Greet { newest, .. } if kind == Kind::Gossip => {
                return self.greet(now, from, length, &envelope, newest).await;
            }
            // Whoever goes on looking for us is to know that another cluster is still here. It refuses the hello, so
            // nothing else comes of it.
            Verdict::Refuse(Reason::Forgotten)
                if kind == Kind::Gossip && locked(&self.shared.foreigners).knows(speaker) =>
            {
                return self.greet(now, from, length, &envelope, 0).await;
            }
            Verdict::Greet { .. } | Verdict::Refuse(_) => return,
        }
        if kind == Kind::Hello {
            return self.take_hello(from, &envelope, body).await;
        }
        locked(&self.shared.destinations).learn(from, envelope.speaker.boot);
        let queue = locked(&self.shared.gossip).clone();
        if queue.is_none_or(|queue| queue.try_send((from, body.to_vec())).is_err()) {
            self.shared.stats.gossip_dropped.add(1);
        }
    }

    async fn take_unopened(&self, now: Instant, from: SocketAddr, length: usize, why: Unopened) {
        if let Unopened::Notice(notice) = why {
            let sent = locked(&self.shared.destinations).noticed(notice.token);
            match sent {
                Some(to) => self.shared.complained(to, notice),
                None => self.shared.stats.notices_unmatched.add(1),
            }
            return;
        }
        if let Some(notice) = self.shared.unopened(now, from, why, &self.shared.datagram_notices)
            && length > NOTICE_BYTES
        {
            self.send(from, &notice.encode()).await;
        }
    }

    async fn take_hello(&self, from: SocketAddr, envelope: &Envelope, body: &[u8]) {
        let Some(hello) = Hello::decode(body) else { return self.shared.stats.malformed.add(1) };
        self.shared.stats.hellos_received.add(1);
        self.shared.told_newest(from, hello.newest);
        let again = locked(&self.shared.destinations).greeted(hello.echo, envelope.speaker.boot);
        if let Some((to, message)) = again {
            self.send_gossip(to, message).await;
        }
    }

    /// Whether a hello tells this process that its host was removed. It counts whoever says so, also one that is removed
    /// here itself, and a second time: it stays true.
    fn is_farewell(&self, envelope: &Envelope, body: &[u8]) -> bool {
        let said = Hello::decode(body).is_some_and(|hello| hello.newest == Hello::REMOVED);
        said && locked(&self.shared.sessions).is_fresh(envelope)
    }

    /// Tells hosts that were removed, which may know nothing of it or take this one for removed, until [`Departed::until`]: unless
    /// another process is heard where they were.
    pub(super) async fn bid_farewell(&self) {
        loop {
            tokio::time::sleep(FAREWELL_INTERVAL).await;
            for Departed { address, boot, .. } in self.departed(Instant::now()) {
                self.hello(address, boot, Hello { echo: 0, newest: Hello::REMOVED }).await;
            }
        }
    }

    fn departed(&self, now: Instant) -> Vec<Departed> {
        let destinations = locked(&self.shared.destinations);
        let mut removed = locked(&self.shared.removed);
        removed.retain(|it| now < it.until && [0, it.boot].contains(&destinations.boot(it.address)));
        removed.clone()
    }

    async fn greet(&self, now: Instant, from: SocketAddr, length: usize, to: &Envelope, newest: u64) {
        // Not larger than what it answers: a forged source address gains nothing.
        if length < Hello::BYTES + OVERHEAD_BYTES || !locked(&self.shared.hellos).allow(now, from.ip()) {
            return;
        }
        self.hello(from, to.speaker.boot, Hello { echo: to.counter, newest }).await;
    }

    async fn hello(&self, to: SocketAddr, receiver: u64, hello: Hello) {
        let envelope = Envelope { speaker: self.shared.own, receiver, counter: self.next_counter() };
        let plain = envelope.encode(&hello.encode());
        if let Some((record, _)) = self.shared.sealer.seal(Kind::Hello, &[], &plain, rand::random()) {
            self.shared.stats.hellos_sent.add(1);
            self.send(to, &record).await;
        }
    }

    fn next_counter(&self) -> u64 {
        self.shared.counter.fetch_add(1, Ordering::Relaxed)
    }

    async fn send(&self, to: SocketAddr, record: &[u8]) {
        let target = match to.ip() {
            // A socket of the other family reaches IPv4 only by mapped addresses.
            IpAddr::V4(ip) if self.v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        match self.socket.send_to(record, target).await {
            Ok(_) => {
                self.shared.stats.datagrams_sent.add(1);
                self.shared.stats.datagram_bytes_sent.add(record.len());
            }
            Err(_) => self.shared.stats.datagram_errors.add(1),
        }
    }
}
