//! A bed: hosts, containers and the underlay between them as namespaces on one machine, for the demo and for tests.
//!
//! It exists only inside a [`Sandbox`], whose network, mounts and process numbers are its own; so nothing of it is
//! ever in the machine's network namespace, and when the sandbox's first process ends, even by SIGKILL, the kernel
//! ends every other one in it and frees all.
//!
//! ```text
//!   switch (namespace)      bridge br-u with one port to-NAME per host
//!      |         |
//!   host h1   host h2       eth0 with the host's address; agents run here, each with its own /run/svc-agent
//!   container c1 ...        empty namespaces, bound at /run/netns/NAME, for agents to attach
//! ```
//!
//! Every name is prefixed with the bed's prefix where the kernel sees it, so beds can stand side by side.
//! Calls block for milliseconds; they work on any thread, inside a runtime or not.
mod mounts;
mod process;
mod requirements;
mod sandbox;
#[cfg(test)]
mod tests;
mod traffic;
mod underlay;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::netns::{self, Namespace};
use process::Spawner;

pub use process::Process;
pub use requirements::require_root_or_userns;
pub use sandbox::Sandbox;
pub use traffic::{Answer, HttpServer, Server, Spread, ask_tcp, ask_udp, connect, spread, take_precedence};

/// Where the namespaces' names are, as of ip-netns(8).
const NAMED: &str = "/run/netns";
/// Logs and the hosts' own directories.
const DIRECTORY: &str = "/run/svc-agent-bed";
/// How long processes that were killed may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Interfaces have 15 bytes, of which the switch's ports use three.
const NAME_BYTES_MAX: usize = 12;

/// What failed, and on what. The bed stands as before, apart from what the message names.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages name.
pub enum Error {
    /// The machine does not allow a sandbox.
    #[error("cannot build a test bed here: {missing}")]
    Missing { missing: String },
    /// The sandbox could not be made.
    #[error("cannot {what} for the sandbox")]
    Sandbox { what: String, source: io::Error },
    /// Neither a host nor a container of the bed.
    #[error("the bed has no {name}")]
    Unknown { name: String },
    /// The name is taken, or does not fit into an interface's name.
    #[error("{name} is no usable name in the bed: {reason}")]
    Name { name: String, reason: &'static str },
    /// A namespace could not be made or entered.
    #[error("namespace of {name}")]
    Namespace { name: String, source: netns::Error },
    /// A file, a mount, a process or a socket.
    #[error("cannot {what} of {name}")]
    Do { what: &'static str, name: String, source: io::Error },
    /// The kernel refused a change of links or addresses.
    #[error("cannot {what} of {name}")]
    Netlink { what: &'static str, name: String, source: rtnetlink::Error },
}

/// The bed. Dropped, it kills what runs in it and removes all of it.
pub struct Bed {
    prefix: String,
    directory: PathBuf,
    switch: Namespace,
    hosts: BTreeMap<String, Host>,
    containers: BTreeMap<String, Container>,
    spawner: Spawner,
    /// Drives the servers.
    servers: tokio::runtime::Handle,
    /// Taken by drop alone.
    runtime: Option<tokio::runtime::Runtime>,
}

struct Host {
    namespace: Namespace,
    address: IpNetwork,
    mac: Vec<u8>,
}

struct Container {
    namespace: Namespace,
    host: String,
}

impl Bed {
    /// A switch without hosts. Names that the kernel sees begin with `prefix`, which may be empty.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn new(_within: &Sandbox, prefix: &str) -> Result<Self, Error> {
        let directory = Path::new(DIRECTORY).join(if prefix.is_empty() { "bed" } else { prefix });
        let failed = |what| move |source| Error::Do { what, name: "the bed".to_owned(), source };
        std::fs::create_dir_all(directory.join("log")).map_err(failed("make the directory"))?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).on_thread_start(take_precedence).enable_all();
        let runtime = runtime.build().map_err(failed("start the servers' runtime"))?;
        let spawner = Spawner::start().map_err(failed("start the spawning thread"))?;
        let name = format!("{prefix}switch");
        let switch = underlay::switch().map_err(|source| Error::Namespace { name: name.clone(), source })?;
        let bed = Self {
            prefix: prefix.to_owned(),
            directory,
            switch,
            hosts: BTreeMap::new(),
            containers: BTreeMap::new(),
            spawner,
            servers: runtime.handle().clone(),
            runtime: Some(runtime),
        };
        mounts::pin(&bed.switch, &named(&name)).map_err(failed("name the switch"))?;
        underlay::build_switch(&bed.switch)?;
        Ok(bed)
    }

    /// Adds a host: a namespace with `lo` up and `eth0`, which has the address, on the switch. No default route.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn host(&mut self, name: &str, address: IpNetwork) -> Result<Namespace, Error> {
        self.check_name(name)?;
        let namespace = self.named_namespace(name)?;
        let run = self.run_directory(name);
        std::fs::create_dir_all(&run).map_err(|source| failure("make the directory", name, source))?;
        let mac = underlay::join_switch(&self.switch, &namespace, name, address)?;
        self.hosts.insert(name.to_owned(), Host { namespace: namespace.clone(), address, mac });
        Ok(namespace)
    }

