//! Scenarios on the real kernel with real agents: `cargo test -p tests --test scenarios -- [NAME...]`.
mod addresses;
mod apart;
mod churn;
mod clocks;
mod conflicts;
mod crash;
mod crash_docker;
mod crash_kernel;
mod crash_members;
mod crowd;
mod deaths;
mod docker;
mod docker_beside;
mod docker_driver;
mod docker_guests;
mod docker_life;
mod engines;
mod exhaustion;
mod firewalls;
mod forwarding;
mod forwarding_load;
mod grants;
mod healing;
mod health;
mod hosts;
mod idle;
mod input;
mod keys;
mod limits;
mod manuals;
mod moves;
mod musl;
mod names;
mod notify;
mod package;
mod partition;
mod paths;
mod podman;
mod probing;
mod reboot;
mod repair;
mod restart;
mod routes;
mod simulated;
mod six;
mod state;
mod status;
mod stock;
mod tables;
mod takeover;
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
        apart::all(),
        crash::all(),
        crash_docker::all(),
        crash_kernel::all(),
        crash_members::all(),
        crowd::all(),
        deaths::all(),
        partition::all(),
        exhaustion::all(),
        paths::all(),
        moves::all(),
        grants::all(),
        healing::all(),
        tables::all(),
        takeover::all(),
        hosts::all(),
        reboot::all(),
        repair::all(),
        restart::all(),
        state::all(),
        status::all(),
        stock::all(),
        probing::all(),
        routes::all(),
        keys::all(),
        clocks::all(),
        simulated::all(),
        notify::all(),
        package::all(),
        manuals::all(),
        podman::all(),
        churn::all(),
        docker::all(),
        docker_driver::all(),
        docker_life::all(),
        docker_guests::all(),
        docker_beside::all(),
        firewalls::all(),
    ];
    tests::runner::main(&all.into_iter().flatten().collect::<Vec<_>>())
}
