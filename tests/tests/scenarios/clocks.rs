//! A clock of wall time that jumps by years.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::api::routes;
use agent::api::types::{Event, Problem};
use agent::bed::Sandbox;
use tests::cluster::{Cluster, host_of};
use tests::load::Load;
use tests::runner::{Scenario, skip};
use tests::wait::{pause, wait_until};

/// Nothing here is promised a shorter time; a busy machine takes its own.
const LIMIT: Duration = Duration::from_secs(15);
/// So long the library may go by what it read last of the clock's file.
const REREAD_SECONDS: u32 = 1;
/// Longer than a host's silence takes to be noticed.
const AFTERWARDS: Duration = Duration::from_secs(5);
const DAY_MS: i64 = 86_400_000;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![a_clock_that_jumps_by_a_year_changes_nothing once]
}

/// Wall time of one host's agent a year ahead, then two back, then right again, changed while it runs. Nothing is decided by
/// it: not liveness, not who is older, not what has rested, not which frames are replayed.
fn a_clock_that_jumps_by_a_year_changes_nothing(sandbox: &Sandbox) {
    let library = library().unwrap_or_else(|| skip("Debian's package faketime"));
    let mut cluster = Cluster::start(sandbox, 3);
    done(&cluster, "h1", "network create payment");
    cluster.containers("c1a c2a c1x c2x");
    for name in ["c1a", "c2a", "c1x", "c2x"] {
        done(&cluster, &host_of(name), &format!("attach {name} --network payment --netns {name}"));
    }
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    done(&cluster, "h1", "register payment-api --on c1a");
    done(&cluster, "h2", "register payment-api --on c2a");
    let clock = cluster.bed().log_directory().join("h2-clock");
    set(&clock, 0);
    cluster.stop_agent("h2");
    cluster.set_environment(
        "h2",
        &[
            ("LD_PRELOAD", &library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
            ("FAKETIME_CACHE_DURATION", &REREAD_SECONDS.to_string()),
            // As where a battery is empty or somebody sets the time: the monotonic clock goes on.
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ],
    );
    cluster.restart_agent("h2");
    cluster.wait_well(LIMIT);
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let loads = ["c1x", "c2x"]
        .map(|client| Load::connections(cluster.namespace(client), vip, Duration::from_millis(20)));
    // Something that fails over the first jumps: its age is told.
    cluster.shell(
        "c2x",
        "nft 'table inet foreign { chain c { type filter hook output priority -350; udp dport 53 drop; }; }'",
    );
    wait_until("h1 sees it", LIMIT, || age(&cluster).ok_or("nothing"));
    for (round, days) in [365, -365, 0].into_iter().enumerate() {
        let before = age(&cluster);
        set(&clock, days);
        let name = format!("jump-{round}");
        wait_until(&format!("h2's clock is {days} days off"), LIMIT, || {
            done(&cluster, "h2", &format!("register {name} --on c2a"));
            done(&cluster, "h2", &format!("deregister {name} --on c2a"));
            let off = days_off(&cluster);
            if off == days { Ok(()) } else { Err(format!("{off} days")) }
        });
        // Both hosts' words are as new as each other's: who wrote last stands.
        done(&cluster, "h2", &format!("register {name} --on c2a"));
        done(&cluster, "h1", &format!("register {name} --on c1a"));
        done(&cluster, "h2", &format!("service set {name} --alias first-{round}"));
        done(&cluster, "h1", &format!("service set {name} --alias second-{round}"));
        let script = format!("getent hosts second-{round}; getent hosts first-{round} || true");
        for client in ["c1x", "c1a"] {
            let said = cluster.shell(client, &script);
            let service = cluster.service("h2", &name);
            assert!(said.lines().count() == 1 && said.contains("second"), "{said}; {service:?}");
        }
        let spread = cluster.spread("c1x", cluster.vip("h2", &name), 80, 20);
        assert_eq!(spread.answers.len(), 2, "{spread:?}");
        // A new address of this host's block, and one that another grants.
        let extra = format!("c2n{round}");
        cluster.containers(&extra);
        done(&cluster, "h2", &format!("attach {extra} --network payment --netns {extra}"));
        done(&cluster, "h2", &format!("detach {extra}"));
        pause(AFTERWARDS);
        if let (Some(before), Some(now)) = (before, age(&cluster)) {
            assert!((before..120).contains(&now), "it fails for {before} s, and then for {now} s");
        }
        if round == 1 {
            cluster.shell("c2x", "nft delete table inet foreign");
        }
        // It starts again where its clock is, from what it has kept.
        if round == 0 {
            cluster.stop_agent("h2")
        } else {
            cluster.kill_agent("h2")
        }
        cluster.restart_agent("h2");
        cluster.wait_members(3);
        let left = cluster.serving("h1", "payment-api").len();
        assert_eq!(left, 2, "{days} days off");
    }
    for load in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty() && tally.good > 100, "{tally:?}");
        println!("  {} connections, longest gap {:?}", tally.good, tally.longest_gap);
    }
    cluster.wait_well(LIMIT);
    for host in ["h1", "h3"] {
        let events = cluster.ok(host, "events");
        assert!(!events.contains("is suspended"), "{events}");
    }
}

/// Has something done, and in force everywhere: on a busy machine that may take longer than the verb waits.
fn done(cluster: &Cluster, host: &str, words: &str) {
    let output = cluster.cli(host, words);
    assert!([0, 4].contains(&output.exit), "{host}: {words}: {output:?}");
    if output.exit == 4 {
        wait_until(&format!("{words} is in force"), LIMIT, || {
            let hosts = cluster.status(host).hosts;
            let behind = hosts.iter().any(|it| it.state != "live" || !it.behind.is_empty());
            if behind { Err(format!("{hosts:?}")) } else { Ok(()) }
        });
    }
}

/// What makes a program believe in another wall time.
fn library() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut paths = directories.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}

/// Sets the clock that agents with this file go by, so many days off.
fn set(clock: &Path, days: i64) {
    let next = clock.with_extension("next");
    std::fs::write(&next, format!("{days:+}d\n")).expect("a file");
    std::fs::rename(&next, clock).expect("a file to replace");
}

/// By how many days the newest event of h2 differs from h1's.
fn days_off(cluster: &Cluster) -> i64 {
    let newest = |host: &str| {
        let events: Vec<Event> = cluster.get(host, routes::EVENTS, &[]);
        let newest = events.last().expect("an event").time_ms;
        i64::try_from(newest).expect("a time")
    };
    let off = newest("h2") - newest("h1");
    (off + off.signum() * DAY_MS / 2) / DAY_MS
}

/// Of what fails in c2x, as h1 tells it; seconds.
fn age(cluster: &Cluster) -> Option<u64> {
    let problems = cluster.status("h1").hosts.into_iter().flat_map(|host| host.problems);
    let failing = |problem: &Problem| problem.object == "probe/payment/c2x";
    problems.into_iter().find(failing).map(|problem| problem.seconds)
}
