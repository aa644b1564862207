//! What can fail in a demo.
use std::io;
use std::time::Duration;

use crate::{bed, netns};

/// The act that failed. Nothing outside the demo's sandbox has changed, and the demo ends.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the messages name.
pub(super) enum Error {
    #[error("listen for signals")]
    Signals { source: io::Error },
    #[error("build the hosts and containers")]
    Build {
        #[from]
        source: bed::Error,
    },
    #[error("enter {place}")]
    Enter { place: String, source: netns::Error },
    #[error("{what} on {place}")]
    Do { what: &'static str, place: String, source: io::Error },
    #[error("`{place}$ {command}` ended with exit code {code}: {said}")]
    Command { place: String, command: String, code: i32, said: String },
    #[error("`{place}$ {command}` printed what is not understood here: {said}")]
    Answer { place: String, command: String, said: String },
    #[error("leave left links behind: {links}")]
    Left { links: String },
    #[error("waited {} s for {what}; last seen: {last}", limit.as_secs())]
    Waited { what: String, limit: Duration, last: String },
}

impl Error {
    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Build { .. } | Self::Signals { .. } | Self::Enter { .. } | Self::Do { .. } => {
                "svc-agent doctor names what this machine's kernel lacks"
            }
            Self::Command { .. } | Self::Answer { .. } | Self::Waited { .. } | Self::Left { .. } => {
                "a busy machine can be too slow: try again; then see svc-agent doctor"
            }
        }
    }
}
