//! The ways between hosts: blocked, narrow, misled, taken. What is wrong is named, and traffic goes where it can.
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use agent::api::types::Problem;
use agent::bed::{Sandbox, Server};
use tests::cluster::{Cluster, shell_in};
use tests::nic::DamagingNic;
use tests::runner::Scenario;
use tests::wait::wait_until;

/// From a fault, or its end, until every host says so: some 6 s on a quiet machine, 10 s where checksums are damaged.
const SEEN: Duration = Duration::from_secs(30);
/// Until a narrow path's size is found, or found to have grown: some 14 s and 12 s.
const MEASURED: Duration = Duration::from_secs(45);
/// Until what a host's own device lets through is everywhere: 0.5 s and a push.
const FOLLOWED: Duration = Duration::from_secs(3);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p14_a_blocked_port_is_named_and_its_host_gets_no_new_flows once,
        p14_a_port_that_is_blocked_at_the_join_is_named once,
        p14_a_firewall_of_the_host_itself_is_told_from_one_on_the_way once,
        p14_paths_over_ipv6_are_tried_as_well once,
        p14_a_taken_port_and_who_has_it_are_named once,
        p11_networks_follow_what_a_path_carries once,
        p11_networks_follow_the_mtu_of_a_hosts_own_device once,
        p12_checksums_that_the_device_damages_are_computed_here once,
        p16_a_translated_outer_source_is_named once,
    ]
}

/// A client and a replica on the first host, a replica on the second.
fn stage(sandbox: &Sandbox) -> (Cluster, [Server; 2]) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1a c2a");
    let servers = [cluster.server("c1a", 80), cluster.server("c2a", 80)];
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    (cluster, servers)
}

/// A rule for what passes the switch.
fn meddle(cluster: &Cluster, rule: &str) {
    let said = shell_in(
        cluster.bed().switch(),
        &format!(
            "nft add table bridge faults; nft 'add chain bridge faults forward {{ type filter hook forward priority 0; }}'
             nft 'add rule bridge faults forward {rule}'"
        ),
    );
    assert_eq!(said, "", "{rule}");
}

fn let_be(cluster: &Cluster) {
    assert_eq!(shell_in(cluster.bed().switch(), "nft delete table bridge faults"), "");
}

/// Waits until a host says of an object that it fails, in these words.
fn wait_named(cluster: &Cluster, host: &str, object: &str, words: &[&str]) -> Problem {
    wait_until(&format!("{host} names {object}"), SEEN, || {
        let status = cluster.status(host);
        let own = status.hosts.into_iter().filter(|it| it.name == host).flat_map(|it| it.problems);
        let own: Vec<Problem> = own.collect();
        let named =
            own.iter().find(|it| it.object == object && words.iter().all(|word| it.error.contains(word)));
        named.cloned().ok_or_else(|| format!("{own:?}"))
    })
}

/// Who answers of the service, in this many connections of which none fails.
fn answering(cluster: &Cluster, connections: usize) -> usize {
    let spread = cluster.spread("c1x", cluster.vip("h1", "payment-api"), 80, connections);
    assert_eq!(
        spread.answers.values().sum::<u64>(),
        u64::try_from(connections).expect("a number"),
        "{spread:?}"
    );
    spread.answers.len()
}

fn wait_answering(cluster: &Cluster, count: usize) {
    let vip = cluster.vip("h1", "payment-api");
    wait_until(&format!("{count} replicas answer"), SEEN, || {
        let slots = cluster.slots("c1x", vip);
        if slots == count { Ok(()) } else { Err(format!("{slots} slots")) }
    });
    assert_eq!(answering(cluster, 40), count);
}

fn p14_a_blocked_port_is_named_and_its_host_gets_no_new_flows(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox);
    cluster.wait_well(SEEN);
    assert_eq!(answering(&cluster, 40), 2);
    meddle(&cluster, "udp dport 4789 drop");
    for (host, other, address) in [("h1", "h2", "192.168.77.2"), ("h2", "h1", "192.168.77.1")] {
        let words = ["UDP port 4789", address, "no new flows"];
        let problem = wait_named(&cluster, host, &format!("path/{other}"), &words);
        assert!(problem.seconds < 60, "{problem:?}");
    }
    wait_answering(&cluster, 1);
    assert_eq!(cluster.dns("c1x", "tasks.payment-api", "A").data().len(), 1);
    // Its gossip lives, and nobody else's replicas are concerned: each host has its own left.
    cluster.wait_members(2);
    let_be(&cluster);
    cluster.wait_well(SEEN);
    wait_answering(&cluster, 2);
    // One direction alone: each end says what it can know.
    meddle(&cluster, "ip saddr 192.168.77.2 udp dport 4789 drop");
    wait_named(&cluster, "h1", "path/h2", &["nothing arrives from its tunnel", "4789", "from 192.168.77.2"]);
    wait_named(&cluster, "h2", "path/h1", &["does not arrive", "4789 of 192.168.77.1", "arrives here"]);
    wait_answering(&cluster, 1);
    let_be(&cluster);
    cluster.wait_well(SEEN);
    wait_answering(&cluster, 2);
    let metrics = cluster.shell("h1", "busybox wget -qO- http://127.0.0.1:9472/metrics");
    assert!(metrics.contains("svc_agent_paths{state=\"fine\"} 1"), "{metrics}");
    let deaths = metrics.lines().find_map(|line| line.strip_prefix("svc_agent_path_deaths_total "));
    assert!(deaths.is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count >= 2)), "{metrics}");
}

