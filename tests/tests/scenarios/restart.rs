//! Agents that are killed and started again.
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use agent::bed::{Sandbox, connect};
use tests::cluster::Cluster;
use tests::load::Load;
use tests::names::{Etc, Manner, RESOLVER, Upstream, Way, ask};
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(5);
/// So that one is under way at nearly any time.
const UPSTREAM_DELAY: Duration = Duration::from_millis(60);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        a_restart_fails_no_flow_and_no_lookup,
        a_holder_that_ends_is_replaced_and_the_agent_may_follow,
        leave_removes_everything,
    ]
}

fn a_restart_fails_no_flow_and_no_lookup(sandbox: &Sandbox) {
    let _etc = Etc::cover("nameserver 192.168.77.251\n");
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.switch_address("192.168.77.251/24");
    let manner = Manner::Slowly([192, 0, 2, 51].into(), UPSTREAM_DELAY);
    let at = "192.168.77.251:53".parse().expect("an address");
    let _upstream = Upstream::start(cluster.bed().switch(), at, manner);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c2x");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let client = cluster.namespace("c2x");
    let mut stream = connect(&client, vip, LIMIT).expect("a connection");
    let mut bytes = [0; 64];
    let _greeting = stream.read(&mut bytes).expect("the greeting");
    let one_stream = Load::start(Duration::from_millis(5), move || {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    });
    let connections = Load::connections(client.clone(), vip, Duration::from_millis(2));
    let expected = vip.ip().to_string();
    let number = if vip.is_ipv4() { 1 } else { 28 };
    // Each asked once: what an agent is killed over, or has asked an upstream for, the next one answers.
    let once = move |name: &str, number: u16, expected: &str| {
        let answer = ask(&client, RESOLVER, name, number, Way::Udp, LIMIT)?;
        if answer.summary() == expected { Ok(()) } else { Err(io::Error::other(answer.summary())) }
    };
    let ask_once = once.clone();
    let lookups = Load::start(Duration::from_millis(10), move || ask_once("payment-api", number, &expected));
    let mut count = 0;
    let forwarded = Load::start(Duration::ZERO, move || {
        count += 1;
        once(&format!("host-{count}.example.com"), 1, "192.0.2.51")
    });
    for round in 0..if is_nightly() { 25 } else { 8 } {
        // The host of the client, then that of a replica; killed, then stopped.
        for host in ["h2", "h1"] {
            if round % 2 == 0 {
                cluster.kill_agent(host)
            } else {
                cluster.stop_agent(host)
            }
            cluster.restart_agent(host);
            cluster.wait_members(2);
        }
    }
    let loads = [
        ("the stream", one_stream),
        ("new connections", connections),
        ("look-ups", lookups),
        ("look-ups of others' names", forwarded),
    ];
    for (what, load) in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty() && tally.good > 0, "{what}: {tally:?}");
        println!("  {what}: {} worked, longest gap {:?}", tally.good, tally.longest_gap);
    }
}

/// Row P61: first the holder is killed, then the agent, under new connections from and to that host.
fn a_holder_that_ends_is_replaced_and_the_agent_may_follow(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let interval = Duration::from_millis(5);
    let loads = ["c1x", "c2x"].map(|name| Load::connections(cluster.namespace(name), vip, interval));
    for _ in 0..if is_nightly() { 20 } else { 3 } {
        let before = holder_of(&cluster, "h1");
        cluster.shell("h1", &format!("kill -9 {before}"));
        wait_until("another holder", LIMIT, || {
            let now = holder_of(&cluster, "h1");
            if now.is_empty() || now == before { Err(now) } else { Ok(()) }
        });
        // Two namespaces' resolvers of two sockets each, and the network's namespace.
        let held = format!("ls /proc/{}/fd -l | grep -cE 'socket:|net:'", holder_of(&cluster, "h1"));
        wait_until("it holds what that one held", LIMIT, || {
            let count: usize = cluster.shell("h1", &held).trim().parse().unwrap_or(0);
            if count >= 5 { Ok(()) } else { Err(format!("{count} descriptors")) }
        });
        cluster.kill_agent("h1");
        cluster.restart_agent("h1");
        cluster.wait_members(2);
        let answer = cluster.shell("c1x", "getent hosts payment-api");
        assert!(answer.contains(&vip.ip().to_string()), "{answer}");
    }
    for load in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty() && tally.good > 50, "{tally:?}");
    }
    assert!(cluster.ok("h1", "network ls").contains("payment"));
}

