//! What Docker was told and has told: networks, endpoints and addresses by its own ids. They outlive the agent, because Docker
//! says each thing once.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::Name;
use crate::store::{StoreError, Writes};

/// The key in the store.
pub(crate) const KEY: &str = "docker";
/// Docker's ids are 64 hexadecimal digits.
const ID_BYTES_MAX: usize = 128;
/// The most networks, and endpoints, that are kept; one more is refused.
const NETWORKS_MAX: usize = 4_096;
const ENDPOINTS_MAX: usize = 16_384;

/// A container's end on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Docker's id of its network.
    pub network_id: String,
    /// The network.
    pub network: Name,
    /// Its addresses, which Docker got from us.
    pub addresses: Vec<IpAddr>,
    /// Its MAC, lower case.
    pub mac: String,
    /// Path of its namespace, once its container starts.
    pub sandbox: Option<String>,
    /// Its attachment has its container's name, and what labels ask for is done.
    #[serde(default)]
    pub settled: bool,
}

/// Docker's networks of this driver, and what is on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// By Docker's id; one that was made without a name, by hand, is not taken up yet.
    networks: BTreeMap<String, Option<Name>>,
    endpoints: BTreeMap<String, Endpoint>,
    /// Addresses that Docker has.
    leases: BTreeSet<(Name, IpAddr)>,
}

/// As [`Books`] rest.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    networks: Vec<(String, Option<Name>)>,
    endpoints: Vec<(String, Endpoint)>,
    leases: Vec<(Name, IpAddr)>,
}

/// Why something was not written into the books.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not as Docker's ids are.
    #[error("\"{}\" is no id", .0.chars().take(ID_BYTES_MAX).collect::<String>().escape_default())]
    NoId(String),
    /// No room.
    #[error("there are {0} of them already")]
    Full(usize),
}

impl From<Saved> for Books {
    fn from(saved: Saved) -> Self {
        Self {
            networks: saved.networks.into_iter().collect(),
            endpoints: saved.endpoints.into_iter().collect(),
            leases: saved.leases.into_iter().collect(),
        }
    }
}

impl Books {
    /// Whether Docker has any network of ours.
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Adds the books to a transaction.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn put(&self, writes: &mut Writes) -> Result<(), StoreError> {
        let saved = Saved {
            networks: self.networks.iter().map(|(id, name)| (id.clone(), name.clone())).collect(),
            endpoints: self.endpoints.iter().map(|(id, it)| (id.clone(), it.clone())).collect(),
            leases: self.leases.iter().cloned().collect(),
        };
        writes.put_meta(KEY, &saved)
    }

    /// Takes note of a network.
    ///
    /// # Errors
    /// When that is no id, or there are too many.
    pub fn put_network(&mut self, id: &str, name: Option<Name>) -> Result<(), Refused> {
        check(id, self.networks.contains_key(id), self.networks.len(), NETWORKS_MAX)?;
        self.networks.insert(id.to_owned(), name);
        Ok(())
    }

    /// Forgets a network.
    pub fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// Our name of a network: `None` if there is no such one, or it was not taken up yet.
    pub fn network(&self, id: &str) -> Option<&Name> {
        self.networks.get(id)?.as_ref()
    }

    /// Takes note of an endpoint.
    ///
    /// # Errors
    /// When that is no id, or there are too many.
    pub fn put_endpoint(&mut self, id: &str, endpoint: Endpoint) -> Result<(), Refused> {
        check(id, self.endpoints.contains_key(id), self.endpoints.len(), ENDPOINTS_MAX)?;
        self.endpoints.insert(id.to_owned(), endpoint);
        Ok(())
    }

    /// An endpoint.
    pub fn endpoint(&self, id: &str) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = (&String, &Endpoint)> {
        self.endpoints.iter()
    }

    /// Says where an endpoint's namespace is, or that it has none.
    pub fn set_sandbox(&mut self, id: &str, sandbox: Option<String>) -> bool {
        let endpoint = self.endpoints.get_mut(id);
        let set = |endpoint: &mut Endpoint| {
            endpoint.settled &= endpoint.sandbox == sandbox;
            endpoint.sandbox = sandbox;
        };
        endpoint.map(set).is_some()
    }

    /// Whether nothing is left to be done for an endpoint that has joined.
    pub fn settle(&mut self, id: &str, settled: bool) {
        if let Some(endpoint) = self.endpoints.get_mut(id) {
            endpoint.settled = settled;
        }
    }

    /// Forgets an endpoint.
    pub fn remove_endpoint(&mut self, id: &str) {
        self.endpoints.remove(id);
    }

    /// Takes note that Docker has an address.
    pub fn lease(&mut self, network: &Name, address: IpAddr) {
        self.leases.insert((network.clone(), address));
    }

    /// Whether Docker has an address.
    pub fn has_lease(&self, network: &Name, address: IpAddr) -> bool {
        self.leases.contains(&(network.clone(), address))
    }

    /// Takes note that Docker has given an address back; says whether it had it.
    pub fn release(&mut self, network: &Name, address: IpAddr) -> bool {
        self.leases.remove(&(network.clone(), address))
    }

    /// Addresses that Docker has.
    pub fn leases(&self) -> impl Iterator<Item = &(Name, IpAddr)> {
        self.leases.iter()
    }
}

fn check(id: &str, known: bool, count: usize, most: usize) -> Result<(), Refused> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Refused::NoId(id.to_owned()));
    }
    if !known && count >= most { Err(Refused::Full(count)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_the_same_after_a_restart() {
        let mut books = Books::default();
        let network: Name = "payment".parse().unwrap();
        let address: IpAddr = "10.1.0.64".parse().unwrap();
        let endpoint = Endpoint {
            network_id: "a1".to_owned(),
            network: network.clone(),
            addresses: vec![address],
            mac: "02:42:0a:01:00:40".to_owned(),
            sandbox: Some("/run/docker/netns/0".to_owned()),
            settled: true,
        };
        books.put_network("a1", Some(network.clone())).unwrap();
        books.put_network("b2", None).unwrap();
        books.put_endpoint("e1", endpoint).unwrap();
        books.lease(&network, address);
        let mut writes = Writes::default();
        books.put(&mut writes).unwrap();
        let text = &writes.meta.iter().find(|(key, _)| key.as_str() == KEY).unwrap().1;
        let saved: Saved = serde_json::from_slice(text).unwrap();
        assert_eq!(Books::from(saved), books);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let mut books = Books::default();
        for id in ["", "a b", "../x", &"a".repeat(ID_BYTES_MAX + 1)] {
            assert!(matches!(books.put_network(id, None), Err(Refused::NoId(_))), "{id}");
        }
    }
}
