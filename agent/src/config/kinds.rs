//! How a setting's text is read, checked and shown: one [`Kind`] per sort of value.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tracing_subscriber::EnvFilter;

use super::advertise::Advertise;
use super::suggest::closest;

/// Why a text is no value of its kind, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {hint}")]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub hint: String,
}

impl Wrong {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// A sort of value: from text, and back.
pub(super) struct Kind<T> {
    pub(super) read: fn(&str) -> Result<T, Wrong>,
    pub(super) show: fn(&T) -> String,
    /// Several values, written with commas as text and as an array in the file.
    pub(super) list: bool,
    /// A number in the file, not a string.
    pub(super) number: bool,
}

impl<T> Kind<T> {
    const fn scalar(read: fn(&str) -> Result<T, Wrong>, show: fn(&T) -> String) -> Self {
        Self { read, show, list: false, number: false }
    }

    /// The value as one writes it in the file.
    pub(super) fn toml(&self, value: &T) -> String {
        let text = (self.show)(value);
        if self.number {
            return text;
        }
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        if !self.list {
            return quote(&text);
        }
        let items: Vec<String> = text.split(',').filter(|item| !item.is_empty()).map(quote).collect();
        format!("[{}]", items.join(", "))
    }
}

pub(super) const NODE: Kind<String> = Kind::scalar(read_node, String::clone);
pub(super) const ADVERTISE: Kind<Option<Advertise>> = Kind::scalar(read_advertise, show_option);
pub(super) const PATH: Kind<PathBuf> = Kind::scalar(read_path, |path| show_path(path));
pub(super) const PATH_OR_EMPTY: Kind<PathBuf> = Kind::scalar(
    |text| if text.is_empty() { Ok(PathBuf::new()) } else { read_path(text) },
    |path| show_path(path),
);
pub(super) const ENGINE: Kind<Vec<PathBuf>> =
    Kind { list: true, ..Kind::scalar(read_engines, |sockets| show_engines(sockets)) };
pub(super) const METRICS: Kind<Option<SocketAddr>> = Kind::scalar(read_metrics, show_option);
pub(super) const PORT: Kind<u16> = Kind { number: true, ..Kind::scalar(read_port, u16::to_string) };
pub(super) const STORE: Kind<Store> = Kind::scalar(read_store, |Store::Gossip| "gossip".to_owned());
pub(super) const UPSTREAM: Kind<Vec<SocketAddr>> =
    Kind { list: true, ..Kind::scalar(read_upstream, |servers| show_upstream(servers)) };
pub(super) const FORWARD_LIMIT: Kind<usize> =
    Kind { number: true, ..Kind::scalar(read_forward_limit, usize::to_string) };
pub(super) const DOMAIN: Kind<String> = Kind::scalar(read_domain, String::clone);
pub(super) const POOL: Kind<Ipv4Network> = Kind::scalar(|text| read_range(text, 20), Ipv4Network::to_string);
pub(super) const LINK_POOL: Kind<Ipv4Network> =
    Kind::scalar(|text| read_range(text, 24), Ipv4Network::to_string);
pub(super) const TTL: Kind<Duration> = Kind::scalar(read_ttl, show_duration);
pub(super) const LOG: Kind<String> = Kind::scalar(read_log, String::clone);
pub(super) const LOG_FORMAT: Kind<LogFormat> = Kind::scalar(read_log_format, LogFormat::to_string);
pub(super) const TRACK: Kind<Track> = Kind::scalar(read_track, Track::to_string);
pub(super) const SWITCH: Kind<bool> =
    Kind::scalar(read_switch, |on| if *on { "on".to_owned() } else { "off".to_owned() });
pub(super) const FAILURE_AFTER: Kind<Duration> = Kind::scalar(
    |text| duration_within(text, Duration::from_secs(1), Duration::from_secs(300)),
    show_duration,
);

/// Values of a setting that takes several.
const LIST_MAX: usize = 8;
const DAY: Duration = Duration::from_secs(86_400);

/// How hosts learn of each other's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Gossip between the hosts.
    Gossip,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which flows of a container are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// Those that may be balanced.
    Balanced,
    /// All.
    All,
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Balanced => "balanced",
            Self::All => "all",
        })
    }
}

/// A network that is written down in this program; a prefix above 32 counts as 32.
pub(super) fn network(address: [u8; 4], prefix: u8) -> Ipv4Network {
    let address = Ipv4Addr::from(address);
    Ipv4Network::new(address, prefix).unwrap_or_else(|_| Ipv4Network::from(address))
}

fn show_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn show_option<T: fmt::Display>(value: &Option<T>) -> String {
    value.as_ref().map(T::to_string).unwrap_or_default()
}

