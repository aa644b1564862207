//! What can fail, each with its object.
use std::io;

/// A failed operation on a namespace's netfilter state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made; nothing has changed.
    #[error("cannot open a netfilter socket ({step})")]
    Open {
        /// The call that failed.
        step: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// A batch could not be handed to the kernel; nothing has changed.
    #[error("cannot send {bytes} bytes to netfilter")]
    Send {
        /// Length of what was to be sent.
        bytes: usize,
        /// The socket's error.
        source: io::Error,
    },
    /// No answer could be read. After a commit it is not known whether it took effect: dump before going on.
    #[error("cannot receive from netfilter")]
    Receive {
        /// The socket's error.
        source: io::Error,
    },
    /// The kernel refused a message; as a commit is one transaction, nothing of it took effect.
    #[error("{refusal}")]
    Refused {
        /// Which message, and why.
        refusal: Refusal,
        /// The error number as an error.
        source: io::Error,
    },
    /// Somebody else changed the ruleset after the generation that the batch was built for; nothing of the
    /// batch took effect.
    #[error("the ruleset has changed since generation {expected}")]
    Changed {
        /// The generation the batch asked for.
        expected: u32,
    },
    /// An object is longer than netlink's 16-bit lengths allow; nothing was sent.
    #[error("the batch holds an attribute longer than 65,535 bytes")]
    TooLong,
    /// A dump was interrupted by changes each time it was tried; nothing is known.
    #[error("the dump of {what} was interrupted {tries} times by changes")]
    Interrupted {
        /// What was dumped.
        what: &'static str,
        /// How often it was tried.
        tries: u32,
    },
}

/// The message of a batch that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the message asked for, such as `add rule`.
    pub message: &'static str,
    /// `table`, `table chain` or `table set`, as far as the message names them.
    pub object: String,
    /// The kernel's explanation (NLMSGERR_ATTR_MSG); often empty.
    pub detail: String,
    /// How many messages of the batch were refused.
    pub count: usize,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}", self.message)?;
        if !self.object.is_empty() {
            write!(f, " in \"{}\"", self.object)?;
        }
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        if self.count > 1 {
            write!(f, ", nor {} more messages of the batch", self.count - 1)?;
        }
        Ok(())
    }
}

impl Error {
    /// The error number that the kernel gave, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. } | Self::Send { source, .. } => source.raw_os_error(),
            Self::Receive { source } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Changed { .. } | Self::TooLong | Self::Interrupted { .. } => None,
        }
    }
}
