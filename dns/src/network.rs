//! The names and addresses of one overlay network, kept so that one change among 10,000 services costs microseconds.
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::shards::Shards;
use crate::zone::{Attachment, Service};

#[cfg(test)]
mod tests;

/// Names and addresses of one overlay network, shared by the zones of all namespaces on it.
///
/// Keep one, change it, and publish `Arc::new(network.clone())`: a clone shares everything (a few reference counts), and
/// a change copies only the small part it touches. Setting an equal value again changes nothing and says so.
///
/// When one name is claimed by several, a service's name wins over a service's alias, that over an attachment's name, that
/// over an attachment's alias; within a rank the smaller canonical name wins. What lost comes back when the winner goes.
#[derive(Clone, Debug)]
pub struct Network {
    name: Arc<str>,
    subnets: Arc<[IpNetwork]>,
    names: Shards<Arc<str>, Slot>,
    addresses: Shards<IpAddr, Slot>,
}

/// Who claims a name or an address. The order of the variants is the order of precedence.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    Service(Arc<Service>),
    ServiceAlias(Arc<Service>),
    Attachment(Arc<Attachment>),
    AttachmentAlias(Arc<Attachment>),
}

impl Claim {
    /// Precedence (least first), which also tells any two claims on one key apart.
    fn rank(&self) -> (u8, &str) {
        match self {
            Self::Service(service) => (0, &service.name),
            Self::ServiceAlias(service) => (1, &service.name),
            Self::Attachment(attachment) => (2, &attachment.name),
            Self::AttachmentAlias(attachment) => (3, &attachment.name),
        }
    }

    /// Canonical name of whoever claims.
    pub(crate) fn canonical(&self) -> &Arc<str> {
        match self {
            Self::Service(service) | Self::ServiceAlias(service) => &service.name,
            Self::Attachment(attachment) | Self::AttachmentAlias(attachment) => &attachment.name,
        }
    }

    /// The service, if one claims.
    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Service(service) | Self::ServiceAlias(service) => Some(service),
            Self::Attachment(_) | Self::AttachmentAlias(_) => None,
        }
    }
}

/// Claims on one key, best first. Nearly always there is one, and then nothing is on the heap.
#[derive(Clone, Debug)]
enum Slot {
    One(Claim),
    Many(Arc<Vec<Claim>>),
}

impl Slot {
    fn claims(&self) -> &[Claim] {
        match self {
            Self::One(claim) => std::slice::from_ref(claim),
            Self::Many(claims) => claims,
        }
    }

    fn from_claims(mut claims: Vec<Claim>) -> Option<Self> {
        match claims.len() {
            0 => None,
            1 => claims.pop().map(Self::One),
            _ => {
                claims.sort_by(|a, b| a.rank().cmp(&b.rank()));
                Some(Self::Many(Arc::new(claims)))
            }
        }
    }
}

impl Network {
    /// An empty network. `subnets` are its own address ranges: a reverse look-up inside them is never forwarded.
    pub fn new(name: &str, subnets: &[IpNetwork]) -> Self {
        Self {
            name: name.to_ascii_lowercase().into(),
            subnets: subnets.into(),
            names: Shards::default(),
            addresses: Shards::default(),
        }
    }

    /// The network's name, lower case.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The network's address ranges.
    pub fn subnets(&self) -> &[IpNetwork] {
        &self.subnets
    }

    /// Replaces the address ranges.
    pub fn set_subnets(&mut self, subnets: &[IpNetwork]) {
        self.subnets = subnets.into();
    }

