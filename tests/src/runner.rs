//! The `main` of a test program whose scenarios need the sandbox.
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::process::ExitCode;
use std::time::Instant;

use agent::bed::{Error, Sandbox};

use crate::family::Family;
use crate::leaks::Traces;
use crate::vm::{self, Image};

/// A scenario: its name, and what it does in the sandbox. It fails by a panic.
pub struct Scenario {
    /// Unique in its program; `rows.toml` names it.
    pub name: String,
    families: &'static [Family],
    /// Whether it needs a machine of its own.
    in_vm: bool,
    run: Box<dyn Fn(&Sandbox)>,
}

impl Scenario {
    /// A scenario.
    pub fn new(name: impl Into<String>, run: impl Fn(&Sandbox) + 'static) -> Self {
        Self { name: name.into(), families: &Family::ALL, in_vm: false, run: Box::new(run) }
    }

    /// It has nothing to do with the families inside networks, or brings its own: it runs once.
    #[must_use]
    pub fn once(self) -> Self {
        Self { families: &[Family::Four], ..self }
    }

    /// It runs, once, in a virtual machine ([`crate::vm`]), with all others that do.
    #[must_use]
    pub fn in_vm(self) -> Self {
        Self { in_vm: true, ..self.once() }
    }
}

/// A list of scenarios named after their functions.
#[macro_export]
macro_rules! scenarios {
    ($($function:ident $($once:ident)?),+ $(,)?) => {
        vec![$($crate::runner::Scenario::new(stringify!($function), $function) $(.$once())?),+]
    };
}

/// What a scenario lacks here.
struct Skip(String);

/// Ends the scenario as skipped, naming what is missing; a failure where the environment variable CI is `true`.
pub fn skip(missing: impl Into<String>) -> ! {
    panic_any(Skip(missing.into()))
}

/// Whether this is the long run (`make nightly`).
pub fn is_nightly() -> bool {
    std::env::var_os("NIGHTLY").is_some_and(|value| value == "1")
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Runs those whose name contains one of the arguments (all without arguments; `--exact` for the whole name;
/// `--list` prints names), one after the other, and says how it went. Arguments that begin with `--` and are not
/// known belong to other test harnesses and are passed over.
pub fn main(scenarios: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        scenarios.iter().for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let all = scenarios.iter().flat_map(|scenario| {
        let run = |family: &Family| Run {
            name: format!("{}{}", scenario.name, family.suffix()),
            scenario,
            family: *family,
        };
        scenario.families.iter().map(run)
    });
    let wanted = |run: &Run<'_>| {
        if vm::is_inside() && !run.scenario.in_vm {
            return false;
        }
        let matches =
            |filter: &&String| if exact { run.name == **filter } else { run.name.contains(filter.as_str()) };
        filters.is_empty() || filters.iter().any(matches)
    };
    let mut chosen: Vec<Run<'_>> = all.filter(wanted).collect();
    // One family after the other: what fails in the first is worth nothing in the others.
    chosen.sort_by_key(|run| run.family.suffix());
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error @ Error::Missing { .. }) if !is_ci() => {
            chosen.iter().for_each(|run| println!("test {} ... skipped: {error}", run.name));
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("no sandbox: {error:?}");
            println!("0 passed, {} failed", chosen.len());
            return ExitCode::FAILURE;
        }
    };
    run_all(&sandbox, &chosen)
}

/// A scenario in one of its families.
struct Run<'a> {
    name: String,
    scenario: &'a Scenario,
    family: Family,
}

/// How many scenarios of a run may fail and then pass alone. On a machine that others use too, one stands still for a
/// moment now and then; what fails by itself fails again, or is one of more.
const UNSTEADY_MAX: usize = 2;

/// What begins the line that tells of such a one.
pub(crate) const UNSTEADY: &str = "UNSTEADY, failed and then passed: ";

/// How a scenario ended.
enum Ended {
    Passed,
    Skipped,
    Failed,
}

/// How a run went.
#[derive(Default)]
struct Tally {
    passed: usize,
    skipped: usize,
    unsteady: Vec<String>,
    failed: Vec<String>,
}

