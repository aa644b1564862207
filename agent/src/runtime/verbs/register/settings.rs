//! Settings of a service: what was typed, laid over what stands. Pure.
use std::collections::BTreeSet;

use crate::api::types::{Failure, Settings};
use crate::catalog::facts::{Balance, Check, Probe, ServiceSettings};
use crate::runtime::agent::refused;

/// What was typed laid over what stands: registering again changes what it names and leaves the rest. Lists are
/// replaced whole.
pub(in crate::runtime::verbs) fn merged(is: &ServiceSettings, typed: &Settings) -> ServiceSettings {
    let mut ports = typed.ports.clone().unwrap_or_else(|| is.ports.clone());
    ports.sort_unstable();
    ports.dedup();
    let mut aliases = typed.aliases.clone().unwrap_or_else(|| is.aliases.clone());
    aliases.sort_unstable();
    aliases.dedup();
    ServiceSettings {
        mode: typed.mode.unwrap_or(is.mode),
        ports,
        aliases,
        balance: typed.balance.unwrap_or(is.balance),
        check: match typed.no_check {
            true => None,
            false => typed.check.clone().or_else(|| is.check.clone()),
        },
    }
}

/// Whether settings can be put in force. One service that cannot would hinder its whole network on every host.
///
/// # Errors
/// What is wrong with them.
pub(in crate::runtime::verbs) fn check(settings: &ServiceSettings) -> Result<(), Failure> {
    if settings.balance != Balance::Random {
        return Err(refused("this version balances at random only", &["leave --lb out, or use --lb random"]));
    }
    let checked = settings.check.as_ref().map(|Check { probe, .. }| match probe {
        Probe::Tcp { port } | Probe::Http { port, .. } => *port,
    });
    let ports = settings.ports.iter().flat_map(|port| [port.public, port.target]).chain(checked);
    if ports.into_iter().any(|port| port == 0) {
        return Err(refused("port 0 cannot be served", &["use 1 to 65535"]));
    }
    let mut publics = BTreeSet::new();
    if let Some(twice) = settings.ports.iter().find(|port| !publics.insert((port.protocol, port.public))) {
        let what = format!("port {} is declared twice with different targets", twice.public);
        return Err(refused(what, &["give each port once per protocol"]));
    }
    Ok(())
}

/// What differs between settings, each in words: what it is, and what was asked.
pub(in crate::runtime::verbs) fn differences(is: &ServiceSettings, asked: &ServiceSettings) -> Vec<String> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: serde_json::Result<String>, asked: serde_json::Result<String>| {
        if let (Ok(is), Ok(asked)) = (is, asked)
            && is != asked
        {
            differs.push(format!("{what} is {is}, asked was {asked}"));
        }
    };
    compare("mode", serde_json::to_string(&is.mode), serde_json::to_string(&asked.mode));
    compare("ports", serde_json::to_string(&is.ports), serde_json::to_string(&asked.ports));
    compare("aliases", serde_json::to_string(&is.aliases), serde_json::to_string(&asked.aliases));
    compare("balance", serde_json::to_string(&is.balance), serde_json::to_string(&asked.balance));
    compare("check", serde_json::to_string(&is.check), serde_json::to_string(&asked.check));
    differs
}
