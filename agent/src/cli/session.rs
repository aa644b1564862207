//! A conversation with the agent: time-outs, progress, and the check of versions.
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::{Common, Waiting};
use super::console::{Console, Ending};
use super::{Exit, show};
use crate::api::client::{Client, ClientError};
use crate::api::types::{Done, Wait};
use crate::config::{DEFAULT_SOCKET, variable};

/// How long the agent itself may take where no `--timeout` says otherwise.
const AGENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for `leave`, which takes down every attachment of the host.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(120);
/// What the agent may take on top of the time that it waits for the others.
const ANSWER_SLACK: Duration = Duration::from_secs(2);
/// Shorter waits pass without a word.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// One command's conversation.
pub(super) struct Session<'a> {
    pub(super) client: Client,
    pub(super) console: &'a mut Console,
    timeout: Option<Duration>,
    /// It was said that the agent is of another version.
    warned: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(common: &Common, console: &'a mut Console) -> Self {
        let named =
            || std::env::var_os(variable("socket")).filter(|path| !path.is_empty()).map(PathBuf::from);
        let socket = common.socket.clone().or_else(named).unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
        let client = Client::new(socket, common.timeout.unwrap_or(AGENT_TIMEOUT));
        Self { client, console, timeout: common.timeout, warned: false }
    }

    /// How long the agent is to wait for the other hosts.
    pub(super) fn wait(&self, waiting: Waiting, own: Option<Duration>) -> Wait {
        if waiting.no_wait {
            return Wait { milliseconds: 0 };
        }
        match own.or(self.timeout) {
            Some(limit) => Wait { milliseconds: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) },
            None => Wait::default(),
        }
    }

    /// How long `leave` may take.
    pub(super) fn leave_timeout(&self) -> Duration {
        self.timeout.unwrap_or(LEAVE_TIMEOUT)
    }

    /// A client that outlasts the agent's own wait, so that its answer, laggards named, arrives.
    fn patient(&self, wait: Wait) -> Client {
        let waits = Duration::from_millis(wait.milliseconds);
        self.client
            .with_timeout(self.timeout.unwrap_or(AGENT_TIMEOUT).max(waits).saturating_add(ANSWER_SLACK))
    }

    /// Asks for something to look at, and prints it.
    pub(super) async fn look<T: DeserializeOwned>(
        &mut self,
        path: &str,
        query: &[(&str, &str)],
        text: impl FnOnce(&T) -> String,
    ) -> Result<Exit, Ending> {
        let client = self.client.clone();
        let value: Value = self.progress("waiting for the agent", client.get(path, query)).await?;
        self.print(path, value, text)
    }

    /// Prints an answer: as it came, or in words.
    pub(super) fn print<T: DeserializeOwned>(
        &mut self,
        path: &str,
        value: Value,
        text: impl FnOnce(&T) -> String,
    ) -> Result<Exit, Ending> {
        if self.console.is_json() {
            self.console.json(&value);
        } else {
            let typed: T = typed(path, value)?;
            self.console.text(&text(&typed));
        }
        Ok(Exit::Done)
    }

    /// Asks for a change with a body, and prints what was done.
    pub(super) async fn change<B: Serialize>(
        &mut self,
        path: &str,
        body: &B,
        wait: Wait,
        object: fn(&Value) -> String,
    ) -> Result<Exit, Ending> {
        let client = self.patient(wait);
        let value: Value = self.progress("waiting for every live host", client.post(path, body)).await?;
        self.done(path, value, object)
    }

    /// Asks for a removal, and prints what was done.
    pub(super) async fn remove(
        &mut self,
        path: &str,
        query: &[(&str, &str)],
        wait: Wait,
    ) -> Result<Exit, Ending> {
        let client = self.patient(wait);
        let value: Value = self.progress("waiting for every live host", client.delete(path, query)).await?;
        self.done(path, value, |_| String::new())
    }

    fn done(&mut self, path: &str, value: Value, object: fn(&Value) -> String) -> Result<Exit, Ending> {
        let done: Done = typed(path, value.clone())?;
        let exit = if done.laggards.is_empty() { Exit::Done } else { Exit::NotYet };
        if self.console.is_json() {
            self.console.json(&value);
            return Ok(exit);
        }
        self.console.text(&show::changes(&done));
        if let Some(value) = &done.object {
            self.console.text(&object(value));
        }
        for note in &done.notes {
            self.console.note(&format!("note: {note}"));
        }
        for laggard in &done.laggards {
            self.console.note(&format!("not yet on {}: {}", laggard.host, laggard.reason));
        }
        if exit == Exit::NotYet {
            self.console.note(
                "hint: it is done here and goes on by itself; follow it with svc-agent status --wait 30s",
            );
        }
        Ok(exit)
    }

    /// Says once in one line that program and agent are of different versions; to be called when it has answered.
    pub(super) fn warn_of_other_version(&mut self) {
        let own = crate::version();
        let Some(other) = self.client.agent_version().filter(|version| *version != own) else { return };
        if !std::mem::replace(&mut self.warned, true) {
            self.console.note(&format!(
                "warning: this is svc-agent {own}, but the running agent is {other}; restart it \
                 (forwarding goes on meanwhile)"
            ));
        }
    }

    /// Waits, and says so on a terminal when it takes longer than a second.
    pub(super) async fn progress<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        if !self.console.is_terminal() {
            return work.await;
        }
        tokio::pin!(work);
        let begun = Instant::now();
        let mut shown = false;
        loop {
            tokio::select! {
                result = &mut work => {
                    if shown {
                        self.console.progress("");
                    }
                    return result;
                }
                () = tokio::time::sleep(PROGRESS_AFTER) => {
                    shown = true;
                    self.console.progress(&format!("{what} ... {} s", begun.elapsed().as_secs()));
                }
            }
        }
    }
}

/// Reads an answer as what the API says it is.
pub(super) fn typed<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, ClientError> {
    serde_json::from_value(value)
        .map_err(|error| ClientError::Protocol { request: path.to_owned(), what: error.to_string() })
}
