//! Starting, killing and stopping agents.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::api::client::{BlockingClient, Client, ClientError};
use agent::api::{routes, types};
use agent::bed::Process;
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use super::{Cluster, READY_LIMIT};
use crate::family::Family;
use crate::vm::patient;
use crate::wait::wait_until;

/// How long a process may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long the agent may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Cluster {
    /// A new cluster key in a file, which only root may read.
    pub fn write_key(&self, path: &Path) {
        let made = Command::new(&self.program).arg("keygen").output().expect("keygen to run");
        assert!(made.status.success(), "keygen: {made:?}");
        std::fs::write(path, made.stdout).expect("the key file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode).expect("the key file's mode");
    }

    /// The key file that all agents have, unless they are started with another.
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// Starts a host's agent; `how` is `--init`, `--join ADDR` or nothing, and more flags if need be.
    pub fn start_agent(&mut self, host: &str, how: &str) {
        let key = self.key_file.clone();
        self.start_agent_with_key(host, how, &key);
    }

    /// As [`Self::start_agent`], with another key.
    pub fn start_agent_with_key(&mut self, host: &str, how: &str, key: &Path) {
        let mut command = Command::new(self.programs.get(host).unwrap_or(&self.program));
        let number: usize = host.trim_start_matches('h').parse().expect("a host's number");
        command.arg("run");
        if !self.flags.get(host).is_some_and(|flags| flags.iter().any(|flag| flag == "--node")) {
            command.args(["--node", host]);
        }
        if !how.contains("--advertise") {
            command.args(["--advertise", &self.address(number)]);
        }
        command.arg("--key-file").arg(key).arg("--state-dir").arg(self.bed.state_directory(host));
        // Longer flags follow, so that a scenario may override these.
        command.args(self.flags.get(host).into_iter().flatten()).args(how.split_whitespace());
        let environment = self.environment.get(host).into_iter().flatten();
        command.envs(environment.map(|(name, value)| (name, value)));
        let process = self.bed.spawn(host, command, "agent").expect("an agent");
        self.agents.insert(host.to_owned(), Some(process));
    }

    /// Flags for the later starts of a host's agent.
    pub fn set_flags(&mut self, host: &str, flags: &[&str]) {
        self.flags.insert(host.to_owned(), flags.iter().map(|&flag| flag.to_owned()).collect());
    }

    /// Environment variables for the later starts of a host's agent.
    pub fn set_environment(&mut self, host: &str, variables: &[(&str, &str)]) {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.insert(host.to_owned(), variables.collect());
    }

    /// `kill -9` of a host's agent.
    pub fn kill_agent(&mut self, host: &str) {
        if let Some(mut process) = self.agents.get_mut(host).and_then(Option::take) {
            process.kill().expect("the agent to end");
        }
    }

    /// SIGTERM, and its end.
    pub fn stop_agent(&mut self, host: &str) {
        let mut process = self.agents.get_mut(host).and_then(Option::take).expect("a running agent");
        process.signal(Signal::TERM).expect("a signal");
        let ended = process.wait(patient(END_LIMIT)).expect("a wait");
        assert!(ended.is_some_and(|status| status.success()), "{host}'s agent on SIGTERM: {ended:?}");
    }

    /// A signal to a host's agent.
    pub fn signal_agent(&self, host: &str, signal: Signal) {
        self.agent(host).signal(signal).expect("a signal");
    }

    /// Starts a host's agent again and waits until it is ready.
    pub fn restart_agent(&mut self, host: &str) {
        self.start_agent(host, "");
        self.wait_ready(host);
    }

    /// Waits for the end of a host's agent, as after `leave`.
    pub fn wait_agent_end(&mut self, host: &str) {
        let mut process = self.agents.get_mut(host).and_then(Option::take).expect("a running agent");
        let ended = process.wait(patient(END_LIMIT)).expect("a wait");
        assert!(ended.is_some(), "{host}'s agent still runs after {END_LIMIT:?}");
    }

    /// What a host's agents have logged so far.
    pub fn log(&self, host: &str) -> String {
        let path = self.bed.log_directory().join(format!("{host}-agent.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The process of a host's agent.
    pub fn agent_pid(&self, host: &str) -> u32 {
        self.agent(host).pid()
    }

    pub(super) fn agent(&self, host: &str) -> &Process {
        self.agents.get(host).and_then(Option::as_ref).expect("a running agent")
    }

    /// Waits until a host's agent says that it does its work.
    pub fn wait_ready(&self, host: &str) {
        wait_until(&format!("{host} is ready"), READY_LIMIT, || {
            let reply = self.client(host).fetch(routes::READY);
            match reply {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) => Err(reply.text()),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Waits until every host with a running agent sees as many live hosts.
    pub fn wait_members(&self, live: usize) {
        for host in self.running() {
            wait_until(&format!("{host} sees {live} live hosts"), READY_LIMIT, || {
                let nodes: Vec<types::NodeInfo> = self.get(&host, routes::NODES, &[]);
                let states: Vec<String> =
                    nodes.iter().map(|node| format!("{} {}", node.name, node.state)).collect();
                // One that is joining is no member yet: nobody holds it to be suspended.
                let alive = nodes
                    .iter()
                    .filter(|node| !["suspended", "joining"].contains(&node.state.as_str()))
                    .count();
                if alive == live { Ok(()) } else { Err(format!("{states:?}")) }
            });
        }
    }

    /// Hosts whose agent runs.
    pub fn running(&self) -> Vec<String> {
        self.agents.iter().filter(|(_, agent)| agent.is_some()).map(|(host, _)| host.clone()).collect()
    }

    /// A client of a host's agent.
    pub fn client(&self, host: &str) -> BlockingClient {
        let socket = self.bed.run_directory(host).join("agent.sock");
        BlockingClient::new(Client::new(socket, patient(ANSWER_LIMIT))).expect("a client")
    }

    /// GET of the API.
    pub fn try_get<T: DeserializeOwned>(
        &self,
        host: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.client(host).get(path, query)
    }

    /// GET of the API, which must succeed.
    pub fn get<T: DeserializeOwned>(&self, host: &str, path: &str, query: &[(&str, &str)]) -> T {
        self.try_get(host, path, query)
            .unwrap_or_else(|error| panic!("{host}: GET {path} {query:?}: {error}"))
    }

    /// A service as a host sees it; `None` when it has none of that name.
    pub fn service(&self, host: &str, name: &str) -> Option<types::ServiceInfo> {
        let services: Vec<types::ServiceInfo> = self.get(host, routes::SERVICES, &[]);
        services.into_iter().find(|service| service.name.as_str() == name)
    }

    /// The address of an attachment, as its own host sees it.
    pub fn address_of(&self, attachment: &str) -> std::net::IpAddr {
        let all: Vec<types::AttachmentInfo> = self.get(&super::host_of(attachment), routes::ATTACHMENTS, &[]);
        let found = all.iter().find(|it| it.name.as_str() == attachment);
        let found = found.unwrap_or_else(|| panic!("no attachment {attachment}"));
        Family::now().choose(&found.addresses).unwrap_or_else(|| panic!("{attachment} has no address"))
    }

    /// The VIP of a service.
    pub fn vip(&self, host: &str, service: &str) -> std::net::IpAddr {
        let service = self.service(host, service).unwrap_or_else(|| panic!("{host} has no {service}"));
        Family::now().choose(&service.vips).unwrap_or_else(|| panic!("{} has no VIP", service.name))
    }

    /// `status` of a host.
    pub fn status(&self, host: &str) -> types::Status {
        self.get(host, routes::STATUS, &[])
    }

    /// Waits until `status` of every host says that all is well.
    pub fn wait_well(&self, limit: Duration) {
        for host in self.running() {
            wait_until(&format!("all is well, says {host}"), limit, || {
                let status = self.status(&host);
                if status.ok { Ok(()) } else { Err(format!("{:?} {:?}", status.hosts, status.notices)) }
            });
        }
    }
}
