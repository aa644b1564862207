//! Virtual addresses: who is reached, whom he sees, and what is refused.
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use agent::bed::{Sandbox, spread};
use tests::cluster::Cluster;
use tests::family::Family;
use tests::names::{Manner, RESOLVER, Way, ask};
use tests::runner::Scenario;
use tests::statistics::assert_split;
use tests::wait::{wait_equal, wait_until};

use crate::names::with_upstream;

/// Types of records (RFC 1035, RFC 3596).
const A: u16 = 1;
const AAAA: u16 = 28;
const MX: u16 = 15;
const REFUSAL_LIMIT: Duration = Duration::from_millis(50);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        a_replica_sees_the_clients_own_address,
        a_replica_calls_its_own_vip,
        client_and_replica_on_one_host_without_bridge_netfilter,
        flows_are_split_evenly_and_by_weight,
        nothing_serves_and_nothing_hangs,
        p05_scaled_to_nothing_and_back,
        flushed_rules_of_a_container_come_back,
    ]
}

/// Row P21: also where everything that can translate sources does. The hosts masquerade all that leaves them; frames on
/// the networks' bridges pass the rules for packets; the clients have been outside, for which their network translates.
fn a_replica_sees_the_clients_own_address(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.ok("h1", "network create shop");
    cluster.attach("payment", "c1a c1x c2x");
    // Its route to everywhere, and the source that goes with it, are of the other network.
    cluster.attach("shop", "c2t");
    cluster.attach_again("payment", "c2t");
    cluster.ok("h2", "attach host --network payment --netns host");
    let _servers = [("c1a", 80), ("h1", 81)].map(|(place, port)| cluster.server(place, port));
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let clients = [("c1x", "c1x"), ("c2x", "c2x"), ("c1a", "c1a"), ("c2t", "c2t"), ("h2", "host")];
    let own = clients.map(|(_, name)| cluster.resolve("c1a", &format!("{name}.payment")));
    let assert_own = |when: &str| {
        for ((client, _), own) in clients.iter().zip(&own) {
            for _ in 0..4 {
                let (tcp, udp) = (cluster.tcp(client, vip, 80), cluster.udp(client, vip, 80));
                for answer in [tcp.expect("an answer"), udp.expect("an answer")] {
                    assert_eq!(answer.seen_as.ip().to_string(), *own, "the client is {client}, {when}");
                }
            }
        }
    };
    assert_own("as it is");
    masquerade_everything(&cluster);
    if Family::now() != Family::Six {
        let outside = cluster.address(1).parse().expect("an address");
        let egress = cluster.tcp("c2x", outside, 81).expect("an answer");
        assert_eq!(egress.seen_as.ip().to_string(), cluster.address(2), "what leaves is translated");
    }
    // The agent sets it back when it looks again.
    assert!(call_rules_for_bridged_frames(&cluster) >= 3, "two networks on one host, one on the other");
    assert_own("where sources are translated");
}

/// As an engine's or a gateway's rules do.
fn masquerade_everything(cluster: &Cluster) {
    for host in ["h1", "h2"] {
        for words in [
            "add table inet everything",
            "add chain inet everything postrouting { type nat hook postrouting priority 90; }",
            "add rule inet everything postrouting masquerade",
        ] {
            cluster.shell(host, &format!("nft '{words}'"));
        }
    }
}

/// As it is in every new namespace where the kernel has br_netfilter; returns in how many networks.
fn call_rules_for_bridged_frames(cluster: &Cluster) -> usize {
    let networks = cluster.network_namespaces();
    for network in &networks {
        let set = || {
            ["iptables", "ip6tables"].into_iter().try_for_each(|tables| {
                let path = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
                // Without br_netfilter no frame can pass them.
                if std::path::Path::new(&path).exists() { std::fs::write(path, "1") } else { Ok(()) }
            })
        };
        network.run(set).expect("a network's namespace").expect("the setting");
    }
    networks.len()
}

fn a_replica_calls_its_own_vip(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3a");
    let replicas = ["c1a", "c2a", "c3a"];
    let _servers = replicas.map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let ask = |from: &str, times: usize| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..times {
            let (tcp, udp) = (cluster.tcp(from, vip, 80), cluster.udp(from, vip, 80));
            for answer in [tcp, udp] {
                *counts.entry(answer.expect("an answer").name).or_default() += 1;
            }
        }
        counts
    };
    assert_eq!(ask("c1a", 20), BTreeMap::from([("c1a".to_owned(), 40)]), "itself, its only replica");
    cluster.ok("h2", "register payment-api --on c2a");
    cluster.ok("h3", "register payment-api --on c3a");
    for replica in replicas {
        assert_split(&[("c1a", 1), ("c2a", 1), ("c3a", 1)], || ask(replica, 90));
    }
}

fn client_and_replica_on_one_host_without_bridge_netfilter(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    // The network's own namespace is the holder's, which runs beside the agent; the host's is set as well.
    for place in ["h1", "c1a", "c1x"] {
        cluster.shell(
            place,
            "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 >$f; done",
        );
    }
    let spread = cluster.spread("c1x", vip, 80, 50);
    assert_eq!(spread.answers, BTreeMap::from([("c1a".to_owned(), 50)]));
    assert_eq!(cluster.udp("c1x", vip, 80).expect("an answer").name, "c1a");
}

