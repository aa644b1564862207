//! One text for equal names: a replica's three names take up to 150 bytes apart, and 48 shared.
use std::collections::HashSet;
use std::sync::Arc;

use super::facts::{ClaimKey, Key};
use crate::model::Name;

/// Sweeping is not worth it below this many names.
const SWEEP_MIN: usize = 1024;

/// The names in use.
#[derive(Clone, Debug)]
pub(super) struct Names {
    known: HashSet<Name>,
    sweep_at: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: SWEEP_MIN }
    }
}

impl Names {
    /// The same key, its names shared with equal ones.
    pub(super) fn intern(&mut self, key: Key) -> Key {
        match key {
            Key::Network { name, born } => Key::Network { name: self.name(name), born },
            Key::Service { network, name, born } => {
                Key::Service { network: self.name(network), name: self.name(name), born }
            }
            Key::Attachment { network, name } => {
                Key::Attachment { network: self.name(network), name: self.name(name) }
            }
            Key::Replica { network, service, attachment } => Key::Replica {
                network: self.name(network),
                service: self.name(service),
                attachment: self.name(attachment),
            },
            Key::Claim(ClaimKey::Block { network, region, index }) => {
                Key::Claim(ClaimKey::Block { network: self.name(network), region, index })
            }
            Key::Claim(ClaimKey::Address { network, address }) => {
                Key::Claim(ClaimKey::Address { network: self.name(network), address })
            }
            Key::Claim(ClaimKey::Granted { network, address, by }) => {
                Key::Claim(ClaimKey::Granted { network: self.name(network), address, by })
            }
            Key::Claim(ClaimKey::Takeover { network, object, since }) => {
                Key::Claim(ClaimKey::Takeover { network: self.name(network), object, since })
            }
            Key::Claim(ClaimKey::Node { .. } | ClaimKey::Vni { .. }) | Key::Host | Key::Removed { .. } => key,
        }
    }

    fn name(&mut self, name: Name) -> Name {
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            // Two holders are the set and the handle taken to count.
            self.known.retain(|known| Arc::strong_count(&known.shared()) > 2);
            self.sweep_at = SWEEP_MIN.max(self.known.len().saturating_mul(2));
        }
        self.known.insert(name.clone());
        name
    }
}
