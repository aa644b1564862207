//! `svc-agent doctor`: tries what the kernel must do, looks at how this host is set up, and asks the agent if one runs.
//!
//! ```text
//! kernel/  each capability, really used, in network namespaces that die with their file descriptors
//! host/    this host's own namespace, files and limits: read, never written
//! check.rs, report.rs  what was found, as plain values: judged, printed, summed up
//! ```
//! Every probe stands alone: one that fails, is refused or hangs becomes its own line and stops no other.
//! Trying a capability may make the kernel load a module, as svc-agent's first use of it would.
mod check;
mod host;
mod kernel;
mod report;
#[cfg(test)]
mod tests;

use std::io::Write;

pub use check::{Check, Group, Verdict};
pub use report::Report;

use crate::api::types::{Failure, FailureKind};
use crate::cli::{Exit, Output};
use crate::config::Settings;

/// Makes all checks: some 0.5 s on a quiet machine, at most 5 s for each probe of the kernel.
///
/// Needs a tokio runtime with I/O and time enabled; blocks it for short spells, so it should be the caller's own.
pub async fn run(settings: &Settings) -> Report {
    let running = host::agent::ask(settings).await;
    let mut checks = kernel::checks().await;
    checks.extend(host::checks(settings, running.is_running()));
    checks.extend(running.checks());
    Report::new(checks)
}

/// Makes all checks and prints them to standard output.
///
/// # Errors
/// When no runtime can be had or standard output is closed; a check that fails is a line of the report.
pub fn print(settings: &Settings, output: Output) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| broken("start a runtime", &error))?;
    let report = runtime.block_on(run(settings));
    let text = match output {
        Output::Text => report.text(),
        Output::Json => serde_json::to_string_pretty(&report)
            .map(|json| format!("{json}\n"))
            .map_err(|error| broken("write the report as JSON", &error.into()))?,
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| broken("print the report", &error))?;
    Ok(report.exit())
}

fn broken(what: &str, error: &std::io::Error) -> Failure {
    Failure { kind: FailureKind::Refused, message: format!("cannot {what}: {error}"), hints: Vec::new() }
}
