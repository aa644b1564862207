//! What is claimed and given out for an attachment is its own until the attachment is reserved.
use std::net::IpAddr;
use std::sync::Arc;

use crate::catalog::facts::ClaimKey;
use crate::model::Name;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::runtime::state::State;

/// Claims and addresses of an attachment that is being made; over when it is dropped.
#[derive(Debug)]
pub struct Hold {
    agent: Arc<Agent>,
    keys: Vec<ClaimKey>,
    addresses: Vec<(Name, IpAddr)>,
}

impl Hold {
    /// Holds these.
    pub fn new(agent: &Arc<Agent>, keys: Vec<ClaimKey>) -> Self {
        lock(&agent.state).books.taking.extend(keys.iter().cloned());
        Self { agent: Arc::clone(agent), keys, addresses: Vec::new() }
    }

    /// Holds another claim, too.
    pub fn add(&mut self, key: ClaimKey) {
        lock(&self.agent.state).books.taking.insert(key.clone());
        self.keys.push(key);
    }

    /// Holds an address: nobody else here is given it.
    pub fn lease(&mut self, state: &mut State, network: &Name, address: IpAddr) {
        state.leases.insert(network, address);
        self.addresses.push((network.clone(), address));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.agent.state);
        state.books.taking.retain(|key| !self.keys.contains(key));
        for (network, address) in &self.addresses {
            state.leases.remove(network, *address);
        }
    }
}
