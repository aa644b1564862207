//! Hosts that die for good, come back with nothing, come twice, or only seem to be away.
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::api::{routes, types};
use agent::bed::Sandbox;
use rustix::process::Signal;
use tests::cluster::{Cluster, shell_in};
use tests::load::Burner;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

/// Until a host's silence is noticed, with what a busy machine takes on top.
const NOTICED: Duration = Duration::from_secs(10);
const HEAL_LIMIT: Duration = Duration::from_secs(5);
/// A stop of 3 s that a busy machine made longer than this proves nothing, and is tried again.
const STOP_MAX: Duration = Duration::from_millis(3_150);
const STOP: Duration = Duration::from_secs(3);
const STOP_TRIES: usize = 5;
/// So long the underlay loses, and so long all processors are busy.
const HARD_TIMES: Duration = Duration::from_secs(8);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        what_dead_hosts_held_comes_back_with_a_majority_only once,
        a_host_that_lost_its_state_is_a_new_one once,
        who_was_removed_is_told_also_by_one_that_it_has_removed_itself once,
        a_removed_host_that_returns_is_told once,
        two_hosts_of_one_name_are_told once,
        a_copied_state_directory_is_named once,
        nobody_who_lives_is_taken_for_dead once,
    ]
}

fn states(cluster: &Cluster, host: &str, name: &str) -> Vec<types::NodeInfo> {
    let nodes: Vec<types::NodeInfo> = cluster.get(host, routes::NODES, &[]);
    nodes.into_iter().filter(|node| node.name == name).collect()
}

