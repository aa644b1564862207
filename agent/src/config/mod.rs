//! The agent's settings: one place of declaration, three sources (file < environment < flag).
//!
//! [`Settings`] is declared once, by the macro in [`settings`]; its doc comments are the help of the flags and the text of
//! the sample configuration. Loading checks everything and names all mistakes at once. Reading the file and, for the
//! default of `node`, asking for the host's name are the only effects.
pub mod advertise;
mod changes;
mod check;
mod error;
mod flags;
pub mod kinds;
mod load;
mod sample;
mod settings;
pub mod start;
mod suggest;

#[cfg(test)]
mod tests;

pub use advertise::{Advertise, LinkAddress, resolve_advertise};
pub use changes::{Changes, changes};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use flags::Flags;
pub use kinds::{LogFormat, Store, Track};
pub use load::{Loaded, Sources, load};
pub use sample::sample;
pub use settings::{SETTINGS, Setting, Settings};
pub use start::{JoinAddress, Start};
pub use suggest::closest;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/svc-agent/agent.sock";

/// The environment variable of a setting: `gossip-port` is `SVC_AGENT_GOSSIP_PORT`.
pub fn variable(key: &str) -> String {
    format!("SVC_AGENT_{}", key.replace('-', "_").to_ascii_uppercase())
}