fn p14_a_port_that_is_blocked_at_the_join_is_named(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    meddle(&cluster, "udp dport 4789 drop");
    cluster.add_host(2);
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_ready("h2");
    wait_named(&cluster, "h2", "path/h1", &["4789", "192.168.77.1"]);
    wait_named(&cluster, "h1", "path/h2", &["4789", "192.168.77.2"]);
    let_be(&cluster);
    cluster.wait_well(SEEN);
}

fn p14_a_firewall_of_the_host_itself_is_told_from_one_on_the_way(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox);
    cluster.shell(
        "h1",
        "nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }
              add rule inet filter input udp dport 4789 drop'",
    );
    wait_named(&cluster, "h1", "path/h2", &["are dropped here", "a firewall of this host"]);
    wait_answering(&cluster, 1);
    cluster.shell("h1", "nft delete table inet filter");
    cluster.wait_well(SEEN);
    wait_answering(&cluster, 2);
}

/// The same over an underlay of IPv6.
fn p14_paths_over_ipv6_are_tried_as_well(sandbox: &Sandbox) {
    let cluster = Cluster::over_six(sandbox, 2);
    cluster.wait_well(SEEN);
    meddle(&cluster, "udp dport 4789 drop");
    wait_named(&cluster, "h1", "path/h2", &["4789", "from fd99::2"]);
    let_be(&cluster);
    cluster.wait_well(SEEN);
    meddle(&cluster, "ip6 saddr fd99::1 udp dport 4789 ip6 saddr set fd99::101");
    wait_named(&cluster, "h2", "path/h1", &["come from fd99::101 instead of fd99::1"]);
    let_be(&cluster);
    cluster.wait_well(SEEN);
}

fn p14_a_taken_port_and_who_has_it_are_named(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    let host = cluster.add_host(2);
    let taken = host.run(|| UdpSocket::bind("0.0.0.0:4789")).expect("a namespace").expect("the port");
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_ready("h2");
    let process = format!("process {} (", std::process::id());
    wait_named(&cluster, "h2", "paths", &["UDP port 4789", &process]);
    wait_named(&cluster, "h2", "path/h1", &["no tunnel"]);
    cluster.ok("h1", "network create payment");
    cluster.containers("c2a");
    let attached = cluster.cli("h2", "attach c2a --network payment --netns c2a");
    assert!(attached.exit != 0 && attached.stderr.contains(&process), "{attached:?}");
    drop(taken);
    cluster.wait_well(SEEN);
    // Somebody else's tunnel that takes all networks of the port leaves none to others.
    cluster.add_host(3);
    let foreign = "ip link add foreign type vxlan external dstport 4789 && ip link set foreign up";
    cluster.shell("h3", foreign);
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    wait_named(&cluster, "h3", "paths", &["UDP port 4789", "a tunnel that is not ours"]);
    cluster.shell("h3", "ip link delete foreign");
    cluster.wait_well(SEEN);
    assert_eq!(cluster.cli("h2", "attach c2a --network payment --netns c2a").exit, 0);
}

fn p11_networks_follow_what_a_path_carries(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    for network in ["payment", "other"] {
        cluster.ok("h1", &format!("network create {network} --subnet 10.{}.0.0/16", network.len()));
    }
    cluster.attach("payment", "c1a c2a");
    cluster.attach("other", "c1b c3b");
    // Or packets would pass the switch in larger pieces than on a wire.
    for host in ["h1", "h2", "h3"] {
        cluster.shell(host, "ip link set eth0 gso_max_segs 1");
    }
    let _server = cluster.server("c2a", 80);
    let mtu = |place: &str| mtu_in(&cluster, place);
    let wait_mtu = |places: &[&str], wanted: &str| wait_mtu(&cluster, places, wanted, MEASURED);
    wait_mtu(&["c1a", "c2a", "c1b", "c3b"], "1450");
    cluster.wait_well(SEEN);
    let path = "ip saddr { 192.168.77.1, 192.168.77.2 } ip daddr { 192.168.77.1, 192.168.77.2 }";
    meddle(&cluster, &format!("{path} ip length > 1400 drop"));
    wait_mtu(&["c1a", "c2a"], "1350");
    wait_named(&cluster, "h1", "path/h2", &["1350 bytes"]);
    assert_eq!([mtu("c1b"), mtu("c3b")], ["1450", "1450"], "a network that does not use the path");
    let to = SocketAddr::new(cluster.address_of("c2a"), 80);
    let sent = transfer(&cluster, "c1a", to);
    assert!(sent, "a megabyte passes");
    let_be(&cluster);
    wait_mtu(&["c1a", "c2a"], "1450");
    cluster.wait_well(SEEN);
}

