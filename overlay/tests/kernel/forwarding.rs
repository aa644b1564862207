//! What reaches what.
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use overlay::{Op, Space, gateway_mac, host_port};

use crate::bed::{Bed, Namespace, mac_of};
use crate::traffic::{
    PATIENCE, SILENCE, Tap, arp, ethernet, exchange, is_silent, reaches, send_unfragmented, stream,
};

#[tokio::test]
async fn unicast_between_hosts_at_the_exact_mtu() {
    let (_bed, here, there) = Bed::pair().await;
    let address = "10.20.1.10".parse().unwrap();
    assert_eq!(exchange(&here, &there, address, 1422, PATIENCE), Some("10.20.0.10".parse().unwrap()));
    assert_eq!(send_unfragmented(&here, address, 1422), None);
    assert_eq!(send_unfragmented(&here, address, 1423), Some(libc::EMSGSIZE));
    stream(&here, &there, address, 1 << 20).unwrap();
    assert!(exchange(&here, &there, address, 8000, PATIENCE).is_some(), "fragments inside the overlay");
}

#[tokio::test]
async fn the_mtu_follows_on_all_links_without_a_new_device() {
    let (mut bed, here, there) = Bed::pair().await;
    let address = "10.20.1.10".parse().unwrap();
    for mtu in [1350_u32, 1450] {
        for node in &mut bed.nodes {
            node.desired.networks.get_mut("blue").unwrap().mtu = mtu;
            let report = node.reconcile().await;
            assert_eq!(report.problems, []);
            assert_eq!(report.operations, 6, "bridge, VXLAN device, two ends of two pairs");
        }
        let most = usize::try_from(mtu).unwrap() - 28;
        assert!(exchange(&here, &there, address, most, PATIENCE).is_some());
        assert_eq!(send_unfragmented(&here, address, most), None);
        assert_eq!(send_unfragmented(&here, address, most + 1), Some(libc::EMSGSIZE));
    }
}

#[tokio::test]
async fn vni_port_and_local_address_converge() {
    let (mut bed, here, there) = Bed::pair().await;
    assert!(reaches(&here, &there, "10.20.1.10"));
    for (vni, port) in [(5000, 4789), (5000, 4790)] {
        for node in &mut bed.nodes {
            node.desired.host.vxlan_port = port;
            node.desired.networks.get_mut("blue").unwrap().vni = vni;
            assert_eq!(node.reconcile().await.problems, []);
            assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0);
        }
        assert!(reaches(&here, &there, "10.20.1.10"), "VNI {vni}, port {port}");
    }
    let moved = Ipv4Addr::new(192, 168, 77, 201);
    let address = ipnetwork::Ipv4Network::new(moved, 24).unwrap().into();
    let node = &mut bed.nodes[0];
    node.tamper(&Space::Host, Op::AddAddress { name: "u0".to_owned(), address }).await;
    node.address = moved.into();
    node.desired.host.address = moved.into();
    bed.nodes[1].desired.host.peers = [moved.into()].into();
    bed.spread();
    bed.settle().await;
    assert!(reaches(&here, &there, "10.20.1.10"));
}

