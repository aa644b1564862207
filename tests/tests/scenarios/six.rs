//! What is IPv6's own: egress, router advertisements, links that were told to have none of it, its smallest MTU.
use std::net::SocketAddr;
use std::time::Duration;

use agent::bed::{Sandbox, ask_tcp};
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(2);
const BOTH: &str = "--subnet 10.60.0.0/16 --subnet fd60::/64";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        what_leaves_over_ipv6_has_the_hosts_address once,
        p32_a_container_without_ipv6_gets_it_on_our_link_alone once,
        p11_the_largest_packet_passes_and_a_larger_one_fails_at_once,
        ipv6_is_refused_where_there_is_no_room_for_it once,
        a_cluster_over_ipv6_does_what_one_over_ipv4_does,
        a_host_of_the_other_family_is_refused once,
    ]
}

/// Also: a host that takes router advertisements goes on taking them, and `leave` puts back what was changed.
fn what_leaves_over_ipv6_has_the_hosts_address(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    for number in [1, 9] {
        cluster.add_host(number);
        let uplink = "$(ip -o -4 addr | awk '/192.168.77/ {print $2}')";
        cluster.shell(&format!("h{number}"), &format!("ip -6 addr add fd99::{number}/64 dev {uplink} nodad"));
    }
    let settings = "cd /proc/sys/net/ipv6/conf; grep -H . all/forwarding default/accept_ra $(ls -d */ | \
                    grep -v 'all/\\|lo/\\|default/\\|svc' | sed 's|$|accept_ra|')";
    let before = cluster.shell("h1", settings);
    assert!(before.contains("accept_ra:1") && before.contains("forwarding:0"), "{before}");
    // Hardened: new links have no IPv6 until they are told to.
    cluster.shell("h1", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.ok("h1", &format!("network create payment {BOTH}"));
    cluster.ok("h1", "network create secret --internal --subnet fd61::/64");
    cluster.attach("payment", "c1a");
    cluster.attach("secret", "c1b");
    let with_us = cluster.shell("h1", settings);
    assert!(!with_us.contains("accept_ra:1") && with_us.contains("forwarding:1"), "{with_us}");
    let _outside = cluster.server("h9", 80);
    let outside: SocketAddr = "[fd99::9]:80".parse().expect("an address");
    let answer = wait_until("egress", LIMIT, || {
        ask_tcp(&cluster.namespace("c1a"), outside, Duration::from_millis(500))
    });
    assert_eq!(answer.seen_as.ip().to_string(), "fd99::1", "the host's address is the source");
    assert!(
        ask_tcp(&cluster.namespace("c1b"), outside, LIMIT).is_err(),
        "an internal network has no way out"
    );
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
    assert_eq!(cluster.shell("h1", settings), before);
}

/// As engines start containers that are on no IPv6 network.
fn p32_a_container_without_ipv6_gets_it_on_our_link_alone(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", &format!("network create payment {BOTH}"));
    cluster.containers("c1a c2x");
    for place in ["c1a", "c2x"] {
        cluster.shell(
            place,
            "cd /proc/sys/net/ipv6/conf; echo 1 > all/disable_ipv6; echo 1 > default/disable_ipv6",
        );
        cluster.shell(place, "ip link add foreign type veth peer name other; ip link set foreign up");
        cluster.attach_again("payment", place);
        let set = |link: &str, key: &str| {
            cluster.shell(place, &format!("cat /proc/sys/net/ipv6/conf/{link}/{key}")).trim().to_owned()
        };
        assert_eq!([set("eth0", "disable_ipv6"), set("foreign", "disable_ipv6")], ["0", "1"]);
        assert_eq!(set("eth0", "accept_ra"), "0", "nobody on the network says where the ways lead");
        let addresses = cluster.shell(place, "ip -6 -o addr show dev eth0");
        assert!(!addresses.contains("tentative"), "no detection of duplicates is waited for: {addresses}");
    }
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let service = cluster.service("h2", "payment-api").expect("the service");
    assert_eq!(service.vips.len(), 2, "one of each family: {service:?}");
    for vip in service.vips {
        assert_eq!(cluster.tcp("c2x", vip, 80).expect("an answer").name, "c1a", "by {vip}");
    }
    // Refusals and what a replica sends to itself pass `lo`, which had none either.
    cluster.ok("h1", "register empty --on c1a");
    cluster.ok("h1", "drain empty --on c1a");
    for vip in cluster.service("h2", "empty").expect("the service").vips {
        let (kind, took) = cluster.refusal("c2x", vip, 80, false);
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "by {vip} after {took:?}");
    }
    for vip in cluster.service("h1", "payment-api").expect("the service").vips {
        assert_eq!(cluster.tcp("c1a", vip, 80).expect("an answer").name, "c1a", "its own, by {vip}");
    }
    // Somebody sets it back: that is found, too, though no event tells of it.
    cluster.shell("c2x", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
    wait_until("IPv6 is back", Duration::from_secs(15), || {
        let addresses = cluster.shell("c2x", "ip -6 -o addr show dev eth0 scope global");
        if addresses.contains("fd60:") { Ok(()) } else { Err(addresses) }
    });
}

/// Row P11, for an underlay of IPv4 with an MTU of 1500: a packet inside may have 1450 bytes.
fn p11_the_largest_packet_passes_and_a_larger_one_fails_at_once(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let to = cluster.address_of("c1a");
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let ping =
        |bytes: usize| cluster.try_shell("c2x", &format!("ping -M do -c 1 -W 2 -s {} {to}", bytes - headers));
    let whole = ping(1450);
    assert_eq!(whole.exit, 0, "{whole:?}");
    let larger = ping(1451);
    let said = format!("{}{}", larger.stdout, larger.stderr);
    assert!(larger.exit != 0 && said.contains("too long"), "{larger:?}");
}

fn ipv6_is_refused_where_there_is_no_room_for_it(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    for (host, how) in [("h1", "--init"), ("h2", "--join 192.168.77.1"), ("h3", "--join 192.168.77.1")] {
        cluster.add_host(host[1..].parse().expect("a number"));
        if host == "h3" {
            cluster.shell(host, "ip link set eth0 mtu 1300");
        }
        cluster.start_agent(host, how);
        cluster.wait_ready(host);
    }
    cluster.refused("h1", "network create narrow --subnet fd60::/64 --mtu 1279", 1, &["1279", "1280"]);
    let twice = "network create twice --subnet fd60::/64 --subnet fd61::/64";
    cluster.refused("h1", twice, 2, &["at most one IPv6 subnet"]);
    cluster.refused("h1", "network create tiny --subnet fd60::/127", 1, &["fd60::/127"]);
    cluster.refused(
        "h1",
        "network create links --subnet fd73:7663:6167:9::/64",
        1,
        &["links between networks"],
    );
    cluster.refused("h1", "network create small --subnet fd60::/64", 1, &["h3 leaves 1250"]);
    cluster.kill_agent("h3");
    wait_until("h3 is suspended", Duration::from_secs(6), || {
        let hosts = cluster.status("h1").hosts;
        let away = hosts.iter().any(|host| host.name == "h3" && host.state == "suspended");
        if away { Ok(()) } else { Err(format!("{hosts:?}")) }
    });
    // A host that is away hinders nobody; back, it has no part in the network.
    cluster.ok("h1", "network create small --subnet fd60::/64 --mtu 1280");
    cluster.attach("small", "c1a c2a");
    cluster.restart_agent("h3");
    cluster.wait_members(3);
    cluster.containers("c3a");
    cluster.refused("h3", "attach c3a --network small --netns c3a", 1, &["h3 leaves 1250"]);
    cluster.containers("c1b");
    cluster.ok("h1", "attach c1b --network small --netns c1b");
}

/// Rows P11 and P32: the underlay is IPv6 alone, its tunnels' headers are 20 bytes longer.
fn a_cluster_over_ipv6_does_what_one_over_ipv4_does(sandbox: &Sandbox) {
    let mut cluster = Cluster::over_six(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3x");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let vip = cluster.vip("h3", "payment-api");
    assert_eq!(cluster.resolve("c3x", "payment-api"), vip.to_string());
    assert_eq!(cluster.spread("c3x", vip, 80, 60).answers.len(), 2, "both replicas answer");
    let to = cluster.address_of("c1a");
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let ping =
        |bytes: usize| cluster.try_shell("c3x", &format!("ping -M do -c 1 -W 2 -s {} {to}", bytes - headers));
    let (whole, larger) = (ping(1430), ping(1431));
    assert_eq!(whole.exit, 0, "{whole:?}");
    let said = format!("{}{}", larger.stdout, larger.stderr);
    assert!(larger.exit != 0 && said.contains("too long"), "it fails at the sender: {larger:?}");
    cluster.kill_host("h2");
    wait_until("the dead host's replica is out", Duration::from_secs(5), || {
        let (serving, table) = (cluster.serving("h3", "payment-api"), cluster.vip_table("c3x"));
        let slots = table.get(&vip).map_or(0, |replicas| replicas.len());
        if serving.len() == 1 && slots == 1 { Ok(()) } else { Err(format!("{serving:?}, {table:?}")) }
    });
    cluster.kill_agent("h1");
    cluster.restart_agent("h1");
    assert_eq!(cluster.spread("c3x", vip, 80, 20).answers.len(), 1);
    cluster.ok("h1", "leave");
}

fn a_host_of_the_other_family_is_refused(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.add_host(2);
    cluster.shell("h2", "ip -6 addr add fd99::2/64 dev eth0 nodad");
    cluster.start_agent("h2", "--advertise fd99::2 --join 192.168.77.1");
    cluster.wait_agent_end("h2");
    let log = cluster.log("h2");
    assert!(log.contains("192.168.77.1 is one over IPv4") && log.contains("--advertise"), "{log}");
    assert_eq!(cluster.status("h1").hosts.len(), 1, "nobody has joined");
}
