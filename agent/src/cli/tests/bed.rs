//! A command's surroundings: a host that notes what it is asked, and a console that is kept.
use std::cell::RefCell;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::api::client::tests::{Asked, Canned, http_of};
use crate::api::types::Failure;
use crate::cli::{Console, Exit, Host, Output, RunAgent};
use crate::config::Settings;

/// What a command left behind.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) exit: Exit,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs a command; words are split at spaces.
pub(super) fn command(line: &str, host: &dyn Host) -> Outcome {
    let (out, err) = (Kept::default(), Kept::default());
    let exit = with_streams(line, host, Box::new(out.clone()), Box::new(err.clone()), false);
    Outcome { exit, out: out.text(), err: err.text() }
}

/// Runs a command whose standard error is a terminal; returns what was written there.
pub(super) fn at_a_terminal(line: &str) -> String {
    let err = Kept::default();
    with_streams(line, &NotedHost::default(), Box::new(std::io::sink()), Box::new(err.clone()), true);
    err.text()
}

/// Runs a command whose results nobody reads.
pub(super) fn unread(line: &str) -> Exit {
    with_streams(line, &NotedHost::default(), Box::new(Gone), Box::new(std::io::sink()), false)
}

fn with_streams(
    line: &str,
    host: &dyn Host,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    terminal: bool,
) -> Exit {
    let mut console = Console::new(out, err, terminal);
    let words = std::iter::once("svc-agent").chain(line.split(' ').filter(|word| !word.is_empty()));
    crate::cli::run(words.map(OsString::from), host, &mut console)
}

/// A pipe whose reader has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs a command that must not reach the host.
pub(super) fn asking(line: &str) -> Outcome {
    let host = NotedHost::default();
    let outcome = command(line, &host);
    assert!(host.0.borrow().is_empty(), "{line} was left to the host");
    outcome
}

/// An agent: every request but that for its version is noted, and answered with the next of `answers`.
pub(super) struct Agent {
    server: Canned,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Agent {
    pub(super) fn answering(answers: Vec<(u16, Value)>) -> Self {
        Self::of_version(env!("CARGO_PKG_VERSION"), answers)
    }

    pub(super) fn of_version(version: &str, answers: Vec<(u16, Value)>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        let mut answers = answers.into_iter();
        let said = serde_json::json!({ "agent_version": version, "node": "h1", "pid": 7 }).to_string();
        let version = version.to_owned();
        let http = move |status, body: &str| http_of(&version, status, body);
        let server = Canned::serve(move |request| {
            if request.line == "GET /v1/version" {
                return http(200, &said);
            }
            notes.lock().unwrap().push(request);
            match answers.next() {
                Some((status, body)) => http(status, &body.to_string()),
                None => http(500, "no more answers"),
            }
        });
        Self { server, asked }
    }

    /// Runs a command against this agent.
    pub(super) fn asked_by(&self, line: &str) -> Outcome {
        asking(&format!("{line} --socket {}", self.socket().display()))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.server.socket()
    }

    /// The requests so far, the version's left out.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Notes what is left to the binary.
#[derive(Default)]
pub(super) struct NotedHost(pub(super) RefCell<Vec<String>>);

impl NotedHost {
    fn note(&self, text: String) -> Result<Exit, Failure> {
        self.0.borrow_mut().push(text);
        Ok(Exit::Done)
    }
}

impl Host for NotedHost {
    fn keygen(&self) -> Result<Exit, Failure> {
        self.note("keygen".to_owned())
    }

    fn run(&self, run: RunAgent) -> Result<Exit, Failure> {
        let RunAgent { settings, sources, start } = run;
        let again = sources.load().unwrap().settings;
        assert_eq!(settings, again);
        let (socket, node) = (settings.socket.display(), settings.node);
        self.note(format!("run {start:?} node={node} socket={socket} gossip-port={}", settings.gossip_port))
    }

    fn hold(&self, socket: &Path, docker_plugin: Option<&Path>) -> Result<Exit, Failure> {
        self.note(format!("hold {} {docker_plugin:?}", socket.display()))
    }

    fn doctor(&self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        self.note(format!("doctor {} {output:?}", settings.domain))
    }

    fn ports(&self, settings: &Settings, output: Output) -> Result<Exit, Failure> {
        self.note(format!("ports {} {output:?}", settings.vxlan_port))
    }

    fn demo(&self, keep: bool, output: Output) -> Result<Exit, Failure> {
        self.note(format!("demo {keep} {output:?}"))
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
