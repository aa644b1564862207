//! What the command line leaves to the binary.
use std::path::Path;
use std::process::ExitCode;

use super::Output;
use crate::api::types::Failure;
use crate::config::{Settings, Sources, Start};

/// How a command ended; spelling and numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done = 0,
    /// 1: refused, or it failed.
    Refused = 1,
    /// 2: the command, or its configuration, is wrong.
    Usage = 2,
    /// 3: no agent answers.
    NoAgent = 3,
    /// 4: timed out, or not yet everywhere.
    NotYet = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What `run` was asked for.
#[derive(Clone, Debug)]
pub struct RunAgent {
    /// The settings in force at the start.
    pub settings: Settings,
    /// Where they came from: [`Sources::load`] reads them again at SIGHUP.
    pub sources: Sources,
    /// `--init` or `--join`.
    pub start: Start,
}

/// The verbs that do not ask a running agent. A failure is printed as the agent's own are, with its kind's exit code.
pub trait Host {
    /// `keygen`: prints a new cluster key.
    fn keygen(&self) -> Result<Exit, Failure>;
    /// `run`: returns when the agent has ended.
    fn run(&self, run: RunAgent) -> Result<Exit, Failure>;
    /// `hold`: returns when `leave` has ended it. Docker's plugin socket is opened where a path is given.
    fn hold(&self, socket: &Path, docker_plugin: Option<&Path>) -> Result<Exit, Failure>;
    /// `doctor`: prints what this host can do; [`Exit::Refused`] when something needed is missing.
    fn doctor(&self, settings: &Settings, output: Output) -> Result<Exit, Failure>;
    /// `ports`: prints what to open.
    fn ports(&self, settings: &Settings, output: Output) -> Result<Exit, Failure>;
    /// `demo`.
    fn demo(&self, keep: bool, output: Output) -> Result<Exit, Failure>;
}
