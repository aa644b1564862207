//! The agent that runs here, if one does, and what it says of itself.
use std::path::PathBuf;
use std::time::Duration;

use super::super::check::{Check, Group, Verdict};
use crate::api::client::{Client, ClientError};
use crate::api::routes;
use crate::api::types::{Failure, Status};
use crate::config::Settings;

/// An agent answers its status from memory; one that takes longer is in trouble.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What asking came to.
#[derive(Debug)]
pub(in super::super) enum Running {
    /// Nobody listens.
    No { socket: PathBuf },
    /// One runs and answers.
    Yes(Box<Status>),
    /// One runs, or something else does at its socket.
    Silent(Failure),
}

/// Asks the agent at the configured socket.
pub(in super::super) async fn ask(settings: &Settings) -> Running {
    let client = Client::new(&settings.socket, ANSWER_TIMEOUT);
    match client.get::<Status>(routes::STATUS, &[]).await {
        Ok(status) => Running::Yes(Box::new(status)),
        Err(ClientError::NoAgent { socket, source })
            if source.kind() != std::io::ErrorKind::PermissionDenied =>
        {
            Running::No { socket }
        }
        Err(error) => Running::Silent(error.failure()),
    }
}

impl Running {
    /// Whether its ports are to be expected in use.
    pub(in super::super) fn is_running(&self) -> bool {
        !matches!(self, Self::No { .. })
    }

    /// What it says, in lines.
    pub(in super::super) fn checks(&self) -> Vec<Check> {
        let line = |name: &str, verdict, detail: String| Check::new(Group::Agent, name, verdict, detail);
        match self {
            Self::No { socket } => {
                vec![line("running", Verdict::Info, format!("no agent at {}", socket.display()))]
            }
            Self::Silent(failure) => {
                vec![
                    line("running", Verdict::Degraded, failure.message.clone())
                        .needed_for("what the agent says of itself")
                        .hint(failure.hints.join("; ")),
                ]
            }
            Self::Yes(status) => {
                let version = &status.agent_version;
                let detail = format!("{} (version {version}) in cluster {}", status.node, status.cluster);
                let mut checks = vec![line("running", Verdict::Ok, detail), hosts(status)];
                checks.extend(problems(status));
                checks
            }
        }
    }
}

/// How many hosts are well, and the names of those that are not.
fn hosts(status: &Status) -> Check {
    let live = status.hosts.iter().filter(|host| host.state == "live").count();
    let others: Vec<String> = status
        .hosts
        .iter()
        .filter(|host| host.state != "live")
        .map(|host| format!("{} {}", host.name, host.state))
        .collect();
    let check = |verdict, detail| Check::new(Group::Agent, "hosts", verdict, detail);
    if others.is_empty() {
        return check(Verdict::Ok, format!("{live} live"));
    }
    check(Verdict::Degraded, format!("{live} live; {}", others.join(", ")))
        .needed_for("the replicas on those hosts")
        .hint("look after them, or end one that will not return with svc-agent node rm NAME")
}

/// What fails or is behind, on any host, and what the agent has to say.
fn problems(status: &Status) -> Option<Check> {
    // Those that are silent have a line of their own.
    let heard = status.hosts.iter().filter(|host| host.state == "live");
    let failing = heard.flat_map(|host| {
        host.problems.iter().map(|problem| format!("{}: {}: {}", host.name, problem.object, problem.error))
    });
    let behind = status.hosts.iter().filter(|host| !host.behind.is_empty()).map(|host| {
        let owners: Vec<&str> = host.behind.iter().map(|behind| behind.owner.as_str()).collect();
        format!("{} has not applied all of {}", host.name, owners.join(", "))
    });
    let all: Vec<String> = failing.chain(behind).chain(status.notices.iter().cloned()).collect();
    let first = all.first()?;
    let more = if all.len() > 1 { format!(" (and {} more)", all.len() - 1) } else { String::new() };
    let check = Check::new(Group::Agent, "problems", Verdict::Degraded, format!("{first}{more}"));
    Some(check.needed_for("the objects named").hint("svc-agent status shows all of them"))
}