/// It is no narrow path: nothing has to be measured, and nothing is wrong.
fn p11_networks_follow_the_mtu_of_a_hosts_own_device(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    wait_mtu(&cluster, &["c1a", "c2a"], "1450", FOLLOWED);
    for (underlay, inner) in [(1_400, "1350"), (1_500, "1450")] {
        cluster.shell("h1", &format!("ip link set eth0 mtu {underlay}"));
        wait_mtu(&cluster, &["c1a", "c2a"], inner, FOLLOWED);
        cluster.attach("payment", &format!("c2n{underlay}"));
        wait_mtu(&cluster, &[&format!("c2n{underlay}")], inner, FOLLOWED);
        cluster.wait_well(SEEN);
    }
}

fn mtu_in(cluster: &Cluster, place: &str) -> String {
    let link = cluster.shell(place, "ip -o link show eth0");
    link.split(" mtu ").nth(1).and_then(|it| it.split(' ').next()).unwrap_or_default().to_owned()
}

fn wait_mtu(cluster: &Cluster, places: &[&str], wanted: &str, limit: Duration) {
    for place in places {
        wait_until(&format!("the MTU in {place}"), limit, || {
            let now = mtu_in(cluster, place);
            if now == wanted { Ok(()) } else { Err(now) }
        });
    }
}

/// Sends a megabyte to a server that echoes, and has all of it back.
fn transfer(cluster: &Cluster, from: &str, to: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = agent::bed::connect(&cluster.namespace(from), to, SEEN) else { return false };
    stream.set_read_timeout(Some(SEEN)).expect("a time-out");
    let greeting = stream.read(&mut [0; 64]).expect("the greeting");
    assert!(greeting > 0);
    let mut writer = stream.try_clone().expect("a stream");
    const BYTES: usize = 1 << 20;
    let thread = std::thread::spawn(move || writer.write_all(&vec![7; BYTES]).is_ok());
    let mut left = BYTES;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(length) => left -= length.min(left),
        }
    }
    thread.join().unwrap_or(false)
}

fn p12_checksums_that_the_device_damages_are_computed_here(sandbox: &Sandbox) {
    let (mut cluster, _servers) = stage(sandbox);
    cluster.wait_well(SEEN);
    let nic = DamagingNic::insert(&cluster, "h1");
    wait_named(&cluster, "h1", "offload", &["arrive damaged (at h2)"]);
    let to = cluster.address_of("c2a");
    let passes = |cluster: &Cluster| {
        assert!(cluster.tcp("c1x", to, 80).is_ok() && cluster.udp("c1x", to, 80).is_ok());
        assert!(transfer(cluster, "c1x", SocketAddr::new(to, 80)), "a megabyte passes");
    };
    wait_until("nothing is damaged any more", SEEN, || {
        let before = nic.damaged();
        let answered = cluster.udp("c1x", to, 80);
        if answered.is_ok() && nic.damaged() == before {
            Ok(())
        } else {
            Err(format!("{answered:?}, {before}"))
        }
    });
    let damaged = nic.damaged();
    assert!(damaged > 0, "or there was no harm");
    passes(&cluster);
    assert_eq!(cluster.status("h2").hosts.iter().filter(|it| !it.problems.is_empty()).count(), 1, "h1 alone");
    let metrics = cluster.shell("h1", "busybox wget -qO- http://127.0.0.1:9472/metrics");
    assert!(metrics.contains("svc_agent_checksum_offload 0"), "{metrics}");
    // A device that is made anew does as the others do.
    for namespace in cluster.network_namespaces() {
        shell_in(&namespace, "ip link delete vxlan");
    }
    wait_until("the tunnels are back", SEEN, || cluster.tcp("c1x", to, 80).map(drop));
    passes(&cluster);
    // So does an agent that starts again, once it is known to help.
    wait_named(&cluster, "h1", "offload", &["this host computes them itself, which is slower"]);
    cluster.kill_agent("h1");
    cluster.restart_agent("h1");
    wait_named(&cluster, "h1", "offload", &["arrive damaged (at h2)", "after the next boot"]);
    passes(&cluster);
    assert_eq!(nic.damaged(), damaged, "nothing more was damaged");
}

fn p16_a_translated_outer_source_is_named(sandbox: &Sandbox) {
    let (cluster, _servers) = stage(sandbox);
    cluster.wait_well(SEEN);
    meddle(&cluster, "ip saddr 192.168.77.1 udp dport 4789 ip saddr set 192.168.77.101");
    wait_named(&cluster, "h2", "path/h1", &["come from 192.168.77.101 instead of 192.168.77.1", "dropped"]);
    wait_named(&cluster, "h1", "path/h2", &["not from 192.168.77.1"]);
    wait_answering(&cluster, 1);
    let_be(&cluster);
    cluster.wait_well(SEEN);
    wait_answering(&cluster, 2);
}
