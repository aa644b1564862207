//! The running agent: what the pure modules decide is put together and acted on here.
//!
//! In the order of the data's flow: [`verbs`] and [`peers`] write facts through [`agent`], whose [`state`] derives the view;
//! [`converge`] turns the view into what the leaf crates take and makes the kernel hold it; problems end in
//! [`problems`], counts in [`metrics`], history in [`events`].
pub mod agent;
pub mod checks;
pub mod claiming;
pub mod converge;
pub mod derived;
pub mod events;
pub mod gather;
pub mod health;
pub mod host;
pub mod key_file;
pub mod local;
pub mod log;
pub mod memory;
pub mod messages;
pub mod metrics;
pub mod paths;
pub mod peers;
pub mod port_holder;
pub mod probing;
pub mod problems;
pub mod records;
pub mod revised;
pub mod spaces;
pub mod start;
pub mod state;
pub mod touched;
pub mod tunnel_ports;
pub mod verbs;