    /// Adds a container on a host: a namespace as `ip netns add` makes it, under `/run/netns/<prefix><name>`.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn container(&mut self, host: &str, name: &str) -> Result<Namespace, Error> {
        self.check_name(name)?;
        self.find_host(host)?;
        let namespace = self.named_namespace(name)?;
        self.containers
            .insert(name.to_owned(), Container { namespace: namespace.clone(), host: host.to_owned() });
        Ok(namespace)
    }

    /// Removes a container's name as `ip netns del` does. The namespace lives on while anything in it does; the
    /// bed and its servers there hold nothing of it afterwards once those servers are dropped.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Do`].
    pub fn delete_container(&mut self, name: &str) -> Result<(), Error> {
        self.containers.remove(name).ok_or_else(|| unknown(name))?;
        mounts::unpin(&named(&self.full_name(name)))
            .map_err(|source| failure("remove the name", name, source))
    }

    /// Ends a host as a loss of power does: off the switch, every process in it and in its containers killed, its
    /// containers gone.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn kill_host(&mut self, name: &str) -> Result<(), Error> {
        self.find_host(name)?;
        underlay::remove_port(&self.switch, name)?;
        let on_it = |container: &&String| self.containers[*container].host == name;
        let containers: Vec<String> = self.containers.keys().filter(on_it).cloned().collect();
        let all = containers.iter().map(String::as_str).chain([name]);
        let namespaces: Vec<Namespace> = all.map(|name| self.namespace(name)).collect::<Result<_, _>>()?;
        process::kill_all_in(&namespaces, END_TIMEOUT)
            .map_err(|source| failure("kill the processes", name, source))?;
        for container in containers {
            self.delete_container(&container)?;
        }
        self.hosts.remove(name);
        mounts::unpin(&named(&self.full_name(name)))
            .map_err(|source| failure("remove the name", name, source))
    }

    /// The namespace of a host or container.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        let host = self.hosts.get(name).map(|host| &host.namespace);
        let found = host.or_else(|| self.containers.get(name).map(|container| &container.namespace));
        found.cloned().ok_or_else(|| unknown(name))
    }

    /// The switch's namespace, for captures and faults.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// A host's or container's name as the kernel and `ip netns` know it.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What a host's processes see as `/run/svc-agent`.
    pub fn run_directory(&self, host: &str) -> PathBuf {
        self.directory.join(host).join("run")
    }

    /// A place for a host's state; it is not made.
    pub fn state_directory(&self, host: &str) -> PathBuf {
        self.directory.join(host).join("state")
    }

    /// Where the logs of processes are.
    pub fn log_directory(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Takes a host off the switch; its carrier stays up, as behind a switch that fails.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Netlink`].
    pub fn cut(&self, host: &str) -> Result<(), Error> {
        self.find_host(host)?;
        underlay::set_port(&self.switch, host, false)
    }

    /// Puts a host back on the switch.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Netlink`].
    pub fn heal(&self, host: &str) -> Result<(), Error> {
        self.find_host(host)?;
        underlay::set_port(&self.switch, host, true)
    }

    /// Loses everything that `from` sends to `to`, and nothing else.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Netlink`].
    pub fn cut_path(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from_host, to_host) = (self.find_host(from)?, self.find_host(to)?);
        underlay::mislead(&from_host.namespace, from, to_host.address.ip())
    }

    /// Ends [`Self::cut_path`].
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Netlink`].
    pub fn heal_path(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from_host, to_host) = (self.find_host(from)?, self.find_host(to)?);
        underlay::lead(&from_host.namespace, from, to_host.address.ip(), &to_host.mac)
    }

    /// Sets the MTU, in bytes, of the switch and of every host on it.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn set_underlay_mtu(&self, mtu: u32) -> Result<(), Error> {
        for (name, host) in &self.hosts {
            underlay::set_mtu(&host.namespace, underlay::UPLINK, name, mtu)?;
            underlay::set_mtu(&self.switch, &underlay::port_name(name), name, mtu)?;
        }
        underlay::set_mtu(&self.switch, underlay::BRIDGE, "the switch", mtu)
    }

    /// Gives a host a default route by way of another address on the switch.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Netlink`].
    pub fn default_route(&self, host: &str, gateway: IpAddr) -> Result<(), Error> {
        underlay::default_route(&self.find_host(host)?.namespace, host, gateway)
    }

    fn find_host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts.get(name).ok_or_else(|| unknown(name))
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        let refuse = |reason| Err(Error::Name { name: name.to_owned(), reason });
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(['/', '.', ' ']) {
            return refuse("it takes 1 to 12 bytes without slash, dot or space");
        }
        if self.hosts.contains_key(name)
            || self.containers.contains_key(name)
            || name == "switch"
            || name == "log"
        {
            return refuse("it is taken");
        }
        Ok(())
    }

    fn named_namespace(&self, name: &str) -> Result<Namespace, Error> {
        let namespace =
            Namespace::create().map_err(|source| Error::Namespace { name: name.to_owned(), source })?;
        mounts::pin(&namespace, &named(&self.full_name(name)))
            .map_err(|source| failure("make the name", name, source))?;
        Ok(namespace)
    }
}

impl Drop for Bed {
    /// Nothing more can be done about what fails here; the sandbox's end removes it too.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed inside another runtime.
            runtime.shutdown_background();
        }
        let hosts = self.hosts.values().map(|host| host.namespace.clone());
        let containers = self.containers.values().map(|container| container.namespace.clone());
        let namespaces: Vec<Namespace> = hosts.chain(containers).collect();
        let _still_running = process::kill_all_in(&namespaces, END_TIMEOUT);
        let names = self.hosts.keys().chain(self.containers.keys()).map(String::as_str);
        for name in names.chain(["switch"]) {
            let _already_gone = mounts::unpin(&named(&self.full_name(name)));
        }
        let _already_gone = std::fs::remove_dir_all(&self.directory);
    }
}

fn named(full_name: &str) -> PathBuf {
    Path::new(NAMED).join(full_name)
}

fn unknown(name: &str) -> Error {
    Error::Unknown { name: name.to_owned() }
}

fn failure(what: &'static str, name: &str, source: io::Error) -> Error {
    Error::Do { what, name: name.to_owned(), source }
}
