//! `rows.toml`: which test keeps which promise.
use std::collections::BTreeMap;

use serde::Deserialize;

/// One row of the list of what hurts people.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Scenarios or test functions by name.
    #[serde(default)]
    pub tests: Vec<String>,
    /// What CI runs of it.
    pub ci: Option<String>,
    /// What only `make nightly` runs.
    pub nightly: Option<String>,
    /// The later issue that owes it, or the rest of it.
    pub owed: Option<u32>,
    /// What was changed, and seen to turn the test red.
    pub sabotage: Option<String>,
}

/// Reads the file's text.
///
/// # Errors
/// Where and why it is no such file.
pub fn parse(text: &str) -> Result<BTreeMap<String, Row>, toml::de::Error> {
    toml::from_str(text)
}
