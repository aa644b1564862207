//! What is printed, and how a command ends.
use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::{Exit, Output};
use crate::api::client::ClientError;
use crate::api::types::{Failure, FailureKind};

/// A command that has no result: what to say, and the exit code.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) failure: Failure,
    pub(super) exit: Exit,
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::Refused => Exit::Refused,
            FailureKind::Usage => Exit::Usage,
            FailureKind::TimedOut => Exit::NotYet,
        };
        Self { failure, exit }
    }
}

impl From<ClientError> for Ending {
    fn from(error: ClientError) -> Self {
        let ending = Self::from(error.failure());
        match error {
            ClientError::NoAgent { .. } | ClientError::Lost { .. } => Self { exit: Exit::NoAgent, ..ending },
            _ => ending,
        }
    }
}

/// Where a command prints: results to one stream, everything else to the other.
///
/// A reader that goes away (`| head`) is no error; what is printed after that is lost.
pub struct Console {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    output: Output,
    /// Somebody looks at `err` while it happens.
    terminal: bool,
    /// Nobody reads `out` any more.
    closed: bool,
}

impl Console {
    /// This process's standard output and standard error.
    pub fn standard() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), terminal)
    }

    /// Any two streams; `terminal` says whether progress may be shown on `err`.
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, terminal: bool) -> Self {
        Self { out, err, output: Output::Text, terminal, closed: false }
    }

    pub(super) fn set_output(&mut self, output: Output) {
        self.output = output;
    }

    pub(super) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// The reader of results has gone (`| head`).
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a result as it is; control characters of foreign text are gone before.
    pub(super) fn text(&mut self, text: &str) {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.closed |= write!(self.out, "{text}{end}").and_then(|()| self.out.flush()).is_err();
    }

    /// Prints a result as JSON over several lines.
    pub(super) fn json<T: Serialize + ?Sized>(&mut self, value: &T) {
        if let Ok(text) = serde_json::to_string_pretty(value) {
            self.text(&text);
        }
    }

    /// Prints a result as JSON on one line.
    pub(super) fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) {
        if let Ok(text) = serde_json::to_string(value) {
            self.text(&text);
        }
    }

    /// Says something beside the result.
    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", clean(text)).and_then(|()| self.err.flush());
    }

    /// Overwrites the line of progress; an empty text ends it.
    pub(super) fn progress(&mut self, text: &str) {
        let _ = write!(self.err, "\r\x1b[K{}", clean(text)).and_then(|()| self.err.flush());
    }

    /// Says why there is no result.
    pub(super) fn ending(&mut self, ending: &Ending) -> Exit {
        if self.is_json() {
            let text =
                serde_json::to_string(&ending.failure).unwrap_or_else(|_| ending.failure.message.clone());
            self.note(&text);
            return ending.exit;
        }
        for (index, line) in ending.failure.message.lines().enumerate() {
            let prefix = if index == 0 { "error: " } else { "" };
            self.note(&format!("{prefix}{line}"));
        }
        for hint in ending.failure.hints.iter().flat_map(|hint| hint.lines()) {
            self.note(&format!("hint: {hint}"));
        }
        ending.exit
    }

    /// Prints what the grammar has to say: help and version to the result's stream, errors to the other.
    pub(super) fn grammar(&mut self, error: &clap::Error) -> Exit {
        let text = error.render();
        if error.use_stderr() {
            let shown = if self.terminal { text.ansi().to_string() } else { text.to_string() };
            let _ = write!(self.err, "{shown}").and_then(|()| self.err.flush());
            return Exit::Usage;
        }
        self.text(&text.to_string());
        Exit::Done
    }
}

/// Foreign text without control characters, which could rewrite the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
