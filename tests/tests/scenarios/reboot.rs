//! Row P45: a host loses power and boots again.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(15);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![what_a_host_had_is_free_after_it_boots_again]
}

/// Another boot id, for the agents that start from now on. Dropped, it is the machine's again.
pub(crate) struct Boot;

impl Boot {
    pub(crate) fn begin(directory: &Path, number: usize) -> Self {
        let path = directory.join("boot-id");
        std::fs::write(&path, format!("00000000-0000-4000-8000-{number:012}\n")).expect("a file");
        let bound = Command::new("mount").arg("--bind").arg(&path).arg(BOOT_ID).output().expect("mount");
        assert!(bound.status.success(), "{bound:?}");
        Self
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        // What stays is told by the look for leaks.
        let _left = Command::new("umount").arg(BOOT_ID).status();
    }
}

/// Its containers are gone with their namespaces: the number of addresses in use is what it was before they came, their
/// names are gone, definitions stay, and as many are attached again.
fn what_a_host_had_is_free_after_it_boots_again(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let start = used(&cluster);
    for round in 1..=if is_nightly() { 20 } else { 2 } {
        cluster.attach("payment", "c2a c2b c2c");
        cluster.ok("h2", "register payment-api --on c2a");
        assert_ne!(used(&cluster), start, "attachments use nothing");
        cluster.kill_host("h2");
        let _boot = Boot::begin(&cluster.bed().log_directory(), round);
        cluster.add_host(2);
        cluster.restart_agent("h2");
        cluster.wait_members(2);
        wait_until("all that it had is free", LIMIT, || {
            let now = used(&cluster);
            let mine: Vec<types::AttachmentInfo> = cluster.get("h2", routes::ATTACHMENTS, &[]);
            let local = mine.iter().filter(|it| it.local).count();
            if now == start && local == 0 {
                Ok(())
            } else {
                Err(format!("{now} instead of {start}, {local} here"))
            }
        });
        let service = cluster.service("h2", "payment-api").expect("a service that outlives a host");
        assert_eq!(service.replicas.len(), 1, "round {round}");
        cluster.wait_well(LIMIT);
    }
    cluster.attach("payment", "c2a");
    let vip = cluster.vip("h2", "payment-api");
    assert_eq!(cluster.tcp("c2a", vip, 80).expect("an answer").name, "c1a");
}

/// Addresses in use, as both hosts count them.
pub(crate) fn used(cluster: &Cluster) -> String {
    format!("{}; {}", used_on(cluster, "h1"), used_on(cluster, "h2"))
}

/// As one host counts them.
pub(crate) fn used_on(cluster: &Cluster, host: &str) -> String {
    let networks: Vec<types::NetworkInfo> = cluster.get(host, routes::NETWORKS, &[]);
    let capacity = networks.into_iter().flat_map(|it| it.capacity);
    capacity.map(|(region, it)| format!("{region} {}/{}", it.used, it.total)).collect::<Vec<_>>().join(", ")
}
