//! A resolver's client that looks at every byte.
mod etc;
mod musl;
mod parse;
mod upstream;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use agent::netns::Namespace;

use crate::cluster::Cluster;
use crate::family::Family;
use crate::vm::patient;
pub use etc::Etc;
pub use musl::{Musl, Said};
pub use upstream::{Manner, Upstream};

/// Where every container's resolver is.
pub const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
const LIMIT: Duration = Duration::from_secs(3);

/// Types of records by name, as IANA numbers them.
pub const TYPES: [(&str, u16); 15] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("HTTPS", 65),
    ("ANY", 255),
    ("CAA", 257),
    ("SVCB", 64),
];

/// By which way a question goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its owner, in lower case, without the last dot.
    pub name: String,
    /// Its type's number.
    pub kind: u16,
    /// Seconds.
    pub ttl: u32,
    /// An address, a name, or what it is in hexadecimal.
    pub data: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// NOERROR, NXDOMAIN, SERVFAIL, REFUSED, or the number.
    pub code: String,
    /// AA.
    pub authoritative: bool,
    /// TC.
    pub truncated: bool,
    /// The bytes of the question section.
    pub question: Vec<u8>,
    /// The answer section.
    pub records: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
}

impl Answer {
    /// What the records say, sorted.
    pub fn data(&self) -> Vec<String> {
        let mut data: Vec<String> = self.records.iter().map(|record| record.data.clone()).collect();
        data.sort();
        data
    }

    /// No such data, said with an SOA: the name is there.
    pub fn is_nodata(&self) -> bool {
        self.code == "NOERROR"
            && self.records.is_empty()
            && self.authority.iter().any(|record| record.kind == 6)
    }

    /// In one word or list: the addresses, `NODATA`, or the code.
    pub fn summary(&self) -> String {
        match (self.code.as_str(), self.records.is_empty()) {
            ("NOERROR", true) if self.is_nodata() => "NODATA".to_owned(),
            ("NOERROR", true) => "EMPTY".to_owned(),
            ("NOERROR", false) => self.data().join(" "),
            (code, _) => code.to_owned(),
        }
    }
}

/// A question in wire format, without the header; the name's case is kept.
pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label of at most 63 bytes"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    bytes
}

/// A whole query with recursion desired.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(question(name, kind));
    bytes
}

/// The number of a type.
pub fn number(kind: &str) -> u16 {
    let found = TYPES.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("{kind} is no type that this harness knows")).1
}

/// Asks once.
///
/// # Errors
/// What the socket said; `InvalidData` for what is no answer to the question.
pub fn ask(
    namespace: &Namespace,
    server: SocketAddr,
    name: &str,
    kind: u16,
    way: Way,
    limit: Duration,
) -> io::Result<Answer> {
    let id = u16::try_from(std::process::id() % 60_000).unwrap_or(1) ^ kind ^ 0x1234;
    let bytes = query(id, name, kind);
    let reply = match way {
        Way::Udp => exchange_udp(namespace, server, &bytes, limit)?,
        Way::Tcp => exchange_tcp(namespace, server, &bytes, limit)?,
    };
    parse::answer(id, &reply)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{reply:02x?}")))
}

/// Sends bytes as a datagram and returns the answer's.
///
/// # Errors
/// What the socket said.
pub fn exchange_udp(
    namespace: &Namespace,
    server: SocketAddr,
    bytes: &[u8],
    limit: Duration,
) -> io::Result<Vec<u8>> {
    let exchange = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(limit))?;
        socket.connect(server)?;
        socket.send(bytes)?;
        let mut reply = vec![0; 65_536];
        let length = socket.recv(&mut reply)?;
        reply.truncate(length);
        Ok(reply)
    };
    namespace.run(exchange).map_err(io::Error::other)?
}

fn exchange_tcp(
    namespace: &Namespace,
    server: SocketAddr,
    bytes: &[u8],
    limit: Duration,
) -> io::Result<Vec<u8>> {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&server, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], bytes].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply)?;
        Ok(reply)
    };
    namespace.run(exchange).map_err(io::Error::other)?
}

impl Cluster {
    /// Asks a container's resolver over UDP.
    pub fn dns(&self, container: &str, name: &str, kind: &str) -> Answer {
        self.dns_by(container, name, kind, Way::Udp)
    }

    /// Asks a container's resolver.
    pub fn dns_by(&self, container: &str, name: &str, kind: &str, way: Way) -> Answer {
        let answer = ask(&self.namespace(container), RESOLVER, name, number(kind), way, patient(LIMIT));
        answer.unwrap_or_else(|error| panic!("{container}: {name} {kind} over {way:?}: {error}"))
    }

    /// What a container's resolver says for a name's addresses of the scenario's family, in a word: the addresses, NODATA
    /// or the code.
    pub fn resolve(&self, container: &str, name: &str) -> String {
        let number = if Family::now() == Family::Four { 1 } else { 28 };
        let answer = ask(&self.namespace(container), RESOLVER, name, number, Way::Udp, patient(LIMIT));
        answer.map_or_else(|error| error.to_string(), |answer| answer.summary())
    }

    /// The same for a name of others, which has an IPv4 address.
    pub fn resolve_outside(&self, container: &str, name: &str) -> String {
        let answer = ask(&self.namespace(container), RESOLVER, name, 1, Way::Udp, patient(LIMIT));
        answer.map_or_else(|error| error.to_string(), |answer| answer.summary())
    }
}
