//! Settings given on the command line, as typed.
use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::settings::{SETTINGS, Setting};

/// Flags by the key of their setting; checked together with the other sources, not by the command line's parser.
///
/// It is a [`clap::Args`] made from the table of settings, so that a setting's doc comment is its help text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// Sets one flag, as `--key text` does; a key that is no setting is passed over.
    pub fn set(&mut self, key: &str, text: impl Into<String>) {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
            self.0.insert(setting.key, text.into());
        }
    }

    /// The text of a flag, if it was given; the values of a repeated one are joined by commas.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// `--socket` stands at every verb and is declared there.
fn own_flags() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.key != "socket")
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        own_flags().fold(command, |command, setting| {
            let default = (setting.default)();
            let shown = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            command.arg(
                Arg::new(setting.key)
                    .long(setting.key)
                    .value_name(setting.placeholder)
                    .action(if setting.list { ArgAction::Append } else { ArgAction::Set })
                    .help_heading("Settings")
                    .help(format!("{}{shown}", setting.summary())),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in own_flags() {
            if let Some(values) = matches.get_many::<String>(setting.key) {
                let values: Vec<&str> = values.map(String::as_str).collect();
                self.0.insert(setting.key, values.join(","));
            }
        }
        Ok(())
    }
}
