//! The real command line, and other programs, in hosts and containers.
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::api::types::Done;

use super::Cluster;
use crate::family::Family;
use crate::vm;
use crate::wait::wait_until;

/// Longest run of a command.
const LIMIT: Duration = Duration::from_secs(40);
/// Where all is emulated a verb may take longer until it is in force everywhere.
const TIMEOUT_INSIDE: &str = "60s";

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Output {
    /// 0 done, 1 refused, 2 usage, 3 no agent, 4 timed out or not yet everywhere; -1 killed by a signal.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Cluster {
    /// Runs `svc-agent` with these words in a host or container, and waits for its end.
    pub fn cli(&self, place: &str, words: &str) -> Output {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.cli_words(place, &words)
    }

    /// As [`Self::cli`], for words that contain spaces or are empty.
    pub fn cli_words(&self, place: &str, words: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(words);
        if let ["network", "create", network, rest @ ..] = words
            && !rest.iter().any(|word| word.starts_with("--subnet"))
        {
            command.args(Family::now().subnets(network));
        }
        if vm::is_inside() && !words.contains(&"--timeout") {
            command.args(["--timeout", TIMEOUT_INSIDE]);
        }
        self.run(place, command)
    }

    /// Runs `svc-agent`, which must succeed; returns its standard output. Where all is emulated an agent may come up against
    /// its own time-outs, and is asked again.
    pub fn ok(&self, place: &str, words: &str) -> String {
        if vm::is_inside() {
            return wait_until(&format!("{place}$ svc-agent {words}"), LIMIT, || {
                let output = self.cli(place, words);
                if output.exit == 0 { Ok(output.stdout) } else { Err(output.stderr) }
            });
        }
        let output = self.cli(place, words);
        assert_eq!(output.exit, 0, "{place}$ svc-agent {words}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs `svc-agent` with a verb that changes something, which must be done here; returns the hosts that it names as
    /// behind, of which there are some where it exits 4 and none where it exits 0.
    pub fn behind(&self, place: &str, words: &str) -> BTreeSet<String> {
        let output = self.cli(place, &format!("{words} -o json"));
        let context = format!("{place}$ svc-agent {words}\n{output:?}");
        let done: Done =
            serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {context}"));
        let behind: BTreeSet<String> = done.laggards.into_iter().map(|laggard| laggard.host).collect();
        assert_eq!(output.exit, if behind.is_empty() { 0 } else { 4 }, "{context}");
        behind
    }

    /// Runs `svc-agent`, which must refuse with this exit code and say all of these things, within a second.
    pub fn refused(&self, place: &str, words: &str, exit: i32, said: &[&str]) {
        let output = self.cli(place, words);
        let context = format!("{place}$ svc-agent {words}\n{}{}", output.stdout, output.stderr);
        assert_eq!(output.exit, exit, "{context}");
        for part in said {
            assert!(output.stderr.contains(part), "{part:?} is not said: {context}");
        }
        assert!(output.took < Duration::from_secs(1), "refused only after {:?}: {context}", output.took);
    }

    /// A shell script in a host or container; it must succeed. Returns its standard output.
    pub fn shell(&self, place: &str, script: &str) -> String {
        let output = self.try_shell(place, script);
        assert_eq!(output.exit, 0, "{place}: {script}\n{}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// A shell script in a host or container.
    pub fn try_shell(&self, place: &str, script: &str) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.run(place, command)
    }

    fn run(&self, place: &str, command: Command) -> Output {
        let started = Instant::now();
        let output = self
            .bed
            .output(place, command, vm::patient(LIMIT))
            .unwrap_or_else(|error| panic!("{place}: {error:?}"));
        Output {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        }
    }
}
