//! Hosts that run real agents.
mod agents;
mod commands;
mod kernel;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::bed::{Bed, Process, Sandbox, Server};
use agent::netns::Namespace;

pub use commands::Output;
pub use kernel::{network_state, shell_in};

/// How long a host may take from its start until it is ready, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// The underlay.
const UNDERLAY: [u8; 3] = [192, 168, 77];

/// Hosts h1, h2, ... on one underlay, an agent on each; dropped, all of it goes. When a scenario panics, the ends of
/// the agents' logs and the way into the namespaces are printed first.
pub struct Cluster {
    bed: Bed,
    program: PathBuf,
    /// Of hosts that have one of their own.
    programs: BTreeMap<String, PathBuf>,
    key_file: PathBuf,
    /// By host; `None` while it is stopped.
    agents: BTreeMap<String, Option<Process>>,
    /// What every start of a host's agent gets besides its own paths.
    flags: BTreeMap<String, Vec<String>>,
    /// And to its environment.
    environment: BTreeMap<String, Vec<(String, String)>>,
    /// Whether the underlay is one of IPv6.
    six: bool,
}

impl Cluster {
    /// `hosts` hosts, each ready.
    pub fn start(sandbox: &Sandbox, hosts: usize) -> Self {
        Self::with_flags(sandbox, hosts, &[])
    }

    /// `hosts` hosts, each ready, whose agents get further flags.
    pub fn with_flags(sandbox: &Sandbox, hosts: usize, flags: &[&str]) -> Self {
        Self::empty(sandbox).filled(hosts, flags)
    }

    /// `hosts` hosts, each ready, on an underlay of IPv6: fd99::`number`.
    pub fn over_six(sandbox: &Sandbox, hosts: usize) -> Self {
        let mut cluster = Self::empty(sandbox);
        cluster.six = true;
        cluster.filled(hosts, &[])
    }

    fn filled(mut self, hosts: usize, flags: &[&str]) -> Self {
        let cluster = &mut self;
        for number in 1..=hosts {
            cluster.add_host(number);
            let name = format!("h{number}");
            cluster.flags.insert(name.clone(), flags.iter().map(|&flag| flag.to_owned()).collect());
            let join = format!("--join {}", cluster.address(1));
            cluster.start_agent(&name, if number == 1 { "--init" } else { &join });
            if number == 1 {
                cluster.wait_ready(&name);
            }
        }
        for number in 1..=hosts {
            cluster.wait_ready(&format!("h{number}"));
        }
        cluster.wait_members(hosts);
        self
    }

    /// A switch and a cluster key, but no hosts yet.
    pub fn empty(sandbox: &Sandbox) -> Self {
        let bed = Bed::new(sandbox, "").expect("a bed");
        let cluster = Self {
            key_file: bed.log_directory().join("cluster.key"),
            bed,
            program: program(),
            programs: BTreeMap::new(),
            agents: BTreeMap::new(),
            flags: BTreeMap::new(),
            environment: BTreeMap::new(),
            six: false,
        };
        let key_file = cluster.key_file.clone();
        cluster.write_key(&key_file);
        cluster
    }

    /// A host without an agent yet: `h<number>` at 192.168.77.`number`.
    pub fn add_host(&mut self, number: usize) -> Namespace {
        let name = format!("h{number}");
        let length = if self.six { 64 } else { 24 };
        let address = format!("{}/{length}", self.address(number)).parse().expect("an address");
        self.bed.host(&name, address).expect("a host")
    }

    /// A host's address on the underlay.
    pub fn address(&self, number: usize) -> String {
        if self.six {
            return format!("fd99::{number}");
        }
        let [a, b, c] = UNDERLAY;
        format!("{a}.{b}.{c}.{number}")
    }

    /// The program that commands are run with, and agents of hosts that have none of their own.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Has later starts of a host's agent run another program.
    pub fn set_program(&mut self, host: &str, program: PathBuf) {
        self.programs.insert(host.to_owned(), program);
    }

    /// Names of the hosts that were given an agent.
    pub fn hosts(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The bed, for its servers, namespaces and directories.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// The bed, to build more in it.
    pub fn bed_mut(&mut self) -> &mut Bed {
        &mut self.bed
    }

    /// The namespace of a host or container.
    pub fn namespace(&self, place: &str) -> Namespace {
        self.bed.namespace(place).expect("a place of this bed")
    }

    /// Containers named after their host: `c2a` is on h2.
    pub fn containers(&mut self, names: &str) {
        for name in names.split_whitespace() {
            let number: String = name.chars().skip(1).take_while(char::is_ascii_digit).collect();
            self.bed.container(&format!("h{number}"), name).expect("a container");
        }
    }

    /// Containers c1a, c2b, ..., attached to a network under their own names.
    pub fn attach(&mut self, network: &str, names: &str) {
        self.containers(names);
        for name in names.split_whitespace() {
            self.attach_again(network, name);
        }
    }

    /// Attaches a container that exists, under its own name, on its host.
    pub fn attach_again(&self, network: &str, name: &str) {
        self.ok(&host_of(name), &format!("attach {name} --network {network} --netns {name}"));
    }

    /// A server in a container that answers every connection and datagram with the container's name.
    pub fn server(&self, container: &str, port: u16) -> Server {
        self.bed.name_server(container, port, container).expect("a server")
    }

    /// As `ip netns del` does.
    pub fn delete_container(&mut self, name: &str) {
        self.bed.delete_container(name).expect("a container to delete");
    }

    /// Power loss.
    pub fn kill_host(&mut self, host: &str) {
        self.bed.kill_host(host).expect("a host to kill");
        self.agents.remove(host);
    }

    /// Off the switch.
    pub fn cut(&self, host: &str) {
        self.bed.cut(host).expect("a host to cut off");
    }

    /// On the switch again.
    pub fn heal(&self, host: &str) {
        self.bed.heal(host).expect("a host to heal");
    }
}

/// The host of a container by its name: `c2a` is on h2.
pub fn host_of(container: &str) -> String {
    let number: String = container.chars().skip(1).take_while(char::is_ascii_digit).collect();
    format!("h{number}")
}

/// The agent's binary: beside this program (the bench), in the directory above (tests), or where SVC_AGENT_PROGRAM says.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("SVC_AGENT_PROGRAM") {
        return program.into();
    }
    let own = std::env::current_exe().expect("this program's path");
    let places: Vec<PathBuf> = own.ancestors().skip(1).take(2).map(|it| it.join("svc-agent")).collect();
    let program = places.iter().find(|program| program.exists());
    program.cloned().unwrap_or_else(|| {
        panic!(
            "no program at {places:?}: build it first, in the same profile, with `cargo build --workspace`"
        )
    })
}
