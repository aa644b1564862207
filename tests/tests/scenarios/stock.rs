//! On a stock kernel of Debian's, in a machine of its own: another one than the tests run on otherwise, and older.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![the_stock_kernel_serves_names_and_vips in_vm]
}

/// Before kernel 6.9 no table has an owner: one that is flushed is brought back.
fn the_stock_kernel_serves_names_and_vips(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    println!("  {}", cluster.shell("h1", "uname -sr").trim());
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1a");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let served = |cluster: &Cluster, what: &str| {
        wait_until(what, LIMIT, || match cluster.tcp("c1x", vip, 80) {
            Ok(answer) if answer.name == "c1a" => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
            Err(error) => Err(error.to_string()),
        });
        wait_until(&format!("{what}, by name"), LIMIT, || {
            let found = cluster.try_shell("c1x", "getent hosts payment-api").stdout;
            if found.contains(&vip.to_string()) { Ok(()) } else { Err(found) }
        });
    };
    served(&cluster, "a service");
    cluster.shell("c1x", "nft flush ruleset");
    served(&cluster, "after a flush of the container's rules");
    cluster.kill_agent("h1");
    cluster.restart_agent("h1");
    served(&cluster, "after a restart of the agent");
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
}
