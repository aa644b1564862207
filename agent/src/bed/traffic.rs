//! Servers in containers and clients for them.
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};

use super::{Bed, Error, failure};
use crate::netns::Namespace;

/// Connections of one server at once; more wait in its queue.
const CONNECTIONS_MAX: usize = 4096;
const BACKLOG: i32 = 4096;
/// Weighs as much as thirty ordinary threads (sched(7)).
const NICE: i32 = -15;
/// Bytes of a request's head or of a datagram.
const BYTES_MAX: usize = 8192;

/// A server in a container. Dropped, it stops, and its connections are closed.
#[derive(Debug)]
pub struct Server {
    tasks: Vec<AbortHandle>,
    answered: Arc<AtomicU64>,
}

/// A web server in a container that answers every request with a settable status.
#[derive(Debug)]
pub struct HttpServer {
    _server: Server,
    status: Arc<AtomicU16>,
}

/// What a name server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client's address as the server sees it.
    pub seen_as: SocketAddr,
}

/// What many connections, one after the other, came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Answers by server.
    pub answers: BTreeMap<String, u64>,
    /// Failures by what connect(2) or read(2) said.
    pub failures: BTreeMap<String, u64>,
    /// The slowest connection, until its answer or failure.
    pub slowest: Duration,
    /// Half of the connections were faster, until their answer or failure.
    pub median: Duration,
}

impl Server {
    /// Connections accepted and datagrams answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl HttpServer {
    /// The status from now on; 0 accepts requests and never answers.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

impl Bed {
    /// Serves in a container (or host) on TCP and UDP, any address of either family: every connection and every
    /// datagram is answered with one line, `<answer> <client's address as seen>`. What a connection sends after that
    /// comes back to it.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Namespace`], [`Error::Do`].
    pub fn name_server(&self, place: &str, port: u16, answer: &str) -> Result<Server, Error> {
        let (listener, socket) = self.opened(place, "serve", || {
            let listener = tokio::net::TcpListener::from_std(bind(Type::STREAM, port)?.into())?;
            Ok((listener, tokio::net::UdpSocket::from_std(bind(Type::DGRAM, port)?.into())?))
        })?;
        let answered = Arc::new(AtomicU64::new(0));
        let (tcp_answer, tcp_answered) = (answer.to_owned(), Arc::clone(&answered));
        let tcp = serve_tcp(listener, Arc::clone(&answered), move |stream, peer| {
            answer_and_echo(stream, format!("{tcp_answer} {peer}\n"))
        });
        let udp = serve_udp(socket, answer.to_owned(), tcp_answered);
        Ok(Server { tasks: vec![self.run(tcp), self.run(udp)], answered })
    }

    /// Serves HTTP/1.1 in a container (or host): 200 to every request, until told otherwise.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Namespace`], [`Error::Do`].
    pub fn http_server(&self, place: &str, port: u16) -> Result<HttpServer, Error> {
        let listener = self.opened(place, "serve HTTP", || {
            tokio::net::TcpListener::from_std(bind(Type::STREAM, port)?.into())
        })?;
        let (answered, status) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU16::new(200)));
        let current = Arc::clone(&status);
        let serve = serve_tcp(listener, Arc::clone(&answered), move |stream, _| {
            answer_http(stream, Arc::clone(&current))
        });
        Ok(HttpServer { _server: Server { tasks: vec![self.run(serve)], answered }, status })
    }

    fn opened<T: Send>(
        &self,
        place: &str,
        what: &'static str,
        open: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        let opened = self.namespace(place)?.run(|| {
            let _entered = self.servers.enter();
            open()
        });
        let opened = opened.map_err(|source| Error::Namespace { name: place.to_owned(), source })?;
        opened.map_err(|source| failure(what, place, source))
    }

    fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.servers.spawn(work).abort_handle()
    }
}

