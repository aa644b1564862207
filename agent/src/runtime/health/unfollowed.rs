//! Which services are to be looked at again, so that a change costs what it touches and not what this host has.
use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::catalog::facts::{Health, Key};
use crate::catalog::{Catalog, Changes};
use crate::model::{Name, NodeId};

/// Network and service.
pub type Service = (Name, Name);

/// A replica of this host: its service and its attachment.
pub type Replica = (Service, Name);

/// Somebody who waits for what a replica's check finds first.
pub(super) type Awaited = (Replica, oneshot::Sender<Health>);

/// Services of which something changed since their checks were last followed; at most as many as there are names.
#[derive(Debug, Default)]
pub struct Unfollowed {
    everything: bool,
    services: BTreeSet<Service>,
    awaited: Vec<Awaited>,
}

impl Unfollowed {
    /// Takes note of a step. A changed attachment of this host counts for each service that it is a replica of.
    pub fn note(&mut self, catalog: &Catalog, this: NodeId, changes: &Changes) {
        if changes.everything {
            self.everything = true;
            self.services.clear();
        }
        if self.everything {
            return;
        }
        self.services.extend(changes.services.iter().cloned());
        for (network, attachment) in &changes.attachments {
            self.note_attachment(catalog, this, network, attachment);
        }
    }

    /// Takes note that something of an attachment of this host changed.
    pub fn note_attachment(&mut self, catalog: &Catalog, this: NodeId, network: &Name, attachment: &Name) {
        let on = catalog.services_on(network, attachment).filter(|(_, owner)| *owner == this);
        self.services.extend(on.map(|(service, _)| (network.clone(), service.clone())));
    }

    /// Tells what a replica's check finds first, once what is written under the same lock is followed. The replica is
    /// written by then. Dropped where there is no check any more.
    pub fn first_verdict(&mut self, replica: Replica) -> oneshot::Receiver<Health> {
        let (sender, receiver) = oneshot::channel();
        self.awaited.push((replica, sender));
        receiver
    }

    /// Who waits, once.
    pub(super) fn take_awaited(&mut self) -> Vec<Awaited> {
        std::mem::take(&mut self.awaited)
    }

    /// What is to be looked at, once. `followed` are the services that have checks running: where everything may have
    /// changed, they may be gone.
    pub fn take(
        &mut self,
        catalog: &Catalog,
        this: NodeId,
        followed: impl Iterator<Item = Service>,
    ) -> BTreeSet<Service> {
        let mut services = std::mem::take(&mut self.services);
        if std::mem::take(&mut self.everything) {
            let keys = catalog.owner(this).into_iter().flat_map(|owner| owner.keys());
            services.extend(keys.filter_map(|key| match key {
                Key::Replica { network, service, .. } => Some((network.clone(), service.clone())),
                _ => None,
            }));
            services.extend(followed);
        }
        services
    }
}
