//! svc-agent: overlay networks, names and virtual IPs for containers on plain hosts.
//!
//! [`model`], [`catalog`], [`claims`], [`addresses`] and [`view`] decide and do no I/O. [`cluster`], [`engine`], [`netns`],
//! [`holder`] and [`store`] act and decide little. [`runtime`] puts them together; [`api`], [`cli`] and [`config`]
//! face the operator; [`bed`] builds the hosts of the demo and of the tests.
pub mod addresses;
pub mod api;
pub mod bed;
pub mod catalog;
pub mod claims;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod docker;
pub mod doctor;
pub mod engine;
pub mod holder;
pub mod limits;
pub mod model;
pub mod neighbours;
pub mod netns;
pub mod paths;
pub mod ports;
pub mod probing;
pub mod runtime;
#[cfg(test)]
mod simulation;
pub mod store;
pub mod view;

/// The version of this program, as all that says it does.
///
/// It is read from one place in the program, where tests put another one: a constant would be folded into what compares it.
pub fn version() -> &'static str {
    std::hint::black_box(env!("CARGO_PKG_VERSION"))
}