async fn serve_tcp<F, T>(listener: tokio::net::TcpListener, answered: Arc<AtomicU64>, answer: F)
where
    F: Fn(tokio::net::TcpStream, SocketAddr) -> T,
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    // Dropped with this future, it ends every connection.
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            let _ended = connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                answered.fetch_add(1, Ordering::Relaxed);
                connections.spawn(answer(stream, canonical(peer)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn answer_and_echo(mut stream: tokio::net::TcpStream, line: String) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await.map(drop)
}

async fn answer_http(mut stream: tokio::net::TcpStream, status: Arc<AtomicU16>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    match status.load(Ordering::Relaxed) {
        0 => std::future::pending().await,
        status => {
            let answer =
                format!("HTTP/1.1 {status} as told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
    }
}

async fn serve_udp(socket: tokio::net::UdpSocket, answer: String, answered: Arc<AtomicU64>) {
    let mut bytes = [0; BYTES_MAX];
    loop {
        // An error is an ICMP message about an earlier answer.
        let Ok((_, peer)) = socket.recv_from(&mut bytes).await else { continue };
        let line = format!("{answer} {}\n", canonical(peer));
        answered.fetch_add(1, Ordering::Relaxed);
        let _gone = socket.send_to(line.as_bytes(), peer).await;
    }
}

/// Both families on one socket, or IPv4 alone where there is no IPv6.
fn bind(kind: Type, port: u16) -> io::Result<Socket> {
    let open = |domain, address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, kind, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        if kind == Type::STREAM {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    };
    match open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
            open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        result => result,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Lets the calling thread go before ordinary work on the machine, where that is permitted. What servers and clients of a
/// bed tell is about networks: on a busy machine their own wait for a turn would look like one.
pub fn take_precedence() {
    let _not_permitted = rustix::process::nice(NICE);
}

/// Connects from inside a namespace. Blocking, as is the stream; every read and write has the same limit.
///
/// # Errors
/// What connect(2) said; `TimedOut` after `limit`.
pub fn connect(namespace: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    namespace.run(|| connect_here(to, limit)).map_err(io::Error::other)?
}

/// Connects from inside a namespace and reads the answer of [`Bed::name_server`].
///
/// # Errors
/// As [`connect`], and what the read said; `InvalidData` for another server's answer.
pub fn ask_tcp(namespace: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<Answer> {
    namespace.run(|| ask_tcp_here(to, limit)).map_err(io::Error::other)?
}

/// Sends a datagram from inside a namespace and reads the answer of [`Bed::name_server`].
///
/// # Errors
/// What send(2) and recv(2) said; `WouldBlock` or `TimedOut` after `limit`; `InvalidData` for another server's answer.
pub fn ask_udp(namespace: &Namespace, to: SocketAddr, limit: Duration) -> io::Result<Answer> {
    let ask = || {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(limit))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut bytes = [0; BYTES_MAX];
        let length = socket.recv(&mut bytes)?;
        parse(&String::from_utf8_lossy(&bytes[..length]))
    };
    namespace.run(ask).map_err(io::Error::other)?
}

/// Asks `count` times over new TCP connections, one after the other, from one thread inside a namespace.
///
/// # Errors
/// [`crate::netns::Error`] when the namespace cannot be entered; failed connections are counted in the result.
pub fn spread(
    namespace: &Namespace,
    to: SocketAddr,
    count: usize,
    limit: Duration,
) -> Result<Spread, crate::netns::Error> {
    namespace.run(|| {
        let (mut spread, mut times) = (Spread::default(), Vec::with_capacity(count));
        for _ in 0..count {
            let started = Instant::now();
            let answer = ask_tcp_here(to, limit);
            times.push(started.elapsed());
            match answer {
                Ok(answer) => *spread.answers.entry(answer.name).or_default() += 1,
                Err(error) => *spread.failures.entry(error.kind().to_string()).or_default() += 1,
            }
        }
        times.sort_unstable();
        spread.slowest = times.last().copied().unwrap_or_default();
        spread.median = times.get(times.len() / 2).copied().unwrap_or_default();
        spread
    })
}

fn connect_here(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

fn ask_tcp_here(to: SocketAddr, limit: Duration) -> io::Result<Answer> {
    let mut line = String::new();
    BufReader::new(connect_here(to, limit)?).read_line(&mut line)?;
    parse(&line)
}

fn parse(line: &str) -> io::Result<Answer> {
    let answer = line
        .trim_end()
        .rsplit_once(' ')
        .and_then(|(name, seen_as)| Some(Answer { name: name.to_owned(), seen_as: seen_as.parse().ok()? }));
    answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a name server's answer"))
}
