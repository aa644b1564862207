//! Containers, agents and hosts that end without a word.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![what_has_died_is_gone_everywhere]
}

/// Row P06.
fn what_has_died_is_gone_everywhere(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x c2a c2b c3a c3x");
    let mut servers: Vec<_> =
        ["c1a", "c2a", "c2b", "c3a"].map(|name| (name, cluster.server(name, 80))).into_iter().collect();
    for name in ["c1a", "c2a", "c2b", "c3a"] {
        cluster.ok(&tests::cluster::host_of(name), &format!("register payment-api --on {name}"));
    }
    let vip = cluster.vip("h1", "payment-api");
    let gone = |cluster: &Cluster, name: &str, address: &str, limit: u64, clients: &[&str]| {
        for client in clients {
            wait_until(&format!("{name} is gone for {client}"), Duration::from_secs(limit), || {
                let tasks = cluster.resolve(client, "tasks.payment-api");
                let table = cluster.vip_table(client);
                let serves =
                    table.get(&vip).is_some_and(|all| all.iter().any(|it| it.to_string() == address));
                let named = tasks.split(' ').any(|it| it == address);
                if serves || named { Err(format!("names {tasks}, table {table:?}")) } else { Ok(()) }
            });
        }
    };

    let address = cluster.address_of("c2b").to_string();
    servers.retain(|(name, _)| *name != "c2b");
    cluster.delete_container("c2b");
    gone(&cluster, "c2b", &address, 1, &["c1x", "c3x"]);
    assert_ne!(cluster.resolve("c1x", "c2b.payment.svc.internal"), address, "nor has it a name");
    assert_eq!(cluster.spread("c1x", vip, 80, 60).answers.len(), 3);

    let address = cluster.address_of("c2a").to_string();
    cluster.kill_agent("h2");
    gone(&cluster, "c2a", &address, 5, &["c1x", "c3x"]);
    assert_eq!(cluster.spread("c1x", vip, 80, 60).answers.len(), 2);
    cluster.restart_agent("h2");
    wait_until("it is whole again", Duration::from_secs(5), || {
        let serving = cluster.serving("h1", "payment-api");
        if serving.len() == 3 { Ok(()) } else { Err(format!("{serving:?}")) }
    });
    cluster.wait_well(Duration::from_secs(5));

    let address = cluster.address_of("c3a").to_string();
    servers.retain(|(name, _)| *name != "c3a");
    cluster.kill_host("h3");
    gone(&cluster, "c3a", &address, 5, &["c1x"]);
    assert_eq!(cluster.spread("c1x", vip, 80, 60).answers.len(), 2);

    let status = cluster.status("h1");
    let silent = status.hosts.iter().find(|host| host.name == "h3").and_then(|host| host.problems.first());
    let silent = silent.expect("a problem of h3");
    assert_eq!(silent.object, "host/h3");
    assert!(silent.error.starts_with("suspended: nothing heard of it"), "{silent:?}");
    assert!(silent.error.ends_with("svc-agent node rm h3") && silent.seconds < 60, "{silent:?}");

    // Three seconds of silence are no death.
    cluster.signal_agent("h2", rustix::process::Signal::STOP);
    pause(Duration::from_secs(2));
    assert_eq!(cluster.serving("h1", "payment-api").len(), 2);
    cluster.signal_agent("h2", rustix::process::Signal::CONT);
}
