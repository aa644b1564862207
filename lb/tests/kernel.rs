//! Real packets through the generated rules. Every address of 10.128.0.0/9 is local in the test's namespace, so one
//! listener is all replicas: whom it was reached as tells where the rules sent the flow.
#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.
mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{address, desired, in_namespace, plumb, real, replica, run, service, settle, with_ports};
use lb::kernel::Kernel;
use lb::{Desired, Redirect, ReplicaState};

/// Contract: a reset or port-unreachable within this.
const REFUSAL: Duration = Duration::from_millis(50);

/// Accepts on every address and answers with the address it was reached as, until the test ends.
struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // The thread is made in the namespace of the caller and stays there.
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(mut stream) = stream
                    && let Ok(reached) = stream.local_addr()
                {
                    let _ = stream.write_all(reached.ip().to_string().as_bytes());
                }
            }
        });
        Self { port, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn whom(vip: &str, port: u16) -> std::io::Result<IpAddr> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(address(vip), port), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(address(&text))
}

fn assert_refused(vip: &str, port: u16) {
    let at = SocketAddr::new(address(vip), port);
    let begin = Instant::now();
    let error = TcpStream::connect_timeout(&at, Duration::from_secs(3)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{at}");
    assert!(begin.elapsed() < REFUSAL, "{at}: {:?}", begin.elapsed());
    let client = UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    client.connect(at).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let begin = Instant::now();
    client.send(b"x").unwrap();
    let error = client.recv(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{at}");
    assert!(begin.elapsed() < REFUSAL, "{at}: {:?}", begin.elapsed());
}

#[test]
fn flows_are_split_by_weight() {
    in_namespace("flows_are_split_by_weight", || {
        plumb();
        let server = Server::start(0);
        let mut shop = service("shop", "10.96.0.1", &[1, 2, 3]);
        shop.replicas.push(replica("10.128.0.4", 3, ReplicaState::Serving));
        settle(&mut real(), &desired([shop]));
        let mut counts: BTreeMap<IpAddr, f64> = BTreeMap::new();
        const FLOWS: f64 = 3000.0;
        for _ in 0..3000 {
            *counts.entry(whom("10.96.0.1", server.port).unwrap()).or_default() += 1.0;
        }
        let expected = |last: u8| if last == 4 { FLOWS / 2.0 } else { FLOWS / 6.0 };
        let distance: f64 = (1..=4)
            .map(|last| {
                let seen = counts.get(&Ipv4Addr::new(10, 128, 0, last).into()).copied().unwrap_or_default();
                (seen - expected(last)).powi(2) / expected(last)
            })
            .sum();
        // Chi-square, 3 degrees of freedom: p = 0.001 at 16.27.
        assert!(distance < 16.27, "{counts:?}: {distance}");
        assert_eq!(counts.len(), 4);
    });
}

#[test]
fn nobody_serving_and_unknown_addresses_are_refused_at_once() {
    in_namespace("nobody_serving_and_unknown_addresses_are_refused_at_once", || {
        plumb();
        let server = Server::start(0);
        let mut balancer = real();
        let mut state = desired([service("empty", "10.96.0.1", &[])]);
        state.ranges.push(lb::VipRange {
            first: address("fd00:96::"),
            last: address("fd00:96::ffff"),
            own: address("fd00:80::2"),
        });
        settle(&mut balancer, &state);
        for vip in ["10.96.0.1", "10.96.0.2", "10.96.255.255", "fd00:96::1"] {
            assert_refused(vip, server.port);
        }
        // The very same client is let in once there is a replica.
        state.services = desired([service("empty", "10.96.0.1", &[1])]).services;
        balancer.reconcile(&state).unwrap();
        assert_eq!(whom("10.96.0.1", server.port).unwrap(), address("10.128.0.1"));
    });
}

#[test]
fn p30_how_full_the_table_of_flows_is_can_be_asked() {
    in_namespace("p30_how_full_the_table_of_flows_is_can_be_asked", || {
        plumb();
        let server = Server::start(0);
        let mut balancer = real();
        settle(&mut balancer, &desired([service("shop", "10.96.0.1", &[1])]));
        let before = balancer.kernel().usage().unwrap();
        whom("10.96.0.1", server.port).unwrap();
        let after = balancer.kernel().usage().unwrap();
        assert!(after.entries > before.entries, "{before:?}, {after:?}");
        assert!(after.limit.is_none_or(|limit| limit == 0 || limit > after.entries), "{after:?}");
    });
}

#[test]
fn a_replica_calls_its_own_vip() {
    in_namespace("a_replica_calls_its_own_vip", || {
        plumb();
        let server = Server::start(0);
        settle(&mut real(), &desired([service("own", "10.96.0.1", &[1])]));
        run("ip", "addr add 10.128.0.1/32 dev lo");
        run("ip", "route replace default dev lo src 10.128.0.1");
        let stream = TcpStream::connect(("10.96.0.1", server.port)).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), address("10.128.0.1"));
        assert_eq!(whom("10.96.0.1", server.port).unwrap(), address("10.128.0.1"));
    });
}