fn run_all(sandbox: &Sandbox, chosen: &[Run<'_>]) -> ExitCode {
    quiet_skips();
    let theirs = |run: &&Run<'_>| run.scenario.in_vm && !vm::is_inside();
    let (theirs, ours): (Vec<&Run<'_>>, Vec<&Run<'_>>) = chosen.iter().partition(theirs);
    let mut tally = run_here(sandbox, &ours);
    if !theirs.is_empty() {
        run_in_machine(&theirs, &mut tally);
    }
    tally.unsteady.iter().for_each(|name| println!("{UNSTEADY}{name}"));
    tally.failed.iter().for_each(|name| println!("failed: {name}"));
    if tally.skipped > 0 {
        println!("{} skipped", tally.skipped);
    }
    if tally.unsteady.len() > UNSTEADY_MAX {
        println!("failed: of a whole run at most {UNSTEADY_MAX} may be unsteady");
        tally.failed.append(&mut tally.unsteady);
    }
    println!("{} passed, {} failed", tally.passed + tally.unsteady.len(), tally.failed.len());
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One after the other, in namespaces of this machine.
fn run_here(sandbox: &Sandbox, chosen: &[&Run<'_>]) -> Tally {
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    for run in chosen {
        match run_one(sandbox, run) {
            Ended::Passed => tally.passed += 1,
            Ended::Skipped => tally.skipped += 1,
            Ended::Failed => failed.push(run),
        }
    }
    if failed.len() <= UNSTEADY_MAX && chosen.len() > failed.len() && !is_nightly() {
        failed.retain(|run| {
            println!("once more, as the others are done:");
            let passes = matches!(run_one(sandbox, run), Ended::Passed);
            if passes {
                tally.unsteady.push(run.name.clone());
            }
            !passes
        });
    }
    tally.failed = failed.into_iter().map(|run| run.name.clone()).collect();
    tally
}

/// All of them in one virtual machine, where this program runs them as it does here.
fn run_in_machine(chosen: &[&Run<'_>], tally: &mut Tally) {
    let image = match Image::find() {
        Ok(image) => image,
        Err(missing) => {
            for run in chosen {
                match told_skipped(run, &missing) {
                    Ended::Skipped => tally.skipped += 1,
                    _ => tally.failed.push(run.name.clone()),
                }
            }
            return;
        }
    };
    let names: Vec<&str> = chosen.iter().map(|run| run.name.as_str()).collect();
    for (name, ended) in vm::run(&image, &names) {
        match ended {
            vm::Ended::Passed => tally.passed += 1,
            vm::Ended::Skipped => tally.skipped += 1,
            vm::Ended::Unsteady => tally.unsteady.push(name),
            vm::Ended::Failed => tally.failed.push(name),
        }
    }
}

fn run_one(sandbox: &Sandbox, chosen: &Run<'_>) -> Ended {
    chosen.family.begin();
    let (started, before) = (Instant::now(), Traces::now());
    let run = || {
        (chosen.scenario.run)(sandbox);
        before.wait_for_return();
    };
    let result = catch_unwind(AssertUnwindSafe(run));
    let seconds = started.elapsed().as_secs_f32();
    let Err(panic) = result else {
        println!("test {} ... ok ({seconds:.1} s)", chosen.name);
        return Ended::Passed;
    };
    match skipped_for(&*panic) {
        Some(missing) => told_skipped(chosen, missing),
        None => {
            println!("test {} ... FAILED ({seconds:.1} s)", chosen.name);
            Ended::Failed
        }
    }
}

/// Skipped here, failed in CI.
fn told_skipped(chosen: &Run<'_>, missing: &str) -> Ended {
    if is_ci() {
        println!("test {} ... FAILED: in CI it must run, but {missing}", chosen.name);
        return Ended::Failed;
    }
    println!("test {} ... skipped: {missing}", chosen.name);
    Ended::Skipped
}

fn skipped_for(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<Skip>().map(|skip| skip.0.as_str())
}

/// A skip is no panic to be printed.
fn quiet_skips() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<Skip>().is_none() {
            usual(info);
        }
    }));
}