/// Each sends to where the other receives; what a peer that has not heard of a change sends is taken at the former port,
/// from peers alone.
#[tokio::test]
async fn a_port_that_is_changed_on_one_host_loses_nothing() {
    for six in [false, true] {
        let mut bed = Bed::new(2).await;
        if six {
            bed.over_ipv6().await;
        }
        bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
        for node in &mut bed.nodes {
            node.desired.networks.get_mut("blue").unwrap().mtu = 1430;
        }
        let here = bed.member(0, "blue", "web1", "10.20.0.10");
        let there = bed.member(1, "blue", "web2", "10.20.1.10");
        bed.settle().await;
        let (knows_not, changed) = (bed.nodes[0].address, bed.nodes[1].address);
        bed.nodes[1].desired.host.vxlan_port = 4790;
        bed.nodes[1].desired.host.former_ports = [4789].into();
        bed.nodes[1].desired.host.other_ports = [(knows_not, 4789)].into();
        assert_eq!(bed.nodes[1].reconcile().await.problems, []);
        assert!(reaches(&here, &there, "10.20.1.10"), "the former port, IPv6 {six}");
        let address = "10.20.1.10".parse().unwrap();
        assert!(exchange(&here, &there, address, 1402, PATIENCE).is_some(), "of full size");
        bed.nodes[0].desired.host.other_ports = [(changed, 4790)].into();
        bed.nodes[0].desired.host.guarded_ports = [4790].into();
        assert_eq!(bed.nodes[0].reconcile().await.problems, []);
        assert!(reaches(&here, &there, "10.20.1.10"), "the other port, IPv6 {six}");
        bed.nodes[1].desired.host.former_ports.clear();
        assert_eq!(bed.nodes[1].reconcile().await.problems, []);
        assert!(reaches(&here, &there, "10.20.1.10"), "the other port alone, IPv6 {six}");
        for node in &mut bed.nodes {
            assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0);
        }
        // Back to the former one, at which nobody but a peer is heard.
        bed.nodes[0].desired.host.other_ports.clear();
        bed.nodes[1].desired.host.former_ports = [4789].into();
        bed.nodes[1].desired.host.peers.clear();
        for node in &mut bed.nodes {
            assert_eq!(node.reconcile().await.problems, []);
        }
        assert!(is_silent(&here, &there, "10.20.1.10"), "no peer, IPv6 {six}");
    }
}

#[tokio::test]
async fn two_networks_with_one_subnet_are_apart() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    bed.network("red", 4098, "10.20.0.0/16", false, &[0, 1]);
    let blue = bed.member(0, "blue", "web1", "10.20.0.10");
    let blue_there = bed.member(1, "blue", "web2", "10.20.1.10");
    let red = bed.member(0, "red", "db1", "10.20.0.11");
    let red_there = bed.member(1, "red", "db2", "10.20.1.11");
    bed.settle().await;
    assert!(reaches(&blue, &blue_there, "10.20.1.10"));
    assert!(reaches(&red, &red_there, "10.20.1.11"));
    assert!(is_silent(&blue, &red_there, "10.20.1.11"));
    assert!(is_silent(&blue, &red, "10.20.0.11"));
}

#[tokio::test]
async fn a_container_on_two_networks_does_not_route_between_them() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    bed.network("red", 4098, "10.30.0.0/16", false, &[0, 1]);
    let (space, both) = bed.container(0);
    bed.attach(0, "blue", "both", &space, "10.20.0.10");
    bed.attach(0, "red", "both", &space, "10.30.0.10");
    let blue = bed.member(1, "blue", "web1", "10.20.1.10");
    let red = bed.member(1, "red", "db1", "10.30.1.10");
    bed.settle().await;
    assert!(reaches(&both, &blue, "10.20.1.10"));
    assert!(reaches(&both, &red, "10.30.1.10"));
    both.set_sysctl("net/ipv4/ip_forward", "1");
    // The worst case: one side sends through the container as if it were a router.
    let socket = red.run(|| UdpSocket::bind("0.0.0.0:7001").unwrap());
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let payload =
        crate::traffic::datagram("10.20.1.10".parse().unwrap(), "10.30.1.10".parse().unwrap(), 7001, b"x");
    let frame = ethernet(
        mac_of("10.20.0.10".parse().unwrap()).0,
        mac_of("10.20.1.10".parse().unwrap()).0,
        0x0800,
        &payload,
    );
    Tap::open(&blue, "eth0").send(&frame);
    assert!(socket.recv_from(&mut [0; 16]).is_err(), "{}", both.look());
    assert!(bed.nodes[0].drops("spoofed").await > 0);
}

