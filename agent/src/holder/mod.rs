//! A second, tiny process (`svc-agent hold`) that keeps file descriptors while the agent is away.
//!
//! The namespaces of networks and the resolvers' sockets are put there under names; an agent that starts later gets
//! them back over a unix socket. So the kernel frees nothing when the agent is killed or upgraded, and look-ups wait
//! in the sockets' buffers meanwhile. The process does nothing else, and reads nothing from the descriptors, but for
//! Docker's calls while there is no agent to answer them ([`stand_in`]).
//!
//! It ends by [`Client::end`] (`svc-agent leave`) or SIGTERM, and with it what nobody else holds: where a service manager
//! started it, that keeps a copy ([`stored`]) for the next one.
mod client;
mod message;
mod process;
mod server;
mod stand_in;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod transfer;

use std::io;
use std::path::PathBuf;

pub use client::{Client, Entry, Pong, ensure};
pub use process::run;
pub use stand_in::{DOCKER_NAME, REFUSAL};
pub use transfer::listening_process;

/// Names that one holder keeps.
pub const NAMES_MAX: usize = 8192;
/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 255;
/// File descriptors under one name.
pub const FILES_MAX: usize = 8;

/// The name of a network's namespace.
pub fn network_name(network: &crate::model::Name) -> String {
    format!("network/{network}")
}

/// The name of the namespace in which paths are tried.
pub const PATHS_NAME: &str = "paths";

/// The name of the resolver's sockets in the namespace with this cookie.
pub fn resolver_name(cookie: u64) -> String {
    format!("resolver/{cookie}")
}

/// What failed, between the agent and the holder or within it. Nothing that was held before is lost by it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages name.
pub enum Error {
    /// Nobody listens there, or somebody who is not ours.
    #[error("cannot reach the holder at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// The holder ended, or did not answer in time; a request may have been carried out.
    #[error("the holder at {} did not {request}", path.display())]
    Call { path: PathBuf, request: &'static str, source: io::Error },
    /// The holder answered that it will not.
    #[error("the holder at {} refused to {request}: {reason}", path.display())]
    Refused { path: PathBuf, request: &'static str, reason: String },
    /// The holder was started and did not answer in time.
    #[error("started a holder at {}, but it does not answer", path.display())]
    Silent { path: PathBuf, source: Box<Self> },
    /// The program could not be started.
    #[error("cannot start {} as the holder", program.display())]
    Start { program: PathBuf, source: io::Error },
    /// Another holder has this place.
    #[error("another holder is at {}", path.display())]
    Occupied { path: PathBuf },
    /// The holder could not be set up.
    #[error("cannot {what} for the holder at {}", path.display())]
    Setup { what: &'static str, path: PathBuf, source: io::Error },
}
