//! Hosts whose tunnels get another port or address while containers talk, and hosts with more than one way out.
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use agent::api::{routes, types};
use agent::bed::{Sandbox, ask_udp, connect};
use rustix::process::Signal;
use tests::cluster::{Cluster, shell_in};
use tests::load::Load;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

/// Of a stream and of datagrams, while a port is changed.
const GAP: Duration = Duration::from_secs(1);
/// From another address of a host until all is right again everywhere.
const MOVED: Duration = Duration::from_secs(5);
/// For what has no bound of its own.
const SEEN: Duration = Duration::from_secs(30);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p14_the_tunnels_port_is_changed_host_by_host_under_traffic,
        p14_a_change_to_a_taken_port_is_refused once,
        p16_two_uplinks_and_an_address_on_loopback once,
        p16_an_address_that_changes_is_followed once,
        p16_an_address_that_is_gone_is_named once,
    ]
}

/// A byte there and back, every 5 ms, over one connection.
fn stream(cluster: &Cluster, from: &str, to: IpAddr, limit: Duration) -> Load {
    let mut stream = connect(&cluster.namespace(from), SocketAddr::new(to, 80), limit).expect("a connection");
    let _greeting = stream.read(&mut [0; 64]).expect("the greeting");
    Load::start(Duration::from_millis(5), move || {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    })
}

/// Datagrams, 100 a second, each of which is to be answered.
fn datagrams(cluster: &Cluster, from: &str, to: IpAddr) -> Load {
    let namespace = cluster.namespace(from);
    let ask = move || ask_udp(&namespace, SocketAddr::new(to, 80), Duration::from_millis(100)).map(drop);
    Load::start(Duration::from_millis(10), ask)
}