fn listen(namespace: &Namespace, group: Option<Ipv4Addr>, own: Ipv4Addr) -> UdpSocket {
    namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
        if let Some(group) = group {
            socket.join_multicast_v4(&group, &own).unwrap();
        }
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

#[tokio::test]
async fn broadcast_and_multicast_reach_everybody() {
    let mut bed = Bed::new(3).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1, 2]);
    let sender = bed.member(0, "blue", "web1", "10.20.0.10");
    let addresses = ["10.20.0.11", "10.20.1.10", "10.20.2.10"];
    let hosts = [0, 1, 2];
    let others: Vec<Namespace> = hosts
        .iter()
        .zip(addresses)
        .map(|(host, ip)| bed.member(*host, "blue", &format!("web-{ip}").replace('.', "-"), ip))
        .collect();
    bed.settle().await;
    for (there, address) in others.iter().zip(addresses) {
        assert!(reaches(&sender, there, address));
    }
    let group = Ipv4Addr::new(239, 1, 2, 3);
    for to in [Ipv4Addr::new(10, 20, 255, 255), group] {
        let join = to.is_multicast().then_some(to);
        let sockets: Vec<UdpSocket> = others
            .iter()
            .zip(addresses)
            .map(|(there, own)| listen(there, join, own.parse().unwrap()))
            .collect();
        let mine = sender.run(|| UdpSocket::bind("10.20.0.10:0").unwrap());
        mine.set_broadcast(true).unwrap();
        mine.send_to(b"all", SocketAddr::new(to.into(), 7000)).unwrap();
        for (socket, own) in sockets.iter().zip(addresses) {
            let mut buffer = [0; 16];
            let got = socket.recv_from(&mut buffer).map(|(length, _)| length);
            assert_eq!(got.ok(), Some(3), "{to} at {own}");
        }
    }
}

#[tokio::test]
async fn the_gateway_answers_on_its_own_host_only() {
    let (bed, here, there) = Bed::pair().await;
    assert!(reaches(&here, &there, "10.20.1.10"));
    let gateway: Ipv4Addr = "10.20.0.1".parse().unwrap();
    let own: Ipv4Addr = "10.20.0.10".parse().unwrap();
    let wire = Tap::open(&bed.switch, "h1");
    let (tap, far) = (Tap::open(&here, "eth0"), Tap::open(&there, "eth0"));
    let mac = mac_of(own.into()).0;
    tap.send(&ethernet([0xff; 6], mac, 0x0806, &arp(1, (mac, own), ([0; 6], gateway))));
    let answer = |frame: &[u8]| {
        frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == gateway.octets()
    };
    let frame = tap.wait(PATIENCE, answer).expect("an answer");
    assert_eq!(frame[22..28], gateway_mac(gateway.into()).0);
    let asks = |frame: &[u8]| frame.windows(4).any(|bytes| bytes == gateway.octets());
    assert_eq!(wire.wait(SILENCE, asks), None, "on the underlay");
    assert_eq!(far.wait(SILENCE / 3, asks), None, "at the other host's container");
    // Nor does a request for a remote container cross: this host answers for it.
    let remote: Ipv4Addr = "10.20.1.10".parse().unwrap();
    tap.send(&ethernet([0xff; 6], mac, 0x0806, &arp(1, (mac, own), ([0; 6], remote))));
    let is_arp = |frame: &[u8]| frame[12..14] == [8, 6];
    assert!(tap.wait(PATIENCE, |frame| is_arp(frame) && frame[28..32] == remote.octets()).is_some());
    assert_eq!(far.wait(SILENCE / 3, is_arp), None);
}

#[tokio::test]
async fn an_address_moves_with_another_mac() {
    let mut bed = Bed::new(3).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1, 2]);
    let client = bed.member(0, "blue", "client", "10.20.0.10");
    let neighbour = bed.member(0, "blue", "silent", "10.20.0.11");
    let first = bed.member(1, "blue", "web", "10.20.1.10");
    bed.settle().await;
    let address: IpAddr = "10.20.1.10".parse().unwrap();
    assert!(reaches(&client, &first, "10.20.1.10"));
    assert!(reaches(&neighbour, &first, "10.20.1.10"));
    for mac in [[2, 0x42, 10, 20, 1, 10], [2, 9, 9, 9, 9, 9]] {
        Arc::make_mut(&mut bed.nodes[1].desired.networks.get_mut("blue").unwrap().attachments).remove("web");
        let (space, second) = bed.container(2);
        bed.attach(2, "blue", "web", &space, "10.20.1.10");
        Arc::make_mut(&mut bed.nodes[2].desired.networks.get_mut("blue").unwrap().attachments)
            .get_mut("web")
            .unwrap()
            .mac = overlay::Mac(mac);
        bed.spread();
        bed.settle().await;
        let moved = Instant::now();
        assert!(exchange(&client, &second, address, 100, PATIENCE).is_some());
        assert!(exchange(&neighbour, &second, address, 100, PATIENCE).is_some());
        assert!(moved.elapsed().as_secs() < 2, "reached after {:?}", moved.elapsed());
    }
}