fn show_upstream(servers: &[SocketAddr]) -> String {
    let show =
        |server: &SocketAddr| if server.port() == 53 { server.ip().to_string() } else { server.to_string() };
    servers.iter().map(show).collect::<Vec<_>>().join(",")
}

fn read_node(text: &str) -> Result<String, Wrong> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.len() > 253 || !text.bytes().all(allowed) {
        return Err(Wrong::new(
            format!("\"{}\" is no host name", excerpt(text)),
            "use 1 to 253 letters, digits, hyphens, dots and underscores, or nothing for the host's own name",
        ));
    }
    Ok(text.to_owned())
}

fn read_advertise(text: &str) -> Result<Option<Advertise>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|what| {
        Wrong::new(
            what,
            "write an address of this host, such as 192.0.2.1, or one of its interfaces, such as eth1",
        )
    })
}

fn read_path(text: &str) -> Result<PathBuf, Wrong> {
    if !Path::new(text).is_absolute() {
        return Err(Wrong::new(
            format!("\"{}\" is no absolute path", excerpt(text)),
            "write a path that begins with /",
        ));
    }
    Ok(PathBuf::from(text))
}

fn read_metrics(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: Option<SocketAddr> = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    address.map(Some).ok_or_else(|| {
        Wrong::new(
            format!("\"{}\" is no address with a port", excerpt(text)),
            "write for example 127.0.0.1:9472 or [::1]:9472, or nothing for no metrics over TCP",
        )
    })
}

fn read_port(text: &str) -> Result<u16, Wrong> {
    read_port_number(text).map_err(|what| Wrong::new(what, "use a port from 1 to 65535"))
}

/// A port number, 1 to 65535; the error says what else it is.
pub fn read_port_number(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (text.parse::<u16>(), digits) {
        (Ok(0), true) => Err("port 0 stands for no port".to_owned()),
        (Ok(port), true) => Ok(port),
        (Err(_), true) => Err(format!("port {} is above 65535", excerpt(text))),
        (_, false) => Err(format!("\"{}\" is no port number", excerpt(text))),
    }
}

fn read_store(text: &str) -> Result<Store, Wrong> {
    if text == "gossip" {
        return Ok(Store::Gossip);
    }
    if text.starts_with("etcd://") {
        return Err(Wrong::new(
            "this version keeps no state in etcd: its only store is gossip between the hosts",
            "write gossip, or leave it out",
        ));
    }
    Err(Wrong::new(format!("\"{}\" is no store", excerpt(text)), "write gossip, or leave it out"))
}

/// Docker's and Podman's own.
pub(super) fn engines() -> Vec<PathBuf> {
    ["/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from).to_vec()
}

fn read_engines(text: &str) -> Result<Vec<PathBuf>, Wrong> {
    read_list(text, read_path, "engines")
}

fn read_list<T>(text: &str, read: fn(&str) -> Result<T, Wrong>, what: &str) -> Result<Vec<T>, Wrong> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let list: Vec<T> = items.map(read).collect::<Result<_, _>>()?;
    if list.len() > LIST_MAX {
        return Err(Wrong::new(
            format!("{} {what} are too many", list.len()),
            format!("name at most {LIST_MAX}"),
        ));
    }
    Ok(list)
}

fn show_engines(sockets: &[PathBuf]) -> String {
    sockets.iter().map(|path| show_path(path)).collect::<Vec<_>>().join(",")
}

fn read_upstream(text: &str) -> Result<Vec<SocketAddr>, Wrong> {
    read_list(text, read_server, "name servers")
}

fn read_server(text: &str) -> Result<SocketAddr, Wrong> {
    let with_port = || text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
    let server = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).ok().or_else(with_port);
    server.filter(|server| !server.ip().is_unspecified()).ok_or_else(|| {
        Wrong::new(
            format!("\"{}\" is no address of a name server", excerpt(text)),
            "write for example 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353",
        )
    })
}

fn read_forward_limit(text: &str) -> Result<usize, Wrong> {
    text.parse().ok().filter(|limit| (1..=65_536).contains(limit)).ok_or_else(|| {
        Wrong::new(
            format!("\"{}\" is no count of look-ups", excerpt(text)),
            "write a number from 1 to 65536, such as 1024",
        )
    })
}

fn read_domain(text: &str) -> Result<String, Wrong> {
    let domain = text.trim_end_matches('.').to_ascii_lowercase();
    let hint = "write labels of letters, digits and hyphens with dots between them, such as svc.internal";
    // Two labels of 63 and their dots stand in front of it in a name of at most 253 characters.
    if domain.len() > 120 {
        return Err(Wrong::new(format!("\"{}\" is longer than 120 characters", excerpt(text)), hint));
    }
    for label in domain.split('.') {
        if let Err(error) = label.parse::<crate::model::Name>() {
            return Err(Wrong::new(format!("\"{}\" is no domain: {error}", excerpt(text)), hint));
        }
    }
    Ok(domain)
}

