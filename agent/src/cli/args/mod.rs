//! The command line's grammar. Spelling is stable: tests and users rely on it.
mod attach;
mod network;
mod observe;
mod run;
mod service;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use attach::{Attach, Detach, PlaceArguments};
pub(super) use network::{Create, NetworkVerb};
pub(super) use observe::{Events, NodeVerb, Resolve, Status};
pub(super) use run::{Config, ConfigVerb, Demo, Run};
pub(super) use service::{Deregister, Drain, Register, ServiceVerb, Set, SettingArguments};

use super::{examples, parse};

/// Overlay networks, names and virtual IPs for containers on plain hosts.
#[derive(Debug, Parser)]
#[command(name = "svc-agent", bin_name = "svc-agent", version, after_help = examples::TOP, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Socket of the agent (of the holder, for `hold`) [default: $SVC_AGENT_SOCKET, else /run/svc-agent/agent.sock].
    #[arg(long, global = true, value_name = "PATH", help_heading = "Every verb")]
    pub(super) socket: Option<PathBuf>,
    /// How to print what came back; json is the API's own answer.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Every verb"
    )]
    pub(super) output: Output,
    /// Longest time to wait for the agent, and for the effect on every live host [default: 30s for the agent, 2s for the hosts].
    #[arg(long, global = true, value_name = "DUR", value_parser = parse::timeout, help_heading = "Every verb")]
    pub(super) timeout: Option<Duration>,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// The API's JSON, as it came.
    Json,
}

// By hand, for derived help of the values makes every verb's help three times as long.
impl ValueEnum for Output {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

/// What every changing verb takes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Waiting {
    /// Return as soon as this host has done it, instead of when every live host has.
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print a new cluster key: once per cluster, the same file on every host.
    #[command(after_help = examples::KEYGEN)]
    Keygen,
    /// Run the agent of this host.
    #[command(after_help = examples::RUN)]
    Run(Run),
    /// Keep namespaces and resolver sockets open while the agent restarts; the agent starts it by itself.
    #[command(after_help = examples::HOLD)]
    Hold(Config),
    /// End the agent and remove everything that it created on this host.
    #[command(after_help = examples::LEAVE)]
    Leave,
    /// Create, list, inspect and remove networks.
    #[command(subcommand, after_help = examples::NETWORK)]
    Network(NetworkVerb),
    /// Put a container (or this host) on a network.
    #[command(after_help = examples::ATTACH)]
    Attach(Attach),
    /// Take a container off a network.
    #[command(after_help = examples::DETACH)]
    Detach(Detach),
    /// Make an attachment a replica of a service, reached by its name and virtual IP.
    #[command(after_help = examples::REGISTER)]
    Register(Register),
    /// Take one replica out of a service, or end the service; from any host.
    #[command(after_help = examples::DEREGISTER)]
    Deregister(Deregister),
    /// Change, inspect and list services.
    #[command(subcommand, after_help = examples::SERVICE)]
    Service(ServiceVerb),
    /// Stop new flows to a replica; returns once every live host has. Established flows go on.
    #[command(after_help = examples::DRAIN)]
    Drain(Drain),
    /// List the attachments of all hosts.
    #[command(after_help = examples::ATTACHMENTS)]
    Attachments,
    /// List hosts, and remove those that will not return.
    #[command(subcommand, after_help = examples::NODE)]
    Node(NodeVerb),
    /// Show which host has not applied what, since when, and why; exits 4 unless all is well.
    #[command(after_help = examples::STATUS)]
    Status(Status),
    /// Show what happened on this host.
    #[command(after_help = examples::EVENTS)]
    Events(Events),
    /// Ask the resolver of an attachment, and say who decides the answer.
    #[command(after_help = examples::RESOLVE)]
    Resolve(Resolve),
    /// Try what this host's kernel and firewall can do.
    #[command(after_help = examples::DOCTOR)]
    Doctor(Config),
    /// Print the ports to open between the hosts.
    #[command(after_help = examples::PORTS)]
    Ports(Config),
    /// Print the version of this program and of the running agent.
    #[command(after_help = examples::VERSION)]
    Version,
    /// Build three hosts as namespaces on this machine and try everything for real.
    #[command(after_help = examples::DEMO)]
    Demo(Demo),
    /// Print a sample configuration, or check one.
    #[command(subcommand, after_help = examples::CONFIG)]
    Config(ConfigVerb),
}
