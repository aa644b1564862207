//! Which flows of a container the kernel tracks.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use agent::bed::{Sandbox, Server, connect};
use tests::cluster::Cluster;
use tests::family::Family;
use tests::runner::Scenario;
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(3);
/// What is told of by the kernel is answered in a fraction of it, what has to be looked for twice a second.
const NOTICED: Duration = Duration::from_secs(3);
const OTHERS: &str = "table ip filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        tcp dport 80 ct state new accept
    }
}";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        only_balanced_flows_are_tracked,
        a_firewall_in_a_container_sees_every_flow,
        a_flow_goes_on_when_its_other_end_becomes_a_replica,
        everything_is_tracked_if_so_set,
    ]
}

/// A client on one host; a replica and a container that serves by itself on the other.
fn stage(sandbox: &Sandbox, flags: &[&str]) -> (Cluster, [Server; 2]) {
    let mut cluster = Cluster::with_flags(sandbox, 2, flags);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c2a c2b");
    let servers = [cluster.server("c2a", 80), cluster.server("c2b", 80)];
    cluster.ok("h2", "register payment-api --on c2a");
    (cluster, servers)
}

fn only_balanced_flows_are_tracked(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox, &[]);
    wait_untracked(&cluster, &["c1x", "c2a", "c2b"], true);
    let direct = open(&cluster, cluster.address_of("c2b"));
    assert_eq!([tracked(&cluster, "c1x"), tracked(&cluster, "c2b")], [0, 0], "{direct:?}");
    let balanced = open(&cluster, cluster.vip("h1", "payment-api"));
    assert_eq!([tracked(&cluster, "c1x"), tracked(&cluster, "c2a")], [1, 0], "{balanced:?}");
    // Past its VIP a replica's flow could take the ports of a balanced one.
    let past = open(&cluster, cluster.address_of("c2a"));
    assert_eq!([tracked(&cluster, "c1x"), tracked(&cluster, "c2a")], [2, 0], "{past:?}");
    // A container that serves and is a client of others has its clients tracked only if they serve it.
    cluster.ok("h1", "register front --on c1x");
    let more = open(&cluster, cluster.vip("h1", "payment-api"));
    assert_eq!(tracked(&cluster, "c2a"), 1, "{more:?}");
    for stream in [direct, balanced, past, more] {
        echo(&stream);
    }
}

/// Established flows and new ones pass a firewall that comes and goes, of either kind, and drops what it has not tracked.
fn a_firewall_in_a_container_sees_every_flow(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox, &[]);
    let legacy = "-P INPUT DROP
        -A INPUT -i lo -j ACCEPT
        -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        -A INPUT -p tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT";
    let legacy: Vec<String> = legacy.lines().map(|line| format!("iptables-legacy {}", line.trim())).collect();
    let legacy_gone = "iptables-legacy -P INPUT ACCEPT; iptables-legacy -F";
    for (come, go) in [
        (format!("nft -f - <<'END'\n{OTHERS}\nEND"), "nft delete table ip filter".to_owned()),
        (legacy.join("\n"), legacy_gone.to_owned()),
    ] {
        wait_untracked(&cluster, &["c1x", "c2b"], true);
        let before = open(&cluster, cluster.address_of("c2b"));
        for place in ["c2b", "c1x"] {
            cluster.shell(place, &come);
        }
        // What was sent before it was noticed is sent again by TCP.
        echo(&before);
        wait_untracked(&cluster, &["c1x", "c2b"], false);
        let meanwhile = open(&cluster, cluster.address_of("c2b"));
        assert!(tracked(&cluster, "c2b") >= 2, "both flows are tracked");
        for place in ["c2b", "c1x"] {
            cluster.shell(place, &go);
        }
        // The older iptables keeps its table, empty, for as long as the namespace lives.
        if !come.contains("legacy") {
            wait_untracked(&cluster, &["c1x", "c2b"], true);
        }
        echo(&before);
        echo(&meanwhile);
    }
}

fn a_flow_goes_on_when_its_other_end_becomes_a_replica(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox, &[]);
    wait_untracked(&cluster, &["c1x", "c2b"], true);
    let direct = open(&cluster, cluster.address_of("c2b"));
    echo(&direct);
    cluster.ok("h2", "register backend --on c2b");
    echo(&direct);
    assert_eq!(tracked(&cluster, "c1x"), 1, "it is tracked from its next packet on");
    let balanced = open(&cluster, cluster.vip("h1", "backend"));
    cluster.ok("h2", "deregister backend --on c2b");
    // The balanced flow is deleted with its replica, and only then its address may go untracked.
    wait_until("the replica is forgotten", NOTICED, || {
        let tracked = cluster
            .shell("c1x", &format!("nft list set {} svc-agent-untracked tracked", Family::now().table()));
        let replica = cluster.address_of("c2b").to_string();
        if tracked.contains(&replica) { Err(tracked) } else { Ok(()) }
    });
    assert_eq!(tracked(&cluster, "c1x"), 1, "{balanced:?}");
    let again = open(&cluster, cluster.address_of("c2b"));
    assert_eq!(tracked(&cluster, "c1x"), 1, "what the direct flow left behind; {again:?}");
    echo(&direct);
    echo(&again);
}

fn everything_is_tracked_if_so_set(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox, &["--track", "all"]);
    let direct = open(&cluster, cluster.address_of("c2b"));
    assert_eq!([tracked(&cluster, "c1x"), tracked(&cluster, "c2b")], [1, 1], "{direct:?}");
    wait_untracked(&cluster, &["c1x", "c2a", "c2b"], false);
}

/// A connection of the client's to port 80 that was greeted.
fn open(cluster: &Cluster, to: std::net::IpAddr) -> TcpStream {
    let mut stream =
        connect(&cluster.namespace("c1x"), SocketAddr::new(to, 80), LIMIT).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a time-out");
    let length = stream.read(&mut [0; 64]).expect("the greeting");
    assert!(length > 0, "no greeting");
    stream
}

fn echo(mut stream: &TcpStream) {
    stream.write_all(b"x").expect("sent");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an answer");
    assert_eq!(byte, *b"x");
}

/// TCP flows to or from port 80 that the container's namespace tracks.
fn tracked(cluster: &Cluster, place: &str) -> usize {
    cluster
        .shell(place, "conntrack -L -p tcp --state ESTABLISHED 2>/dev/null | grep -c 'dport=80 ' || true")
        .trim()
        .parse()
        .expect("a number")
}

/// Whether flows go untracked in these containers, in the end.
fn wait_untracked(cluster: &Cluster, places: &[&str], wanted: bool) {
    for place in places {
        wait_until(&format!("flows in {place} untracked: {wanted}"), NOTICED, || {
            let tables = cluster.shell(place, "nft list tables");
            if tables.contains("svc-agent-untracked") == wanted { Ok(()) } else { Err(tables) }
        });
    }
}
