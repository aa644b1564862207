//! Who may send what: the ports' fence and the tunnel's.
#![allow(unsafe_code, reason = "setsockopt for what the standard library lacks")]
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use overlay::{Kernel, Look, Op, Space};

use crate::bed::{Bed, Namespace, mac_of};
use crate::traffic::{PATIENCE, SILENCE, Tap, arp, datagram, ethernet, in_two, reaches, vxlan};

const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 10);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 11);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

fn mac(address: Ipv4Addr) -> [u8; 6] {
    mac_of(address.into()).0
}

#[tokio::test]
async fn a_container_sends_as_itself_only() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    let liar = bed.member(0, "blue", "liar", "10.20.0.10");
    let near = bed.member(0, "blue", "near", "10.20.0.11");
    let far = bed.member(1, "blue", "far", "10.20.1.10");
    bed.settle().await;
    assert!(reaches(&liar, &far, "10.20.1.10"));
    let (tap, near, far) = (Tap::open(&liar, "eth0"), Tap::open(&near, "eth0"), Tap::open(&far, "eth0"));
    let (own, neighbour) = (mac(OWN), mac(NEIGHBOUR));
    let spoofed = [
        ("source address", ethernet([0xff; 6], own, 0x0800, &datagram(NEIGHBOUR, VICTIM, 9, b"LIE"))),
        ("source MAC", ethernet([0xff; 6], neighbour, 0x0800, &datagram(OWN, VICTIM, 9, b"LIE"))),
        ("gateway", ethernet([0xff; 6], own, 0x0806, &arp(2, (own, GATEWAY), ([0; 6], GATEWAY)))),
        ("VIP", ethernet([0xff; 6], own, 0x0806, &arp(1, (own, [10, 20, 224, 1].into()), ([0; 6], OWN)))),
        ("ARP sender MAC", ethernet([0xff; 6], own, 0x0806, &arp(2, (neighbour, OWN), ([0; 6], OWN)))),
        ("no IP at all", ethernet([0xff; 6], own, 0x88cc, b"LIELIELIELIELIELIELIELIELIELIELIELIELIELIE")),
        (
            "VLAN tag",
            ethernet(
                [0xff; 6],
                own,
                0x8100,
                &[&[0, 1, 8, 0][..], &datagram(NEIGHBOUR, VICTIM, 9, b"LIE")].concat(),
            ),
        ),
    ];
    let before = bed.nodes[0].drops("spoofed").await;
    for (what, frame) in &spoofed {
        tap.send(frame);
        let arrives = |got: &[u8]| got[12..] == frame[12..];
        assert_eq!(near.wait(SILENCE / 3, arrives), None, "{what} on the same host");
        assert_eq!(far.wait(SILENCE / 3, arrives), None, "{what} on another host");
    }
    assert_eq!(bed.nodes[0].drops("spoofed").await - before, spoofed.len() as u64);
    let honest = ethernet([0xff; 6], own, 0x0800, &datagram(OWN, VICTIM, 9, b"TRUTH"));
    tap.send(&honest);
    assert!(far.wait(PATIENCE, |got| got[12..] == honest[12..]).is_some());
}

/// A frame that a container of `blue` would believe.
fn forged(vni: u32) -> Vec<u8> {
    let inner = ethernet(mac(VICTIM), mac(OWN), 0x0800, &datagram(OWN, VICTIM, 9, b"FORGED"));
    vxlan(vni, &inner)
}

fn is_forged(frame: &[u8]) -> bool {
    frame.windows(6).any(|bytes| bytes == b"FORGED")
}

fn send(from: &Namespace, to: IpAddr, payload: &[u8]) -> std::io::Result<usize> {
    from.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(payload, (to, 4789)))
}

