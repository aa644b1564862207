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

/// Row P52: somebody takes away a link of ours and puts one of theirs in its place.
fn p52_a_failure_is_seen_on_every_host_and_clears_by_itself(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.ok("h1", "network create other");
    cluster.attach("payment", "c1a c2a");
    cluster.attach("other", "c2b");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let link =
        cluster.shell("h2", "ip -o link | grep -o 'svc-link[0-9]*' | sort | head -n 1").trim().to_owned();
    // In one go, or ours is back before.
    let harm = format!(
        "ip link add near type veth peer name far && printf 'link delete {link}\\nlink set near name {link}\\n' | ip -batch -"
    );
    cluster.shell("h2", &harm);
    for host in ["h1", "h2", "h3"] {
        let problem = wait_until(&format!("{host} sees it"), SEEN, || {
            let seen = problems(&cluster, host);
            seen.iter().find(|it| it.error.contains("not ours")).cloned().ok_or(format!("{seen:?}"))
        });
        assert!(problem.object.starts_with("network/") && problem.seconds < 10, "{problem:?}");
        let output = cluster.cli(host, "status");
        assert!(output.exit == 4 && output.stdout.contains(&link), "{output:?}");
    }
    // What passes by other ways is not concerned.
    assert!(cluster.tcp("c1a", cluster.address_of("c2a"), 80).is_ok());
    cluster.shell("h2", &format!("ip link delete {link}"));
    cluster.wait_well(SEEN);
    let events = cluster.ok("h2", "events");
    assert!(events.contains(&link), "{events}");
    assert_eq!(cluster.spread("c1a", cluster.vip("h1", "payment-api"), 80, 40).answers.len(), 2);
}

/// What fails on the second host, as another one says.
fn problems(cluster: &Cluster, host: &str) -> Vec<Problem> {
    let status = cluster.status(host);
    status.hosts.into_iter().filter(|it| it.name == "h2").flat_map(|it| it.problems).collect()
}