fn wait_suspended(cluster: &Cluster, host: &str, name: &str) {
    wait_until(&format!("{host} holds {name} to be suspended"), NOTICED, || {
        let seen: Vec<String> = states(cluster, host, name).into_iter().map(|node| node.state).collect();
        if seen.iter().any(|state| state == "suspended") { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// Row P47.
fn what_dead_hosts_held_comes_back_with_a_majority_only(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create small --subnet 10.60.0.0/28");
    cluster.containers("c1a c1b");
    cluster.attach("small", "c2a c3a");
    let held: IpAddr = cluster.address_of("c3a");
    let take = format!("attach c1a --network small --netns c1a --ip {held}");
    cluster.kill_agent("h2");
    cluster.kill_host("h3");
    for name in ["h2", "h3"] {
        wait_suspended(&cluster, "h1", name);
        let refused = cluster.cli("h1", &format!("node rm {name}"));
        let said = format!(
            "{name} is not removed: without {name}, which is not asked, 1 of 2 members agreed, this host included; \
             2 are needed; no agreement from: "
        );
        assert!(refused.exit == 1 && refused.stderr.contains(&said), "{refused:?}");
    }
    let refused = cluster.cli("h1", &take);
    assert!(refused.exit == 1 && refused.stderr.contains("majority"), "{refused:?}");

    cluster.restart_agent("h2");
    cluster.wait_members(2);
    cluster.ok("h1", "node rm h3");
    wait_until("nothing of h3 is left", HEAL_LIMIT, || {
        let left: Vec<types::AttachmentInfo> = cluster.get("h2", routes::ATTACHMENTS, &[]);
        if left.iter().all(|it| it.host != "h3") { Ok(()) } else { Err(format!("{left:?}")) }
    });
    cluster.ok("h1", &take);
    cluster.wait_well(HEAL_LIMIT);
}

fn wait_removed(cluster: &Cluster, host: &str, by: &str) {
    wait_until(&format!("{host} says that {by} has removed it"), HEAL_LIMIT, || {
        // It may just be starting.
        let said = cluster.cli(host, "status");
        let told = format!("this host was removed from its cluster, says {by}:");
        if said.stdout.contains(&told) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

/// Of two hosts that are cut off from each other each may remove the other. Neither goes on as if all were well, also when
/// started anew, and nothing of one gets into the other.
fn who_was_removed_is_told_also_by_one_that_it_has_removed_itself(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.cut("h2");
    for (host, other) in [("h1", "h2"), ("h2", "h1")] {
        wait_suspended(&cluster, host, other);
        cluster.ok(host, &format!("node rm {other}"));
    }
    cluster.heal("h2");
    wait_removed(&cluster, "h1", "192.168.77.2");
    wait_removed(&cluster, "h2", "192.168.77.1");
    // It asks nobody now, and h2 tells the process that it knew.
    for how in ["", "--join 192.168.77.2"] {
        cluster.stop_agent("h1");
        cluster.start_agent("h1", how);
        wait_removed(&cluster, "h1", "192.168.77.2");
    }
    assert_eq!(states(&cluster, "h2", "h1").len(), 0);
}

fn a_removed_host_that_returns_is_told(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.stop_agent("h1");
    wait_suspended(&cluster, "h2", "h1");
    cluster.ok("h2", "node rm h1");
    cluster.start_agent("h1", "");
    wait_removed(&cluster, "h1", "192.168.77.2");
    // As it says: with nothing of what it was it may join.
    cluster.stop_agent("h1");
    std::fs::remove_dir_all(cluster.bed().state_directory("h1")).expect("the state directory to go");
    cluster.start_agent("h1", "--join 192.168.77.2");
    cluster.wait_ready("h1");
    cluster.wait_members(2);
    cluster.wait_well(HEAL_LIMIT);
}

/// It joins as a new host; what it was before is suspended and named, and gives up nothing until it is removed.
fn a_host_that_lost_its_state_is_a_new_one(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3a");
    let _servers = ["c1a", "c3a"].map(|name| cluster.server(name, 80));
    let address = cluster.address_of("c3a");
    let before = states(&cluster, "h1", "h3").remove(0);
    cluster.kill_agent("h3");
    std::fs::remove_dir_all(cluster.bed().state_directory("h3")).expect("the state directory to go");
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    for host in ["h1", "h2", "h3"] {
        wait_until(&format!("{host} says what became of h3"), NOTICED, || {
            let notices = cluster.status(host).notices;
            let end = format!("svc-agent node rm {}", before.id);
            let told = notices.iter().find(|it| it.starts_with("several hosts are called h3"));
            if told.is_some_and(|told| told.ends_with(&end)) { Ok(()) } else { Err(format!("{notices:?}")) }
        });
    }
    let now = states(&cluster, "h1", "h3");
    assert_eq!(now.len(), 2, "{now:?}");
    assert!(now.iter().all(|node| (node.id == before.id) == (node.number == before.number)), "{now:?}");
    let other = cluster.cli("h1", &format!("attach thief --network payment --netns c1a --ip {address}"));
    assert_eq!(other.exit, 1, "{other:?}");
    // The container is attached again: its name and address are taken over from what its host was before.
    let took = cluster.ok("h3", &format!("attach c3a --network payment --netns c3a --ip {address}"));
    assert!(took.contains("taken over from h3"), "{took}");
    wait_until("c2a reaches it", HEAL_LIMIT, || {
        cluster.tcp("c2a", address, 80).map(drop).map_err(|error| error.to_string())
    });
    cluster.ok("h1", &format!("node rm {}", before.id));
    cluster.wait_well(HEAL_LIMIT);
    assert!(cluster.tcp("c2a", address, 80).is_ok());
}

/// Both are named on every host, with what to do, until one of them has another name.
fn two_hosts_of_one_name_are_told(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.add_host(3);
    cluster.set_flags("h3", &["--node", "h2"]);
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    for host in ["h1", "h2", "h3"] {
        wait_until(&format!("{host} names both"), NOTICED, || {
            let notices = cluster.status(host).notices;
            let told = notices.iter().find(|it| it.starts_with("several hosts are called h2"));
            let both = ["192.168.77.2, live", "192.168.77.3, live", "--node NAME"];
            let all = told.is_some_and(|told| both.iter().all(|part| told.contains(part)));
            if all { Ok(()) } else { Err(format!("{notices:?}")) }
        });
    }
    cluster.stop_agent("h3");
    cluster.set_flags("h3", &[]);
    cluster.restart_agent("h3");
    cluster.wait_well(HEAL_LIMIT);
}

/// The one that is not where it said that it is ends, naming the other, which goes on untouched.
fn a_copied_state_directory_is_named(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.add_host(3);
    cluster.stop_agent("h2");
    let (from, to) = (cluster.bed().state_directory("h2"), cluster.bed().state_directory("h3"));
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(&to).status();
    assert!(copied.expect("cp").success());
    cluster.restart_agent("h2");
    cluster.wait_members(2);
    // The second time the copy has been started more often than the original.
    for _ in 0..2 {
        cluster.start_agent("h3", "");
        cluster.wait_agent_end("h3");
        let said = cluster.log("h3");
        assert!(said.contains("another host, at 192.168.77.2, runs as this one"), "{said}");
        assert!(said.contains("join as a new host"), "{said}");
    }
    cluster.wait_well(HEAL_LIMIT);
    let events = cluster.ok("h1", "events");
    assert!(!events.contains("h2 is suspended"), "{events}");
    // A host that was given another address is no copy: nobody is where it was.
    cluster.kill_host("h2");
    cluster.start_agent("h3", "");
    cluster.wait_ready("h3");
    cluster.wait_members(2);
}

fn suspensions(cluster: &Cluster) -> String {
    let hosts = ["h1", "h2", "h3"];
    let events = hosts.map(|host| cluster.ok(host, "events"));
    events.iter().flat_map(|text| text.lines()).filter(|line| line.contains("is suspended")).collect()
}

/// Row P54: neither a stop of 3 s, nor loss one way, nor a starved machine takes anything away.
fn nobody_who_lives_is_taken_for_dead(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3a");
    for name in ["c1a", "c2a", "c3a"] {
        cluster.ok(&tests::cluster::host_of(name), &format!("register api --on {name}"));
    }
    cluster.wait_well(HEAL_LIMIT);
    let stopped = (0..STOP_TRIES).any(|_| {
        let before = suspensions(&cluster);
        let began = Instant::now();
        cluster.signal_agent("h2", Signal::STOP);
        pause(STOP);
        cluster.signal_agent("h2", Signal::CONT);
        let took = began.elapsed();
        pause(Duration::from_secs(1));
        if took > STOP_MAX {
            cluster.wait_members(3);
            return false;
        }
        assert_eq!(suspensions(&cluster), before, "after a stop of {took:?}");
        true
    });
    assert!(stopped, "this machine is too busy to stop a process for 3 s");

    let before = suspensions(&cluster);
    let lossy = "nft -f - <<'END'\ntable bridge loss {\n chain forward {\n  type filter hook forward priority 0;\n  \
                 iifname \"to-h2\" numgen random mod 100 < 30 drop\n }\n}\nEND";
    assert_eq!(shell_in(cluster.bed().switch(), lossy), "");
    let until = Instant::now() + HARD_TIMES;
    while Instant::now() < until {
        assert_eq!(cluster.serving("h1", "api").len(), 3, "30 % of what h2 sends is lost");
        pause(Duration::from_millis(100));
    }
    let dropped = shell_in(cluster.bed().switch(), "nft list ruleset; nft delete table bridge loss");
    assert!(dropped.contains("numgen"), "{dropped}");

    let burners: Vec<Burner> = (0..4).map(|_| Burner::start()).collect();
    let until = Instant::now() + HARD_TIMES;
    while Instant::now() < until {
        assert_eq!(cluster.serving("h1", "api").len(), 3, "all processors are busy");
        pause(Duration::from_millis(100));
    }
    drop(burners);
    assert_eq!(suspensions(&cluster), before);
    cluster.wait_well(HEAL_LIMIT);

    // And who is dead is noticed, and counted.
    let began = Instant::now();
    cluster.kill_host("h2");
    wait_until("h2 is noticed", NOTICED, || {
        let serving = cluster.serving("h1", "api");
        if serving.len() == 2 { Ok(()) } else { Err(format!("{serving:?}")) }
    });
    println!("  a dead host was noticed after {:?}", began.elapsed());
    let metrics = cluster.client("h1").fetch(routes::METRICS).expect("metrics").text();
    assert!(metrics.contains("svc_agent_host_suspensions_total 1"), "{metrics}");
}
