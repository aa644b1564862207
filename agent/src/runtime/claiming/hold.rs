//! What is claimed for an attachment is not given back before the attachment is reserved.
use std::sync::Arc;

use crate::catalog::facts::ClaimKey;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;

/// Claims of an attachment that is being made; over when it is dropped.
#[derive(Debug)]
pub struct Hold {
    agent: Arc<Agent>,
    keys: Vec<ClaimKey>,
}

impl Hold {
    /// Holds these.
    pub fn new(agent: &Arc<Agent>, keys: Vec<ClaimKey>) -> Self {
        lock(&agent.state).books.taking.extend(keys.iter().cloned());
        Self { agent: Arc::clone(agent), keys }
    }

    /// Holds another one, too.
    pub fn add(&mut self, key: ClaimKey) {
        lock(&self.agent.state).books.taking.insert(key.clone());
        self.keys.push(key);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.agent.state);
        state.books.taking.retain(|key| !self.keys.contains(key));
    }
}
