//! What the chains of attachments' ports look like, kept between plans.
//!
//! To say it takes the whole chain and its fingerprints, which is most of the work of a plan: with a thousand
//! containers on a host they were written anew, for comparison, each time that anything had changed.
use std::collections::BTreeMap;

use crate::fence::port_chain;
use crate::observed::ChainState;
use crate::{Attachment, Desired};

/// By network and attachment. Not more than are wanted.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    known: BTreeMap<String, BTreeMap<String, (Attachment, ChainState)>>,
}

impl Fences {
    /// What the kernel shows of the port's chain once it holds it.
    pub(super) fn of(&mut self, network: &str, name: &str, port: &str, wanted: &Attachment) -> &ChainState {
        let known = self.known.entry(network.to_owned()).or_default();
        let fresh = || (wanted.clone(), port_chain(port, wanted).state());
        let entry = known.entry(name.to_owned()).or_insert_with(fresh);
        if entry.0 != *wanted {
            *entry = fresh();
        }
        &entry.1
    }

    /// Forgets those that are wanted no more.
    pub(super) fn keep(&mut self, desired: &Desired) {
        self.known.retain(|network, known| {
            let Some(network) = desired.networks.get(network) else { return false };
            known.retain(|name, _| network.attachments.contains_key(name));
            true
        });
    }
}
