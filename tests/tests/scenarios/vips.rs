//! Virtual addresses: who is reached, what he sees, and what is refused.
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;

pub fn all() -> Vec<Scenario> {
    tests::scenarios![first_connection]
}

fn first_connection(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3c");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let vip = cluster.vip("h3", "payment-api");
    assert_eq!(cluster.resolve("c3c", "payment-api"), vip.to_string());
    let spread = cluster.spread("c3c", vip, 80, 40);
    assert_eq!(spread.answers.len(), 2, "{spread:?}");
}
