//! How an agent comes to its cluster: flags of `run` only, never in the file.
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use super::kinds::{excerpt, read_port_number};

/// `--init` or `--join`; they matter only until the host has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Neither was given: only a host that has joined before can start so.
    Known,
    /// Found a new cluster.
    Init,
    /// Join through one of these hosts.
    Join(Vec<JoinAddress>),
}

/// `ADDR[:PORT]` of a host to join through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAddress {
    /// An address, without brackets, or a host name.
    pub host: String,
    /// The host's gossip port; `None`: the same as our own.
    pub port: Option<u16>,
}

impl JoinAddress {
    /// The socket addresses it stands for. Blocks while a host name is looked up.
    ///
    /// # Errors
    /// The system's, when the name does not resolve.
    pub fn resolve(&self, default_port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let port = self.port.unwrap_or(default_port);
        Ok((self.host.as_str(), port).to_socket_addrs()?.collect())
    }
}

impl fmt::Display for JoinAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl FromStr for JoinAddress {
    /// What is wrong and what to write, in a sentence.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            read_port_number(&address.port().to_string())?;
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(read_port_number(port)?)),
            None => (text, None),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        // All digits and dots is an address gone wrong (10.0.0.256), not a name to look up.
        let address_like = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if host.len() > 253 || !host.bytes().all(allowed) || address_like {
            let shown = excerpt(text);
            return Err(format!(
                "\"{shown}\" is no ADDR[:PORT]; write for example 192.0.2.1, 192.0.2.1:7946 or [2001:db8::1]:7946"
            ));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}
