//! Limits that a system sets by default.
use agent::bed::Sandbox;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::cluster::Cluster;
use tests::runner::Scenario;

/// A quarter of what shells and services usually get: as many containers as a quarter of that would take.
const FILES: u64 = 256;
const CONTAINERS: usize = 40;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![more_attachments_than_the_default_limit_of_files_allows once]
}

fn more_attachments_than_the_default_limit_of_files_allows(sandbox: &Sandbox) {
    let before = getrlimit(Resource::Nofile);
    // The agent inherits it; this process needs few files itself until then.
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), ..before }).expect("a lower limit");
    let mut cluster = Cluster::start(sandbox, 1);
    setrlimit(Resource::Nofile, before).expect("the limit as it was");
    cluster.ok("h1", "network create payment");
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("c1n{number}")).collect();
    cluster.attach("payment", &names.join(" "));
    let _server = cluster.server("c1n0", 80);
    cluster.ok("h1", "register payment-api --on c1n0");
    let last = names.last().expect("containers");
    let vip = cluster.vip("h1", "payment-api");
    assert_eq!(cluster.tcp(last, vip, 80).expect("an answer").name, "c1n0");
    assert!(cluster.shell(last, "getent hosts payment-api").contains(&vip.to_string()));
    let open = "ls /proc/$(for pid in $(ip netns pids h1); do tr '\\0' ' ' </proc/$pid/cmdline | grep -q '^[^ ]*svc-agent[^ ]* run ' && echo $pid; done | head -n 1)/fd | wc -l";
    let open: usize = cluster.shell("h1", open).trim().parse().expect("a number");
    println!("  {open} files for {CONTAINERS} attachments");
    assert!(open > 256, "it would have been no test: {open}");
}
