//! Which service has which VIP.
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::Service;

/// The service of each VIP. A map for each family, because every namespace keeps one: with an address of either family
/// as its key, a place in it takes 32 bytes instead of 16.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vips {
    four: HashMap<Ipv4Addr, Arc<Service>>,
    six: HashMap<Ipv6Addr, Arc<Service>>,
}

impl Vips {
    /// Whose VIP it is.
    pub fn get(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        match vip {
            IpAddr::V4(vip) => self.four.get(&vip),
            IpAddr::V6(vip) => self.six.get(&vip),
        }
    }

    /// Every VIP, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let six = self.six.keys().map(|vip| IpAddr::V6(*vip));
        self.four.keys().map(|vip| IpAddr::V4(*vip)).chain(six)
    }

    /// Gives a VIP to a service, unless another one has it; says who has it then.
    pub(crate) fn claim(&mut self, vip: IpAddr, service: &Arc<Service>) -> &Arc<Service> {
        match vip {
            IpAddr::V4(vip) => self.four.entry(vip).or_insert_with(|| Arc::clone(service)),
            IpAddr::V6(vip) => self.six.entry(vip).or_insert_with(|| Arc::clone(service)),
        }
    }

    /// Puts a service in another one's place, or nobody, if that one has the VIP.
    pub(crate) fn replace(&mut self, vip: IpAddr, old: &Arc<Service>, new: Option<&Arc<Service>>) {
        match vip {
            IpAddr::V4(vip) => replace(self.four.entry(vip), old, new),
            IpAddr::V6(vip) => replace(self.six.entry(vip), old, new),
        }
    }

    /// Takes every VIP from its service.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn replace<A>(entry: Entry<'_, A, Arc<Service>>, old: &Arc<Service>, new: Option<&Arc<Service>>) {
    let Entry::Occupied(mut entry) = entry else { return };
    if !Arc::ptr_eq(entry.get(), old) {
        return;
    }
    match new {
        Some(new) => drop(entry.insert(Arc::clone(new))),
        None => drop(entry.remove()),
    }
}

impl FromIterator<(IpAddr, Arc<Service>)> for Vips {
    fn from_iter<T: IntoIterator<Item = (IpAddr, Arc<Service>)>>(services: T) -> Self {
        let mut vips = Self::default();
        for (vip, service) in services {
            vips.claim(vip, &service);
        }
        vips
    }
}
