//! Beside a real Docker engine.
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use agent::bed::{Process, Sandbox, ask_tcp, connect};
use tests::cluster::Cluster;
use tests::runner::{Scenario, skip};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![egress_works_although_docker_drops_forwarding once]
}

fn egress_works_although_docker_drops_forwarding(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    // A machine on the underlay that is no member: where egress goes.
    cluster.add_host(9);
    let _outside = cluster.server("h9", 80);
    let before = cluster.shell("h1", "iptables -P FORWARD; iptables-save -t filter 2>/dev/null; true");
    assert!(!before.contains("svc-agent"));
    let dockerd = start_docker(&cluster, "h1");
    let rules = || cluster.shell("h1", "iptables -S");
    assert!(rules().contains("-P FORWARD DROP"), "{}", rules());
    let clean = rules();
    let outside: SocketAddr = "192.168.77.9:80".parse().expect("an address");
    let mut cluster = cluster;
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let answer = wait_until("egress beside Docker", LIMIT, || {
        ask_tcp(&cluster.namespace("c1a"), outside, Duration::from_millis(500))
    });
    assert_eq!(answer.seen_as.ip().to_string(), "192.168.77.1", "the host's address is the source");
    let with_ours = cluster.shell("h1", "iptables -S DOCKER-USER");
    assert!(with_ours.contains("svc-agent"), "our rule is tagged: {with_ours}");
    // It ends and begins anew: what stands goes on, and what comes passes.
    let mut standing = connect(&cluster.namespace("c1a"), outside, LIMIT).expect("a connection");
    let mut byte = [0; 64];
    let greeting = standing.read(&mut byte).expect("the greeting");
    assert!(greeting > 0);
    drop(dockerd);
    let _dockerd = start_docker(&cluster, "h1");
    wait_until("egress beside Docker that was restarted", LIMIT, || {
        ask_tcp(&cluster.namespace("c1a"), outside, Duration::from_millis(500))
    });
    standing.write_all(b"x").expect("sent");
    standing.read_exact(&mut byte[..1]).expect("the standing connection goes on");
    let again = cluster.shell("h1", "iptables -S DOCKER-USER");
    assert_eq!(again, with_ours, "our rule is there once");
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
    let after = cluster.shell("h1", "iptables -S");
    assert_eq!(after, clean, "leave removes our rule and nothing else");
}

/// Starts dockerd in a host's namespace with directories of its own; without it there, the scenario is skipped.
fn start_docker(cluster: &Cluster, host: &str) -> Process {
    let directory = cluster.bed().state_directory(host).with_file_name("docker");
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("docker.sock");
    let mut command = Command::new("dockerd");
    command.arg("--data-root").arg(directory.join("data")).arg("--exec-root").arg(directory.join("exec"));
    command.arg("--pidfile").arg(directory.join("pid"));
    command.arg("-H").arg(format!("unix://{}", socket.display()));
    command.args(["--storage-driver", "vfs", "--iptables=true"]);
    let mut process = match cluster.bed().spawn(host, command, "docker") {
        Ok(process) => process,
        Err(error) => skip(format!("dockerd cannot be started: {error:?}")),
    };
    for _ in 0..150 {
        if process.log().contains("API listen on") {
            return process;
        }
        if process.wait(Duration::from_millis(200)).expect("a wait").is_some() {
            break;
        }
    }
    skip(format!("dockerd does not start here: {}", process.log()))
}
