//! What is said of a path that is not as it should be. Nothing in it changes while the cause does not.
use std::net::IpAddr;
use std::time::Instant;

use crate::runtime::paths::prober::{SEEN_FOR, Way};

/// Of every path while somebody else has the port.
pub(super) const TAKEN: &str = "this host has no tunnel: see what is said of paths";

/// This host on the underlay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// What is wrong with the way to a host, if anything is.
pub(super) fn problem(way: &Way, own: Own, now: Instant) -> Option<String> {
    if way.path.is_dead() {
        let why = dead(way, own, now);
        return Some(format!("{why}; no new flows go to its replicas from here"));
    }
    if way.path.is_damaging() {
        return Some("datagrams arrive there with wrong checksums; small echoes do not".to_owned());
    }
    if way.path.carries_no_size() {
        return Some(
            "small echoes pass inside the tunnel, and of all larger sizes that were tried none does: what it carries is not \
             known"
                .to_owned(),
        );
    }
    way.path.narrow().map(|mtu| {
        format!(
            "it carries packets of up to {mtu} bytes inside the tunnel, less than the underlay of both ends does: larger \
             ones are lost on the way without a word. Networks of IPv4 that both hosts use keep to that, those of \
             IPv6 too as far as IPv6 allows (1280 bytes)"
        )
    })
}

fn dead(way: &Way, own: Own, now: Instant) -> String {
    let Own { address, port } = own;
    let (name, there, theirs) = (&way.peer.name, way.peer.underlay, way.peer.port);
    let recent = |at: &Instant| now.saturating_duration_since(*at) <= SEEN_FOR;
    if way.heard.as_ref().is_some_and(recent) {
        return format!(
            "what this host sends to UDP port {theirs} of {there} does not arrive, or not from {address}, while what {name} \
             sends arrives here: see what is between them in this direction (svc-agent ports), and status there"
        );
    }
    match way.source.filter(|(_, at)| recent(at)) {
        Some((source, _)) if source != there => format!(
            "its tunnel's packets come from {source} instead of {there}, and are dropped: something translates addresses \
             between the hosts, or its --advertise is not the address that it sends from"
        ),
        Some(_) => format!(
            "its tunnel's packets arrive at this host's UDP port {port} and are dropped here: a firewall of this host has to \
             let in UDP port {port} from {there} (svc-agent ports)"
        ),
        None if theirs != port => format!(
            "nothing arrives from its tunnel and nothing that is sent there is answered, though its agent is heard: UDP port \
             {port} has to be open from {there} to {address}, and {theirs} back, as long as these two hosts have different \
             ones (svc-agent ports)"
        ),
        None => format!(
            "nothing arrives from its tunnel and nothing that is sent there is answered, though its agent is heard: UDP port \
             {port} has to be open from {there} to {address} and back (svc-agent ports)"
        ),
    }
}

/// Why checksums are not left to the device; `helps` once that is known.
pub(super) fn offload(damaged_by: &[String], helps: bool) -> String {
    let hosts = damaged_by.join(", ");
    let found = "checksums of what is in the tunnel arrive damaged";
    if !helps {
        return format!(
            "{found} (at {hosts}): it is tried whether they do not when this host computes them itself"
        );
    }
    format!(
        "{found} (at {hosts}) when they are left to the underlay's network device: this host computes them itself, which is \
         slower; it leaves them to the device again after the next boot, in case driver or kernel are better then"
    )
}
