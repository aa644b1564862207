//! What can be wrong with a configuration.
use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A key of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The key; `None` where the file as a whole is meant.
        key: Option<String>,
    },
    /// An environment variable, by its name.
    Variable(String),
    /// A flag of the command line, without the hyphens.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, key: Some(key) } => write!(f, "{}: {key}", path.display()),
            Self::File { path, key: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One mistake: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}; {hint}")]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// What is wrong there.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// All mistakes of a configuration, never empty; nothing of it is in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
