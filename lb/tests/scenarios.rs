//! The text files in `scenarios/`, each on the kernel in memory and on the real one: same tables, same landings.
//!
//! `== name` begins a step; it is followed by the whole desired state. `-- turn` is one reconcile, `-- settle` calls
//! until nothing is pending; then `table` (all elements, in any order) and `lands` (where new flows go, a place once
//! for each of its slots) may follow.
#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.
mod common;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{address, in_namespace, plumb, real, replica, settle};
use lb::address::Address;
use lb::element::{Element, Endpoint};
use lb::kernel::fake::{Fake, Landing};
use lb::kernel::{Features, Kernel};
use lb::{Balancer, Desired, Port, Real, Redirect, ReplicaState, Service, VipRange};
use netfilter::conntrack::{self, Transport};

#[test]
fn scenarios_on_the_kernel_in_memory() {
    for (name, text) in files() {
        for owned in [false, true] {
            let fake = Fake::new(Features { owned, timeouts: false, untracked: owned });
            let mut balancer = Balancer::new(fake.clone());
            let mut land = |protocol, at: SocketAddr| {
                let landings = match at.ip() {
                    IpAddr::V4(destination) => fake.land(destination, protocol, at.port()),
                    IpAddr::V6(destination) => fake.land(destination, protocol, at.port()),
                };
                landings.into_iter().map(|landing| word(landing, &at)).collect::<Vec<_>>()
            };
            play(&name, &text, &mut balancer, &mut land, |seen, wanted| {
                let sorted = |words: &[String]| {
                    let mut words = words.to_vec();
                    words.sort_unstable();
                    words
                };
                sorted(seen) == sorted(wanted)
            });
        }
    }
}

#[test]
fn scenarios_on_the_real_kernel() {
    for (name, text) in files() {
        in_namespace(&name, || {
            plumb();
            let mut balancer = real();
            let mut observer = netfilter::Socket::open().unwrap();
            let listeners: Vec<TcpListener> = [80, 8080, 8081, 40053, 40054]
                .into_iter()
                .map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
                .collect();
            listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
            let mut land = |protocol, at: SocketAddr| {
                // Of three equally likely places all are seen in 45 tries but once in 25 million.
                let mut seen: Vec<String> = Vec::new();
                for _ in 0..45 {
                    seen.push(observe(&mut observer, protocol, at));
                    // Taken off the queues, which are short.
                    listeners.iter().for_each(|listener| drop(listener.accept()));
                    if ["refused", "untouched"].contains(&seen[0].as_str()) {
                        break;
                    }
                }
                seen
            };
            play(&name, &text, &mut balancer, &mut land, |seen, wanted| {
                seen.iter().collect::<BTreeSet<_>>() == wanted.iter().collect::<BTreeSet<_>>()
            });
            balancer.remove().unwrap();
        });
    }
}

fn files() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    assert!(files.len() >= 5);
    files
}

/// Runs a file's steps. `land` tells where flows go; `agree` whether that is what the file says.
fn play<K: Kernel>(
    file: &str,
    text: &str,
    balancer: &mut Balancer<K>,
    land: &mut dyn FnMut(u8, SocketAddr) -> Vec<String>,
    agree: impl Fn(&[String], &[String]) -> bool,
) {
    let mut desired = Desired::default();
    let (mut step, mut section) = (String::new(), String::new());
    let mut table: Option<BTreeSet<String>> = None;
    for line in text.lines().chain(["=="]) {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let at = format!("{file}, step \"{step}\", line \"{}\"", line.trim());
        if matches!(words.first(), Some(&("==" | "--")))
            && let Some(wanted) = table.take()
        {
            assert_eq!(contents(balancer), wanted, "{file}, step \"{step}\"");
        }
        match words.as_slice() {
            [] => {}
            ["==", name @ ..] => {
                desired = Desired::default();
                (step, section) = (name.join(" "), String::new());
            }
            ["--", "turn"] => drop(balancer.reconcile(&desired).unwrap()),
            ["--", "settle"] => {
                settle(balancer, &desired);
                let again = balancer.reconcile(&desired).unwrap();
                assert_eq!((again.changes, again.pending), (0, false), "{at}");
            }
            ["table"] => (table, section) = (Some(BTreeSet::new()), "table".into()),
            ["lands"] => section = "lands".into(),
            element if section == "table" => {
                table.get_or_insert_default().insert(element.join(" "));
            }
            [protocol, destination, wanted @ ..] if section == "lands" => {
                let (protocol, destination) = flow(protocol, destination);
                let wanted: Vec<String> = wanted.iter().map(|word| (*word).to_string()).collect();
                let seen = land(protocol, destination);
                assert!(agree(&seen, &wanted), "{at}: landed at {seen:?}");
            }
            words => declare(&mut desired, words),
        }
    }
}

