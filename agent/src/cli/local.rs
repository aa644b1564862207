//! Verbs that need a configuration but no running agent.
use std::error::Error;
use std::path::PathBuf;

use super::args::{Common, Config, ConfigVerb, Run};
use super::console::{Console, Ending};
use super::table::table;
use super::{Exit, Host, Output, RunAgent};
use crate::api::types::{Failure, FailureKind};
use crate::config::{ConfigErrors, Flags, Loaded, Sources, sample};

pub(super) fn run(run: Run, common: &Common, host: &dyn Host) -> Result<Exit, Ending> {
    let start = run.start();
    let sources = run.config.sources(&with_socket(run.flags, common));
    let Loaded { settings, .. } = load(&sources)?;
    Ok(host.run(RunAgent { settings, sources, start })?)
}

pub(super) fn hold(config: &Config, common: &Common, host: &dyn Host) -> Result<Exit, Ending> {
    let settings = load(&config.sources(&Flags::default()))?.settings;
    let socket = common.socket.as_ref().unwrap_or(&settings.holder_socket);
    let plugin = Some(&settings.docker_plugin).filter(|path| !path.as_os_str().is_empty());
    Ok(host.hold(socket, plugin.map(PathBuf::as_path))?)
}

pub(super) fn doctor(config: &Config, common: &Common, host: &dyn Host) -> Result<Exit, Ending> {
    let loaded = load(&config.sources_of_host(&with_socket(Flags::default(), common)))?;
    Ok(host.doctor(&loaded.settings, common.output)?)
}

pub(super) fn ports(config: &Config, common: &Common, host: &dyn Host) -> Result<Exit, Ending> {
    let loaded = load(&config.sources_of_host(&with_socket(Flags::default(), common)))?;
    Ok(host.ports(&loaded.settings, common.output)?)
}

pub(super) fn config(verb: ConfigVerb, common: &Common, console: &mut Console) -> Result<Exit, Ending> {
    let check = match verb {
        ConfigVerb::Sample => {
            console.text(&sample());
            return Ok(Exit::Done);
        }
        ConfigVerb::Check(check) => check,
    };
    let loaded = load(&check.sources(|flags| with_socket(flags, common)))?;
    let values = loaded.settings.table().into_iter().zip(loaded.origins);
    if common.output == Output::Json {
        let settings: serde_json::Map<String, serde_json::Value> = values
            .map(|((key, value), (_, origin))| {
                (key.to_owned(), serde_json::json!({ "value": value, "origin": origin.to_string() }))
            })
            .collect();
        console.json(&settings);
    } else {
        let rows = values
            .map(|((key, value), (_, origin))| vec![key.to_owned(), value, origin.to_string()])
            .collect();
        console.text(&table(&["SETTING", "VALUE", "FROM"], rows));
    }
    Ok(Exit::Done)
}

/// `--socket` stands at every verb; here it is a setting like the others.
fn with_socket(mut flags: Flags, common: &Common) -> Flags {
    if let Some(socket) = &common.socket {
        let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
        flags.set("socket", absolute.to_string_lossy());
    }
    flags
}

fn load(sources: &Sources) -> Result<Loaded, Ending> {
    sources.load().map_err(|ConfigErrors(errors)| {
        let mistakes =
            if errors.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", errors.len()) };
        let lines: Vec<String> = errors.iter().map(|error| format!("  {error}")).collect();
        Ending::from(Failure {
            kind: FailureKind::Usage,
            message: format!(
                "the configuration has {mistakes}, and nothing was started:\n{}",
                lines.join("\n")
            ),
            hints: vec![
                "see all settings with svc-agent config sample; try again with svc-agent config check"
                    .to_owned(),
            ],
        })
    })
}

/// Something of this process itself failed.
pub(super) fn broken(what: &str, error: &dyn Error) -> Ending {
    Ending::from(Failure {
        kind: FailureKind::Refused,
        message: format!("{what}: {error}"),
        hints: Vec::new(),
    })
}
