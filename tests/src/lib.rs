//! Harness for scenarios on the real kernel: hosts, containers and the underlay are namespaces, every host runs the
//! real `svc-agent` as a process of its own, and every command is the real command line.
//!
//! [`cluster`] builds and breaks the hosts, [`names`] asks resolvers byte by byte, [`load`] keeps traffic going while
//! something is broken, [`precedence`] keeps a measurement from waiting for its turn,
//! [`wait`] waits on states, [`script`] runs scenarios that are text, [`runner`] is the `main`
//! of a test program, [`simulated`] has clusters of many hosts in one process, [`leaks`] tells what a scenario left behind,
//! [`versions`] makes the program be of another version, [`vm`] is a machine for scenarios that need another kernel or a
//! first network namespace, [`rows`] reads `rows.toml`.
#![allow(clippy::missing_panics_doc, reason = "a failed expectation is a panic here")]
pub mod booted;
pub mod cluster;
pub mod family;
pub mod leaks;
pub mod load;
pub mod names;
pub mod nic;
pub mod precedence;
pub mod rows;
pub mod runner;
pub mod script;
pub mod simulated;
pub mod statistics;
pub mod strike;
pub mod versions;
pub mod vm;
pub mod wait;
