//! Scenarios that are text: steps and what is expected, in an operator's words.
//!
//! ```text
//! hosts 3                              # first: how many
//! attach payment c1a c2b               # containers on h1 and h2, attached to a network under their own names
//! container c1x                        # a container, not attached
//! serve c1a 80                         # answers every connection and datagram there with its name
//! h1$ network create payment           # the command line on a host, or in a container; exits 0, unless
//!   exit 1                             #   told otherwise
//!   says "is in use"                   #   standard output or error contains it
//! c2b? payment-api = $payment-api      # its resolver's addresses: $ a service's VIP, @ an attachment's address
//! c2b? payment-api OTHER = NODATA      #   of the family that the network does not have
//! c2b? payment-api MX = NODATA         #   or NODATA, NXDOMAIN, SERVFAIL
//! c2b> payment-api:80 x40 = c1a c2b    # who answers 40 TCP connections: exactly these
//! c2b> udp payment-api:80 x40 = c1a    #   the same over UDP
//! c2b> payment-api:81 = refused        #   within 50 ms
//! within 1s: c2b? payment-api = NODATA # looked at until it holds
//! restart h2                           # kill -9 of the agent, and its start
//! delete c1a                           # the container's namespace, as ip netns del does
//! ```
mod expect;

use std::collections::BTreeMap;
use std::time::Duration;

use agent::bed::{Sandbox, Server};

use crate::cluster::{Cluster, Output};
use crate::wait::wait_until;

struct Script {
    cluster: Cluster,
    servers: BTreeMap<String, Vec<Server>>,
    /// The last command, until its expectations are checked.
    pending: Option<Pending>,
}

struct Pending {
    line: String,
    output: Output,
    exit: i32,
    said: Vec<String>,
}

/// Runs a script; a panic names the line.
pub fn run(sandbox: &Sandbox, name: &str, text: &str) {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line)));
    let hosts = lines.by_ref().find(|(_, line)| !line.trim().is_empty());
    let (_, hosts) = hosts.unwrap_or_else(|| panic!("{name} is empty"));
    let mut words = hosts.split_whitespace();
    assert_eq!(words.next(), Some("hosts"), "{name}: the first line says how many hosts");
    let count = words.next().and_then(|count| count.parse().ok()).expect("a number of hosts");
    let flags: Vec<&str> = words.collect();
    let cluster = Cluster::with_flags(sandbox, count, &flags);
    let mut script = Script { cluster, servers: BTreeMap::new(), pending: None };
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let told = format!("{name}:{number}: {}", line.trim());
        script.line(&told, line);
    }
    script.check_pending();
}

fn without_comment(line: &str) -> &str {
    if line.starts_with('#') { "" } else { line.split_once(" #").map_or(line, |(line, _)| line).trim_end() }
}

impl Script {
    fn line(&mut self, told: &str, line: &str) {
        if line.starts_with(' ') {
            return self.expectation(told, line.trim());
        }
        self.check_pending();
        if let Some(rest) = line.strip_prefix("within ") {
            let (limit, step) = rest.split_once(": ").unwrap_or_else(|| panic!("{told}: no time"));
            return self.wait_for(told, seconds(told, limit), step);
        }
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "attach" => {
                let (network, names) =
                    rest.split_once(' ').unwrap_or_else(|| panic!("{told}: no containers"));
                self.cluster.attach(network, names);
            }
            "container" => self.cluster.containers(rest),
            "serve" => self.serve(told, rest),
            "restart" => {
                self.cluster.kill_agent(rest);
                self.cluster.restart_agent(rest);
            }
            "delete" => {
                self.servers.remove(rest);
                self.cluster.delete_container(rest);
            }
            _ if first.ends_with('$') => {
                let output = self.cluster.cli(first.trim_end_matches('$'), rest);
                self.pending = Some(Pending { line: told.to_owned(), output, exit: 0, said: Vec::new() });
            }
            _ => {
                if let Err(seen) = expect::holds(&self.cluster, told, line) {
                    panic!("{told}: {seen}");
                }
            }
        }
    }

    fn serve(&mut self, told: &str, rest: &str) {
        let (name, port) = rest.split_once(' ').unwrap_or_else(|| panic!("{told}: no port"));
        let server = self.cluster.server(name, port.parse().expect("a port"));
        self.servers.entry(name.to_owned()).or_default().push(server);
    }

    fn expectation(&mut self, told: &str, line: &str) {
        let pending = self.pending.as_mut().unwrap_or_else(|| panic!("{told}: of what?"));
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "exit" => pending.exit = rest.parse().expect("an exit code"),
            "says" => pending.said.push(rest.trim_matches('"').to_owned()),
            _ => panic!("{told}: neither exit nor says"),
        }
    }

    fn check_pending(&mut self) {
        let Some(Pending { line, output, exit, said }) = self.pending.take() else { return };
        let text = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.exit, exit, "{line}\n{text}");
        for part in said {
            assert!(text.contains(&part), "{line}: {part:?} is not said:\n{text}");
        }
    }

    fn wait_for(&self, told: &str, limit: Duration, step: &str) {
        wait_until(told, limit, || expect::holds(&self.cluster, told, step));
    }
}

fn seconds(told: &str, text: &str) -> Duration {
    let number = text.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{told}: {text} is no time"));
    Duration::from_secs_f64(number)
}