#[tokio::test]
async fn the_tunnel_takes_frames_of_peers_only() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    let here = bed.member(0, "blue", "web1", "10.20.0.10");
    let there = bed.member(1, "blue", "web2", "10.20.1.10");
    bed.settle().await;
    let victim = Tap::open(&there, "eth0");
    let host = bed.nodes[1].address;
    let stranger = Namespace::new();
    bed.plug(&stranger, 66, Ipv4Addr::new(192, 168, 77, 66)).await;
    assert!(reaches(&stranger, &bed.nodes[1].namespace, &host.to_string()));
    send(&stranger, host, &forged(4097)).unwrap();
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a stranger's frame");
    assert_eq!(bed.nodes[1].drops("tunnel-stranger").await, 1);
    // A process of a peer, with the peer's own address.
    let sender = bed.nodes[0].namespace.clone();
    let refused = send(&sender, host, &forged(4097));
    assert_eq!(refused.err().and_then(|error| error.raw_os_error()), Some(libc::EPERM));
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a user's frame");
    assert_eq!(bed.nodes[0].drops("tunnel-user").await, 1);
    // And one that the host would forward: masqueraded, it would come from a peer.
    let engine = foreign_container(&sender).await;
    sender.set_sysctl("net/ipv4/ip_forward", "1");
    masquerade(&sender);
    send(&engine, host, &forged(4097)).unwrap();
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a forwarded frame");
    assert_eq!(bed.nodes[0].drops("tunnel-stranger").await, 1, "it is stopped on its way in");
    // With a peer's address from the start it gets as far as the forward hook.
    let IpAddr::V4(peer) = host else { panic!("{host}") };
    let link =
        bed.nodes[0].kernel.observe(&Space::Host, Look::All).await.unwrap().links["docker0"].mac.unwrap();
    let packet = datagram(peer, peer, 4789, &forged(4097));
    Tap::open(&engine, "eth0").send(&ethernet(link.0, [2, 0, 0, 0, 0, 7], 0x0800, &packet));
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a forwarded frame of a peer's address");
    assert_eq!(bed.nodes[0].drops("tunnel-forwarded").await, 1);
    assert!(reaches(&here, &there, "10.20.1.10"));
}

/// On hosts that track connections, and put fragments together before they look at them, and on hosts that do not.
#[tokio::test]
async fn no_fragment_hides_a_frame() {
    for internal in [false, true] {
        let mut bed = Bed::new(2).await;
        bed.network("blue", 4097, "10.20.0.0/16", internal, &[0, 1]);
        let here = bed.member(0, "blue", "web1", "10.20.0.10");
        let there = bed.member(1, "blue", "web2", "10.20.1.10");
        bed.settle().await;
        assert!(reaches(&here, &there, "10.20.1.10"));
        let victim = Tap::open(&there, "eth0");
        let stranger = Namespace::new();
        bed.plug(&stranger, 66, Ipv4Addr::new(192, 168, 77, 66)).await;
        let host = bed.nodes[1].address;
        assert!(reaches(&stranger, &bed.nodes[1].namespace, &host.to_string()));
        let IpAddr::V4(to) = host else { panic!("{host}") };
        let link =
            bed.nodes[1].kernel.observe(&Space::Host, Look::All).await.unwrap().links["u0"].mac.unwrap();
        let tap = Tap::open(&stranger, "u0");
        let whole = datagram(Ipv4Addr::new(192, 168, 77, 66), to, 4789, &forged(4097));
        for first in [8, 16, 24] {
            let before =
                bed.nodes[1].drops("tunnel-stranger").await + bed.nodes[1].drops("tunnel-short").await;
            for fragment in in_two(&whole, first) {
                tap.send(&ethernet(link.0, [2, 0, 0, 0, 0, 7], 0x0800, &fragment));
            }
            let what = format!("{first} bytes first, internal: {internal}");
            assert_eq!(victim.wait(SILENCE, is_forged), None, "{what}");
            let after =
                bed.nodes[1].drops("tunnel-stranger").await + bed.nodes[1].drops("tunnel-short").await;
            assert_eq!(after, before + 1, "{what}");
        }
        // From a peer it would have been taken.
        let peer = bed.nodes[0].address;
        let IpAddr::V4(peer) = peer else { panic!("{peer}") };
        for fragment in in_two(&datagram(peer, to, 4789, &forged(4097)), 16) {
            tap.send(&ethernet(link.0, [2, 0, 0, 0, 0, 7], 0x0800, &fragment));
        }
        assert!(victim.wait(PATIENCE, is_forged).is_some(), "internal: {internal}");
    }
}

