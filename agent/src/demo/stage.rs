//! Three hosts, seven containers, their programs and agents; and typing commands there.
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use rustix::event::Timespec;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::printer::Printer;
use crate::bed::{Bed, Process, Sandbox, Server};
use crate::netns::Namespace;

/// Hosts, their addresses (RFC 5737: nobody's), and their containers.
pub(super) const HOSTS: [(&str, [u8; 4], &[&str]); 3] = [
    ("h1", [192, 0, 2, 1], &["pay1", "pay2", "db"]),
    ("h2", [192, 0, 2, 2], &["pay3", "pay4"]),
    ("h3", [192, 0, 2, 3], &["shop", "spy"]),
];
/// The containers that serve `payment-api`.
pub(super) const REPLICAS: [&str; 4] = ["pay1", "pay2", "pay3", "pay4"];
/// Where each host's agent keeps what the demo gives it, as its processes see it.
const KEY: &str = "/run/svc-agent/cluster.key";
const STATE: &str = "/run/svc-agent/state";
/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at what is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Lines of each agent's log that are shown after a failure.
const COMPLAINTS_MAX: usize = 5;

/// All of it. Dropped, it is removed.
pub(super) struct Stage {
    servers: BTreeMap<String, Server>,
    agents: BTreeMap<&'static str, Process>,
    bed: Bed,
}

/// What is printed of what a command printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// All.
    All,
    /// Its first line, where the others were seen before.
    First,
}

impl Stage {
    /// An empty one.
    pub(super) fn new(sandbox: &Sandbox) -> Result<Self, Error> {
        Ok(Self { servers: BTreeMap::new(), agents: BTreeMap::new(), bed: Bed::new(sandbox, "")? })
    }

    /// Adds a host of [`HOSTS`] with its containers, all empty.
    pub(super) fn add_host(&mut self, host: &str) -> Result<(), Error> {
        let (_, address, containers) = HOSTS[number(host)];
        // 24 is a prefix length of IPv4.
        let address = IpNetwork::new(IpAddr::from(address), 24).map_err(|error| Error::Do {
            what: "address the link",
            place: host.to_owned(),
            source: io::Error::other(error),
        })?;
        self.bed.host(host, address)?;
        for container in containers {
            self.bed.container(host, container)?;
        }
        Ok(())
    }

