//! `make bench`: the figures this project promises, measured on the real kernel inside a bed of namespaces.
//!
//! Two things are compared in interleaved pairs (A B A B …), each pair gives one ratio, and the median of the ratios is
//! printed with its 95 % interval by order statistics. A goal is met when the whole interval is inside. Processes under
//! test run in SCHED_FIFO where that is permitted, so that others on the machine disturb little; trust ratios, not
//! absolute times.
mod cluster;
mod connect;
mod crews;
mod crowd;
mod figures;
mod handmade;
mod machine;
mod report;
mod resolver;
mod statistics;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use agent::bed::Sandbox;
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use figures::{Figure, Options};
use report::{Row, Verdict};

/// Measures the figures of README.md.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Few rounds: whether it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Exit with 1 unless every goal is met.
    #[arg(long)]
    strict: bool,
    /// Measure these only; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<Figure>,
    /// Rounds of a pair.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// The agent to measure [default: svc-agent beside this program].
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Be a part of a large cluster, in the sandbox of the process that started this one.
    #[arg(long, hide = true, value_delimiter = ',')]
    crew: Vec<u32>,
}

fn main() -> ExitCode {
    // Memory is not made frugal as agents make it: with one arena the fifty agents of this process would wait for each
    // other's allocations, as those of fifty processes do not (measured: half of all processor time).
    let arguments = Arguments::parse();
    if !arguments.crew.is_empty() {
        let served = crews::nature(&arguments.crew).and_then(|(before, nature)| crews::serve(before, nature));
        return served.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    // Inside the sandbox nobody may have more than there are now.
    agent::limits::raise_file_limit(tests::simulated::FILES_WANTED);
    let sandbox = match Sandbox::enter() {
        Ok(sandbox) => sandbox,
        Err(error) => return failed(&error.into()),
    };
    match run(&arguments, &sandbox) {
        Ok(all_met) if arguments.strict && !all_met => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("bench: {error:#}");
    ExitCode::FAILURE
}

/// Measures and prints; whether every goal is met.
fn run(arguments: &Arguments, sandbox: &Sandbox) -> Result<bool> {
    let program = match &arguments.agent {
        Some(path) => std::path::absolute(path)?,
        None => std::env::current_exe()?.with_file_name("svc-agent"),
    };
    anyhow::ensure!(program.exists(), "no agent at {}; build it: cargo build --release", program.display());
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 6 } else { 100 });
    let options = Options { quick: arguments.quick, rounds, program };
    let ahead = std::thread::spawn(|| machine::under_test(0)).join().unwrap_or(false);
    let scheduling = if ahead { "SCHED_FIFO" } else { "no SCHED_FIFO: others disturb" };
    let machine = format!("{}; {scheduling}", machine::describe());
    if !arguments.json {
        println!("{machine}\n{}", report::head());
    }
    // A thousand containers, or three hundred hosts, are for who asks for them: they take long.
    let unusual = [Figure::Full, Figure::MoreHosts];
    let usual = |figure: Figure| arguments.only.is_empty() && !unusual.contains(&figure);
    let wanted = |figure: Figure| usual(figure) || arguments.only.contains(&figure);
    let figures: Vec<Figure> = Figure::value_variants().iter().copied().filter(|it| wanted(*it)).collect();
    let mut all = BTreeMap::<&'static str, Vec<Row>>::new();
    figures::measure(sandbox, &options, &figures, &mut |figure, rows| {
        if !arguments.json {
            print!("{}", report::lines(&rows));
        }
        all.entry(figure.key()).or_default().extend(rows);
    })?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "machine": machine, "figures": all }));
        println!("{}", text.context("the figures are no JSON")?);
    }
    let ended_well = |row: &Row| matches!(row.verdict, Verdict::Met | Verdict::Information);
    Ok(all.values().flatten().all(ended_well))
}