/// One line of a desired state.
fn declare(desired: &mut Desired, words: &[&str]) {
    match words {
        ["range", first, last, "own", own] => {
            desired.ranges.push(VipRange { first: address(first), last: address(last), own: address(own) });
        }
        ["redirect", from, to] => {
            desired.redirects.push(Redirect { from: from.parse().unwrap(), to: to.parse().unwrap() });
        }
        ["service", name, rest @ ..] => {
            let (vips, ports): (Vec<&str>, Vec<&str>) =
                rest.iter().partition(|word| word.parse::<IpAddr>().is_ok());
            desired.services.push(Arc::new(Service {
                name: (*name).into(),
                vips: vips.into_iter().map(address).collect(),
                ports: ports.into_iter().map(port).collect(),
                replicas: Vec::new(),
            }));
        }
        ["replica", addresses, rest @ ..] => {
            let weight = rest
                .iter()
                .position(|word| *word == "weight")
                .map_or(1, |place| rest[place + 1].parse().unwrap());
            let state =
                if rest.contains(&"quiescing") { ReplicaState::Quiescing } else { ReplicaState::Serving };
            let mut new = replica("10.128.0.1", weight, state);
            new.addresses = addresses.split(',').map(address).collect();
            Arc::get_mut(desired.services.last_mut().unwrap()).unwrap().replicas.push(new);
        }
        other => panic!("cannot read {other:?}"),
    }
}

fn port(text: &str) -> Port {
    let parts: Vec<&str> = text.split(':').collect();
    Port { protocol: number(parts[0]), public: parts[1].parse().unwrap(), target: parts[2].parse().unwrap() }
}

fn number(protocol: &str) -> u8 {
    match protocol {
        "tcp" => 6,
        "udp" => 17,
        other => panic!("no protocol {other}"),
    }
}

fn flow(protocol: &str, destination: &str) -> (u8, SocketAddr) {
    match (protocol, destination.parse::<IpAddr>()) {
        ("icmp", Ok(ip)) => (if ip.is_ipv4() { Ipv4Addr::ICMP } else { Ipv6Addr::ICMP }, (ip, 0).into()),
        _ => (number(protocol), destination.parse().unwrap()),
    }
}

/// All elements of both families' tables, in the files' words.
fn contents<K: Kernel>(balancer: &mut Balancer<K>) -> BTreeSet<String> {
    let features = balancer.kernel().features().unwrap();
    let four = balancer.kernel().contents::<Ipv4Addr>(features).unwrap();
    let six = balancer.kernel().contents::<Ipv6Addr>(features).unwrap();
    let four = four.into_iter().flat_map(|contents| contents.elements).map(|element| line(&element));
    let six = six.into_iter().flat_map(|contents| contents.elements).map(|element| line(&element));
    four.chain(six).collect()
}

