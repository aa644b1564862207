//! What one commit does, before it is netlink.
use crate::element::{Chain, Element};

/// Changes that take effect at one instant, in the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction<A> {
    /// The table is deleted, if it is there, and made anew with all its maps; connections go on, as their
    /// translations are conntrack's and the new hooks are there before the old ones go.
    pub rebuild: bool,
    /// The table, left by another process, becomes ours.
    pub adopt: bool,
    /// Chains that get their rules; rules that they have are replaced.
    pub add_chains: Vec<Chain>,
    /// Elements deleted. One that is in `add` again with the same key is replaced.
    pub delete: Vec<Element<A>>,
    /// Elements added.
    pub add: Vec<Element<A>>,
    /// Chains that nothing goes to any more.
    pub delete_chains: Vec<Chain>,
}

impl<A> Default for Transaction<A> {
    fn default() -> Self {
        Self {
            rebuild: false,
            adopt: false,
            add_chains: Vec::new(),
            delete: Vec::new(),
            add: Vec::new(),
            delete_chains: Vec::new(),
        }
    }
}

impl<A> Transaction<A> {
    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        !self.rebuild && !self.adopt && self.changes() == 0
    }

    /// Number of chains and elements that it touches.
    pub fn changes(&self) -> usize {
        self.add_chains.len() + self.delete.len() + self.add.len() + self.delete_chains.len()
    }
}