/// Many datagrams handed over as one: the first for a network that is not ours, the second a forged frame of ours.
fn send_hidden(from: &Namespace, to: IpAddr) -> std::io::Result<usize> {
    const UDP_SEGMENT: i32 = 103;
    let second = forged(4097);
    let mut both = vxlan(77, &vec![0; second.len() - 8]);
    let size = i32::try_from(second.len()).unwrap();
    both.extend(second);
    from.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // SAFETY: the kernel reads one int.
        let set = unsafe {
            let value = std::ptr::from_ref(&size).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, UDP_SEGMENT, value, 4)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        socket.send_to(&both, (to, 4789))
    })
}

#[tokio::test]
async fn no_datagram_hides_another() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    let here = bed.member(0, "blue", "web1", "10.20.0.10");
    let there = bed.member(1, "blue", "web2", "10.20.1.10");
    bed.settle().await;
    assert!(reaches(&here, &there, "10.20.1.10"));
    let victim = Tap::open(&there, "eth0");
    let (peer, own) = (bed.nodes[0].namespace.clone(), bed.nodes[1].namespace.clone());
    let host = bed.nodes[1].address;
    let refused = send_hidden(&peer, host);
    assert_eq!(
        refused.err().and_then(|error| error.raw_os_error()),
        Some(libc::EPERM),
        "a process of a peer"
    );
    // What the peer's host passes on, and masquerades.
    let engine = foreign_container(&peer).await;
    peer.set_sysctl("net/ipv4/ip_forward", "1");
    masquerade(&peer);
    send_hidden(&engine, host).unwrap();
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a container behind a peer");
    // A switch of namespaces passes it on whole, which a network card would not: so it must not get that far.
    assert_eq!(bed.nodes[0].drops("tunnel-forwarded").await, 1);
    // And what a container sends to its own host, where the kernel takes the datagrams apart behind all hooks.
    let engine = foreign_container(&own).await;
    send_hidden(&engine, host).unwrap();
    assert_eq!(victim.wait(SILENCE, is_forged), None, "a container on the same host");
    assert!(reaches(&here, &there, "10.20.1.10"));
}

/// A container of some other engine on a host: 172.17.0.2 behind 172.17.0.1.
async fn foreign_container(host: &Namespace) -> Namespace {
    let engine = Namespace::new();
    let kernel = overlay::LinuxKernel::new();
    let (outside, inside) = (Space::Host, Space::Container(1));
    kernel.insert(outside.clone(), host.handles());
    kernel.insert(inside.clone(), engine.handles());
    let address = |text: &str| text.parse().unwrap();
    let peer = overlay::Peer { space: inside.clone(), name: "eth0".to_owned(), mac: None };
    let route = overlay::Route {
        link: Some("eth0".to_owned()),
        six: false,
        metric: 0,
        gateway: Some("172.17.0.1".parse().unwrap()),
        protocol: 4,
    };
    let steps = [
        (&outside, Op::AddVeth { name: "docker0".to_owned(), mtu: 1500, peer }),
        (&outside, Op::AddAddress { name: "docker0".to_owned(), address: address("172.17.0.1/16") }),
        (&outside, Op::SetUp { name: "docker0".to_owned() }),
        (&inside, Op::AddAddress { name: "eth0".to_owned(), address: address("172.17.0.2/16") }),
        (&inside, Op::SetUp { name: "eth0".to_owned() }),
        (&inside, Op::SetRoute { route, replace: false }),
    ];
    for (space, op) in steps {
        Kernel::apply(&kernel, space, &op).await.unwrap();
    }
    // A link that is up sends nothing before the kernel has noticed its carrier, which takes up to a second.
    assert!(reaches(&engine, host, "172.17.0.1"));
    engine
}

