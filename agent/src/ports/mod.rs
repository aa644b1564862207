//! `svc-agent ports`: what to open between the hosts of a cluster.
//!
//! [`needed`] decides and [`text`] words it, both without I/O; [`print`] prints.
#[cfg(test)]
mod tests;

use std::io::Write;

use serde::Serialize;

use crate::api::types::{Failure, FailureKind};
use crate::cli::{Exit, Output};
use crate::config::Settings;

/// ESP's number among IP protocols (RFC 4303).
const ESP: u8 = 50;

/// What a way in is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// With a port.
    Tcp,
    /// With a port.
    Udp,
    /// IP protocol 50, without ports.
    Esp,
}

/// One way in that every host must leave open to every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Opening {
    /// Protocol.
    pub protocol: Protocol,
    /// Its number among IP protocols.
    pub protocol_number: u8,
    /// Port, where the protocol has them.
    pub port: Option<u16>,
    /// What comes in there.
    pub purpose: &'static str,
    /// Needed only where there are encrypted networks.
    pub encrypted_only: bool,
}

/// What must be open with these settings, in the order of importance.
pub fn needed(settings: &Settings) -> Vec<Opening> {
    let opening = |protocol, port, purpose, encrypted_only| {
        let protocol_number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Esp => ESP,
        };
        Opening { protocol, protocol_number, port, purpose, encrypted_only }
    };
    let gossip = Some(settings.gossip_port);
    let tunnel = Some(settings.vxlan_port);
    let encrypted = Some(settings.encrypted_vxlan_port);
    vec![
        opening(Protocol::Udp, gossip, "cluster: liveness and facts", false),
        opening(Protocol::Tcp, gossip, "cluster: large messages and claims", false),
        opening(Protocol::Udp, tunnel, "tunnel of clear networks (VXLAN)", false),
        opening(Protocol::Udp, encrypted, "tunnel of encrypted networks (VXLAN within ESP)", true),
        opening(Protocol::Esp, None, "encryption of encrypted networks (ESP)", true),
    ]
}

/// The openings in words, and the commands of firewalld and ufw for them.
pub fn text(settings: &Settings) -> String {
    let openings = needed(settings);
    let mut text = "Open on every host, to every other host of the cluster:\n".to_owned();
    for opening in &openings {
        let only = if opening.encrypted_only { "; only for encrypted networks" } else { "" };
        text.push_str(&format!("  {:<14}  {}{only}\n", shown(opening), opening.purpose));
    }
    text.push_str("\nfirewalld (in the zone of the interface that the other hosts are behind):\n");
    openings.iter().for_each(|opening| text.push_str(&format!("  {}\n", firewalld(opening))));
    text.push_str("  firewall-cmd --reload\n");
    text.push_str("\nufw (put the network of the hosts in the place of 192.0.2.0/24):\n");
    openings.iter().for_each(|opening| text.push_str(&format!("  {}\n", ufw(opening))));
    text.push_str(&format!(
        "\nWhile the tunnel's port is being changed from host to host (--vxlan-port), leave the one before open as well: \
         hosts send to where each receives.\nContainers reach the world through forwarded packets from and to {}; where a filter drops those by \
         default, accept this range there.\nNothing needs to be open to the world. The resolver, the virtual \
         addresses and the API are within each host.\n",
        settings.link_pool
    ));
    text
}

fn shown(opening: &Opening) -> String {
    match (opening.protocol, opening.port) {
        (Protocol::Tcp, Some(port)) => format!("TCP {port}"),
        (Protocol::Udp, Some(port)) => format!("UDP {port}"),
        _ => format!("IP protocol {}", opening.protocol_number),
    }
}

fn firewalld(opening: &Opening) -> String {
    match (opening.protocol, opening.port) {
        (Protocol::Tcp, Some(port)) => format!("firewall-cmd --permanent --add-port={port}/tcp"),
        (Protocol::Udp, Some(port)) => format!("firewall-cmd --permanent --add-port={port}/udp"),
        _ => "firewall-cmd --permanent --add-protocol=esp".to_owned(),
    }
}

fn ufw(opening: &Opening) -> String {
    match (opening.protocol, opening.port) {
        (Protocol::Tcp, Some(port)) => format!("ufw allow proto tcp from 192.0.2.0/24 to any port {port}"),
        (Protocol::Udp, Some(port)) => format!("ufw allow proto udp from 192.0.2.0/24 to any port {port}"),
        _ => "ufw allow proto esp from 192.0.2.0/24".to_owned(),
    }
}

/// Prints what to open to standard output; as JSON, the list of [`Opening`].
///
/// # Errors
/// When standard output is closed.
pub fn print(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| Failure {
        kind: FailureKind::Refused,
        message: format!("cannot print what to open: {error}"),
        hints: Vec::new(),
    };
    let text = match output {
        Output::Text => text(settings),
        Output::Json => serde_json::to_string_pretty(&needed(settings))
            .map(|json| format!("{json}\n"))
            .map_err(|error| failed(error.into()))?,
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    Ok(Exit::Done)
}
