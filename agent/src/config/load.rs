//! From the sources to [`Settings`].
use std::path::{Path, PathBuf};

use super::check::{Candidates, across};
use super::error::{ConfigError, ConfigErrors, Origin};
use super::flags::Flags;
use super::settings::{SETTINGS, Setting, Settings};
use super::suggest::closest;
use super::variable;

/// The largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Key and origin of every setting.
    pub origins: Vec<(&'static str, Origin)>,
}

/// The sources of a process's settings, kept so that SIGHUP can read them again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// Flags as typed.
    pub flags: Flags,
}

impl Sources {
    /// Reads the file, this process's environment and the flags.
    ///
    /// # Errors
    /// Every mistake at once, misspelt environment variables included; nothing is in force then.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let misspelt =
            misspelt_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
        let environment =
            |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        match load(self.file.as_deref(), &environment, &self.flags) {
            Ok(loaded) if misspelt.is_empty() => Ok(loaded),
            Ok(_) => Err(ConfigErrors(misspelt)),
            Err(ConfigErrors(mut errors)) => {
                errors.extend(misspelt);
                Err(ConfigErrors(errors))
            }
        }
    }
}

impl Settings {
    /// The settings in force: file < environment < flag. Pure apart from reading `file`, and the host's name where no
    /// source names the node.
    ///
    /// # Errors
    /// Every mistake of every source at once.
    pub fn load(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        flags: &Flags,
    ) -> Result<Self, ConfigErrors> {
        load(file, environment, flags).map(|loaded| loaded.settings)
    }

    /// Fills what follows from the host or from other settings.
    pub(super) fn fill(&mut self) {
        if self.node.is_empty() {
            self.node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        if self.holder_socket.as_os_str().is_empty() {
            self.holder_socket = self.socket.with_file_name("hold.sock");
        }
    }
}

/// As [`Settings::load`], and says where each value came from.
///
/// # Errors
/// Every mistake of every source at once.
pub fn load(
    file: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
    flags: &Flags,
) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    let mut candidates = Candidates::default();
    if let Some(path) = file {
        read_file(path, &mut candidates, &mut errors);
    }
    for Setting { key, .. } in SETTINGS {
        let name = variable(key);
        if let Some(text) = environment(&name) {
            candidates.add(key, Origin::Variable(name), text);
        }
        if let Some(text) = flags.get(key) {
            candidates.add(key, Origin::Flag((*key).to_owned()), text.to_owned());
        }
    }
    let mut settings = Settings::read(&candidates, &mut errors);
    settings.fill();
    across(&settings, &|key| candidates.origin(key), &mut errors);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let origins = SETTINGS.iter().map(|setting| (setting.key, candidates.origin(setting.key))).collect();
    Ok(Loaded { settings, origins })
}

fn read_file(path: &Path, candidates: &mut Candidates, errors: &mut Vec<ConfigError>) {
    let at = |key: Option<&str>| Origin::File { path: path.to_owned(), key: key.map(str::to_owned) };
    let table = match read_table(path) {
        Ok(table) => table,
        Err((what, hint)) => {
            return errors.push(ConfigError { origin: at(None), what, hint: hint.to_owned() });
        }
    };
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            errors.push(ConfigError {
                origin: at(Some(&key)),
                what: "there is no such setting".into(),
                hint: unknown_hint(&key),
            });
            continue;
        };
        match text_of(&value, setting.list) {
            Some(text) => candidates.add(setting.key, at(Some(&key)), text),
            None => errors.push(ConfigError {
                origin: at(Some(&key)),
                what: format!("it has the wrong type, {}", value.type_str()),
                hint: format!("write for example {key} = {}", (setting.default_toml)()),
            }),
        }
    }
}

fn read_table(path: &Path) -> Result<toml::Table, (String, &'static str)> {
    let unreadable =
        |error: std::io::Error| (format!("it cannot be read: {error}"), "check the path and its permissions");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(("it is no file of at most 1 MiB".to_owned(), "name a configuration file"));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    text.parse().map_err(|error: toml::de::Error| {
        let line =
            error.span().map_or(1, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        (
            format!("line {line} is no TOML: {}", error.message()),
            "write one `key = value` per line; `svc-agent config sample` prints all",
        )
    })
}

/// The text that an environment variable would have; `None` for a type that no setting has.
fn text_of(value: &toml::Value, list: bool) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) if list => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn unknown_hint(key: &str) -> String {
    if matches!(key, "init" | "join") {
        return format!(
            "use the flag --{key} of `svc-agent run`: it matters only until this host has joined"
        );
    }
    match closest(key, SETTINGS.iter().map(|setting| setting.key)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`svc-agent config sample` prints all settings".to_owned(),
    }
}

/// Variables that are near a setting's without being one; others with our prefix may be somebody else's.
pub(super) fn misspelt_variables(names: impl Iterator<Item = String>) -> Vec<ConfigError> {
    let known: Vec<String> = SETTINGS.iter().map(|setting| variable(setting.key)).collect();
    let misspelt = |name: String| {
        if !name.starts_with("SVC_AGENT_") || known.contains(&name) {
            return None;
        }
        let near = closest(&name, known.iter().map(String::as_str))?;
        let hint = format!("did you mean {near}?");
        Some(ConfigError {
            origin: Origin::Variable(name),
            what: "there is no such setting".to_owned(),
            hint,
        })
    };
    names.filter_map(misspelt).collect()
}
