//! Checks, and draining.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use agent::bed::{Sandbox, connect};
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(3);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        checks_decide_who_serves,
        another_check_is_waited_for,
        a_drained_replica_keeps_its_connections,
        p26_a_drain_goes_on_over_a_restart
    ]
}

fn checks_decide_who_serves(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1b c2x");
    let register = "--check http://:8080/healthz --check-interval 200ms --check-timeout 200ms";
    // Nothing listens yet: registered, but not serving.
    let output = cluster.cli("h1", &format!("register web --on c1a {register} --timeout 600ms"));
    assert_eq!(output.exit, 4, "{output:?}");
    assert!(output.stderr.contains("check passes"), "{output:?}");
    assert!(cluster.serving("h2", "web").is_empty());
    let web = cluster.bed().http_server("c1a", 8080).expect("a server");
    wait_serving(&cluster, "web", &["c1a"], Duration::from_secs(1), "its check passes");
    web.set_status(503);
    wait_serving(&cluster, "web", &[], Duration::from_secs(1), "it answers 503");
    wait_named(&cluster, "replica/payment/web/c1a", "it answered 503");
    web.set_status(404);
    wait_named(&cluster, "replica/payment/web/c1a", "it answered 404");
    web.set_status(204);
    wait_serving(&cluster, "web", &["c1a"], Duration::from_secs(1), "it answers 204");
    cluster.wait_well(Duration::from_secs(1));
    // No answer at all: two time-outs, so not at once.
    let started = Instant::now();
    web.set_status(0);
    wait_serving(&cluster, "web", &[], Duration::from_secs(2), "it answers no more");
    assert!(
        started.elapsed() > Duration::from_millis(350),
        "after {:?}: one time-out is none",
        started.elapsed()
    );
    drop(web);
    wait_named(&cluster, "replica/payment/web/c1a", "check of http");
    cluster.ok("h1", "drain web --on c1a");
    cluster.wait_well(Duration::from_secs(1));

    let tcp = cluster.server("c1b", 9090);
    cluster.ok("h1", "register db --on c1b --check tcp:9090");
    assert_eq!(cluster.serving("h2", "db").len(), 1, "the verb returns after the first check has passed");
    let stopped = Instant::now();
    drop(tcp);
    // A refused connect fails at once, so one interval (1 s) is enough.
    wait_serving(&cluster, "db", &[], Duration::from_millis(1_600), "its port is closed");
    assert!(stopped.elapsed() < Duration::from_millis(1_600));
    wait_named(&cluster, "replica/payment/db/c1b", "refused");
    cluster.ok("h1", "deregister db --on c1b");
    cluster.wait_well(Duration::from_secs(1));
    let _tcp = cluster.server("c1b", 9090);
    cluster.ok("h1", "register db --on c1b --check tcp:9090");
    wait_serving(&cluster, "db", &["c1b"], Duration::from_millis(1_600), "its port is open again");
}

/// Any host's status names the replica and why, and says that not all is well.
fn wait_named(cluster: &Cluster, object: &str, why: &str) {
    wait_until(&format!("status names {object}: {why}"), Duration::from_secs(2), || {
        let status = cluster.status("h2");
        let mut problems = status.hosts.iter().filter(|host| host.name == "h1").flat_map(|it| &it.problems);
        let named = problems.any(|problem| problem.object == object && problem.error.contains(why));
        if named && !status.ok { Ok(()) } else { Err(format!("{:?}", status.hosts)) }
    });
}

