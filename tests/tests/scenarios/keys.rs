//! Hosts whose keys differ.
use std::collections::BTreeSet;
use std::time::Duration;

use agent::bed::Sandbox;
use agent::cluster::ClusterKey;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

/// A member's frames come every second, and those that do not open are looked at every second.
const SEEN: Duration = Duration::from_secs(10);
/// So long it goes on: enough to see whether the log fills up.
const STORM: Duration = Duration::from_secs(8);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p53_a_member_with_another_key_is_named_and_right_again_by_itself once,
        who_cannot_join_for_its_key_is_named_on_both_sides_and_no_more_once_it_has_the_right_one once,
    ]
}

/// So long until status has it.
const TOLD: Duration = Duration::from_secs(5);

fn who_cannot_join_for_its_key_is_named_on_both_sides_and_no_more_once_it_has_the_right_one(
    sandbox: &Sandbox,
) {
    let mut cluster = Cluster::start(sandbox, 1);
    let wrong = cluster.bed().log_directory().join("wrong.key");
    cluster.write_key(&wrong);
    cluster.add_host(2);
    cluster.start_agent_with_key("h2", "--join 192.168.77.1", &wrong);
    wait_until("h1 names the address", TOLD, || {
        let status = cluster.status("h1");
        let told = |line: &String| line.contains("frames from 192.168.77.2 do not open here");
        if status.ok && status.notices.iter().any(told) { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let said = ["has not joined its cluster yet: host 192.168.77.1:7946", "our key id", "key file"];
    cluster.refused("h2", "network create payment", 1, &said);
    cluster.refused("h2", "attach c2a --pid 1", 1, &said);

    cluster.stop_agent("h2");
    std::fs::remove_dir_all(cluster.bed().state_directory("h2")).expect("no state");
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_ready("h2");
    // Now that it is a member, its last wrong frames would be a problem of its own, and its advice be wrong.
    wait_until("h1 tells of it no more", TOLD, || {
        let status = cluster.status("h1");
        if status.ok && status.notices.is_empty() { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Row P53: a member that has only a key that another lacks; then both, the new one first; then what all have.
fn p53_a_member_with_another_key_is_named_and_right_again_by_itself(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    let common = std::fs::read_to_string(cluster.key_file()).expect("the key file");
    let first: ClusterKey = common.trim().parse().expect("a key");
    let successor = first.successor([7; 36]).to_text();
    let directory = cluster.bed().log_directory();
    for (name, text) in [("alone", successor.clone()), ("both", format!("{successor}\n{common}"))] {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a key file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("its mode");
        cluster.stop_agent("h2");
        cluster.start_agent_with_key("h2", "", &path);
        wait_until(&format!("h1 names h2's key ({name})"), SEEN, || {
            let status = cluster.status("h1");
            let problems: Vec<_> = status.hosts.into_iter().flat_map(|it| it.problems).collect();
            let named = problems.iter().find(|it| it.object == "key/h2");
            let told = |error: &str| error.contains("192.168.77.2") && error.contains("07070707");
            if named.is_some_and(|it| told(&it.error)) { Ok(()) } else { Err(format!("{problems:?}")) }
        });
        pause(STORM);
        let lines = cluster.log("h1").lines().filter(|line| line.contains("07070707")).count();
        assert!(lines < 20, "{lines} lines of one fault");
    }
    let metrics = cluster.shell("h1", "curl -s http://127.0.0.1:9472/metrics");
    let unknown = "svc_agent_cluster_frames_unopened_total{reason=\"unknown_key\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(unknown)?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 10), "{count:?}");

    cluster.stop_agent("h2");
    cluster.restart_agent("h2");
    cluster.wait_well(Duration::from_secs(30));
    let events = cluster.ok("h1", "events");
    let ended: BTreeSet<&str> = events.lines().filter(|line| line.contains("key/h2 works again")).collect();
    assert!(!ended.is_empty(), "{events}");
}
