//! The manuals, run as they are written: two Debian hosts with Docker, and every command of every block.
use std::path::Path;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::booted::{Booted, JOIN, Root, check, package};
use tests::cluster::Cluster;
use tests::runner::Scenario;

const HOSTS: [&str; 2] = ["h1", "h2"];
const START_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        every_command_of_the_readme_works once,
        every_command_of_docker_md_works once,
        every_command_of_from_swarm_md_works once,
        every_command_of_troubleshooting_md_works once,
    ]
}

fn every_command_of_the_readme_works(sandbox: &Sandbox) {
    let (_cluster, hosts) = run(sandbox, "README.md", false);
    // Whoever a program in a namespace runs as.
    hosts[1].shell("ip netns exec shop setpriv --reuid 65534 --clear-groups getent hosts payment-api");
}

fn every_command_of_docker_md_works(sandbox: &Sandbox) {
    let _hosts = run(sandbox, "docs/docker.md", false);
}

fn every_command_of_from_swarm_md_works(sandbox: &Sandbox) {
    let _hosts = run(sandbox, "docs/from-swarm.md", true);
}

fn every_command_of_troubleshooting_md_works(sandbox: &Sandbox) {
    let _hosts = run(sandbox, "docs/troubleshooting.md", true);
}

fn run(sandbox: &Sandbox, manual: &str, joined: bool) -> (Cluster, Vec<Booted>) {
    let mut cluster = Cluster::empty(sandbox);
    for number in 1..=HOSTS.len() {
        cluster.add_host(number);
        let gateway = "192.168.77.254".parse().expect("an address");
        cluster.bed().default_route(HOSTS[number - 1], gateway).expect("a route");
    }
    let package = package();
    let hosts: Vec<Booted> = HOSTS.iter().map(|name| Booted::boot(&cluster, name, Root::Docker)).collect();
    for host in &hosts {
        host.copy(&package, "/root/svc-agent.deb");
        host.wait("Docker answers", START_LIMIT, "docker version");
        host.import_images();
        // What a manual begins from whose subject is not how one comes there.
        if joined {
            host.shell(JOIN);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(manual);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    check(manual, &text, &hosts.iter().collect::<Vec<_>>());
    (cluster, hosts)
}
