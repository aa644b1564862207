//! Row P48: two clusters that are pointed at each other stay two, say so, and go on.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::load::Load;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

const LIMIT: Duration = Duration::from_secs(10);
/// So long they try to find each other, every second.
const TOGETHER: Duration = Duration::from_secs(6);
/// What an agent may take more meanwhile, in kB.
const GROWTH_KB_MAX: u64 = 12 << 10;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p48_clusters_of_two_keys_that_are_pointed_at_each_other_go_on once,
        p48_clusters_founded_apart_with_one_key_go_on_and_are_told once,
    ]
}

/// Hosts 1 and 2 are a cluster, hosts 3 and 4 another; each has a network, a service and attachments of the same names,
/// and so of the same node numbers, VNIs and addresses. Both services are called all the while.
struct Two {
    cluster: Cluster,
    loads: Vec<Load>,
    _servers: Vec<agent::bed::Server>,
}

fn two(sandbox: &Sandbox, second_key: Option<&Path>) -> Two {
    let mut cluster = Cluster::start(sandbox, 2);
    let key = second_key.map_or_else(
        || cluster.key_file().to_owned(),
        |name| {
            let key = cluster.bed().log_directory().join(name);
            cluster.write_key(&key);
            key
        },
    );
    for (number, how) in [(3, "--init"), (4, "--join 192.168.77.3")] {
        cluster.add_host(number);
        let host = format!("h{number}");
        cluster.start_agent_with_key(&host, how, &key);
        cluster.wait_ready(&host);
    }
    cluster.wait_members(2);
    let (mut loads, mut _servers) = (Vec::new(), Vec::new());
    for [first, second] in [[1, 2], [3, 4]] {
        cluster.ok(&format!("h{first}"), "network create payment --subnet 10.70.0.0/16");
        cluster.attach("payment", &format!("c{first}a c{second}a"));
        _servers.push(cluster.server(&format!("c{first}a"), 80));
        cluster.ok(&format!("h{first}"), &format!("register payment-api --on c{first}a"));
        let vip = SocketAddr::new(cluster.vip(&format!("h{first}"), "payment-api"), 80);
        let client = cluster.namespace(&format!("c{second}a"));
        loads.push(Load::connections(client, vip, Duration::from_millis(20)));
    }
    // Each is told to look for the other, from a host that is not the founder.
    for (host, at, key) in [("h2", 3, cluster.key_file().to_owned()), ("h4", 1, key)] {
        cluster.stop_agent(host);
        cluster.start_agent_with_key(host, &format!("--join 192.168.77.{at}"), &key);
        cluster.wait_ready(host);
    }
    Two { cluster, loads, _servers }
}

/// Who is a member, as each host says.
fn members(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let named = |host: String| {
        let nodes: Vec<types::NodeInfo> = cluster.get(&host, routes::NODES, &[]);
        let live = nodes.into_iter().filter(|node| node.state != "suspended");
        let mut names: Vec<String> = live.map(|node| node.name).collect();
        names.sort();
        (host, names)
    };
    cluster.running().into_iter().map(named).collect()
}