fn flows_are_split_evenly_and_by_weight(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1b c2a c2x");
    let _servers = ["c1a", "c1b", "c2a"].map(|name| cluster.server(name, 80));
    for (host, name) in [("h1", "c1a"), ("h1", "c1b"), ("h2", "c2a")] {
        cluster.ok(host, &format!("register payment-api --on {name}"));
    }
    let vip = cluster.vip("h1", "payment-api");
    let sample = |count| cluster.spread("c2x", vip, 80, count).answers;
    assert_split(&[("c1a", 1), ("c1b", 1), ("c2a", 1)], || sample(900));
    cluster.ok("h1", "register payment-api --on c1b --weight 6");
    cluster.ok("h2", "register payment-api --on c2a --weight 3");
    assert_split(&[("c1a", 1), ("c1b", 6), ("c2a", 3)], || sample(1_000));
    cluster.ok("h1", "register payment-api --on c1b --weight 0");
    // Vacated slots are refilled as well as their number allows, then their number shrinks.
    wait_equal("four slots, one and three", Duration::from_secs(5), &4, || cluster.slots("c2x", vip));
    assert_split(&[("c1a", 1), ("c2a", 3)], || sample(400));
}

fn nothing_serves_and_nothing_hangs(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a --port 80/tcp");
    let vip = cluster.vip("h1", "payment-api");
    assert_eq!(cluster.tcp("c2x", vip, 80).expect("an answer").name, "c1a");
    let ping = cluster.try_shell("c2x", &format!("busybox ping -c1 -W1 {vip}"));
    assert_eq!(ping.exit, 0, "the first echo of a VIP is answered: {}{}", ping.stdout, ping.stderr);
    assert_refused(&cluster, vip, 81, "a port that is not declared");
    cluster.ok("h1", "drain payment-api --on c1a");
    assert_refused(&cluster, vip, 80, "no replica left");
    cluster.ok("h1", "register payment-api --on c1a");
    assert_eq!(cluster.tcp("c2x", vip, 80).expect("an answer").name, "c1a", "the next connection works");
    cluster.ok("h2", "deregister payment-api");
    assert_refused(&cluster, vip, 80, "a service that is gone");
    assert_refused(&cluster, another(vip), 80, "an address of the VIP range that never was one");
}

/// Row P05: of a service without replicas the name stays ours, and nobody outside is asked for it.
fn p05_scaled_to_nothing_and_back(sandbox: &Sandbox) {
    let (mut cluster, upstream) = with_upstream(sandbox, 2, Manner::Deny);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a --alias pay");
    let vip = cluster.vip("h1", "payment-api");
    let client = cluster.namespace("c2x");
    let names = ["payment-api", "pay", "payment-api.payment", "tasks.payment-api", "tasks.pay"];
    for round in 0..2 {
        cluster.ok("h1", "deregister payment-api --on c1a");
        assert_refused(&cluster, vip, 80, "scaled to nothing");
        for name in names {
            cluster.try_shell("c2x", &format!("getent ahosts {name}"));
            for record in [A, AAAA, MX] {
                let answer = ask(&client, RESOLVER, name, record, Way::Udp, Duration::from_secs(5));
                assert!(answer.is_ok(), "{name} {record}: {answer:?}");
            }
        }
        assert_eq!(cluster.resolve("c2x", "payment-api"), vip.to_string(), "the name keeps its VIP, {round}");
        cluster.ok("h1", "register payment-api --on c1a");
        assert_eq!(cluster.tcp("c2x", vip, 80).expect("an answer").name, "c1a", "the next connection works");
    }
    let asked = upstream.asked();
    assert!(!asked.iter().any(|name| name.contains("pay")), "asked outside: {asked:?}");
    // Or it would be silent for another reason.
    cluster.try_shell("c2x", "getent ahosts else.example");
    wait_until("what is not ours is asked outside", Duration::from_secs(10), || {
        let asked = upstream.asked();
        if asked.iter().any(|name| name.contains("else.example")) {
            Ok(())
        } else {
            Err(format!("{asked:?}"))
        }
    });
}

fn another(vip: IpAddr) -> IpAddr {
    match vip {
        IpAddr::V4(vip) => Ipv4Addr::from_bits(vip.to_bits() + 3).into(),
        IpAddr::V6(vip) => Ipv6Addr::from_bits(vip.to_bits() + 3).into(),
    }
}

fn assert_refused(cluster: &Cluster, to: IpAddr, port: u16, why: &str) {
    for udp in [false, true] {
        for _ in 0..10 {
            let (kind, took) = cluster.refusal("c2x", to, port, udp);
            let context = format!("{why}: {to}:{port}, udp: {udp}, after {took:?}");
            assert_eq!(kind, ErrorKind::ConnectionRefused, "{context}");
            assert!(took < REFUSAL_LIMIT, "{context}");
        }
    }
}

/// Row P41: what a firewall tool inside a container takes away is there again within a second.
fn flushed_rules_of_a_container_come_back(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let delete = format!("nft delete table {} svc-agent", Family::now().table());
    for flush in ["nft flush ruleset", "iptables -t nat -F", &delete[..]] {
        // The kernel may refuse: an owned table is its owner's alone.
        cluster.try_shell("c2x", flush);
        wait_until(&format!("back after {flush}"), Duration::from_secs(1), || {
            let resolved = cluster.resolve("c2x", "payment-api");
            if resolved != vip.to_string() {
                return Err(format!("the name is {resolved}"));
            }
            let limit = Duration::from_millis(200);
            let spread = spread(&cluster.namespace("c2x"), SocketAddr::new(vip, 80), 1, limit);
            let spread = spread.map_err(|error| error.to_string())?;
            if spread.failures.is_empty() { Ok(()) } else { Err(format!("{:?}", spread.failures)) }
        });
    }
}
