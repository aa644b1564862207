//! Settings of a service: what was typed, laid over what stands. Pure.
use std::collections::BTreeSet;

use crate::api::types::{Failure, Settings};
use crate::api::words;
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

/// A setting that differs: which, what it is, and what was asked; as they are typed.
type Difference = (&'static str, String, String);

fn compare(is: &ServiceSettings, asked: &ServiceSettings) -> impl Iterator<Item = Difference> {
    let check =
        |settings: &ServiceSettings| settings.check.as_ref().map_or_else(|| "none".to_owned(), words::check);
    let aliases = |settings: &ServiceSettings| match settings.aliases.is_empty() {
        true => "none".to_owned(),
        false => settings.aliases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let all = [
        ("mode", words::mode(is.mode).to_owned(), words::mode(asked.mode).to_owned()),
        ("ports", words::ports(&is.ports), words::ports(&asked.ports)),
        ("aliases", aliases(is), aliases(asked)),
        ("balance", words::balance(is.balance).to_owned(), words::balance(asked.balance).to_owned()),
        ("check", check(is), check(asked)),
    ];
    all.into_iter().filter(|(_, is, asked)| is != asked)
}

/// What differs between settings, for a refusal.
pub(in crate::runtime::verbs) fn differences(is: &ServiceSettings, asked: &ServiceSettings) -> Vec<String> {
    compare(is, asked).map(|(what, is, asked)| format!("{what} is {is}, asked was {asked}")).collect()
}

/// What differs between settings, for what was done.
pub(in crate::runtime::verbs) fn changes(was: &ServiceSettings, is: &ServiceSettings) -> Vec<String> {
    compare(was, is).map(|(what, was, is)| format!("{what} changed from {was} to {is}")).collect()
}
