//! Row P17: agents that are killed while they join, take their first attachment, and leave.
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::strike::{Aim, Shot, Watch};
use tests::wait::wait_until;

use crate::crash::{chosen, difference, ready_or_killed};

const LIMIT: Duration = Duration::from_secs(15);
/// Kills of one run in CI.
const SAMPLE: usize = 7;
const JOIN: &str = "--join 192.168.77.1";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![killed_while_it_joins_or_leaves_it_changes_nothing]
}

/// What h3 does, beginning as a host that has never been a member.
const LIFE: [&str; 3] = ["(join)", "attach c3a --network payment --netns c3a", "leave"];

/// Kills at every chosen point: started again it is a member, or what is left of it is removed by another `leave`. Its
/// settings are in the end what they were before it ever ran, not what an agent that was killed had set.
fn killed_while_it_joins_or_leaves_it_changes_nothing(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let namespace = cluster.add_host(3);
    cluster.containers("c3a");
    // conntrack's and the bridge's settings appear with their first use, whoever uses them.
    namespace.run(|| ()).expect("a namespace");
    // New namespaces take these from the machine's first one.
    cluster
        .shell("h3", "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding");
    cluster.shell("h3", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra");
    cluster.shell("c3a", "ip link set lo up");
    let before = left(&cluster);
    let mut points = Vec::new();
    for (step, words) in LIFE.iter().enumerate() {
        begin(&mut cluster, step);
        let watch = Watch::begin(cluster.agent_pid("h3")).expect("a watch");
        go_on(&cluster, words, || false);
        points.extend(watch.end().expect("a watch").into_iter().map(|aim| (step, aim)));
    }
    cluster.wait_agent_end("h3");
    println!("  {} places to be killed at", points.len());
    gone(&cluster, &before, "an undisturbed life");
    // What the host's own settings were is lost most easily here.
    let of_host = |(_, aim): &&(usize, Aim)| aim.after && aim.call.name == "sysctl net/ipv4/ip_forward";
    let always: Vec<_> = points.iter().filter(of_host).cloned().collect();
    assert!(!always.is_empty(), "nothing sets ip_forward any more");
    for (step, aim) in always.into_iter().chain(chosen(points, SAMPLE)) {
        println!("  {}: {aim}", LIFE[step]);
        live_and_die(&mut cluster, step, &aim);
        gone(&cluster, &before, &format!("{}: {aim}", LIFE[step]));
    }
}

fn begin(cluster: &mut Cluster, step: usize) {
    if step == 0 {
        cluster.start_agent("h3", JOIN);
    }
}

fn go_on(cluster: &Cluster, words: &str, killed: impl Fn() -> bool) {
    if words == LIFE[0] {
        return ready_or_killed(cluster, "h3", killed);
    }
    // Lost or done: both are right.
    let _either = cluster.cli("h3", words);
}

fn live_and_die(cluster: &mut Cluster, step: usize, aim: &Aim) {
    for (earlier, words) in LIFE[..step].iter().enumerate() {
        begin(cluster, earlier);
        go_on(cluster, words, || false);
    }
    begin(cluster, step);
    let shot = Shot::at(cluster.agent_pid("h3"), aim).expect("a watch");
    go_on(cluster, LIFE[step], || shot.has_struck());
    shot.end().expect("a watch");
    cluster.kill_agent("h3");
    cluster.start_agent("h3", JOIN);
    if step < 2 {
        cluster.wait_ready("h3");
        cluster.ok("h3", LIFE[1]);
    } else {
        // Ready again if it had not left yet, or as a new host.
        wait_until("it answers", LIMIT, || cluster.client("h3").fetch(routes::READY).map(drop));
    }
    cluster.ok("h3", LIFE[2]);
    cluster.wait_agent_end("h3");
}

/// What there is on the host and in the container, and who is a member.
fn left(cluster: &Cluster) -> Vec<String> {
    let settings = "cat /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/eth0/accept_ra; \
                    ls /etc/netns /etc/netns/*";
    let nodes: Vec<types::NodeInfo> = cluster.get("h1", routes::NODES, &[]);
    let names: Vec<String> = nodes.into_iter().map(|node| node.name).collect();
    vec![
        cluster.kernel_state("h3"),
        cluster.kernel_state("c3a"),
        cluster.shell("h3", settings),
        format!("members {names:?}"),
        cluster.shell("h1", "ip netns pids h3 | wc -l"),
    ]
}

fn gone(cluster: &Cluster, before: &[String], after: &str) {
    wait_until(&format!("nothing is left of {after}"), LIMIT, || {
        let now = left(cluster);
        let said: Vec<String> = before.iter().zip(&now).filter_map(|(a, b)| difference(a, b)).collect();
        if said.is_empty() { Ok(()) } else { Err(said.join("\n")) }
    });
}
