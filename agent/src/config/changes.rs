//! What a reread configuration changes, and what of it needs a restart.
use super::settings::{SETTINGS, Settings};

/// The keys whose values differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force at once.
    pub reloadable: Vec<&'static str>,
    /// Kept as they were until the agent is started again.
    pub needs_restart: Vec<&'static str>,
}

/// Compares two configurations.
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changes = Changes::default();
    for (setting, ((_, before), (_, after))) in SETTINGS.iter().zip(old.table().into_iter().zip(new.table()))
    {
        if before == after {
            continue;
        }
        if setting.reloadable {
            changes.reloadable.push(setting.key);
        } else {
            changes.needs_restart.push(setting.key);
        }
    }
    changes
}
