//! A service's settings as they are typed, and back. Pure; an error says what is wrong and what to write.
use std::time::Duration;

use crate::catalog::facts::{Balance, Check, PortSetting, Probe, Protocol, ServiceMode};
use crate::config::kinds::{excerpt, read_port_number, show_duration};

const PORT_FORM: &str = "write [PUBLIC:]TARGET[/PROTO], such as 80, 80:8080 or 53/udp";
const PROBE_FORM: &str = "write tcp:PORT or http://:PORT/PATH, such as tcp:8080 or http://:8080/healthz";

/// `--mode`.
pub(crate) fn mode(mode: ServiceMode) -> &'static str {
    match mode {
        ServiceMode::Vip => "vip",
        ServiceMode::Dnsrr => "dnsrr",
    }
}

/// `--lb`.
pub(crate) fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::Random => "random",
        Balance::Hash => "hash",
        Balance::LeastConn => "least-conn",
    }
}

/// `--port`; none declared: all.
pub(crate) fn ports(ports: &[PortSetting]) -> String {
    if ports.is_empty() {
        return "all".to_owned();
    }
    let one = |port: &PortSetting| {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        if port.public == port.target {
            format!("{}/{protocol}", port.target)
        } else {
            format!("{}:{}/{protocol}", port.public, port.target)
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// `--check` and what belongs to it.
pub(crate) fn check(check: &Check) -> String {
    let probe = match &check.probe {
        Probe::Tcp { port } => format!("tcp:{port}"),
        Probe::Http { port, path } => format!("http://:{port}{path}"),
    };
    let time = |milliseconds| show_duration(&Duration::from_millis(milliseconds));
    let (interval, timeout) = (time(check.interval_ms), time(check.timeout_ms));
    format!("{probe} every {interval}, time-out {timeout}, {} failures", check.failures)
}

/// `[PUBLIC:]TARGET[/PROTO]`.
pub(crate) fn read_port(text: &str) -> Result<PortSetting, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, read_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let (public, target) = ports.split_once(':').unwrap_or((ports, ports));
    let number = |text: &str| read_port_number(text).map_err(|what| format!("{what}; {PORT_FORM}"));
    Ok(PortSetting { public: number(public)?, target: number(target)?, protocol })
}

fn read_protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("protocol \"{}\" is not one of tcp, udp and sctp; {PORT_FORM}", excerpt(text))),
    }
}

/// `tcp:PORT` or `http://:PORT[/PATH]`.
pub(crate) fn read_probe(text: &str) -> Result<Probe, String> {
    let number = |text: &str| read_port_number(text).map_err(|what| format!("{what}; {PROBE_FORM}"));
    if let Some(port) = text.strip_prefix("tcp:") {
        return Ok(Probe::Tcp { port: number(port)? });
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(format!("\"{}\" is no check; {PROBE_FORM}", excerpt(text)));
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let Some(port) = authority.strip_prefix(':') else {
        return Err(format!("a check is run inside the replica's namespace and names no host; {PROBE_FORM}"));
    };
    // What may stand in an HTTP request line (RFC 9112, section 3.2) without encoding; no fragment, which is never sent.
    if path.len() > 1_024 || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(format!(
            "the path is longer than 1024 bytes or has a character that must be encoded; {PROBE_FORM}"
        ));
    }
    Ok(Probe::Http { port: number(port)?, path: path.to_owned() })
}

/// A check of which only the probe was given: once a second, which may take one, twice in a row.
pub(crate) fn default_check(probe: Probe) -> Check {
    Check { probe, interval_ms: 1_000, timeout_ms: 1_000, failures: 2 }
}
