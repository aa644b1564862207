//! Several hosts ask for different things at once, or do not belong together.
use std::collections::BTreeSet;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::{Cluster, Output};
use tests::runner::Scenario;
use tests::wait::wait_until;

const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![one_name_declared_differently_at_once, a_host_with_another_key_says_so_itself once]
}

fn at_once(cluster: &Cluster, commands: &[(&str, String)]) -> Vec<Output> {
    std::thread::scope(|scope| {
        let started: Vec<_> =
            commands.iter().map(|(host, words)| scope.spawn(move || cluster.cli(host, words))).collect();
        started.into_iter().map(|thread| thread.join().expect("a command")).collect()
    })
}

/// Row P65.
fn one_name_declared_differently_at_once(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    let create =
        |host, third: u8| (host, format!("network create payment --subnet 10.{third}.0.0/16 -o json"));
    let made = at_once(&cluster, &[create("h1", 71), create("h2", 72)]);
    let subnet = wait_until("both hosts have the same network", SETTLED, || {
        let subnets: BTreeSet<String> =
            ["h1", "h2", "h3"].iter().map(|host| subnets(&cluster, host)).collect();
        if subnets.len() == 1 { Ok(subnets) } else { Err(format!("{subnets:?}")) }
    });
    assert_told(&cluster, &made, &["h1", "h2"], "network payment", &subnet);

    cluster.ok("h1", "network create shop");
    cluster.attach("shop", "c1a c2a c3a");
    let register = |host: &'static str, on: &str, port: u16| {
        (host, format!("register web --on {on} --port {port}:8080/tcp --weight {} -o json", port % 7 + 1))
    };
    let commands = [register("h1", "c1a", 80), register("h2", "c2a", 81), register("h3", "c3a", 82)];
    let made = at_once(&cluster, &commands);
    let ports = wait_until("all hosts have the same service", SETTLED, || {
        let ports: BTreeSet<String> = ["h1", "h2", "h3"]
            .iter()
            .map(|host| {
                cluster.service(host, "web").map_or_else(String::new, |web| format!("{:?}", web.ports))
            })
            .collect();
        if ports.len() == 1 { Ok(ports) } else { Err(format!("{ports:?}")) }
    });
    assert_told(&cluster, &made, &["h1", "h2", "h3"], "service web", &ports);
    let vips: BTreeSet<String> =
        ["c1a", "c2a", "c3a"].iter().map(|name| cluster.resolve(name, "web")).collect();
    assert_eq!(vips.len(), 1, "every host answers the same: {vips:?}");
}

fn subnets(cluster: &Cluster, host: &str) -> String {
    let networks: Vec<types::NetworkInfo> = cluster.get(host, routes::NETWORKS, &[]);
    networks.iter().map(|network| format!("{} {:?}", network.name, network.subnets)).collect()
}

/// Whoever lost was refused, was told in the answer, or finds it in `status`; exactly one has won.
fn assert_told(cluster: &Cluster, made: &[Output], hosts: &[&str], what: &str, settled: &BTreeSet<String>) {
    let refused = made.iter().filter(|output| output.exit != 0).count();
    assert!(refused < made.len(), "{what}: nobody has won: {made:?}");
    if refused == made.len() - 1 {
        return;
    }
    // More than one was accepted in the race: the conflict is seen, on every host.
    for host in hosts {
        wait_until(&format!("{host} shows the conflict of {what}, settled as {settled:?}"), SETTLED, || {
            let notices = cluster.status(host).notices;
            let name = what.rsplit(' ').next().unwrap_or(what);
            if notices.iter().any(|notice| notice.contains(name)) {
                Ok(())
            } else {
                Err(format!("{notices:?}, {made:?}"))
            }
        });
    }
}

fn a_host_with_another_key_says_so_itself(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.add_host(3);
    let key = cluster.bed().log_directory().join("other.key");
    cluster.write_key(&key);
    cluster.start_agent_with_key("h3", "--join 192.168.77.1", &key);
    wait_until("h3 says that its key is not the cluster's", Duration::from_secs(5), || {
        let said = cluster.cli("h3", "status");
        let text = format!("{}{}", said.stdout, said.stderr);
        if text.contains("key") && cluster.log("h3").contains("key") { Ok(()) } else { Err(text) }
    });
    let nodes: Vec<types::NodeInfo> = cluster.get("h1", routes::NODES, &[]);
    assert_eq!(nodes.len(), 2, "it is no member");
    assert!(!cluster.log("h3").contains("panicked"));
    // With the right one it joins: it belonged to nothing yet.
    cluster.stop_agent("h3");
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    cluster.wait_members(3);
    // From then on it does.
    cluster.stop_agent("h3");
    cluster.start_agent_with_key("h3", "--join 192.168.77.1", &key);
    cluster.wait_agent_end("h3");
    let said = cluster.log("h3");
    assert!(said.contains("is of cluster") && said.contains("node rm h3"), "{said}");
}