fn read_range(text: &str, longest_prefix: u8) -> Result<Ipv4Network, Wrong> {
    let hint = format!("write an IPv4 range of /{longest_prefix} or larger, such as 10.128.0.0/9");
    let range: Ipv4Network = match text.parse() {
        Ok(range) if text.contains('/') => range,
        _ => return Err(Wrong::new(format!("\"{}\" is no IPv4 range", excerpt(text)), hint)),
    };
    if range.ip() != range.network() {
        let meant = format!("write {}/{} if that is meant", range.network(), range.prefix());
        return Err(Wrong::new(format!("{range} has bits set behind its prefix"), meant));
    }
    let first = range.network();
    if first.is_loopback() || first.is_multicast() || first.octets()[0] == 0 || first.octets()[0] >= 240 {
        return Err(Wrong::new(format!("{range} holds no addresses that hosts may have"), hint));
    }
    if range.prefix() > longest_prefix || range.prefix() == 0 {
        let size = if range.prefix() == 0 { "everything" } else { "too small" };
        return Err(Wrong::new(format!("{range} is {size}"), hint));
    }
    Ok(range)
}

fn read_ttl(text: &str) -> Result<Duration, Wrong> {
    let ttl = duration_within(text, Duration::ZERO, DAY)?;
    if ttl.subsec_nanos() != 0 {
        return Err(Wrong::new(
            format!("{} is no whole number of seconds", show_duration(&ttl)),
            "write for example 2s",
        ));
    }
    Ok(ttl)
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

fn read_log(text: &str) -> Result<String, Wrong> {
    let hint = "write error, warn, info, debug, trace or off, or a filter such as info,agent::catalog=debug";
    if text.trim().is_empty() {
        return Err(Wrong::new("it is empty", hint));
    }
    // A bare word is also a filter (of a module by that name); a misspelt level would silence the log.
    let bare = |item: &&str| item.bytes().all(|b| b.is_ascii_alphanumeric());
    for word in text.split(',').map(str::trim).filter(bare) {
        let lower = word.to_ascii_lowercase();
        if !LEVELS.contains(&lower.as_str())
            && !["agent", "dns", "lb", "overlay", "netfilter"].contains(&word)
        {
            let hint =
                closest(&lower, LEVELS).map_or(hint.to_owned(), |level| format!("did you mean {level}?"));
            return Err(Wrong::new(format!("\"{}\" is no level", excerpt(word)), hint));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(format!("\"{}\" is no filter: {error}", excerpt(text)), hint)),
    }
}

fn read_log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(Wrong::new(format!("\"{}\" is no log format", excerpt(text)), "write text or json")),
    }
}

fn read_track(text: &str) -> Result<Track, Wrong> {
    match text {
        "balanced" => Ok(Track::Balanced),
        "all" => Ok(Track::All),
        _ => Err(Wrong::new(
            format!("\"{}\" does not say which flows to track", excerpt(text)),
            "write balanced or all",
        )),
    }
}

fn read_switch(text: &str) -> Result<bool, Wrong> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Wrong::new(format!("\"{}\" is neither on nor off", excerpt(text)), "write on or off")),
    }
}

/// A span of time as people write it (`2s`, `3.5s`, `1m 30s`), between two bounds, both included.
pub fn duration_within(text: &str, least: Duration, most: Duration) -> Result<Duration, Wrong> {
    let hint = format!(
        "write a time from {} to {} with its unit, such as 500ms, 2s or 1m",
        show_duration(&least),
        show_duration(&most)
    );
    match humantime::parse_duration(text) {
        Ok(duration) if duration < least => Err(Wrong::new(format!("{} is too short", excerpt(text)), hint)),
        Ok(duration) if duration > most => Err(Wrong::new(format!("{} is too long", excerpt(text)), hint)),
        Ok(duration) => Ok(duration),
        Err(_) => Err(Wrong::new(format!("\"{}\" is no time", excerpt(text)), hint)),
    }
}

/// A span of time in one unit: `60s`, `3.5s`, `250ms`.
pub fn show_duration(duration: &Duration) -> String {
    if *duration < Duration::from_secs(1) && !duration.is_zero() {
        return humantime::format_duration(*duration).to_string();
    }
    let fraction = format!("{:09}", duration.subsec_nanos());
    match fraction.trim_end_matches('0') {
        "" => format!("{}s", duration.as_secs()),
        fraction => format!("{}.{fraction}s", duration.as_secs()),
    }
}

/// Foreign text, short enough for a line and without control characters.
pub(crate) fn excerpt(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut short: String = text.chars().take(80).map(clean).collect();
    if text.chars().nth(80).is_some() {
        short.push_str("...");
    }
    short
}
