//! `run`, `demo`, `config`, and what reads a configuration.
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::examples;
use crate::config::{Flags, JoinAddress, Sources, Start};

/// What the package's units read.
const INSTALLED: &str = "/etc/svc-agent/config.toml";

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Found a new cluster; matters only until this host has joined one.
    #[arg(long, conflicts_with = "join")]
    init: bool,
    /// Join the cluster of one of these hosts; matters only until this host has joined.
    #[arg(long, value_name = "ADDR[:PORT]", num_args = 1..)]
    join: Vec<JoinAddress>,
    #[command(flatten)]
    pub(crate) config: Config,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

impl Run {
    pub(crate) fn start(&self) -> Start {
        match (self.init, self.join.as_slice()) {
            (true, _) => Start::Init,
            (false, []) => Start::Known,
            (false, hosts) => Start::Join(hosts.to_vec()),
        }
    }
}

/// Which configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct Config {
    /// Configuration file (`svc-agent config sample` prints one) [default: none].
    #[arg(long, value_name = "FILE", env = "SVC_AGENT_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl Config {
    pub(crate) fn sources(&self, flags: &Flags) -> Sources {
        Sources { file: self.config.clone(), flags: flags.clone() }
    }

    /// For verbs that tell of this host's agent: without a file, that of the package's unit, if it is there.
    pub(crate) fn sources_of_host(&self, flags: &Flags) -> Sources {
        let installed = || Some(PathBuf::from(INSTALLED)).filter(|file| file.exists());
        Sources { file: self.config.clone().or_else(installed), flags: flags.clone() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave everything standing at the end, and print how to look around.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print a configuration file with every setting explained.
    #[command(after_help = examples::CONFIG_SAMPLE)]
    Sample,
    /// Check file, environment and flags together; print what would be in force and where it comes from.
    #[command(after_help = examples::CONFIG_CHECK)]
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The same as --config FILE, and before it where both are given.
    // Not declared as overriding --config: clap takes a value from the environment for a conflict then.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    flags: Flags,
}

impl Check {
    /// Where to read from, with these flags put on top of its own.
    pub(crate) fn sources(self, with: impl FnOnce(Flags) -> Flags) -> Sources {
        Sources { file: self.file.or(self.config.config), flags: with(self.flags) }
    }
}