#[test]
fn the_resolver_is_reached_at_port_53_and_the_port_stays_free() {
    in_namespace("the_resolver_is_reached_at_port_53_and_the_port_stays_free", || {
        plumb();
        let resolver = UdpSocket::bind("127.0.0.11:0").unwrap();
        let server = TcpListener::bind(resolver.local_addr().unwrap()).unwrap();
        let redirect =
            Redirect { from: "127.0.0.11:53".parse().unwrap(), to: resolver.local_addr().unwrap() };
        settle(&mut real(), &Desired { redirects: vec![redirect], ..Desired::default() });
        let theirs = UdpSocket::bind("0.0.0.0:53").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.11:53").unwrap();
        client.send(b"question").unwrap();
        let mut bytes = [0; 16];
        let (length, from) = resolver.recv_from(&mut bytes).unwrap();
        resolver.send_to(&bytes[..length], from).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        // A connected socket takes answers from 127.0.0.11:53 alone.
        assert_eq!(client.recv(&mut bytes).unwrap(), 8);
        drop(TcpStream::connect("127.0.0.11:53").unwrap());
        drop(server.accept().unwrap());
        drop(theirs);
    });
}

#[test]
fn declared_ports_are_translated_and_others_refused() {
    in_namespace("declared_ports_are_translated_and_others_refused", || {
        plumb();
        let server = Server::start(0);
        let web = with_ports(service("web", "10.96.0.1", &[1]), &[(6, 80, server.port)]);
        settle(&mut real(), &desired([web]));
        assert_eq!(whom("10.96.0.1", 80).unwrap(), address("10.128.0.1"));
        assert_refused("10.96.0.1", server.port);
    });
}

#[test]
fn a_restarted_agent_adopts_the_table_without_touching_it() {
    in_namespace("a_restarted_agent_adopts_the_table_without_touching_it", || {
        plumb();
        let services = (1..100).map(|n| service(&format!("s{n:02}"), &format!("10.96.0.{n}"), &[1, 2, 3]));
        let state = desired(services);
        settle(&mut real(), &state);
        let mut socket = netfilter::Socket::open().unwrap();
        let table = netfilter::Table { family: netfilter::Family::Ip, name: lb::TABLE_NAME };
        let handles = |socket: &mut netfilter::Socket| -> Vec<u64> {
            socket.rules(table, None).unwrap().iter().map(|rule| rule.handle).collect()
        };
        let (before, generation) = (handles(&mut socket), socket.generation().unwrap());
        let mut again = real();
        assert_eq!(again.reconcile(&state).unwrap().changes, 0);
        let features = again.kernel().features().unwrap();
        assert_eq!(handles(&mut socket), before);
        if features.owned {
            let status = again.kernel().table::<Ipv4Addr>().unwrap().unwrap();
            assert!(status.ours, "{status:?}");
        } else {
            assert_eq!(socket.generation().unwrap(), generation);
        }
        assert!(!again.check().unwrap());
    });
}

#[test]
fn a_flushed_ruleset_is_survived_or_repaired() {
    in_namespace("a_flushed_ruleset_is_survived_or_repaired", || {
        plumb();
        let server = Server::start(0);
        let mut balancer = real();
        let state = desired([service("shop", "10.96.0.1", &[1])]);
        settle(&mut balancer, &state);
        assert!(!balancer.check().unwrap());
        let features = balancer.kernel().features().unwrap();
        run("nft", "flush ruleset");
        assert_eq!(balancer.check().unwrap(), !features.owned);
        assert_eq!(whom("10.96.0.1", server.port).unwrap(), address("10.128.0.1"));
        assert!(!balancer.check().unwrap());
        balancer.remove().unwrap();
        assert!(balancer.kernel().table::<Ipv4Addr>().unwrap().is_none());
    });
}

#[test]
fn an_edit_by_another_tool_is_repaired() {
    in_namespace("an_edit_by_another_tool_is_repaired", || {
        plumb();
        let server = Server::start(0);
        let state = desired([service("shop", "10.96.0.1", &[1, 2])]);
        // A table without an owner, as on kernels before 6.9.
        settle(&mut real(), &state);
        let strike = |line: &str| {
            let mut balancer = real();
            settle(&mut balancer, &state);
            drop(balancer);
            run("nft", line);
            let mut balancer = real();
            let report = settle(&mut balancer, &state);
            assert!(report.changes > 0, "{line}");
            assert_eq!(settle(&mut balancer, &state).changes, 0, "{line}");
        };
        for line in [
            "delete element ip svc-agent slots { 10.96.0.1 . 1 }",
            "delete element ip svc-agent vips { 10.96.0.1 }",
            "delete element ip svc-agent ranges { 10.96.0.0-10.96.255.255 }",
            "add element ip svc-agent served { 10.96.0.77 }",
            "flush chain ip svc-agent class_2",
            "add rule ip svc-agent output drop",
            "add chain ip svc-agent stranger",
            "flush set ip svc-agent protocols",
            "delete table ip svc-agent",
        ] {
            strike(line);
            whom("10.96.0.1", server.port).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_refused("10.96.0.7", server.port);
        }
    });
}

