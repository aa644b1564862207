//! Scenarios on the real kernel with real agents: `cargo test -p tests --test scenarios -- [NAME...]`.
mod vips;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = Vec::new();
    all.extend(vips::all());
    tests::runner::main(&all)
}
