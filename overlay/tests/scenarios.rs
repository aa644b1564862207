//! The text files in `scenarios/`, each on the kernel in memory and on the real one: the same tables.
//!
//! ```text
//! == name                       # begins a step; the whole desired state follows it
//! host 192.0.2.1 peers 192.0.2.2
//! network blue vni 4097 mtu 1450 subnet 10.20.0.0/16 link 0 flood 192.0.2.2     # or "internal"
//!   attachment web in c1 02:00:00:00:00:0a 10.20.0.10/16 route if-none metric 0  # or "in host"
//!   remote 02:00:00:00:00:14 at 192.0.2.2 10.20.1.20
//! -- turn                       # one call of each phase; a problem fails, unless a failure was due
//! -- settle                     # calls until nothing is left to do, and a look at everything finds nothing
//! -- verify                     # looks at everything and repairs something
//! -- remember                   # and later "-- as remembered": all that there is, is the same again
//! -- restart                    # the agent ends, and another begins
//! -- by hand blue delete link vxlan     # somebody else's doing, see common/text.rs
//! -- fail 3 EBUSY               # lets 3 operations pass and fails the next; "done": although it was done
//! -- die 3 EBUSY                # a call in which 3 operations pass and all others fail
//! -- build interrupted anywhere # anew for every third operation, which fails; the end is always the same
//! -- teardown                   # everything of ours away
//! table link tunnel             # exactly these lines of these kinds, in any order; all kinds without any
//!   tunnel blue 02:00:00:00:00:14 192.0.2.2
//! ```
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
mod common;
#[path = "common/text.rs"]
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::seen::{self, normal};
use common::{Machine, block_on, both_phases, has_kernel, machine};
use overlay::{Desired, FakeKernel, FaultyKernel, Kernel, LinuxKernel, Look, Reconciler};

/// Calls after which nothing may be left to do.
const TURNS_MAX: usize = 5;
/// Between the operations at which a build is interrupted: the kernel takes its time to delete links.
const STRIDE: usize = 3;

#[test]
fn scenarios_on_the_kernel_in_memory() {
    for (name, text) in files() {
        block_on(play::<FakeKernel>(&name, &text));
    }
}

#[test]
fn scenarios_on_the_real_kernel() {
    if has_kernel("scenarios_on_the_real_kernel") {
        for (name, text) in files() {
            block_on(play::<LinuxKernel>(&name, &text));
        }
    }
}

fn files() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    let mut files: Vec<_> = paths.map(read).collect();
    files.sort();
    assert!(files.len() >= 8);
    files
}

type Faulty<M> = Arc<FaultyKernel<Arc<M>>>;

/// One file on one kernel.
struct Player<M> {
    kernel: Faulty<M>,
    reconciler: Reconciler<Faulty<M>>,
    desired: Desired,
    /// The network that was declared last.
    last: String,
    remembered: BTreeSet<String>,
    /// What is said of a failure: file, step and line.
    at: String,
}

/// A table that is expected: kinds, and lines.
type Table = (Vec<String>, BTreeSet<String>);

async fn play<M: Machine>(file: &str, text: &str) {
    let kernel = Arc::new(FaultyKernel::new(machine::<M>(text::spaces(text)), 0, 0));
    let reconciler = Reconciler::new(Arc::clone(&kernel));
    let (last, remembered, at) = Default::default();
    let mut player = Player { kernel, reconciler, desired: text::nothing(), last, remembered, at };
    let (mut step, mut table): (String, Option<Table>) = (String::new(), None);
    for line in text.lines().chain(["=="]) {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let ends_table = matches!(words.first(), Some(&("==" | "--" | "table")));
        if let Some((kinds, wanted)) = table.take_if(|_| ends_table) {
            player.compare(&kinds, &wanted).await;
        }
        player.at = format!("{file}, step \"{step}\", line \"{}\"", line.trim());
        match (words.as_slice(), &mut table) {
            ([], _) => {}
            (["==", name @ ..], _) => {
                player.desired = text::nothing();
                step = name.join(" ");
            }
            (["--", what @ ..], _) => player.act(what).await,
            (["table", kinds @ ..], _) => {
                table = Some((kinds.iter().map(|kind| (*kind).to_owned()).collect(), BTreeSet::new()));
            }
            (words, Some((_, lines))) => {
                lines.insert(words.join(" "));
            }
            (words, None) => text::declare(&mut player.desired, &mut player.last, words),
        }
    }
}

