//! From services as they are declared to what their VIPs need, with what is wrong left out and named.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::address::Address;
use crate::element::Endpoint;
use crate::slots::{Shares, shares};
use crate::{Desired, Port, Problem, ReplicaState, Service};

/// What one VIP needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVip<A> {
    /// Whom new flows go to.
    pub shares: Shares<A>,
    /// Its declared ports, sorted and without doubles; none = every port.
    pub ports: Vec<Port>,
}

/// Which VIPs a plan is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<A: Address> {
    /// These alone; `None` = it shall go.
    Some(Vec<(A, Option<WantedVip<A>>)>),
    /// These, and every other one shall go.
    All(HashMap<A, WantedVip<A>>),
}

/// Everything that a plan for one family's table needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<A: Address> {
    /// VIPs.
    pub scope: Scope<A>,
    /// Ranges by first address, none of which touch: last address and own address.
    pub ranges: BTreeMap<A, (A, A)>,
    /// Redirects: the port at which it is answered.
    pub redirects: BTreeMap<Endpoint<A>, u16>,
}

/// What a service's VIPs of one family need.
pub fn wanted_vip<A: Address>(service: &Service) -> WantedVip<A> {
    let serving = service.replicas.iter().filter(|replica| replica.state == ReplicaState::Serving);
    let weights: Vec<(A, u16)> = serving
        .filter_map(|replica| {
            let address = replica.addresses.iter().find_map(|address| A::of(*address))?;
            usable(address.into()).then_some((address, replica.weight))
        })
        .collect();
    let mut ports: Vec<Port> =
        service.ports.iter().filter(|port| port_problem(port).is_none()).cloned().collect();
    ports.sort_unstable();
    ports.dedup_by_key(|port| (port.protocol, port.public));
    WantedVip { shares: shares(&weights), ports }
}

/// What of a service cannot be made true.
pub fn problems(service: &Service) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut note = |reason: String| found.push(Problem { object: service.name.clone(), reason });
    for vip in service.vips.iter().filter(|vip| !usable(**vip)) {
        note(format!("{vip} cannot be a VIP: it is no unicast address of a network"));
    }
    for replica in &service.replicas {
        for address in replica.addresses.iter().filter(|address| !usable(**address)) {
            note(format!("{address} cannot be a replica: it is no unicast address of a network"));
        }
    }
    let mut seen: Vec<(u8, u16)> = Vec::new();
    for port in &service.ports {
        if let Some(reason) = port_problem(port) {
            note(format!("port {}:{} cannot be served: {reason}", port.public, port.target));
        }
        if seen.contains(&(port.protocol, port.public)) {
            note(format!("port {} of protocol {} is declared twice", port.public, port.protocol));
        }
        seen.push((port.protocol, port.public));
    }
    found
}

/// A service of declared ports of which none can be served must not become one of every port.
pub fn servable(service: &Service) -> bool {
    service.ports.is_empty() || service.ports.iter().any(|port| port_problem(port).is_none())
}

fn port_problem(port: &Port) -> Option<&'static str> {
    if ![6, 17, 132].contains(&port.protocol) {
        return Some("its protocol has no ports");
    }
    (port.public == 0 || port.target == 0).then_some("port 0 stands for refusal")
}

/// Whether packets to the address can go to a network.
pub fn usable(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// The ranges of one family. One that overlaps an earlier one, is upside down or has an own address of another
/// family is left out, since the kernel would refuse the whole transaction.
pub fn ranges<A: Address>(desired: &Desired, problems: &mut Vec<Problem>) -> BTreeMap<A, (A, A)> {
    let mut found: Vec<(A, A, A)> = Vec::new();
    for range in &desired.ranges {
        let Some(first) = A::of(range.first) else { continue };
        let mut refuse = |reason: &str| {
            let object = format!("VIP range {} to {}", range.first, range.last);
            problems.push(Problem { object, reason: reason.into() });
        };
        match (A::of(range.last), A::of(range.own)) {
            (Some(last), Some(own)) if first <= last => found.push((first, last, own)),
            (Some(_), Some(_)) => refuse("its last address is below its first"),
            _ => refuse("its addresses are of two families"),
        }
    }
    found.sort_unstable();
    let mut kept: BTreeMap<A, (A, A)> = BTreeMap::new();
    for (first, last, own) in found {
        match kept.last_key_value() {
            Some((_, (previous, _))) if *previous >= first => problems.push(Problem {
                object: format!("VIP range {first} to {last}"),
                reason: format!("it overlaps the range that ends at {previous}"),
            }),
            _ => drop(kept.insert(first, (last, own))),
        }
    }
    kept
}

/// The redirects of one family, for TCP and UDP each. Of two of one address and port the first stands, and of two to one
/// port, as nothing would tell whose answers they are.
pub fn redirects<A: Address>(desired: &Desired, problems: &mut Vec<Problem>) -> BTreeMap<Endpoint<A>, u16> {
    let mut kept: BTreeMap<Endpoint<A>, u16> = BTreeMap::new();
    for redirect in &desired.redirects {
        let Some(address) = A::of(redirect.from.ip()) else { continue };
        let (from, to) = (redirect.from.port(), redirect.to.port());
        let mut others = kept.iter().filter(|(at, _)| at.address == address);
        let taken = others.any(|(at, port)| (at.port == from) != (*port == to));
        let reason = match () {
            () if redirect.to.ip() != redirect.from.ip() => "only the port can be another one",
            () if taken => "there is another one of that port",
            () => {
                for protocol in [crate::rules::TCP, crate::rules::UDP] {
                    kept.insert(Endpoint { address, protocol, port: from }, to);
                }
                continue;
            }
        };
        let object = format!("redirect of {} to {}", redirect.from, redirect.to);
        problems.push(Problem { object, reason: reason.into() });
    }
    kept
}
