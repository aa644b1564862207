//! Addresses that are given out and that no attachment has yet.
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::addresses::AddressRange;
use crate::model::Name;

/// Leased addresses by network, each by so many.
#[derive(Debug, Default)]
pub struct Leases(BTreeMap<(Name, IpAddr), usize>);

impl<'a> FromIterator<&'a (Name, IpAddr)> for Leases {
    fn from_iter<T: IntoIterator<Item = &'a (Name, IpAddr)>>(all: T) -> Self {
        Self(all.into_iter().map(|lease| (lease.clone(), 1)).collect())
    }
}

impl Leases {
    /// Gives an address out.
    pub fn insert(&mut self, network: &Name, address: IpAddr) {
        *self.0.entry((network.clone(), address)).or_default() += 1;
    }

    /// Takes an address back; whoever else has it keeps it.
    pub fn remove(&mut self, network: &Name, address: IpAddr) {
        let key = (network.clone(), address);
        match self.0.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(&key)),
        }
    }

    /// The network that an address is leased of: this one, if it is.
    pub fn get(&self, network: &Name, address: IpAddr) -> Option<&Name> {
        self.0.get_key_value(&(network.clone(), address)).map(|((network, _), _)| network)
    }

    /// What is leased of a range.
    pub fn within<'a>(
        &'a self,
        network: &Name,
        range: AddressRange,
    ) -> impl Iterator<Item = IpAddr> + use<'a> {
        let keys = (network.clone(), range.first)..=(network.clone(), range.last);
        self.0.range(keys).map(|((_, address), _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_leased_until_all_have_given_it_back() {
        let network: Name = "blue".parse().unwrap();
        let address: IpAddr = "10.1.0.7".parse().unwrap();
        let range = |text: &str| AddressRange { first: address, last: text.parse().unwrap() };
        let mut leases = Leases::default();
        leases.insert(&network, address);
        leases.insert(&network, address);
        leases.remove(&network, address);
        assert_eq!(leases.get(&network, address), Some(&network));
        assert_eq!(leases.within(&network, range("10.1.0.9")).collect::<Vec<_>>(), [address]);
        leases.remove(&network, address);
        leases.remove(&network, address);
        assert_eq!(leases.get(&network, address), None);
        assert_eq!(leases.within(&network, range("10.1.0.9")).count(), 0);
    }
}