    /// Makes the cluster's key on the first host, and copies it to the others.
    pub(super) fn make_key(&self, printer: &mut Printer) -> Result<(), Error> {
        printer.command("h1", &format!("svc-agent keygen > {KEY}"));
        let key = self.run("h1", "keygen")?.stdout;
        for (host, ..) in HOSTS {
            let path = self.bed.run_directory(host).join("cluster.key");
            let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| file.write_all(&key));
            written.map_err(|source| Error::Do {
                what: "write the cluster's key",
                place: host.to_owned(),
                source,
            })?;
        }
        printer.aside("and the same file on h2 and h3");
        Ok(())
    }

    /// Starts a host's agent; `how` is `--init`, `--join …` or nothing. It takes all else from its defaults.
    pub(super) fn start_agent(&mut self, printer: &mut Printer, host: &str, how: &str) -> Result<(), Error> {
        let (name, address, _) = HOSTS[number(host)];
        let address = IpAddr::from(address);
        let how = if how.is_empty() { String::new() } else { format!(" {how}") };
        let what = format!("run{how} --node {host} --advertise {address}");
        let files = format!("--key-file {KEY} --state-dir {STATE}");
        printer.command(host, &format!("svc-agent {what} \\\n{files} &"));
        let arguments = format!("{what} {files}");
        let agent = self.bed.spawn(host, svc_agent(&arguments), "agent")?;
        self.agents.insert(name, agent);
        Ok(())
    }

    /// Types a command that is to be done, shows it and what came back; returns how long it took.
    pub(super) fn type_in(
        &self,
        printer: &mut Printer,
        place: &str,
        arguments: &str,
        show: Show,
    ) -> Result<Duration, Error> {
        printer.command(place, &format!("svc-agent {arguments}"));
        let started = Instant::now();
        let output = self.run(place, arguments)?;
        let took = started.elapsed();
        let text = String::from_utf8_lossy(&output.stdout);
        match show {
            Show::All => printer.output(&text),
            Show::First => printer.output(&shortened(&text)),
        }
        printer.output(&String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => Ok(took),
            code => Err(command_failed(place, arguments, code, &output)),
        }
    }

    /// Types a command that may end with any exit code, and shows it, with the code if that is not 0.
    pub(super) fn look_at(&self, printer: &mut Printer, place: &str, arguments: &str) -> Result<(), Error> {
        printer.command(place, &format!("svc-agent {arguments}"));
        let output = self.run(place, arguments)?;
        printer.output(&String::from_utf8_lossy(&output.stdout));
        printer.output(&String::from_utf8_lossy(&output.stderr));
        if let Some(code) = output.status.code().filter(|code| *code != 0) {
            printer.aside(&format!("(exit code {code})"));
        }
        Ok(())
    }

    /// What a command says with `-o json`; nothing is shown.
    pub(super) fn ask<T: DeserializeOwned>(&self, place: &str, arguments: &str) -> Result<T, Error> {
        let output = self.run(place, &format!("{arguments} -o json"))?;
        serde_json::from_slice(&output.stdout).map_err(|_| match output.status.code() {
            Some(0) => Error::Answer {
                place: place.to_owned(),
                command: format!("svc-agent {arguments} -o json"),
                said: String::from_utf8_lossy(&output.stdout).into_owned(),
            },
            code => command_failed(place, arguments, code, &output),
        })
    }

    fn run(&self, place: &str, arguments: &str) -> Result<std::process::Output, Error> {
        Ok(self.bed.output(place, svc_agent(arguments), COMMAND_LIMIT)?)
    }

    /// Starts the program in a container: it answers every connection and datagram with the container's name and
    /// the client's address as it sees it.
    pub(super) fn start_program(&mut self, container: &str, port: u16) -> Result<(), Error> {
        let server = self.bed.name_server(container, port, container)?;
        self.servers.insert(container.to_owned(), server);
        Ok(())
    }

    /// Ends a container as an engine does: its program, then the name of its namespace.
    pub(super) fn kill_container(&mut self, container: &str) -> Result<(), Error> {
        self.servers.remove(container);
        Ok(self.bed.delete_container(container)?)
    }

    /// Ends a host as a loss of power does.
    pub(super) fn kill_host(&mut self, host: &str) -> Result<(), Error> {
        self.bed.kill_host(host)?;
        self.agents.remove(host);
        for container in HOSTS[number(host)].2 {
            self.servers.remove(*container);
        }
        Ok(())
    }

    pub(super) fn namespace(&self, place: &str) -> Result<Namespace, Error> {
        Ok(self.bed.namespace(place)?)
    }

    /// The socket of a host's agent, as seen by who is not on that host.
    pub(super) fn socket(&self, host: &str) -> String {
        self.bed.run_directory(host).join("agent.sock").display().to_string()
    }

    /// The logs of all agents are here.
    pub(super) fn log_directory(&self) -> String {
        self.bed.log_directory().display().to_string()
    }

    /// The last warnings and errors of each agent.
    pub(super) fn last_complaints(&self) -> Vec<String> {
        let of = |(host, agent): (&&str, &Process)| {
            let log = agent.log();
            let serious =
                |line: &&str| ["WARN", "ERROR", "error:", "panicked"].iter().any(|word| line.contains(word));
            let mut lines: Vec<String> = log
                .lines()
                .rev()
                .filter(serious)
                .take(COMPLAINTS_MAX)
                .map(|line| format!("{host} said: {line}"))
                .collect();
            lines.reverse();
            lines
        };
        self.agents.iter().flat_map(of).collect()
    }
}

/// Looks again and again until `look` has found something; `last` says what was seen instead.
pub(super) fn wait<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Result<T, String>, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match look()? {
            Ok(found) => return Ok(found),
            Err(last) => last,
        };
        if Instant::now() >= deadline {
            return Err(Error::Waited { what: what.to_owned(), limit, last });
        }
        pause(LOOK_INTERVAL);
    }
}

/// Lets a time pass.
fn pause(time: Duration) {
    // Neither fails for a time of less than centuries; a signal ends the process.
    if let Ok(time) = Timespec::try_from(time) {
        let _elapsed = rustix::event::poll(&mut [], Some(&time));
    }
}

/// This very program, without settings from the environment.
fn svc_agent(arguments: &str) -> Command {
    // By its path, which names the process in the kernel's lists; a file replaced or removed meanwhile has none.
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(path.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
    command.arg0("svc-agent").args(arguments.split_whitespace());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SVC_AGENT_") {
            command.env_remove(name);
        }
    }
    command
}

fn command_failed(place: &str, arguments: &str, code: Option<i32>, output: &std::process::Output) -> Error {
    // All of it was shown; its first line says what is wrong.
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = errors.lines().next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said).to_owned();
    let (place, command) = (place.to_owned(), format!("svc-agent {arguments}"));
    // A signal's death has no code; a shell's count begins at 128.
    Error::Command { place, command, code: code.unwrap_or(128), said }
}

/// The first line, and how many more there are.
fn shortened(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    match text.lines().count().saturating_sub(1) {
        0 => first.to_owned(),
        more => format!("{first}   ... {more} more lines"),
    }
}

/// Index of a host in [`HOSTS`]; the steps name no other.
fn number(host: &str) -> usize {
    HOSTS.iter().position(|(name, ..)| *name == host).unwrap_or(0)
}
