//! The overlay on a real kernel: hosts are network namespaces on this machine, packets are real.
//!
//! Needs root. Everything made here lives in namespaces that only this process holds; nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
mod bed;
mod egress;
mod fences;
mod forwarding;
mod lifecycle;
#[path = "../common/namespace.rs"]
mod namespace;
mod traffic;
