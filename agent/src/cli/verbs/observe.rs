//! Verbs that look.
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::client::ClientError;
use crate::api::routes;
use crate::api::types::{self, Event};
use crate::cli::args;
use crate::cli::console::Ending;
use crate::cli::session::{Session, typed};
use crate::cli::{Exit, show};

/// Between two looks at a status that is awaited.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// How long the agent may keep a question for events open.
const EVENTS_WAIT: Duration = Duration::from_secs(30);
/// Between two tries to reach an agent that has gone.
const RETURN_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn status(arguments: args::Status, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let client = session.client.clone();
    let deadline = Instant::now() + arguments.wait.unwrap_or_default();
    let awaited = async {
        loop {
            let value: Result<Value, ClientError> = client.get(routes::STATUS, &[]).await;
            let ok = value.as_ref().is_ok_and(|value| value.get("ok") == Some(&Value::Bool(true)));
            if ok || Instant::now() >= deadline {
                return value;
            }
            sleep(STATUS_INTERVAL).await;
        }
    };
    let value = session.progress("waiting until all is well", awaited).await?;
    let status: types::Status = typed(routes::STATUS, value.clone())?;
    session.print(routes::STATUS, value, show::status)?;
    Ok(if status.ok { Exit::Done } else { Exit::NotYet })
}

pub(super) async fn resolve(arguments: args::Resolve, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let query =
        [("name", arguments.name.as_str()), ("on", arguments.on.as_str()), ("type", &arguments.record_type)];
    session.look(routes::RESOLVE, &query, show::resolved).await
}

pub(super) async fn version(session: &mut Session<'_>) -> Result<Exit, Ending> {
    let own = crate::version();
    let agent: Result<types::Version, ClientError> = session.client.get(routes::VERSION, &[]).await;
    if session.console.is_json() {
        session.console.json(&json!({ "version": own, "agent": agent.ok() }));
        return Ok(Exit::Done);
    }
    session.console.text(&format!("svc-agent {own}"));
    session.console.text(&match agent {
        Ok(agent) => format!("agent {} on {}, process {}", agent.agent_version, agent.node, agent.pid),
        Err(error) => error.to_string(),
    });
    Ok(Exit::Done)
}

pub(super) async fn events(arguments: args::Events, session: &mut Session<'_>) -> Result<Exit, Ending> {
    if arguments.follow {
        return follow(session).await;
    }
    let query = [("after", "0"), ("wait_ms", "0")];
    let lines = |events: &Vec<Event>| events.iter().map(|event| show::event(event) + "\n").collect();
    session.look(routes::EVENTS, &query, lines).await
}

/// Prints events as they happen, over restarts of the agent, until nobody reads them any more.
async fn follow(session: &mut Session<'_>) -> Result<Exit, Ending> {
    let mut seen = Seen { process: None, after: 0 };
    let mut gone = false;
    loop {
        match next(session, &mut seen).await {
            Ok(events) => {
                session.warn_of_other_version();
                if gone {
                    session.console.note("the agent is back; its events count from 1 again");
                }
                gone = false;
                print(session, &events);
                if session.console.is_closed() {
                    return Ok(Exit::Done);
                }
            }
            // The first try says that there is no agent; later, it restarts.
            Err(error) if seen.process.is_none() => return Err(error.into()),
            Err(ClientError::NoAgent { .. } | ClientError::Lost { .. } | ClientError::TimedOut { .. }) => {
                if !gone {
                    session.console.note("the agent does not answer; waiting for it to return");
                }
                gone = true;
                sleep(RETURN_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// How far events have been printed, and of which agent process: every start counts them from 1.
struct Seen {
    process: Option<u32>,
    after: u64,
}

async fn next(session: &Session<'_>, seen: &mut Seen) -> Result<Vec<Event>, ClientError> {
    let version: types::Version = session.client.get(routes::VERSION, &[]).await?;
    if seen.process.replace(version.pid) != Some(version.pid) {
        seen.after = 0;
    }
    let (after, wait) = (seen.after.to_string(), EVENTS_WAIT.as_millis().to_string());
    let client = session.client.with_timeout(EVENTS_WAIT * 2);
    let events: Vec<Event> = client.get(routes::EVENTS, &[("after", &after), ("wait_ms", &wait)]).await?;
    seen.after = events.iter().map(|event| event.sequence).max().unwrap_or(0).max(seen.after);
    Ok(events)
}

fn print(session: &mut Session<'_>, events: &[Event]) {
    for event in events {
        if session.console.is_json() {
            session.console.json_line(event);
        } else {
            session.console.text(&show::event(event));
        }
    }
}
