//! What the tests of this crate share.
#![allow(dead_code)] // Each test binary uses its part.
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use lb::kernel::Kernel;
use lb::{Balancer, Desired, Port, Real, Replica, ReplicaState, Report, Service, VipRange};
use rustix::thread::UnshareFlags;

/// Runs `test` on a thread in a new network namespace, which ends with it; skips, by name, where that is not
/// permitted.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[allow(unsafe_code)]
            // unshare concerns this thread alone, which shares no file descriptor table.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
            match unshared {
                Ok(()) => {
                    let thread = rustix::thread::gettid().as_raw_nonzero();
                    println!("{name}: nsenter --net=/proc/{}/task/{thread}/ns/net", std::process::id());
                    test();
                }
                Err(errno) if std::env::var_os("CI").is_none() => {
                    eprintln!("skipped {name}: unshare: {errno}")
                }
                Err(errno) => panic!("{name}: unshare: {errno}"),
            }
        });
        thread.join().unwrap();
    });
}

/// Addresses and routes for tests in one namespace: the own address is 10.80.0.2 (fd00:80::2), every address of
/// 10.128.0.0/9 (fd00:128::/32) is local, so each is a replica; everything else is sent, to nowhere.
pub(crate) fn plumb() {
    for line in [
        "link set lo up",
        "addr add 10.80.0.2/32 dev lo",
        "route add local 10.128.0.0/9 dev lo",
        "route add default dev lo src 10.80.0.2",
        "-6 addr add fd00:80::2/128 dev lo nodad",
        "-6 route add local fd00:128::/32 dev lo",
        "-6 route add fd00:96::/32 dev lo src fd00:80::2",
    ] {
        run("ip", line);
    }
}

/// Runs a command in the namespace of the calling thread. One at a time in this process: until its exec a child holds a
/// copy of every test's netfilter socket, and with it the ownership of that test's table, which the next command, of
/// another test, would find owned by somebody else.
pub(crate) fn run(program: &str, line: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let status = Command::new(program).args(line.split_whitespace()).status().unwrap();
    drop(turn);
    assert!(status.success(), "{program} {line}: {status}");
}

/// Sends one echo request, without waiting for the answer.
pub(crate) fn ping(to: IpAddr) {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8_u8),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
    };
    let raw = socket(family, SocketType::RAW, Some(protocol)).unwrap();
    // Identifier 1, sequence 1; the checksum (RFC 792) is the kernel's for ICMPv6.
    let checksum = (!(u16::from(kind) << 8).wrapping_add(2)).to_be_bytes();
    let request = [kind, 0, checksum[0], checksum[1], 0, 1, 0, 1];
    sendto(&raw, &request, SendFlags::empty(), &std::net::SocketAddr::new(to, 0)).unwrap();
}

/// The port at which a packet to a loopback address is delivered; such packets are not tracked, and a raw socket sees
/// them as they come in.
pub(crate) fn delivered_at(protocol: u8, at: std::net::SocketAddr) -> u16 {
    use rustix::net::{AddressFamily, RecvFlags, SocketType, bind, ipproto, recv, socket};
    let transport = if protocol == 6 { ipproto::TCP } else { ipproto::UDP };
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(transport)).unwrap();
    bind(&raw, &std::net::SocketAddr::new(at.ip(), 0)).unwrap();
    if protocol == 6 {
        let _refused = std::net::TcpStream::connect(at);
    } else {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", at).unwrap();
    }
    let mut packet = [0; 128];
    let (length, _) = recv(&raw, &mut packet, RecvFlags::empty()).unwrap();
    let header = usize::from(packet[0] & 0xf) * 4;
    let port = packet[..length].get(header + 2..header + 4).unwrap();
    u16::from_be_bytes([port[0], port[1]])
}

/// A balancer on the real kernel, with a new socket in the namespace of the calling thread.
pub(crate) fn real() -> Balancer {
    Balancer::new(Real::new(netfilter::Socket::open().unwrap()))
}

/// Calls until nothing is pending.
pub(crate) fn settle<K: Kernel>(balancer: &mut Balancer<K>, desired: &Desired) -> Report {
    let mut sum = Report::default();
    for _ in 0..16 {
        let report = balancer.reconcile(desired).unwrap();
        sum.changes += report.changes;
        sum.flows_deleted += report.flows_deleted;
        sum.problems = report.problems;
        if !report.pending {
            return sum;
        }
    }
    panic!("still pending after 16 calls");
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn replica(address: &str, weight: u16, state: ReplicaState) -> Replica {
    Replica { addresses: [self::address(address)].into(), weight, state }
}

/// A service of equal replicas on 10.128.0.x.
pub(crate) fn service(name: &str, vip: &str, replicas: &[u8]) -> Service {
    let replicas =
        replicas.iter().map(|last| replica(&format!("10.128.0.{last}"), 1, ReplicaState::Serving)).collect();
    Service { name: name.into(), vips: vec![address(vip)], ports: Vec::new(), replicas }
}

pub(crate) fn with_ports(mut service: Service, ports: &[(u8, u16, u16)]) -> Service {
    service.ports = ports
        .iter()
        .map(|(protocol, public, target)| Port { protocol: *protocol, public: *public, target: *target })
        .collect();
    service
}

/// The VIP range of the tests, 10.96.0.0/16, and these services.
pub(crate) fn desired(services: impl IntoIterator<Item = Service>) -> Desired {
    let range = VipRange {
        first: Ipv4Addr::new(10, 96, 0, 0).into(),
        last: Ipv4Addr::new(10, 96, 255, 255).into(),
        own: Ipv4Addr::new(10, 80, 0, 2).into(),
    };
    let services = services.into_iter().map(Arc::new).collect();
    Desired { ranges: vec![range], services, ..Desired::default() }
}
