//! Hosts with real agents, and what is attached to them.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::api::client::{BlockingClient, Client};
use agent::api::routes;
use agent::api::types::{
    Attach, AttachmentInfo, Deregister, Done, NetworkCreate, NodeInfo, Place, Register, ServiceInfo,
    Settings, Wait,
};
use agent::bed::{Bed, Process, Sandbox};
use agent::cluster::ClusterKey;
use agent::netns::Namespace;
use anyhow::{Context, Result, bail};

use crate::machine;

/// The network that everything is on; large enough for 10,000 services.
pub(crate) const NETWORK: &str = "default";
pub(crate) const SUBNET: &str = "10.0.0.0/12";
/// The hosts, in the order of their addresses' last byte.
const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

const ASK_LIMIT: Duration = Duration::from_secs(30);
const START_LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// The cluster. Dropped, it is killed and removed.
pub(crate) struct Cluster {
    // Agents end before the bed.
    agents: BTreeMap<&'static str, (Process, BlockingClient)>,
    pub(crate) bed: Bed,
    pub(crate) key: String,
}

/// A container on the network.
pub(crate) struct Attached {
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
}

impl Cluster {
    /// Starts an agent on each host, waits until all see each other, and makes the network.
    pub(crate) fn start(sandbox: &Sandbox, program: &Path) -> Result<Self> {
        let bed = Bed::new(sandbox, "")?;
        let key =
            ClusterKey::found(std::array::from_fn(|index| u8::try_from(index).unwrap_or_default())).to_text();
        let mut cluster = Self { agents: BTreeMap::new(), bed, key };
        let key_file = cluster.bed.log_directory().join("key");
        let mut options = std::fs::OpenOptions::new();
        std::io::Write::write_all(
            &mut options.create_new(true).write(true).mode(0o600).open(&key_file)?,
            cluster.key.as_bytes(),
        )?;
        for (host, last) in HOSTS.into_iter().zip(1..) {
            cluster.start_agent(program, &key_file, host, last)?;
        }
        cluster.wait_for_nodes()?;
        let create =
            NetworkCreate { name: NETWORK.to_owned(), subnets: vec![SUBNET.parse()?], ..Default::default() };
        let _made: Done = cluster.client("h1")?.post(routes::NETWORKS, &create)?;
        Ok(cluster)
    }

    fn start_agent(&mut self, program: &Path, key_file: &Path, host: &'static str, last: u8) -> Result<()> {
        self.bed.host(host, format!("192.168.77.{last}/24").parse()?)?;
        let mut command = Command::new(program);
        command.arg("run").args(if last == 1 { &["--init"][..] } else { &["--join", "192.168.77.1"][..] });
        command
            .args(["--node", host, "--advertise", &format!("192.168.77.{last}"), "--key-file"])
            .arg(key_file);
        command.arg("--state-dir").arg(self.bed.state_directory(host));
        let process = self.bed.spawn(host, command, "agent")?;
        let socket: PathBuf = self.bed.run_directory(host).join("agent.sock");
        self.agents.insert(host, (process, BlockingClient::new(Client::new(socket, ASK_LIMIT))?));
        Ok(())
    }

    /// Until every host sees as many live ones as there are agents.
    fn wait_for_nodes(&self) -> Result<()> {
        let seen = |host: &&str| self.live_nodes(host).is_ok_and(|count| count == self.agents.len());
        self.wait_until("all hosts see each other", || self.agents.keys().all(&seen))
    }

    /// Kills a host's agent; what the kernel holds stays. Returns when the others count it as failed.
    pub(crate) fn kill_agent(&mut self, host: &str) -> Result<()> {
        self.agents.remove(host).with_context(|| format!("no agent on {host}"))?;
        self.wait_for_nodes()
    }

    fn live_nodes(&self, host: &str) -> Result<usize> {
        let nodes: Vec<NodeInfo> = self.client(host)?.get(routes::NODES, &[])?;
        Ok(nodes
            .iter()
            .filter(|node| node.number > 0 && matches!(node.state.as_str(), "live" | "this host"))
            .count())
    }

    /// Tries again and again; fails with the agents' last words.
    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !holds() {
            if Instant::now() > deadline {
                let last = |(host, (process, _)): (&&str, &(Process, _))| {
                    let log = process.log();
                    format!("{host}: {}\n", log.lines().rev().take(5).collect::<Vec<_>>().join("\n    "))
                };
                bail!(
                    "not within {} s: {what}\n{}",
                    START_LIMIT.as_secs(),
                    self.agents.iter().map(last).collect::<String>()
                );
            }
            machine::pause(SHORT);
        }
        Ok(())
    }

    pub(crate) fn client(&self, host: &str) -> Result<&BlockingClient> {
        Ok(&self.agents.get(host).with_context(|| format!("no agent on {host}"))?.1)
    }

    pub(crate) fn pids(&self) -> Vec<(&'static str, u32)> {
        self.agents.iter().map(|(host, (process, _))| (*host, process.pid())).collect()
    }

    /// Makes a container on a host and attaches it.
    pub(crate) fn attach(&mut self, host: &str, name: &str) -> Result<Attached> {
        let namespace = self.bed.container(host, name)?;
        self.attach_only(host, name)?;
        let all: Vec<AttachmentInfo> = self.client(host)?.get(routes::ATTACHMENTS, &[])?;
        let info = all.iter().find(|info| info.name.as_str() == name);
        let address = info.and_then(|info| info.addresses.iter().find_map(four));
        let address = address.with_context(|| format!("{name} has no IPv4 address"))?;
        Ok(Attached { namespace, address })
    }

    /// Attaches a container that there is.
    pub(crate) fn attach_only(&self, host: &str, name: &str) -> Result<()> {
        let attach = Attach {
            name: name.to_owned(),
            network: Some(NETWORK.to_owned()),
            place: Place::Netns(self.bed.full_name(name)),
            ip: None,
            mac: None,
            aliases: Vec::new(),
            default_route: false,
            wait: Wait::default(),
        };
        let _done: Done = self.client(host)?.post(routes::ATTACHMENTS, &attach)?;
        Ok(())
    }

    /// Registers a service on an attachment of a host.
    pub(crate) fn register(&self, host: &str, service: &str, on: &str, wait: Wait) -> Result<()> {
        let register = Register {
            service: service.to_owned(),
            network: Some(NETWORK.to_owned()),
            on: Some(on.to_owned()),
            place: None,
            weight: None,
            settings: Settings::default(),
            wait,
        };
        let _done: Done = self.client(host)?.post(routes::SERVICES, &register)?;
        Ok(())
    }

    pub(crate) fn deregister(&self, host: &str, service: &str) -> Result<()> {
        let network = Some(NETWORK.to_owned());
        let deregister = Deregister { service: service.to_owned(), network, on: None, wait: Wait::default() };
        let _done: Done = self.client(host)?.post(routes::DEREGISTER, &deregister)?;
        Ok(())
    }

    /// A service's virtual address.
    pub(crate) fn vip(&self, host: &str, service: &str) -> Result<Ipv4Addr> {
        let query = [("name", service), ("network", NETWORK)];
        let info: ServiceInfo = self.client(host)?.get(routes::SERVICE, &query)?;
        info.vips.iter().find_map(four).with_context(|| format!("{service} has no IPv4 VIP"))
    }
}

fn four(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
