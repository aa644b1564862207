//! How this host is set up: its own namespace, files and limits. Read, never written.
pub(super) mod agent;
mod firewall;
mod limits;
mod rules;
mod sockets;
mod state;
#[cfg(test)]
mod tests;

use super::check::{Check, Group, Verdict};
use crate::config::Settings;

/// All of them. With an agent running, its own sockets are no obstacle.
pub(super) fn checks(settings: &Settings, agent_runs: bool) -> Vec<Check> {
    let mut checks = firewall::checks(settings);
    if !agent_runs {
        checks.extend(sockets::checks(settings));
    }
    checks.extend(state::checks(settings));
    checks.extend(limits::checks());
    checks
}

fn check(name: &str, verdict: Verdict, detail: impl Into<String>) -> Check {
    Check::new(Group::Host, name, verdict, detail)
}
