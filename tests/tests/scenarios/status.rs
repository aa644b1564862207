//! A failure on one host is seen on all, and its end.
use std::time::Duration;

use agent::api::types::Problem;
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

/// From the failure, or its end, until every host says so.
const SEEN: Duration = Duration::from_secs(5);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![p52_a_failure_is_seen_on_every_host_and_clears_by_itself once]
}

/// Row P52: somebody's filter drops what a host forwards, and with it what leaves its networks.
fn p52_a_failure_is_seen_on_every_host_and_clears_by_itself(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let chain = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
    cluster.shell("h2", &format!("nft '{chain}'"));
    for host in ["h1", "h2", "h3"] {
        let problem = wait_until(&format!("{host} sees it"), SEEN, || {
            let seen = problems(&cluster, host);
            seen.iter().find(|it| it.error.contains("FORWARD")).cloned().ok_or(format!("{seen:?}"))
        });
        assert!(problem.object == "host" && problem.seconds < 10, "{problem:?}");
        let output = cluster.cli(host, "status");
        assert!(output.exit == 4 && output.stdout.contains("svc-link"), "it says what to do: {output:?}");
    }
    // What passes by other ways is not concerned.
    assert!(cluster.tcp("c1a", cluster.address_of("c2a"), 80).is_ok());
    cluster.shell("h2", "nft delete table ip filter");
    cluster.wait_well(SEEN);
    let events = cluster.ok("h2", "events");
    assert!(events.contains("FORWARD"), "{events}");
    assert_eq!(cluster.spread("c1a", cluster.vip("h1", "payment-api"), 80, 40).answers.len(), 2);
}

/// What fails on the second host, as another one says.
fn problems(cluster: &Cluster, host: &str) -> Vec<Problem> {
    let status = cluster.status(host);
    status.hosts.into_iter().filter(|it| it.name == "h2").flat_map(|it| it.problems).collect()
}