fn line<A: Address>(element: &Element<A>) -> String {
    let at = |at: &Endpoint<A>| {
        let protocol = if at.protocol == 6 { "tcp" } else { "udp" };
        format!("{} {protocol} {}", at.address, at.port)
    };
    let rest: Box<dyn Display> = match element {
        Element::Vip { vip, slots } | Element::Echo { vip, slots } => Box::new(format!("{vip} {slots}")),
        Element::Served { vip } => Box::new(vip),
        Element::VipPort { at: endpoint, slots } => Box::new(format!("{} {slots}", at(endpoint))),
        Element::Target { at: endpoint, port } => Box::new(format!("{} {port}", at(endpoint))),
        Element::Slot { vip, slot, replica } => Box::new(format!("{vip} {slot} {replica}")),
        Element::Range { first, last, own } => Box::new(format!("{first} {last} {own}")),
        Element::Redirect { at: endpoint, port } | Element::Answer { at: endpoint, port } => {
            Box::new(format!("{} {port}", at(endpoint)))
        }
    };
    format!("{} {rest}", element.map().name())
}

/// A landing in the files' words; a port is named where it is another one.
fn word(landing: Landing, at: &SocketAddr) -> String {
    match landing {
        Landing::Untouched => "untouched".into(),
        Landing::AtPort(_, 0) => "refused".into(),
        Landing::AtPort(address, port) if port == at.port() => address.to_string(),
        Landing::AtPort(address, port) => SocketAddr::new(address, port).to_string(),
        Landing::At(address) if address == at.ip() => "untouched".into(),
        Landing::At(address) => address.to_string(),
    }
}

/// Sends one packet, asks conntrack where it went, and deletes the flow so that the next one is new.
fn observe(socket: &mut netfilter::Socket, protocol: u8, at: SocketAddr) -> String {
    if at.ip().is_loopback() {
        let port = common::delivered_at(protocol, at);
        return if port == at.port() {
            "untouched".into()
        } else {
            SocketAddr::new(at.ip(), port).to_string()
        };
    }
    match protocol {
        // A reset of a connection that never was one ends its flow, so the error itself is the answer.
        6 => match TcpStream::connect_timeout(&at, Duration::from_millis(100)) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return "refused".into(),
            _ => {}
        },
        17 => {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.send_to(b"x", at).unwrap();
        }
        _ => common::ping(at.ip()),
    }
    let family = if at.is_ipv4() { 2 } else { 10 };
    let found = conntrack::flows(socket, family, |flow| {
        let to_port = match flow.original.transport {
            Transport::Ports { destination, .. } => destination == at.port(),
            _ => true,
        };
        (flow.original.protocol == protocol && flow.original.destination == at.ip() && to_port)
            .then_some(*flow)
    });
    let found = found.unwrap();
    let last = found.last().copied();
    for flow in &found {
        conntrack::delete(socket, flow).unwrap();
    }
    let reply = last.unwrap_or_else(|| panic!("no flow to {at}")).reply;
    match reply.transport {
        Transport::Ports { source, .. } if source == at.port() && reply.source == at.ip() => {
            "untouched".into()
        }
        Transport::Ports { source: 0, .. } => "refused".into(),
        Transport::Ports { source, .. } if source == at.port() => reply.source.to_string(),
        Transport::Ports { source, .. } => SocketAddr::new(reply.source, source).to_string(),
        _ => reply.source.to_string(),
    }
}

#[test]
fn nft_can_list_the_table() {
    if Command::new("nft").arg("--version").output().is_err() {
        return;
    }
    in_namespace("nft_can_list_the_table", || {
        let mut balancer: Balancer<Real> = real();
        for (_, text) in files() {
            let mut desired = Desired::default();
            for line in text.lines().skip_while(|line| !line.starts_with("==")).skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words.first() {
                    Some(&("range" | "redirect" | "service" | "replica")) => declare(&mut desired, &words),
                    Some(_) => break,
                    None => {}
                }
            }
            settle(&mut balancer, &desired);
            let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
            assert!(text.contains("comment \"svc-agent "), "{text}");
        }
    });
}