/// UDP ports of the tunnels on a host: sockets of the kernel.
fn tunnel_ports(cluster: &Cluster, host: &str) -> Vec<u16> {
    let listed = cluster.shell(host, "ss -Hlun");
    let ports =
        listed.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok());
    let mut ports: Vec<u16> = ports.filter(|port| (4_789..4_800).contains(port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn wait_ports(cluster: &Cluster, host: &str, wanted: u16) {
    wait_until(&format!("{host}'s tunnels are at {wanted}"), SEEN, || {
        let now = tunnel_ports(cluster, host);
        if now == [wanted] { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

fn no_path_died(cluster: &Cluster, host: &str) {
    let metrics = cluster.shell(host, "busybox wget -qO- http://127.0.0.1:9472/metrics");
    assert!(metrics.contains("\nsvc_agent_path_deaths_total 0\n"), "{host}: {metrics}");
}

fn p14_the_tunnels_port_is_changed_host_by_host_under_traffic(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    for network in ["payment", "other"] {
        cluster.ok("h1", &format!("network create {network}"));
    }
    cluster.attach("payment", "c1a c2a c3a");
    cluster.attach("other", "c1b c2b c3b");
    let pairs =
        [("c1a", "c2a"), ("c2a", "c3a"), ("c3a", "c1a"), ("c2a", "c1a"), ("c2b", "c1b"), ("c1b", "c3b")];
    let _servers = ["c1a", "c2a", "c3a", "c1b", "c3b"].map(|name| cluster.server(name, 80));
    cluster.wait_well(SEEN);
    let loads: Vec<_> = pairs
        .iter()
        .flat_map(|(from, to)| {
            let to_address = cluster.address_of(to);
            let what = |kind: &str| format!("{kind} from {from} to {to}");
            [
                (what("the stream"), stream(&cluster, from, to_address, SEEN)),
                (what("datagrams"), datagrams(&cluster, from, to_address)),
            ]
        })
        .collect();
    for host in ["h1", "h2", "h3"] {
        // Of this one the next host knows nothing for a while.
        let stopped = if host == "h1" { "h2" } else { "h1" };
        cluster.signal_agent(stopped, Signal::STOP);
        cluster.stop_agent(host);
        cluster.set_flags(host, &["--vxlan-port", "4790"]);
        cluster.restart_agent(host);
        wait_ports(&cluster, host, 4790);
        let rules = cluster.shell(host, "nft list table inet svc-agent-net");
        assert!(rules.contains("udp dport set 4790"), "{rules}");
        pause(GAP);
        cluster.signal_agent(stopped, Signal::CONT);
        cluster.wait_members(3);
        wait_until(&format!("{host} takes nothing at 4789 any more"), SEEN, || {
            let rules = cluster.shell(host, "nft list table inet svc-agent-net");
            if rules.contains("udp dport set") { Err(rules) } else { Ok(()) }
        });
        let events = cluster.ok(host, "events");
        assert!(events.contains("all hosts send to UDP port 4790; 4789 is needed no more"), "{events}");
        cluster.wait_well(SEEN);
    }
    for (what, load) in loads {
        let tally = load.stop();
        println!("  {what}: {} worked, longest gap {:?}", tally.good, tally.longest_gap);
        assert!(tally.good > 0 && tally.longest_gap < GAP, "{what}: {tally:?}");
    }
    for host in ["h1", "h2", "h3"] {
        no_path_died(&cluster, host);
        let rules = cluster.shell(host, "nft list table inet svc-agent-net");
        assert!(!rules.contains("4789"), "{host}: {rules}");
    }
}

/// What has the port is named, and until it is gone nothing changes.
fn p14_a_change_to_a_taken_port_is_refused(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    let _server = cluster.server("c1a", 80);
    let to = cluster.address_of("c1a");
    let taken = cluster.namespace("h1").run(|| UdpSocket::bind("0.0.0.0:4790"));
    let taken = taken.expect("a namespace").expect("the port");
    cluster.stop_agent("h1");
    cluster.start_agent("h1", "--vxlan-port 4790");
    cluster.wait_agent_end("h1");
    let said = format!("cannot change from UDP port 4789 to 4790: process {} (", std::process::id());
    assert!(cluster.log("h1").contains(&said), "{}", cluster.log("h1"));
    cluster.udp("c2a", to, 80).expect("an answer while no agent runs");
    drop(taken);
    cluster.set_flags("h1", &["--vxlan-port", "4790"]);
    cluster.restart_agent("h1");
    wait_ports(&cluster, "h1", 4790);
    cluster.wait_well(SEEN);
    cluster.udp("c2a", to, 80).expect("an answer at the other port");
}

/// Out by one uplink, in by the other; the tunnels' address is on neither. One uplink is narrower.
fn p16_two_uplinks_and_an_address_on_loopback(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    for number in 1..=2 {
        cluster.add_host(number);
    }
    let said = shell_in(
        cluster.bed().switch(),
        "set -e; ip link add br-v mtu 1400 type bridge mcast_snooping 0; ip link set br-v up
         for n in 1 2; do
             ip link add v-h$n mtu 1400 type veth peer name eth1 mtu 1400 netns h$n
             ip link set v-h$n master br-v up
         done",
    );
    assert_eq!(said, "");
    for (number, other, over) in [(1, 2, "192.168.78.2"), (2, 1, "192.168.77.1")] {
        cluster.shell(
            &format!("h{number}"),
            &format!(
                "set -e; ip addr add 192.168.78.{number}/24 dev eth1; ip link set eth1 up
                 ip addr add 10.255.0.{number}/32 dev lo
                 for link in all eth0 eth1; do echo 2 > /proc/sys/net/ipv4/conf/$link/rp_filter; done
                 ip route add 10.255.0.{other} via {over} src 10.255.0.{number}"
            ),
        );
    }
    cluster.start_agent("h1", "--init --advertise lo");
    cluster.wait_ready("h1");
    cluster.start_agent("h2", "--join 10.255.0.1 --advertise 10.255.0.2");
    cluster.wait_ready("h2");
    cluster.wait_members(2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let vip = cluster.vip("h1", "payment-api");
    for (client, link) in [("c1a", "h1"), ("c2a", "h2")] {
        let answers = cluster.spread(client, vip, 80, 40);
        assert!(answers.failures.is_empty() && answers.answers.len() == 2, "{link}: {answers:?}");
        let shown = cluster.shell(client, "ip -o link show eth0");
        assert!(shown.contains(" mtu 1350 "), "what h1 sends by: {shown}");
    }
    // Longer than a path takes to be found dead.
    wait_until("paths are known", SEEN, || {
        let metrics = cluster.shell("h1", "busybox wget -qO- http://127.0.0.1:9472/metrics");
        if metrics.contains("svc_agent_paths{state=\"fine\"} 1") { Ok(()) } else { Err(metrics) }
    });
    pause(Duration::from_secs(8));
    for host in ["h1", "h2"] {
        no_path_died(&cluster, host);
    }
    cluster.wait_well(SEEN);
    // Received and sent.
    let counted = cluster.shell("h1", "awk '$1 == \"eth1:\" {print $2, $10}' /proc/net/dev");
    let bytes: Vec<u64> = counted.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(bytes[1] > 10 * bytes[0], "out by the second uplink alone: {bytes:?}");
}

/// Three hosts at the address of their first interface; a client and a replica on the first two.
fn at_interfaces(sandbox: &Sandbox) -> Cluster {
    let mut cluster = Cluster::empty(sandbox);
    for (number, how) in [(1, "--init"), (2, "--join 192.168.77.1"), (3, "--join 192.168.77.1")] {
        cluster.add_host(number);
        let host = format!("h{number}");
        cluster.start_agent(&host, &format!("{how} --advertise eth0"));
        cluster.wait_ready(&host);
    }
    cluster.wait_members(3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1a c2x c2a");
    cluster
}

fn address_seen(cluster: &Cluster, host: &str, of: &str) -> String {
    let nodes: Vec<types::NodeInfo> = cluster.get(host, routes::NODES, &[]);
    let node = nodes.into_iter().find(|node| node.name == of);
    node.map(|node| format!("{} {}", node.address, node.state)).unwrap_or_default()
}

fn p16_an_address_that_changes_is_followed(sandbox: &Sandbox) {
    let cluster = at_interfaces(sandbox);
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    cluster.wait_well(SEEN);
    let (first, second) = (cluster.address_of("c1a"), cluster.address_of("c2a"));
    let vip = cluster.vip("h1", "payment-api");
    let streams = [stream(&cluster, "c2x", first, SEEN), stream(&cluster, "c1x", second, SEEN)];
    let pid = cluster.agent_pid("h1");
    for (before, now) in [("192.168.77.1", "192.168.77.101"), ("192.168.77.101", "192.168.77.1")] {
        cluster.shell("h1", &format!("ip addr del {before}/24 dev eth0 && ip addr add {now}/24 dev eth0"));
        let began = Instant::now();
        let left = || MOVED.saturating_sub(began.elapsed());
        for host in ["h2", "h3"] {
            wait_until(&format!("{host} has h1 at {now}"), left(), || {
                let seen = address_seen(&cluster, host, "h1");
                if seen == format!("{now} live") { Ok(()) } else { Err(seen) }
            });
        }
        println!("  known after {:?}", began.elapsed());
        for (client, to) in [("c2x", first), ("c1x", second)] {
            wait_until(&format!("{client} reaches {to}"), left(), || {
                let to = SocketAddr::new(to, 80);
                ask_udp(&cluster.namespace(client), to, Duration::from_millis(100)).map(drop)
            });
        }
        println!("  reached after {:?}", began.elapsed());
        for client in ["c1x", "c2x"] {
            wait_until(&format!("{client} has both replicas"), left(), || {
                let slots = cluster.slots(client, vip);
                let named = cluster.dns(client, "tasks.payment-api", "A").data().len();
                if (slots, named) == (2, 2) { Ok(()) } else { Err(format!("{slots} slots, {named} named")) }
            });
        }
        println!("  balanced after {:?}", began.elapsed());
        cluster.wait_well(left());
        println!("  from {before} to {now}: all is right after {:?}", began.elapsed());
        let spread = cluster.spread("c2x", vip, 80, 40);
        assert!(spread.failures.is_empty() && spread.answers.len() == 2, "{spread:?}");
        let told = format!("its address was {before} and is {now} now");
        assert!(cluster.ok("h1", "events").contains(&told), "{told}");
        let told = format!("h1 is at {now} now, it was at {before}");
        wait_until(&told, SEEN, || {
            let events = cluster.ok("h2", "events");
            if events.contains(&told) { Ok(()) } else { Err(events) }
        });
    }
    assert_eq!(cluster.agent_pid("h1"), pid, "it starts anew in its process");
    for stream in streams {
        let tally = stream.stop();
        println!("  the stream: {} worked, longest gap {:?}", tally.good, tally.longest_gap);
        assert!(tally.failures.is_empty() && tally.good > 0, "{tally:?}");
    }
}

/// Nothing in its place: this host's problem, with what to do; once the address is back, all is well.
fn p16_an_address_that_is_gone_is_named(sandbox: &Sandbox) {
    let cluster = at_interfaces(sandbox);
    let _server = cluster.server("c1a", 80);
    cluster.wait_well(SEEN);
    cluster.shell("h1", "ip addr del 192.168.77.1/24 dev eth0");
    let problem = wait_until("h1 names it", MOVED, || {
        let status = cluster.status("h1");
        let own = status.hosts.into_iter().filter(|it| it.name == "h1").flat_map(|it| it.problems);
        let own: Vec<types::Problem> = own.collect();
        own.iter().find(|it| it.object == "host/address").cloned().ok_or_else(|| format!("{own:?}"))
    });
    for word in ["192.168.77.1", "is gone", "give eth0 one"] {
        assert!(problem.error.contains(word), "{word}: {problem:?}");
    }
    cluster.shell("h1", "ip addr add 192.168.77.1/24 dev eth0");
    cluster.wait_members(3);
    cluster.wait_well(SEEN);
    let to = cluster.address_of("c1a");
    wait_until("traffic goes on", SEEN, || cluster.udp("c2x", to, 80).map(drop));
}
