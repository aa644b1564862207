//! The `svc-agent` binary: the command line, and what it leaves to the host.
use std::path::Path;
use std::process::ExitCode;

use agent::api::types::Failure;
use agent::cli::{Exit, Host, Output, RunAgent};
use agent::cluster::ClusterKey;
use agent::config::Settings;
use agent::runtime::agent::{chain, refused};

/// This machine.
struct Machine;

impl Host for Machine {
    fn keygen(&self) -> Result<Exit, Failure> {
        println!("{}", ClusterKey::found(rand::random()).to_text());
        Ok(Exit::Done)
    }

    fn run(&self, run: RunAgent) -> Result<Exit, Failure> {
        agent::runtime::start::run(run.settings, run.sources, run.start).map(|()| Exit::Done)
    }

    fn hold(&self, socket: &Path, docker_plugin: Option<&Path>) -> Result<Exit, Failure> {
        agent::holder::run(socket, docker_plugin)
            .map(|()| Exit::Done)
            .map_err(|error| refused(chain(&error), &[]))
    }

    fn doctor(&self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        agent::doctor::print(settings, output)
    }

    fn ports(&self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        agent::ports::print(settings, output)
    }

    fn demo(&self, keep: bool, output: Output) -> Result<Exit, Failure> {
        agent::demo::run(keep, output)
    }
}

fn main() -> ExitCode {
    agent::cli::main(&Machine)
}
