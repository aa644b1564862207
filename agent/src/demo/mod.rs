//! `svc-agent demo`: three hosts and seven containers on this machine, and everything tried on them for real.
//!
//! The hosts and containers are namespaces inside a [`Sandbox`]; the agents are processes of this same executable,
//! and what an operator would type is typed: each command is a process in its host or container, and what it prints
//! is shown as it came. Only the programs inside the containers (servers that answer with their own name, and their
//! clients) are threads of the demo. Every figure is measured in the run that prints it.
//!
//! ```text
//!   steps      the acts, in order: each types commands, measures, prints
//!   stage      hosts, containers, agents, and typing a command
//!   flows      a client that connects all the time        gap       what its record says of a failure (pure)
//!   measure    connections, datagrams, pings              chart     bars, percentiles (pure)
//!   lookup     a question to 127.0.0.11 (pure but for the socket)
//!   printer    headings, commands, indentation            figures   what -o json prints
//! ```
mod chart;
mod error;
mod figures;
mod flows;
mod gap;
mod lookup;
mod measure;
mod printer;
mod signals;
mod stage;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Instant;

use crate::api::types::{Failure, FailureKind};
use crate::bed::{self, Sandbox};
use crate::cli::{Exit, Output};
use crate::runtime::agent::chain;
use error::Error;
use printer::Printer;
use stage::Stage;

/// Plays the demo; with `keep`, leaves it standing until Ctrl-C. To be called before any thread is started.
///
/// Whatever ends it, nothing of it stays: its processes, namespaces and mounts are the sandbox's and end with it.
/// With [`Output::Json`] the story goes to standard error and the figures, one object, to standard output.
///
/// # Errors
/// That a sandbox cannot be made here, or the step that failed and why; all is removed then.
pub fn run(keep: bool, output: Output) -> Result<Exit, Failure> {
    let started = Instant::now();
    // Asked before the sandbox has a /proc of its own: until then it is the machine's, with its numbers.
    let pid_outside = std::fs::read_link("/proc/self").ok().and_then(|pid| pid.to_str()?.parse().ok());
    let sandbox = Sandbox::enter().map_err(|error| not_here(&error))?;
    let signals = signals::end_on_signal().map_err(|error| failed(&Error::Signals { source: error }))?;
    let mut printer = Printer::standard(output);
    let mut stage = Stage::new(&sandbox).map_err(|error| failed(&error))?;
    let figures = steps::play(&mut stage, &mut printer, started).map_err(|error| {
        let mut failure = failed(&error);
        failure.hints.extend(stage.last_complaints());
        failure
    })?;
    if keep {
        steps::keep(&stage, &mut printer, pid_outside);
        printer.finish(&figures);
        signals.wait();
    }
    steps::end(stage, &mut printer, &figures, started).map_err(|error| failed(&error))?;
    printer.finish(&figures);
    Ok(Exit::Done)
}

fn not_here(error: &bed::Error) -> Failure {
    let hint = "run it as root: sudo svc-agent demo; in a container: with CAP_SYS_ADMIN and CAP_NET_ADMIN, and \
                without a seccomp filter on unshare and mount";
    refusal(format!("the demo cannot be built here: {}", chain(error)), hint)
}

fn failed(error: &Error) -> Failure {
    refusal(format!("the demo failed, and everything of it is removed: {}", chain(error)), error.hint())
}

fn refusal(message: String, hint: &str) -> Failure {
    Failure { kind: FailureKind::Refused, message, hints: vec![hint.to_owned()] }
}
