//! What is taken over from a host that is away, and what happens when that host returns.
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use agent::bed::{Sandbox, ask_udp};
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

/// Until a host's silence is noticed, with what a busy machine takes on top.
const NOTICED: Duration = Duration::from_secs(10);
const HEAL_LIMIT: Duration = Duration::from_secs(5);
/// So long it is looked whether anything still comes from the copy that is fenced.
const QUIET: Duration = Duration::from_secs(2);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![a_suspended_hosts_address_is_taken_over_and_its_copy_fenced, a_name_is_taken_over_without_its_address once]
}

fn wait_suspended(cluster: &Cluster, away: &str, by: &[&str]) {
    for host in by {
        wait_until(&format!("{host} holds {away} to be suspended"), NOTICED, || {
            let status = cluster.status(host);
            let seen = status.hosts.iter().find(|it| it.name == away).map(|it| it.state.clone());
            if seen.as_deref() == Some("suspended") { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

fn answers(cluster: &Cluster, client: &str, address: IpAddr) -> Option<String> {
    let to = SocketAddr::new(address, 80);
    ask_udp(&cluster.namespace(client), to, Duration::from_millis(200)).ok().map(|answer| answer.name)
}

fn wait_lands(cluster: &Cluster, address: IpAddr, on: &str, clients: &[&str]) {
    for client in clients {
        wait_until(&format!("{client} reaches {address} on {on}"), HEAL_LIMIT, || {
            let name = answers(cluster, client, address);
            if name.as_deref() == Some(on) { Ok(()) } else { Err(format!("{name:?}")) }
        });
    }
}

/// The copy in a container is fenced: it has no link, and its host says so, with what to do.
fn wait_fenced(cluster: &Cluster, host: &str, container: &str, name: &str, said: &[&str]) {
    wait_until(&format!("{container} on {host} is fenced"), HEAL_LIMIT, || {
        let links = cluster.shell(container, "ip -o link show");
        if links.contains("eth0") { Err(links) } else { Ok(()) }
    });
    wait_until(&format!("{host} says that {name} is fenced"), HEAL_LIMIT, || {
        let status = cluster.status(host);
        let own = status.hosts.iter().find(|it| it.name == host).expect("this host");
        let object = format!("network/payment/attachment/{name}");
        let problem = own.problems.iter().find(|problem| problem.object == object);
        match problem {
            Some(problem) if said.iter().all(|part| problem.error.contains(part)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let events = cluster.ok(host, "events");
    assert!(events.contains(&format!("attachment/{name} fails: fenced")), "{events}");
}

/// Rows P44 and P09: by `--ip`, from both sides of a cut; the copy never answers again until it stands.
fn a_suspended_hosts_address_is_taken_over_and_its_copy_fenced(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c2x c3x");
    cluster.containers("c1a c1b c3a");
    cluster.ok("h1", "attach db --network payment --netns c1a");
    let _servers = ["c1a", "c3a"].map(|name| cluster.server(name, 80));
    let db: IpAddr = cluster.resolve("c2x", "db").parse().expect("an address");
    let take = format!("attach db --network payment --netns c3a --ip {db}");
    wait_lands(&cluster, db, "c1a", &["c1x", "c2x", "c3x"]);
    cluster.refused("h3", &take, 1, &["db is attached to payment on host h1", "svc-agent detach db"]);
    let other = format!("attach other --network payment --netns c3a --ip {db}");
    cluster.refused("h3", &other, 1, &["in use by \"db\""]);

    cluster.cut("h1");
    wait_suspended(&cluster, "h1", &["h2", "h3"]);
    wait_suspended(&cluster, "h2", &["h1"]);
    let refused = cluster.cli("h1", "attach c2x --network payment --netns c1b");
    assert_eq!(refused.exit, 1, "a minority takes nothing over: {refused:?}");
    assert!(
        refused.stderr.contains("majority") && refused.stderr.contains("node rm h2"),
        "{}",
        refused.stderr
    );
    let took = cluster.ok("h3", &take);
    assert!(took.contains("taken over from h1"), "{took}");
    wait_lands(&cluster, db, "c3a", &["c2x", "c3x"]);
    wait_lands(&cluster, db, "c1a", &["c1x"]);
    assert_eq!(cluster.resolve("c2x", "db"), db.to_string());

    cluster.heal("h1");
    let fenced = ["fenced", "on host h3", "svc-agent detach db --network payment"];
    wait_fenced(&cluster, "h1", "c1a", "db", &fenced);
    wait_lands(&cluster, db, "c3a", &["c1x", "c2x", "c3x"]);
    let until = Instant::now() + QUIET;
    while Instant::now() < until {
        for client in ["c1x", "c2x", "c3x"] {
            let name = answers(&cluster, client, db);
            assert!(name.as_deref().is_none_or(|name| name == "c3a"), "{client} reached the copy on h1");
        }
    }
    let again = format!("attach db --network payment --netns c1a --ip {db}");
    cluster.refused("h1", &again, 1, &["db is attached to payment on host h3", "which is fenced"]);

    // Who gives it back gives it to the copy, which is whole again.
    cluster.ok("h3", "detach db");
    wait_lands(&cluster, db, "c1a", &["c1x", "c2x", "c3x"]);
    cluster.wait_well(HEAL_LIMIT);

    // From the one that took over it can be taken over in turn, by the first one, too.
    cluster.cut("h1");
    wait_suspended(&cluster, "h1", &["h2", "h3"]);
    cluster.ok("h3", &take);
    cluster.heal("h1");
    wait_fenced(&cluster, "h1", "c1a", "db", &fenced);
    cluster.wait_members(3);
    cluster.kill_host("h3");
    wait_suspended(&cluster, "h3", &["h1", "h2"]);
    // The fence leads to what can be done now, also after an attempt that failed on the way.
    let away = ["on host h3, which is suspended", "attach it here again", "svc-agent node rm h3"];
    wait_fenced(&cluster, "h1", "c1a", "db", &away);
    let busy = cluster.resolve("c2x", "c2x");
    let otherwise = format!("attach db --network payment --netns c1a --ip {busy}");
    cluster.refused("h1", &otherwise, 1, &["in use by \"c2x\""]);
    wait_fenced(&cluster, "h1", "c1a", "db", &away);
    let took = cluster.ok("h1", &again);
    assert!(took.contains("taken over from h3"), "{took}");
    wait_lands(&cluster, db, "c1a", &["c1x", "c2x"]);
    cluster.ok("h1", "node rm h3");
    wait_lands(&cluster, db, "c1a", &["c1x", "c2x"]);
    cluster.wait_well(HEAL_LIMIT);
}

/// A name goes to another address; the copy is fenced whole, replicas on it serve nobody, and detaching it settles all.
fn a_name_is_taken_over_without_its_address(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c2x c3x");
    cluster.containers("c1a c3a");
    cluster.ok("h1", "attach db --network payment --netns c1a");
    cluster.ok("h1", "register store --on db");
    let _servers = ["c1a", "c3a"].map(|name| cluster.server(name, 80));
    let before: IpAddr = cluster.resolve("c2x", "db").parse().expect("an address");
    cluster.cut("h1");
    wait_suspended(&cluster, "h1", &["h2", "h3"]);
    cluster.ok("h3", "attach db --network payment --netns c3a");
    cluster.ok("h3", "register store --on db");
    let after: IpAddr = cluster.resolve("c2x", "db").parse().expect("an address");
    assert_ne!(before, after);
    cluster.heal("h1");
    wait_fenced(&cluster, "h1", "c1a", "db", &["the name db stands on host h3"]);
    for client in ["c1x", "c2x", "c3x"] {
        wait_until(&format!("{client} knows db and store on h3 only"), HEAL_LIMIT, || {
            let seen = (cluster.resolve(client, "db"), cluster.resolve(client, "tasks.store"));
            if seen == (after.to_string(), after.to_string()) { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        assert_eq!(answers(&cluster, client, before), None, "the copy answers {client}");
    }
    let store = cluster.service("h2", "store").expect("the service");
    let states: Vec<(&str, &str)> =
        store.replicas.iter().map(|it| (it.host.as_str(), it.state.as_str())).collect();
    assert_eq!(states, [("h1", "fenced"), ("h3", "serving")]);
    // The address that was left behind is nobody's but the copy's until that is detached.
    cluster.ok("h1", "detach db");
    cluster.wait_well(HEAL_LIMIT);
    let vip = cluster.vip("h2", "store");
    assert_eq!(cluster.spread("c1x", vip, 80, 20).answers.keys().collect::<Vec<_>>(), ["c3a"]);
}
