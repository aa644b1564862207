//! What somebody else changes of ours is brought back.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use agent::bed::{Sandbox, Server, ask_udp};
use agent::netns::Namespace;
use tests::cluster::{Cluster, network_state, shell_in};
use tests::family::Family;
use tests::load::Load;
use tests::runner::{Scenario, is_nightly};
use tests::wait::{pause, wait_until};

/// The bound of what is told of by the kernel.
const REPAIR_LIMIT: Duration = Duration::from_secs(1);
/// Looking with the system's tools takes time of its own on a busy machine.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_millis(50);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![what_others_change_is_back_within_a_second, flushed_every_second_nothing_is_missed,]
}

/// Two hosts with a replica and a client each; the networks' namespaces.
fn stage(sandbox: &Sandbox) -> (Cluster, Vec<Server>, Vec<Namespace>) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c1x c2x");
    let servers = vec![cluster.server("c1a", 80), cluster.server("c2a", 80)];
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let networks = cluster.network_namespaces();
    assert_eq!(networks.len(), 2, "one on each host");
    (cluster, servers, networks)
}

/// Rows P09, P41, P62: by hand, in each kind of namespace, with the system's own tools.
fn what_others_change_is_back_within_a_second(sandbox: &Sandbox) {
    let (cluster, _servers, networks) = stage(sandbox);
    let remote = "$(bridge fdb show dev vxlan | awk '/ dst / && !/00:00:00:00:00:00/ {print $1; exit}')";
    let port = "$(ip -o link show master br | awk -F'[ :@]+' '!/vxlan/ {print $2; exit}')";
    let in_network = [
        "nft flush ruleset".to_owned(),
        "nft delete table netdev svc-agent-net".to_owned(),
        "ip link delete dev vxlan".to_owned(),
        "ip link delete dev br".to_owned(),
        "ip link delete dev link".to_owned(),
        format!("ip link set {port} nomaster"),
        format!("ip link set {port} down"),
        "ip link set vxlan mtu 1300".to_owned(),
        "ip address flush dev br".to_owned(),
        "ip route delete default".to_owned(),
        "ip neigh flush dev br nud permanent".to_owned(),
        format!("bridge fdb delete {remote} dev vxlan self"),
        format!("bridge fdb replace {remote} dev vxlan dst 192.168.77.99 self permanent"),
        format!("bridge fdb delete {remote} dev vxlan master"),
        "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
    ];
    let check = |harm: &str, state: &dyn Fn() -> String, act: &dyn Fn()| {
        let before = repairs(&cluster);
        repaired(harm, state, act);
        // Or it would be no harm, and its repair no proof.
        wait_until(&format!("{harm}: counted"), LOOK_LIMIT, || {
            let now = repairs(&cluster);
            if now > before { Ok(()) } else { Err(format!("{now} repairs")) }
        });
    };
    for namespace in &networks {
        for harm in &in_network {
            check(harm, &|| network_state(namespace), &|| drop(shell_in(namespace, harm)));
        }
    }
    let link = "$(ip -o link | grep -o 'svc-link[0-9]*' | head -n 1)";
    let version = if Family::now() == Family::Four { 4 } else { 6 };
    let in_host = [
        "nft flush ruleset".to_owned(),
        "nft flush chain inet svc-agent-net tunnel-in".to_owned(),
        format!("ip -{version} address flush dev {link} scope global"),
        format!("ip link set {link} down"),
        "echo 0 > /proc/sys/net/ipv4/ip_forward".to_owned(),
    ];
    for harm in &in_host {
        check(harm, &|| cluster.kernel_state("h1"), &|| drop(cluster.try_shell("h1", harm)));
    }
    let in_container = [
        "ip link set eth0 down",
        "ip link set eth0 mtu 1300",
        &format!("ip -{version} address flush dev eth0 scope global"),
        &format!("ip -{version} route delete default"),
        "ip link delete eth0",
    ];
    for harm in in_container {
        check(harm, &|| cluster.kernel_state("c1x"), &|| drop(cluster.try_shell("c1x", harm)));
    }
    cluster.wait_well(LOOK_LIMIT);
    assert!(cluster.tcp("c2x", cluster.vip("h1", "payment-api"), 80).is_ok());
}

/// How often the agents have brought something of the overlay back.
fn repairs(cluster: &Cluster) -> usize {
    let events = ["h1", "h2"].map(|host| cluster.ok(host, "events"));
    events.iter().map(|events| events.matches("brought back").count()).sum()
}

/// Does harm, and waits until all is as it was. What is measured ends with the last look that differed.
fn repaired(what: &str, state: &dyn Fn() -> String, harm: &dyn Fn()) {
    let before = state();
    harm();
    let (begin, mut differed) = (Instant::now(), Duration::ZERO);
    wait_until(what, LOOK_LIMIT, || {
        let at = begin.elapsed();
        same(&before, &state()).inspect_err(|_| differed = at)
    });
    println!("  {:>6.0?} {what}", differed);
    assert!(differed < REPAIR_LIMIT, "{what}: not before {differed:?}");
}

/// What differs, line by line.
fn same(before: &str, now: &str) -> Result<(), String> {
    let without = |these: &str, those: &str| -> Vec<String> {
        these.lines().filter(|line| !those.lines().any(|it| it == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (without(before, now), without(now, before));
    if gone.is_empty() && new.is_empty() {
        return Ok(());
    }
    Err(format!("missing {gone:#?}, not there before {new:#?}"))
}

/// Row P62: everything is flushed every second, on hosts and in networks, under new flows.
fn flushed_every_second_nothing_is_missed(sandbox: &Sandbox) {
    let (cluster, _servers, networks) = stage(sandbox);
    let before: Vec<String> = networks.iter().map(network_state).collect();
    let hosts: Vec<String> = ["h1", "h2"].map(|host| cluster.kernel_state(host)).into();
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let interval = Duration::from_millis(5);
    // Each question is a flow of its own, and a lost one is asked again at once; TCP would wait a second.
    let asked = |name: &str| {
        let namespace = cluster.namespace(name);
        Load::start(interval, move || ask_udp(&namespace, vip, ANSWER_LIMIT).map(drop))
    };
    let loads = ["c1x", "c2x"].map(asked);
    for _ in 0..if is_nightly() { 60 } else { 8 } {
        for host in ["h1", "h2"] {
            cluster.shell(host, "nft flush ruleset");
        }
        for namespace in &networks {
            shell_in(
                namespace,
                "nft flush ruleset; bridge fdb flush dev vxlan; ip neigh flush dev br nud permanent",
            );
        }
        // The pace of the harm is what the scenario is about.
        pause(Duration::from_secs(1));
    }
    for load in loads {
        let tally = load.stop();
        println!("  {} answers, longest gap {:?}, {:?}", tally.good, tally.longest_gap, tally.failures);
        assert!(tally.good > 200 && tally.longest_gap < REPAIR_LIMIT, "{tally:?}");
    }
    for (namespace, before) in networks.iter().zip(&before) {
        wait_until("a network as it was", LOOK_LIMIT, || same(before, &network_state(namespace)));
    }
    for (host, before) in ["h1", "h2"].into_iter().zip(&hosts) {
        wait_until(&format!("{host} as it was"), LOOK_LIMIT, || same(before, &cluster.kernel_state(host)));
    }
}
