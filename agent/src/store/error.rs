//! Why the store could not do what it was asked.
use std::path::PathBuf;

/// A failed operation on the store; what is read from it afterwards is as it was before it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened or created.
    #[error("open the state database {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is not what a database of ours looks like, or its checksums do not fit. Nothing was changed.
    #[error("the state database {} is damaged: {reason}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// Where it shows.
        reason: String,
    },
    /// Another process has it open.
    #[error(
        "the state database {} is in use: an agent runs here already; see svc-agent status",
        path.display()
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// A read failed.
    #[error("read {what} from the state database")]
    Read {
        /// Which table or key.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A transaction failed; what may be in the file of it is taken back before anything else is done with it.
    #[error("write {what} to the state database")]
    Write {
        /// Which table or key.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store was written by a later version.
    #[error(
        "the state database {} has layout {found}, this version knows {}: start the later version again, \
         or move the directory away to join as a new host",
        path.display(),
        super::LAYOUT
    )]
    Layout {
        /// The database file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
}

impl StoreError {
    /// What to do about one that keeps an agent from starting.
    pub fn hints(&self) -> &'static [&'static str] {
        match self {
            Self::Damaged { .. } => &[
                "what the kernel holds stays and goes on forwarding meanwhile",
                "look at the disk first; then end this host's membership on another one: svc-agent node rm NAME",
                "move the state directory away and join as a new host: svc-agent run --join ADDR",
                "do not put an older copy back: it has forgotten what this host has promised since",
            ],
            Self::Open { .. } | Self::Write { .. } => &[
                "check space and permissions of the state directory, and whether its file system is writable",
                "what the kernel holds stays and goes on forwarding meanwhile",
            ],
            Self::InUse { .. } | Self::Read { .. } | Self::Layout { .. } => &[],
        }
    }
}