/// As an engine does: what leaves by the uplink gets its address.
fn masquerade(host: &Namespace) {
    use netfilter::{
        Batch, ChainKind, Expression, Family, Hook, HookPoint, Meta, Register, Table, TableFlags,
    };
    let table = Table { family: Family::Ip, name: "engine" };
    let hook =
        Hook { kind: ChainKind::Nat, point: HookPoint::Postrouting, priority: 100, drop_by_default: false };
    let mut uplink = b"u0".to_vec();
    uplink.resize(16, 0);
    let register = Register::word(0);
    let rule = [
        Expression::meta(Meta::OutgoingName, register),
        Expression::equal(register, uplink),
        Expression::Masquerade,
    ];
    let mut batch = Batch::new();
    batch.add_table(table, TableFlags::PLAIN);
    batch.add_chain(table, "post", Some(&hook));
    batch.add_rule(table, "post", &rule, None);
    host.run(|| netfilter::Socket::open().unwrap().commit(&batch)).unwrap();
}

#[tokio::test]
async fn other_peoples_vxlan_on_the_port_is_untouched() {
    let mut bed = Bed::new(2).await;
    let foreign: Vec<Namespace> = (0..2).map(|_| Namespace::new()).collect();
    for (host, other) in [(0, 1), (1, 0)] {
        let node = &bed.nodes[host];
        let space = Space::Network("swarm".to_owned());
        let kernel = overlay::LinuxKernel::new();
        kernel.insert(Space::Host, node.namespace.handles());
        kernel.insert(space.clone(), foreign[host].handles());
        let op = Op::AddVxlan {
            link_space: space.clone(),
            name: "vxlan".to_owned(),
            vni: 256,
            local: node.address,
            port: 4789,
            mtu: 1450,
        };
        let address = format!("10.99.0.{}/24", host + 1).parse().unwrap();
        let vtep = std::net::SocketAddr::new(bed.nodes[other].address, 4789);
        let steps = [
            (Space::Host, op),
            (space.clone(), Op::AddAddress { name: "vxlan".to_owned(), address }),
            (space.clone(), Op::SetTunnel { name: "vxlan".to_owned(), mac: overlay::Mac([0; 6]), vtep }),
            (space.clone(), Op::SetUp { name: "vxlan".to_owned() }),
        ];
        for (space, op) in steps {
            Kernel::apply(&kernel, &space, &op).await.unwrap();
        }
    }
    assert!(reaches(&foreign[0], &foreign[1], "10.99.0.2"), "before");
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    // Not even known as peers to each other.
    for node in &mut bed.nodes {
        node.desired.host.peers.clear();
    }
    bed.settle().await;
    assert!(reaches(&foreign[0], &foreign[1], "10.99.0.2"), "during");
    for node in &mut bed.nodes {
        let torn = node.reconciler.teardown_all(&Default::default()).await;
        assert_eq!(torn.problems, []);
    }
    assert!(reaches(&foreign[0], &foreign[1], "10.99.0.2"), "after");
}

/// A container of another engine, whose host is a member: the host does not route for it.
#[tokio::test]
async fn the_hosts_own_attachment_is_not_routed_through() {
    let mut bed = Bed::new(1).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    bed.attach(0, "blue", "host1", &Space::Host, "10.20.0.9");
    let web = bed.member(0, "blue", "web1", "10.20.0.10");
    bed.settle().await;
    let host = bed.nodes[0].namespace.clone();
    let engine = foreign_container(&host).await;
    assert!(reaches(&host, &web, "10.20.0.10"));
    let address = "10.20.0.10".parse().unwrap();
    assert_eq!(crate::traffic::exchange(&engine, &web, address, 100, SILENCE), None);
    assert!(bed.nodes[0].drops("to-host-attachment").await > 0);
}