/// The holder's process on a host; empty while there is none.
fn holder_of(cluster: &Cluster, host: &str) -> String {
    let mine = "for pid in $(ip netns pids HOST); do tr '\\0' ' ' </proc/$pid/cmdline | grep -q '^[^ ]*svc-agent[^ ]* hold ' && echo $pid; done; true";
    cluster.shell("h1", &mine.replace("HOST", host)).trim().to_owned()
}

/// The one thing that an agent does and leaves so: processes may have come to use it.
fn loopback_up(cluster: &Cluster, places: &[&str]) {
    for place in places {
        cluster.shell(place, "ip link set lo up");
    }
}

fn leave_removes_everything(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let namespace = cluster.add_host(3);
    cluster.containers("c3a c3b");
    // conntrack's and the bridge's settings appear with their first use, whoever uses them.
    namespace.run(|| ()).expect("a namespace");
    let places = ["h3", "c3a", "c3b"];
    loopback_up(&cluster, &places);
    let before = places.map(|place| cluster.kernel_state(place));
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    cluster.ok("h3", "network create second --internal");
    cluster.attach_again("payment", "c3a");
    cluster.attach_again("payment", "c3b");
    cluster.ok("h3", "attach c3b --network second --netns c3b");
    cluster.ok("h3", "attach the-host --network payment --netns host");
    cluster.ok("h3", "register payment-api --on c3a");
    let during = places.map(|place| cluster.kernel_state(place));
    for (during, before) in during.iter().zip(&before) {
        assert_ne!(during, before);
    }
    let left = cluster.ok("h3", "leave");
    for removed in ["payment", "c3a", "c3b"] {
        assert!(left.contains(removed), "leave does not name {removed}:\n{left}");
    }
    cluster.wait_agent_end("h3");
    wait_until("everything is gone", LIMIT, || {
        let now = places.map(|place| cluster.kernel_state(place));
        if now == before { Ok(()) } else { Err(format!("{before:#?}\nis now\n{now:#?}")) }
    });
    assert!(!std::path::Path::new("/etc/netns/c3a/resolv.conf").exists());
    let processes = cluster
        .shell("h3", r"cat /proc/[0-9]*/cmdline | tr '\0' ' ' | grep -oE 'svc-agent[^ /]* hold ' | wc -l");
    assert_eq!(processes.trim(), "2", "the holders of the other two");
    wait_until("the others have forgotten it", LIMIT, || {
        let said = cluster.ok("h1", "node ls");
        if said.contains("h3")
            || cluster.service("h1", "payment-api").is_some_and(|it| !it.replicas.is_empty())
        {
            Err(said)
        } else {
            Ok(())
        }
    });
    // Row P64: again and again.
    let _server = cluster.server("c3a", 80);
    for round in 1..=if is_nightly() { 100 } else { 3 } {
        cluster.start_agent("h3", "--join 192.168.77.1");
        cluster.wait_ready("h3");
        cluster.attach_again("payment", "c3a");
        cluster.ok("h3", "register payment-api --on c3a");
        let vip = cluster.vip("h1", "payment-api");
        assert_eq!(cluster.tcp("c1a", vip, 80).expect("an answer").name, "c3a", "round {round}");
        cluster.ok("h3", "leave");
        cluster.wait_agent_end("h3");
        wait_until("everything is gone again", LIMIT, || {
            let now = places.map(|place| cluster.kernel_state(place));
            if now == before { Ok(()) } else { Err(format!("round {round}: {before:#?}\nis now\n{now:#?}")) }
        });
    }
}
