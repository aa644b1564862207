//! Clusters of many hosts without a kernel.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::runner::{Scenario, is_nightly};
use tests::simulated::{Nature, Simulated};

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![p55_changes_are_everywhere_in_time_and_nothing_grows once]
}

/// Row P55. A machine that builds and tests promises no time, so what runs with every test is small and its bound wide.
fn p55_changes_are_everywhere_in_time_and_nothing_grows(_sandbox: &Sandbox) {
    let (hosts, per_second, time, limit) = if is_nightly() {
        // All fifty share the cores of one machine: on two, they take two thirds of these.
        (50, 500, Duration::from_secs(300), Duration::from_secs(1))
    } else {
        (8, 80, Duration::from_secs(4), Duration::from_secs(15))
    };
    let mut cluster = Simulated::found(Nature::PLAIN).expect("a cluster");
    while cluster.len() < hosts {
        cluster.join().expect("one more host");
    }
    (0..hosts).for_each(|at| cluster.fill(at..at + 1).expect("its facts"));
    cluster.churn(per_second, time / 10).expect("changes");
    let before = resident_bytes();
    let mut took = cluster.churn(per_second, time).expect("changes that are everywhere");
    let grown = resident_bytes().saturating_sub(before);
    took.sort();
    let p99 = took[(took.len() * 99).div_ceil(100) - 1];
    println!(
        "{hosts} hosts, {per_second} changes/s: {} followed, p99 {p99:?}, {grown} bytes more",
        took.len()
    );
    assert!(took.len() > 20, "{} were followed", took.len());
    assert!(p99 <= limit, "p99 is {p99:?}");
    assert!(grown < before / 10 + (8 << 20), "{before} bytes before, {grown} more");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}
