//! Scenarios on the real kernel with real agents: `cargo test -p tests --test scenarios -- [NAME...]`.
mod addresses;
mod churn;
mod conflicts;
mod deaths;
mod docker;
mod firewalls;
mod forwarding;
mod forwarding_load;
mod health;
mod idle;
mod input;
mod keys;
mod limits;
mod musl;
mod names;
mod notify;
mod partition;
mod repair;
mod restart;
mod routes;
mod simulated;
mod six;
mod status;
mod texts;
mod tracking;
mod vips;

use std::process::ExitCode;

fn main() -> ExitCode {
    let all = [
        texts::all(),
        vips::all(),
        tracking::all(),
        health::all(),
        idle::all(),
        names::all(),
        six::all(),
        musl::all(),
        forwarding::all(),
        forwarding_load::all(),
        input::all(),
        limits::all(),
        addresses::all(),
        conflicts::all(),
        deaths::all(),
        partition::all(),
        repair::all(),
        restart::all(),
        status::all(),
        routes::all(),
        keys::all(),
        simulated::all(),
        notify::all(),
        churn::all(),
        docker::all(),
        firewalls::all(),
    ];
    tests::runner::main(&all.into_iter().flatten().collect::<Vec<_>>())
}
