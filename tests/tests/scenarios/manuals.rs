//! The manuals, run as they are written: two Debian hosts with Docker, and every command of every block.
use std::path::Path;

use agent::bed::Sandbox;
use tests::booted::{Booted, JOIN, Root, check};
use tests::cluster::Cluster;
use tests::runner::Scenario;

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
    let hosts = [1, 2].map(|number| Booted::with_package(&mut cluster, number, Root::Docker));
    for host in &hosts {
        host.import_images();
        // What a manual begins from whose subject is not how one comes there.
        if joined {
            host.shell(JOIN);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(manual);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    check(manual, &text, &hosts.iter().collect::<Vec<_>>());
    (cluster, hosts.into())
}
