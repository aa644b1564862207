//! A resolver on loopback and a client for it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic as they may")]
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dns::{
    Attachment, ForwardSettings, Forwarder, Mode, Network, Server, ServerSettings, Service, Sockets, Stats,
    Zone, ZoneHandle,
};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest that any reply may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) zone: ZoneHandle,
    pub(crate) forwarder: Forwarder,
    pub(crate) stats: Arc<Stats>,
}

/// UDP and TCP on one port of loopback.
pub(crate) fn sockets() -> (std::net::UdpSocket, std::net::TcpListener, SocketAddr) {
    loop {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = std::net::TcpListener::bind(address) {
            return (udp, tcp, address);
        }
    }
}

pub(crate) fn serve(zone: Zone, settings: ServerSettings) -> Bed {
    serve_with(zone, settings, ForwardSettings::default())
}

pub(crate) fn serve_with(zone: Zone, settings: ServerSettings, forward: ForwardSettings) -> Bed {
    let stats = Arc::new(Stats::default());
    let forwarder = Forwarder::new(forward, Arc::clone(&stats));
    serve_through(zone, settings, forwarder, stats)
}

/// One more namespace of the same agent.
pub(crate) fn serve_through(
    zone: Zone,
    settings: ServerSettings,
    forwarder: Forwarder,
    stats: Arc<Stats>,
) -> Bed {
    let (udp, tcp, address) = sockets();
    serve_on(
        Sockets { udp, tcp, notes: tempfile::tempfile().unwrap() },
        address,
        zone,
        settings,
        forwarder,
        stats,
    )
}

/// On sockets that another may have had before.
pub(crate) fn serve_on(
    sockets: Sockets,
    address: SocketAddr,
    zone: Zone,
    settings: ServerSettings,
    forwarder: Forwarder,
    stats: Arc<Stats>,
) -> Bed {
    let zone = ZoneHandle::new(zone);
    let server =
        Server::start(sockets, zone.clone(), forwarder.clone(), Arc::clone(&stats), settings).unwrap();
    Bed { server, address, zone, forwarder, stats }
}

pub(crate) fn zone(networks: Vec<Network>) -> Zone {
    Zone {
        domain: "svc.internal".into(),
        networks: networks.into_iter().map(Arc::new).collect(),
        forward: true,
        synced: true,
        beside: None,
    }
}

pub(crate) fn network(name: &str, subnet: &str) -> Network {
    Network::new(name, &[subnet.parse().unwrap()])
}

pub(crate) fn service(name: &str, mode: Mode, vips: &[&str], replicas: Vec<IpAddr>) -> Arc<Service> {
    let vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
    Arc::new(Service { name: name.into(), aliases: Vec::new(), mode, vips, replicas })
}

pub(crate) fn attachment(name: &str, address: &str) -> Arc<Attachment> {
    let addresses = [address.parse().unwrap()].into();
    Arc::new(Attachment { name: name.into(), aliases: [].into(), addresses })
}

/// The first `count` addresses of 10.0.0.0/8, or of fd00::/96.
pub(crate) fn replicas(count: u32, six: bool) -> Vec<IpAddr> {
    let four = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    let long = |n: u32| IpAddr::from(((0xfd00_u128 << 112) + u128::from(n)).to_be_bytes());
    (1..=count).map(|n| if six { long(n) } else { four(n) }).collect()
}

pub(crate) fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.queries.push(Query::query(name, kind));
    if let Some(size) = edns {
        message.edns.get_or_insert_with(Edns::new).set_max_payload(size);
    }
    message
}

/// One datagram there, one back.
pub(crate) async fn udp(address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    udp_within(address, bytes, PATIENCE).await
}

pub(crate) async fn udp_within(address: SocketAddr, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, address).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, _) = timeout(patience, socket.recv_from(&mut buffer)).await.ok()?.unwrap();
    buffer.truncate(length);
    Some(buffer)
}

/// All frames there in one write, as many replies back.
pub(crate) async fn tcp(address: SocketAddr, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(frame);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut replies = Vec::new();
    for _ in frames {
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut reply = vec![0; usize::from(length)];
        timeout(PATIENCE, stream.read_exact(&mut reply)).await.unwrap().unwrap();
        replies.push(reply);
    }
    replies
}

pub(crate) async fn ask(address: SocketAddr, name: &str, kind: RecordType) -> Message {
    let reply = udp(address, &query(name, kind, Some(1_232)).to_vec().unwrap()).await.expect("no reply");
    Message::from_bytes(&reply).unwrap()
}

pub(crate) fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    all.sort();
    all
}

/// What a false upstream does with every query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    Silent,
    Says(ResponseCode),
    /// Data: 192.0.2.7.
    Good,
    SlowGood(Duration),
    /// Good, for no time at all.
    Brief,
    /// Good for names that begin so, silent for others.
    GoodFor(&'static str),
    /// Good for one type, silent for others.
    GoodForType(RecordType),
}

/// A port that nobody listens at and that nobody else gets for as long as the socket lives: what does not come from the
/// socket's peer is refused.
pub(crate) fn dead_upstream() -> (SocketAddr, std::net::UdpSocket) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.1:1").unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// A false upstream on UDP; counts what it was asked besides markers of loops.
pub(crate) async fn upstream(habit: Habit) -> (SocketAddr, Arc<AtomicUsize>) {
    let (address, asked, _) = changing_upstream(habit).await;
    (address, asked)
}

/// As [`upstream`], with what changes its habit.
pub(crate) async fn changing_upstream(habit: Habit) -> (SocketAddr, Arc<AtomicUsize>, watch::Sender<Habit>) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (sender, habits) = watch::channel(habit);
    tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let Ok(message) = Message::from_bytes(&buffer[..length]) else { continue };
            if !message.queries[0].name().to_ascii().contains("svc-agent-loop") {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            tokio::spawn(reply(Arc::clone(&socket), peer, message, *habits.borrow()));
        }
    });
    (address, asked, sender)
}

async fn reply(socket: Arc<UdpSocket>, peer: SocketAddr, mut message: Message, habit: Habit) {
    message.metadata.message_type = hickory_proto::op::MessageType::Response;
    let (name, kind) = (message.queries[0].name().to_ascii(), message.queries[0].query_type());
    match habit {
        Habit::Silent => return,
        Habit::GoodFor(begin) if !name.starts_with(begin) => return,
        Habit::GoodForType(good) if kind != good => return,
        Habit::Says(code) => message.metadata.response_code = code,
        Habit::Good | Habit::GoodFor(_) | Habit::GoodForType(_) => good(&mut message),
        Habit::Brief => {
            good(&mut message);
            message.answers[0].ttl = 0;
        }
        Habit::SlowGood(pause) => {
            tokio::time::sleep(pause).await;
            good(&mut message);
        }
    }
    // The client may have given up.
    let _gone = socket.send_to(&message.to_vec().unwrap(), peer).await;
}

fn good(message: &mut Message) {
    let name = message.queries[0].name().clone();
    let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 7));
    message.answers.push(hickory_proto::rr::Record::from_rdata(name, 300, data));
}