    /// Count of distinct names, aliases included.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// The service of this canonical name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.names.get(name)?.claims().iter().find_map(|claim| match claim {
            Claim::Service(service) => Some(service),
            _ => None,
        })
    }

    /// The attachment of this name.
    pub fn attachment(&self, name: &str) -> Option<&Arc<Attachment>> {
        self.names.get(name)?.claims().iter().find_map(|claim| match claim {
            Claim::Attachment(attachment) => Some(attachment),
            _ => None,
        })
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.names.iter().flat_map(|(_, slot)| slot.claims()).filter_map(|claim| match claim {
            Claim::Service(service) => Some(service),
            _ => None,
        })
    }

    /// All attachments, in no order.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Attachment>> {
        self.names.iter().flat_map(|(_, slot)| slot.claims()).filter_map(|claim| match claim {
            Claim::Attachment(attachment) => Some(attachment),
            _ => None,
        })
    }

    /// Adds or replaces a service with all its aliases. Returns whether anything changed.
    pub fn set_service(&mut self, service: Arc<Service>) -> bool {
        if self.service(&service.name).is_some_and(|present| *present == service) {
            return false;
        }
        self.remove_service(&service.name);
        for alias in &service.aliases {
            claim(&mut self.names, alias, Claim::ServiceAlias(Arc::clone(&service)));
        }
        for vip in &service.vips {
            claim(&mut self.addresses, vip, Claim::Service(Arc::clone(&service)));
        }
        let name = Arc::clone(&service.name);
        claim(&mut self.names, &name, Claim::Service(service));
        true
    }

    /// Removes a service with all its aliases. Returns whether it was there.
    pub fn remove_service(&mut self, name: &str) -> bool {
        let Some(service) = self.service(name).map(Arc::clone) else { return false };
        for alias in &service.aliases {
            disclaim(&mut self.names, &**alias, &Claim::ServiceAlias(Arc::clone(&service)));
        }
        for vip in &service.vips {
            disclaim(&mut self.addresses, vip, &Claim::Service(Arc::clone(&service)));
        }
        disclaim(&mut self.names, name, &Claim::Service(service));
        true
    }

    /// Adds or replaces an attachment with all its aliases. Returns whether anything changed.
    pub fn set_attachment(&mut self, attachment: Arc<Attachment>) -> bool {
        if self.attachment(&attachment.name).is_some_and(|present| *present == attachment) {
            return false;
        }
        self.remove_attachment(&attachment.name);
        for alias in &attachment.aliases {
            claim(&mut self.names, alias, Claim::AttachmentAlias(Arc::clone(&attachment)));
        }
        for address in &attachment.addresses {
            claim(&mut self.addresses, address, Claim::Attachment(Arc::clone(&attachment)));
        }
        let name = Arc::clone(&attachment.name);
        claim(&mut self.names, &name, Claim::Attachment(attachment));
        true
    }

    /// Removes an attachment with all its aliases. Returns whether it was there.
    pub fn remove_attachment(&mut self, name: &str) -> bool {
        let Some(attachment) = self.attachment(name).map(Arc::clone) else { return false };
        for alias in &attachment.aliases {
            disclaim(&mut self.names, &**alias, &Claim::AttachmentAlias(Arc::clone(&attachment)));
        }
        for address in &attachment.addresses {
            disclaim(&mut self.addresses, address, &Claim::Attachment(Arc::clone(&attachment)));
        }
        disclaim(&mut self.names, name, &Claim::Attachment(attachment));
        true
    }

    /// Who holds a single-label name.
    pub(crate) fn holder(&self, name: &str) -> Option<&Claim> {
        self.names.get(name)?.claims().first()
    }

    /// Who holds an address: the service whose VIP it is, else an attachment.
    pub(crate) fn holder_of_address(&self, address: IpAddr) -> Option<&Claim> {
        self.addresses.get(&address)?.claims().first()
    }
}

fn claim<K: Eq + std::hash::Hash + Clone>(slots: &mut Shards<K, Slot>, key: &K, claim: Claim) {
    let mut claims = slots.get(key).map(|slot| slot.claims().to_vec()).unwrap_or_default();
    claims.retain(|other| other.rank() != claim.rank());
    claims.push(claim);
    if let Some(slot) = Slot::from_claims(claims) {
        slots.insert(key.clone(), slot);
    }
}

fn disclaim<K, Q>(slots: &mut Shards<K, Slot>, key: &Q, claim: &Claim)
where
    K: Eq + std::hash::Hash + Clone + std::borrow::Borrow<Q>,
    Q: Eq + std::hash::Hash + ?Sized,
{
    let Some(slot) = slots.get(key) else { return };
    let mut claims = slot.claims().to_vec();
    claims.retain(|other| other.rank() != claim.rank());
    match Slot::from_claims(claims) {
        Some(slot) => slots.replace(key, slot),
        None => slots.remove(key),
    }
}