impl<M: Machine> Player<M> {
    async fn act(&mut self, words: &[&str]) {
        match words {
            ["turn"] => {
                let waits = self.kernel.waits();
                let report = both_phases(&mut self.reconciler, &self.desired).await;
                assert!(waits || report.problems.is_empty(), "{}: {:?}", self.at, report.problems);
                assert!(!self.kernel.waits(), "{}: fewer operations than that", self.at);
            }
            ["settle"] => self.settle().await,
            ["verify"] => {
                let report = self.reconciler.verify(&self.desired).await;
                assert_eq!(report.problems, [], "{}", self.at);
                assert!(report.operations > 0, "{}: there was nothing to repair", self.at);
                let again = self.reconciler.verify(&self.desired).await;
                assert_eq!((again.operations, again.problems), (0, vec![]), "{}", self.at);
            }
            ["remember"] => self.remembered = self.lines().await,
            ["as", "remembered"] => self.agree("as remembered", &self.lines().await, &self.remembered),
            ["restart"] => self.restart(),
            ["by", "hand", place, what @ ..] => {
                let space = text::space(place);
                let seen = self.kernel.observe(&space, Look::All).await.unwrap();
                for op in text::harm(&seen, what) {
                    let outcome = self.kernel.apply(&space, &op).await;
                    outcome.unwrap_or_else(|error| panic!("{}: {}", self.at, error.chain()));
                }
            }
            ["fail", after, errno, done @ ..] => {
                self.kernel.fail_at(after.parse().unwrap(), text::errno(errno), done == ["done"]);
            }
            ["die", after, errno] => {
                self.kernel.die_at(after.parse().unwrap(), text::errno(errno));
                both_phases(&mut self.reconciler, &self.desired).await;
                assert!(!self.kernel.waits(), "{}: fewer operations than that", self.at);
                self.kernel.heal();
            }
            ["build", "interrupted", "anywhere"] => self.interrupt_anywhere().await,
            ["teardown"] => {
                let restore = self.reconciler.sysctls_before().clone();
                let torn = self.reconciler.teardown_all(&restore).await;
                assert_eq!(torn.problems, [], "{}", self.at);
            }
            other => panic!("cannot do {other:?}"),
        }
    }

    fn restart(&mut self) {
        self.reconciler = Reconciler::new(Arc::clone(&self.kernel));
    }

    async fn settle(&mut self) {
        let mut last = Default::default();
        for _ in 0..TURNS_MAX {
            last = both_phases(&mut self.reconciler, &self.desired).await;
            if last == Default::default() {
                let again = self.reconciler.verify(&self.desired).await;
                assert_eq!((again.operations, again.problems), (0, vec![]), "{}: not seen before", self.at);
                return;
            }
        }
        panic!("{}: it goes on: {last:?}", self.at);
    }

    /// Each of four errors in turn; nothing is done from there on, or one operation fails, or is done and seems to fail.
    async fn interrupt_anywhere(&mut self) {
        self.settle().await;
        let whole = self.lines().await;
        for turn in 0.. {
            let after = turn * STRIDE;
            self.restart();
            let torn = self.reconciler.teardown_all(&BTreeMap::new()).await;
            assert_eq!(torn.problems, [], "{}", self.at);
            let errno = [libc::EBUSY, libc::EEXIST, libc::ENODEV, libc::ENOBUFS][turn % 4];
            match turn % 3 {
                0 => self.kernel.die_at(after, errno),
                how => self.kernel.fail_at(after, errno, how == 1),
            }
            self.restart();
            both_phases(&mut self.reconciler, &self.desired).await;
            let is_over = self.kernel.waits();
            self.kernel.heal();
            if is_over {
                assert!(after > 20, "{}: so few operations make no network", self.at);
                return;
            }
            self.restart();
            self.settle().await;
            // A pair that was made and not tagged yet is not known as ours: its name counted as taken.
            let built = self.lines().await.into_iter().map(|line| line.replace(" eth1 ", " eth0 ")).collect();
            let when = format!("operation {after} failed with {errno}");
            self.agree(&when, &built, &whole);
        }
    }

    fn agree(&self, when: &str, seen: &BTreeSet<String>, wanted: &BTreeSet<String>) {
        let missing: Vec<&String> = wanted.difference(seen).collect();
        let more: Vec<&String> = seen.difference(wanted).collect();
        let same = missing.is_empty() && more.is_empty();
        assert!(same, "{}: {when}\nmissing {missing:#?}\nnot expected {more:#?}", self.at);
    }

    async fn lines(&self) -> BTreeSet<String> {
        seen::lines(&normal(seen::all(&*self.kernel).await))
    }

    /// What there is, of these kinds, is exactly this.
    async fn compare(&self, kinds: &[String], wanted: &BTreeSet<String>) {
        let kind = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let is_meant = |line: &String| kinds.is_empty() || kinds.contains(&kind(line));
        let seen: BTreeSet<String> = self.lines().await.into_iter().filter(is_meant).collect();
        self.agree("the table", &seen, wanted);
    }
}
