//! A service's settings as they are typed. Pure.
use std::time::Duration;

use crate::catalog::facts::{Balance, Check, PortSetting, Probe, Protocol, ServiceMode};
use crate::config::kinds::show_duration;

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
