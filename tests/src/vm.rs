//! A machine of its own for scenarios that need one: a stock kernel under qemu, on this machine's files.
//!
//! What only a machine's first network namespace may set (neighbour limits, `nf_conntrack_max`), what another kernel
//! lacks, and what this one was built without is tested there. One machine runs all that were chosen: it boots, runs
//! *this* test program with their names, and its output comes back line by line. Nothing of the machine outside is
//! changed: the files are read only, what is written goes to the machine's memory, and it has no network.
//!
//! It is emulated (TCG) also where there is /dev/kvm, which on rented machines is often there and does not work: all
//! takes ten times as long, so measurements in it are ratios only, and limits of time are for it to be chosen.
mod archive;
mod image;
mod machine;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::netns::Namespace;

pub use image::Image;
use machine::Machine;

/// Set inside.
const MARK: &str = "SVC_AGENT_TEST_MACHINE";
/// Where the first network namespace is bound, inside.
const FIRST: &str = "/first-netns";
/// From the start of the machine to the end of its last scenario; then it is ended.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// How much longer things may take inside.
const PATIENCE: u32 = 10;
/// What is passed on to the scenarios inside.
const ENVIRONMENT: [&str; 6] = ["CI", "NIGHTLY", "RUST_BACKTRACE", "SVC_AGENT_PROGRAM", "HOME", "LANG"];

/// How a scenario ended inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// At once.
    Passed,
    /// It failed, and passed when it was run once more.
    Unsteady,
    /// Something is missing inside; what, was printed.
    Skipped,
    /// Or the machine ended before it did.
    Failed,
}

/// Whether this program runs inside.
pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// The first network namespace, inside.
pub fn first_namespace() -> Namespace {
    Namespace::open(Path::new(FIRST)).expect("the machine's first network namespace")
}

/// A limit for what is awaited, and how long it is inside, where all is emulated.
pub fn patient(limit: Duration) -> Duration {
    if is_inside() { limit * PATIENCE } else { limit }
}

/// Numbers below /proc/sys of the first network namespace, inside; they are as before when this is dropped.
#[derive(Debug, Default)]
pub struct Numbers {
    before: Vec<(String, String)>,
}

impl Numbers {
    /// Writes one.
    pub fn set(&mut self, key: &str, value: u64) {
        assert!(is_inside(), "the numbers of the machine outside are not ours");
        let path = format!("/proc/sys/{key}");
        let change = || {
            let before = std::fs::read_to_string(&path)?;
            std::fs::write(&path, value.to_string()).map(|()| before)
        };
        let before = first_namespace().run(change).expect("a namespace");
        let before = before.unwrap_or_else(|error| panic!("{path}: {error}"));
        self.before.push((path, before));
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.before);
        // The first that was written comes last. Where one fails the next scenario finds out.
        let restore = move || before.iter().rev().for_each(|(path, text)| drop(std::fs::write(path, text)));
        drop(first_namespace().run(restore));
    }
}

/// Boots one machine and runs these scenarios of this program there. What they print is printed, each line marked.
pub fn run(image: &Image, names: &[&str]) -> BTreeMap<String, Ended> {
    let mut ended: BTreeMap<String, Ended> =
        names.iter().map(|name| ((*name).to_owned(), Ended::Failed)).collect();
    let started = Instant::now();
    let mut machine = match Machine::boot(image, &script(names)) {
        Ok(machine) => machine,
        Err(error) => {
            println!("vm| it does not start: {error}");
            return ended;
        }
    };
    while let Some(line) = machine.line(started + RUN_LIMIT) {
        if let Some(rest) = line.strip_prefix(machine::ENDED) {
            println!("vm| done after {:.1} s{rest}", started.elapsed().as_secs_f32());
            return ended;
        }
        println!("vm| {line}");
        if let Some((name, how)) = outcome(&line) {
            ended.entry(name.to_owned()).and_modify(|it| *it = how);
        }
    }
    println!(
        "vm| it ended, or was ended, after {:.1} s; the end of its console:",
        started.elapsed().as_secs_f32()
    );
    println!("{}", machine.console());
    // What was under way then has not passed, whatever it was the first time.
    ended
}

/// What runs inside, for a shell.
fn script(names: &[&str]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let program = std::env::current_exe().expect("this program's path");
    let set = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    let mut lines: Vec<String> =
        set.map(|(name, value)| format!("export {name}={}", quoted(&value))).collect();
    lines.push(format!("export {MARK}=1"));
    lines.push(format!("touch {FIRST} && mount --bind /proc/self/ns/net {FIRST}"));
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    lines.push(format!("{} --exact {}", quoted(&program.to_string_lossy()), names.join(" ")));
    lines.join("\n")
}

/// What a line of the runner's says of a scenario.
fn outcome(line: &str) -> Option<(&str, Ended)> {
    if let Some(name) = line.strip_prefix(crate::runner::UNSTEADY) {
        return Some((name, Ended::Unsteady));
    }
    let (name, how) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let how = match how.split([' ', ':']).next()? {
        "ok" => Ended::Passed,
        "skipped" => Ended::Skipped,
        _ => Ended::Failed,
    };
    Some((name, how))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_as_the_runner_writes_them() {
        assert_eq!(outcome("test a ... ok (1.0 s)"), Some(("a", Ended::Passed)));
        assert_eq!(outcome("test a/six ... FAILED (1.0 s)"), Some(("a/six", Ended::Failed)));
        assert_eq!(outcome("test a ... skipped: no b"), Some(("a", Ended::Skipped)));
        let unsteady = format!("{}a", crate::runner::UNSTEADY);
        assert_eq!(outcome(&unsteady), Some(("a", Ended::Unsteady)));
        assert_eq!(outcome("test of something"), None);
    }
}