#[test]
fn udp_flows_leave_a_replica_that_vanished_and_tcp_flows_a_draining_one_not() {
    in_namespace("udp_flows_leave_a_replica_that_vanished_and_tcp_flows_a_draining_one_not", || {
        plumb();
        let [one, two] = ["10.128.0.1", "10.128.0.2"].map(|ip| UdpSocket::bind((ip, 5300)).unwrap());
        one.set_nonblocking(true).unwrap();
        two.set_nonblocking(true).unwrap();
        let listener = TcpListener::bind("0.0.0.0:5300").unwrap();
        let mut balancer = real();
        let mut state = desired([service("dns", "10.96.0.1", &[1])]);
        settle(&mut balancer, &state);
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect("10.96.0.1:5300").unwrap();
        client.send(b"x").unwrap();
        assert!(one.recv(&mut [0; 4]).is_ok());
        let mut stream = TcpStream::connect("10.96.0.1:5300").unwrap();
        let (mut accepted, _) = listener.accept().unwrap();

        let mut draining = service("dns", "10.96.0.1", &[1, 2]);
        draining.replicas[0].state = ReplicaState::Quiescing;
        state.services = desired([draining]).services;
        assert_eq!(settle(&mut balancer, &state).flows_deleted, 1);
        client.send(b"x").unwrap();
        assert!(two.recv(&mut [0; 4]).is_ok());
        assert!(one.recv(&mut [0; 4]).is_err());
        stream.write_all(b"still").unwrap();
        accepted.read_exact(&mut [0; 5]).unwrap();

        state.services = desired([service("dns", "10.96.0.1", &[2])]).services;
        // The TCP flow goes with its replica; the UDP flow to the one that stays does not.
        assert_eq!(settle(&mut balancer, &state).flows_deleted, 1);
        client.send(b"x").unwrap();
        assert!(two.recv(&mut [0; 4]).is_ok());

        state.services.clear();
        assert_eq!(settle(&mut balancer, &state).flows_deleted, 1);
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut [0; 4]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // Revived, the client that was just refused is let in.
        state.services = desired([service("dns", "10.96.0.1", &[1])]).services;
        settle(&mut balancer, &state);
        client.send(b"x").unwrap();
        assert!(one.recv(&mut [0; 4]).is_ok());
    });
}

#[test]
fn no_new_flow_fails_while_replicas_come_and_go() {
    in_namespace("no_new_flow_fails_while_replicas_come_and_go", || {
        plumb();
        let server = Server::start(0);
        let port = server.port;
        let mut balancer = real();
        settle(&mut balancer, &desired([service("shop", "10.96.0.1", &[1, 2, 3, 4])]));
        let done = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&done);
        let client = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            let mut flows = 0;
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                whom("10.96.0.1", port).unwrap();
                longest = longest.max(begin.elapsed());
                flows += 1;
            }
            (flows, longest)
        });
        // A replica out of the set drains: were it gone, its flows would be cut, which is right but not seen here.
        let state = |set: &[u8]| {
            let mut shop = service("shop", "10.96.0.1", &[1, 2, 3, 4, 5, 6]);
            for (last, replica) in (1..).zip(&mut shop.replicas) {
                replica.state =
                    if set.contains(&last) { ReplicaState::Serving } else { ReplicaState::Quiescing };
            }
            desired([shop])
        };
        let sets: [&[u8]; 6] = [&[1, 2, 3, 4], &[1, 2], &[2, 3, 5], &[6], &[1, 2, 3, 4, 5, 6], &[5, 6]];
        let begin = Instant::now();
        for round in 0..24 {
            balancer.reconcile(&state(sets[round % sets.len()])).unwrap();
        }
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            balancer.reconcile(&state(sets[0])).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let (flows, longest) = client.join().unwrap();
        println!("{flows} flows during 24 changes in {:?}, slowest {longest:?}", begin.elapsed());
        assert!(flows > 20);
    });
}

#[test]
fn a_namespace_inside_is_balanced_too() {
    in_namespace("a_namespace_inside_is_balanced_too", || {
        plumb();
        let server = Server::start(0);
        settle(&mut real(), &desired([service("shop", "10.96.0.1", &[1])]));
        // What comes in by an interface passes prerouting: here a veth whose other end is a namespace's own.
        let (ready, wait) = std::sync::mpsc::channel::<u32>();
        let (go, begin) = std::sync::mpsc::channel::<()>();
        let port = server.port;
        let inner = std::thread::spawn(move || {
            #[allow(unsafe_code)] // unshare concerns this thread alone.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            ready.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            begin.recv().unwrap();
            run("ip", "addr add 10.70.0.2/24 dev inner");
            run("ip", "link set inner up");
            run("ip", "route add default via 10.70.0.1");
            whom("10.96.0.1", port)
        });
        let thread = wait.recv().unwrap();
        run("ip", "link add outer type veth peer name inner");
        run("ip", &format!("link set inner netns {thread}"));
        run("ip", "addr add 10.70.0.1/24 dev outer");
        run("ip", "link set outer up");
        go.send(()).unwrap();
        assert_eq!(inner.join().unwrap().unwrap(), address("10.128.0.1"));
    });
}