/// Whoever changes a check wants to know what it finds; who uses the service meanwhile is not to notice.
fn another_check_is_waited_for(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let web = cluster.bed().http_server("c1a", 8080).expect("a server");
    cluster.ok("h1", "register web --on c1a");
    let check = "register web --on c1a --check http://:8080";
    // No answer, so no verdict: it goes on as it was.
    web.set_status(0);
    let output = cluster.cli("h1", &format!("{check}/a --check-timeout 1m --timeout 300ms"));
    assert_eq!(output.exit, 4, "{output:?}");
    assert!(output.stderr.contains("has not passed its new check yet"), "{output:?}");
    let line = "service web: check changed from none to http://:8080/a every 1s, time-out 60s, 2 failures\n";
    assert!(output.stdout.contains(line), "{output:?}");
    wait_serving(&cluster, "web", &["c1a"], Duration::ZERO, "nothing is known of its new check");
    web.set_status(204);
    cluster.ok("h1", &format!("{check}/b --check-interval 200ms"));
    wait_serving(&cluster, "web", &["c1a"], Duration::ZERO, "its new check has passed");
    web.set_status(404);
    let output = cluster.cli("h1", &format!("{check}/c --check-interval 1m --timeout 600ms"));
    assert_eq!(output.exit, 4, "{output:?}");
    assert!(output.stderr.contains("until its check passes"), "{output:?}");
    wait_serving(&cluster, "web", &[], Duration::from_secs(1), "its new check has failed");
    web.set_status(204);
    cluster.ok("h1", &format!("{check}/d --check-interval 1m"));
    wait_serving(&cluster, "web", &["c1a"], Duration::from_secs(1), "yet another check passes");
}

fn wait_serving(cluster: &Cluster, service: &str, wanted: &[&str], limit: Duration, why: &str) {
    wait_until(&format!("{service} is served by {wanted:?}, since {why}"), limit, || {
        let seen = cluster.serving("h2", service);
        if seen.iter().eq(wanted) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

fn a_drained_replica_keeps_its_connections(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c2x");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let mut stream =
        connect(&cluster.namespace("c2x"), SocketAddr::new(vip, 80), LIMIT).expect("a connection");
    assert!(greeting(&mut stream).starts_with("c1a "));
    cluster.ok("h2", "register payment-api --on c2a");
    cluster.ok("h1", "drain payment-api --on c1a");
    let spread = cluster.spread("c2x", vip, 80, 60);
    assert_eq!(spread.answers.keys().collect::<Vec<_>>(), ["c2a"], "no new flow to the drained one");
    for text in ["still", "here"] {
        assert_eq!(echo(&mut stream, text), text, "an established connection goes on");
    }
    cluster.ok("h1", "register payment-api --on c1a");
    assert_eq!(cluster.spread("c2x", vip, 80, 60).answers.len(), 2, "registering again ends the drain");
    assert_eq!(echo(&mut stream, "and on"), "and on");
}

/// Row P26: the agent of the drained replica's host is killed, then that of the client's.
fn p26_a_drain_goes_on_over_a_restart(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c2x");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    let mut stream =
        connect(&cluster.namespace("c2x"), SocketAddr::new(vip, 80), LIMIT).expect("a connection");
    assert!(greeting(&mut stream).starts_with("c1a "));
    cluster.ok("h2", "register payment-api --on c2a");
    cluster.ok("h1", "drain payment-api --on c1a");
    for host in ["h1", "h2"] {
        cluster.kill_agent(host);
        let only = |when: &str| {
            let spread = cluster.spread("c2x", vip, 80, 30);
            assert_eq!(spread.answers.keys().collect::<Vec<_>>(), ["c2a"], "{when} the agent of {host}");
        };
        only("without");
        assert_eq!(echo(&mut stream, "without"), "without");
        cluster.restart_agent(host);
        cluster.wait_ready(host);
        cluster.wait_well(Duration::from_secs(20));
        let spread = cluster.spread("c2x", vip, 80, 30);
        assert_eq!(spread.answers.keys().collect::<Vec<_>>(), ["c2a"], "after the restart of {host}");
        assert_eq!(echo(&mut stream, "after"), "after", "an established connection goes on");
        let service = cluster.service("h2", "payment-api").expect("the service");
        let drained =
            service.replicas.iter().find(|it| it.attachment.as_str() == "c1a").expect("the replica");
        assert_eq!(drained.state, "draining");
    }
}

fn greeting(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the greeting");
        line.extend(byte);
    }
    String::from_utf8(line).expect("text")
}

fn echo(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).expect("a write");
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).expect("an echo");
    String::from_utf8(bytes).expect("text")
}