fn resident_kb(cluster: &Cluster, host: &str) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", cluster.agent_pid(host))).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// They look for each other for a while: nobody becomes a member of the other, nothing grows, verbs work on both.
fn stay_apart(cluster: &Cluster) {
    let apart = |said: BTreeMap<String, Vec<String>>| {
        let right = said.iter().all(|(host, names)| {
            let first = ["h1", "h2"].contains(&host.as_str());
            names.iter().eq(if first { ["h1", "h2"].iter() } else { ["h3", "h4"].iter() })
        });
        if right { Ok(()) } else { Err(format!("{said:?}")) }
    };
    wait_until("each has its own members", LIMIT, || apart(members(cluster)));
    let before: Vec<u64> = cluster.running().iter().map(|host| resident_kb(cluster, host)).collect();
    let until = std::time::Instant::now() + TOGETHER;
    while std::time::Instant::now() < until {
        apart(members(cluster)).expect("two clusters");
        pause(Duration::from_millis(200));
    }
    for (host, before) in cluster.running().iter().zip(before) {
        let after = resident_kb(cluster, host);
        assert!(after < before + GROWTH_KB_MAX, "{host}: {before} kB before, {after} kB after");
    }
    // The same verb on both, each for itself; the first claims a VNI of a majority.
    for [first, second] in [["h1", "h2"], ["h3", "h4"]] {
        cluster.ok(first, "network create another --subnet 10.71.0.0/16");
        let networks: Vec<types::NetworkInfo> = cluster.get(second, routes::NETWORKS, &[]);
        assert_eq!(networks.len(), 2, "{networks:?}");
        let all: Vec<types::AttachmentInfo> = cluster.get(second, routes::ATTACHMENTS, &[]);
        assert!(all.iter().all(|it| [first, second].contains(&it.host.as_str())), "{all:?}");
    }
}

fn wait_told(cluster: &Cluster, hosts: &[&str], parts: &[&str]) {
    for host in hosts {
        wait_until(&format!("{host} says {parts:?}"), LIMIT, || {
            let notices = cluster.status(host).notices;
            let told = notices.iter().any(|line| parts.iter().all(|part| line.contains(part)));
            if told { Ok(()) } else { Err(format!("{notices:?}")) }
        });
    }
}

fn end_loads(loads: Vec<Load>) {
    for tally in loads.into_iter().map(Load::stop) {
        assert!(tally.failures.is_empty() && tally.good > 100, "{tally:?}");
    }
}

fn p48_clusters_of_two_keys_that_are_pointed_at_each_other_go_on(sandbox: &Sandbox) {
    let Two { cluster, loads, _servers } = two(sandbox, Some(Path::new("other.key")));
    stay_apart(&cluster);
    wait_told(&cluster, &["h2", "h4"], &["wrong cluster key"]);
    end_loads(loads);
}

/// Both have the cluster id of the key; who founded them tells them apart.
fn p48_clusters_founded_apart_with_one_key_go_on_and_are_told(sandbox: &Sandbox) {
    let Two { mut cluster, loads, _servers } = two(sandbox, None);
    let told = "is of another cluster with the same key";
    wait_told(&cluster, &["h1", "h2"], &["192.168.77.", told]);
    wait_told(&cluster, &["h3", "h4"], &["192.168.77.", told]);
    stay_apart(&cluster);
    for host in ["h2", "h4"] {
        wait_told(&cluster, &[host], &[told]);
        let events = cluster.ok(host, "events");
        let lines = events.lines().filter(|line| line.contains(told)).count();
        assert!((1..=8).contains(&lines), "{lines} events:\n{events}");
    }
    end_loads(loads);

    // Started anew it is told anew, although the others have met it.
    cluster.stop_agent("h3");
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    wait_told(&cluster, &["h3"], &["192.168.77.1", told]);

    // A host that joins now is of the one that it is pointed at, and what is advised works.
    cluster.add_host(5);
    cluster.start_agent("h5", "--join 192.168.77.2");
    cluster.wait_ready("h5");
    cluster.ok("h4", "leave");
    cluster.wait_agent_end("h4");
    cluster.start_agent("h4", "--join 192.168.77.1");
    cluster.wait_ready("h4");
    let wanted = |host: &str| if host == "h3" { vec!["h3"] } else { vec!["h1", "h2", "h4", "h5"] };
    wait_until("all hosts are where they were sent", LIMIT, || {
        let said = members(&cluster);
        let right = said.iter().all(|(host, names)| names.iter().eq(wanted(host).iter()));
        if right { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let numbers: Vec<types::NodeInfo> = cluster.get("h1", routes::NODES, &[]);
    let numbers: std::collections::BTreeSet<u32> = numbers.iter().map(|node| node.number).collect();
    assert_eq!(numbers.len(), 4, "node numbers are unique");
}
