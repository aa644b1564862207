//! Every source's text for every setting, and the checks across settings.
use std::collections::BTreeMap;

use super::error::{ConfigError, Origin};
use super::kinds::Kind;
use super::settings::Settings;

/// What each source says of each setting, weakest source first.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<&'static str, Vec<(Origin, String)>>);

impl Candidates {
    /// Adds a stronger source's text.
    pub(super) fn add(&mut self, key: &'static str, origin: Origin, text: String) {
        self.0.entry(key).or_default().push((origin, text));
    }

    /// Where a setting's value comes from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.0.get(key).and_then(|all| all.last()).map_or(Origin::Default, |(origin, _)| origin.clone())
    }

    /// Reads every source's text, so that a mistake is named even where a stronger source hides it.
    pub(super) fn read<T>(&self, key: &str, kind: &Kind<T>, value: &mut T, errors: &mut Vec<ConfigError>) {
        for (origin, text) in self.0.get(key).into_iter().flatten() {
            match (kind.read)(text.trim()) {
                Ok(read) => *value = read,
                Err(wrong) => {
                    errors.push(ConfigError { origin: origin.clone(), what: wrong.what, hint: wrong.hint });
                }
            }
        }
    }
}

/// Checks that need more than one setting.
pub(super) fn across(settings: &Settings, origin: &dyn Fn(&str) -> Origin, errors: &mut Vec<ConfigError>) {
    let ports = [
        ("gossip-port", settings.gossip_port),
        ("vxlan-port", settings.vxlan_port),
        ("encrypted-vxlan-port", settings.encrypted_vxlan_port),
    ];
    for (index, (key, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports[..index].iter().find(|(_, other)| other == port) {
            let what = format!("{other} and {key} are both {port}");
            errors.push(clash(key, other, origin, what, "give each its own UDP port"));
        }
    }
    if settings.pool.overlaps(settings.link_pool) {
        let what = format!("link-pool {} overlaps pool {}", settings.link_pool, settings.pool);
        errors.push(clash("link-pool", "pool", origin, what, "choose ranges that do not overlap"));
    }
    if settings.holder_socket == settings.socket {
        let what = format!("socket and holder-socket are both {}", settings.socket.display());
        errors.push(clash("holder-socket", "socket", origin, what, "give each its own path"));
    }
}

/// A clash is reported at whichever of the two somebody set.
fn clash(key: &str, other: &str, origin: &dyn Fn(&str) -> Origin, what: String, hint: &str) -> ConfigError {
    let at = match (origin(key), origin(other)) {
        (Origin::Default, Origin::Default) => Origin::Default,
        (Origin::Default, at) | (at, _) => at,
    };
    ConfigError { origin: at, what, hint: hint.to_owned() }
}