#[tokio::test]
async fn an_address_that_was_away_comes_back_with_another_mac() {
    comes_back("10.20.0.0/16", "10.20.0.10", "10.20.1.10").await;
    comes_back("fd00:20::/64", "fd00:20::a", "fd00:20::b").await;
}

async fn comes_back(subnet: &str, near: &str, far: &str) {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, subnet, false, &[0, 1]);
    let client = bed.member(0, "blue", "client", near);
    let first = bed.member(1, "blue", "web", far);
    bed.settle().await;
    assert!(reaches(&client, &first, far));
    let away = Arc::make_mut(&mut bed.nodes[1].desired.networks.get_mut("blue").unwrap().attachments)
        .remove("web")
        .unwrap();
    bed.spread();
    bed.settle().await;
    let back = overlay::Attachment { mac: overlay::Mac([2, 9, 9, 9, 9, 9]), ..away };
    Arc::make_mut(&mut bed.nodes[1].desired.networks.get_mut("blue").unwrap().attachments)
        .insert("web".to_owned(), back);
    bed.spread();
    bed.settle().await;
    let moved = Instant::now();
    assert!(reaches(&client, &first, far));
    assert!(moved.elapsed().as_secs() < 2, "reached after {:?}", moved.elapsed());
}

#[tokio::test]
async fn the_host_is_an_attachment_like_any_other() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    let there = bed.member(1, "blue", "web2", "10.20.1.10");
    bed.attach(0, "blue", "host1", &Space::Host, "10.20.0.10");
    bed.settle().await;
    let host = bed.nodes[0].namespace.clone();
    assert!(reaches(&host, &there, "10.20.1.10"), "from the host over the tunnel");
    assert!(reaches(&there, &host, "10.20.0.10"), "to the host over the tunnel");
    stream(&host, &there, "10.20.1.10".parse().unwrap(), 100_000).unwrap();
    let observed =
        overlay::Kernel::observe(&bed.nodes[0].kernel, &Space::Host, overlay::Look::All).await.unwrap();
    assert!(observed.links.contains_key(&host_port("blue", "host1")));
    assert_eq!(observed.routes.len(), 0, "no default route");
}

#[tokio::test]
async fn ipv6_inside() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "fd00:20::/64", false, &[0, 1]);
    let here = bed.member(0, "blue", "web1", "fd00:20::a");
    let there = bed.member(1, "blue", "web2", "fd00:20::b");
    bed.settle().await;
    assert!(reaches(&here, &there, "fd00:20::b"));
    stream(&here, &there, "fd00:20::b".parse().unwrap(), 100_000).unwrap();
    for node in &mut bed.nodes {
        assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0);
    }
}

#[tokio::test]
async fn an_ipv6_underlay() {
    let mut bed = Bed::new(2).await;
    bed.over_ipv6().await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    for node in &mut bed.nodes {
        node.desired.networks.get_mut("blue").unwrap().mtu = 1430;
    }
    let here = bed.member(0, "blue", "web1", "10.20.0.10");
    let there = bed.member(1, "blue", "web2", "10.20.1.10");
    bed.settle().await;
    let address = "10.20.1.10".parse().unwrap();
    assert!(exchange(&here, &there, address, 1402, PATIENCE).is_some());
    assert_eq!(send_unfragmented(&here, address, 1403), Some(libc::EMSGSIZE));
    for node in &mut bed.nodes {
        assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0);
        node.desired.host.peers.clear();
        assert_eq!(node.reconcile().await.problems, []);
    }
    assert!(is_silent(&here, &there, "10.20.1.10"), "peers no more");
}
