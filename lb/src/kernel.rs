//! The kernel, as narrow as the balancer sees it.
use netfilter::conntrack;

use crate::address::Address;
use crate::element::Chain;
use crate::element::Element;
use crate::flows::Stale;
use crate::transaction::Transaction;
use crate::untracked;

pub mod fake;
pub mod faulty;
pub mod real;

/// What the namespace's kernel can do beyond what every kernel can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Tables may have an owner and outlive it (kernel 6.9 and later).
    pub owned: bool,
    /// Flows may have time-outs of their own (CONFIG_NF_CONNTRACK_TIMEOUT).
    pub timeouts: bool,
    /// A table may go with its owner (5.12 and later) and exempt packets from tracking (CONFIG_NFT_CT).
    pub untracked: bool,
}

/// Which table there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStatus {
    /// Tells it from one that was deleted and made anew.
    pub handle: u64,
    /// Our socket owns it: nobody else can change it.
    pub ours: bool,
    /// It outlives its owner and has none: it may be adopted.
    pub orphan: bool,
}

/// What is in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<A> {
    /// Chains with the rules that they should have.
    pub chains: Vec<Chain>,
    /// Chains of ours with other rules.
    pub spoilt: Vec<Chain>,
    /// Elements.
    pub elements: Vec<Element<A>>,
}

/// One network namespace's netfilter.
pub trait Kernel {
    /// Finds out, without leaving anything behind.
    fn features(&mut self) -> Result<Features, netfilter::Error>;

    /// A number that every change of the namespace's ruleset changes, whoever makes it.
    fn generation(&mut self) -> Result<u32, netfilter::Error>;

    /// Our table of the family, if it is there.
    fn table<A: Address>(&mut self) -> Result<Option<TableStatus>, netfilter::Error>;

    /// What our table of the family holds; `None` if it is not there, or holds maps, chains or elements that no
    /// plan of ours can have made.
    fn contents<A: Address>(&mut self, features: Features) -> Result<Option<Contents<A>>, netfilter::Error>;

    /// Makes the transaction true at one instant. With a generation only if the ruleset still has it, else
    /// [`netfilter::Error::Changed`].
    fn commit<A: Address>(
        &mut self,
        transaction: &Transaction<A>,
        features: Features,
        generation: Option<u32>,
    ) -> Result<(), netfilter::Error>;

    /// Deletes our table of the family, if it is there.
    fn remove<A: Address>(&mut self) -> Result<(), netfilter::Error>;

    /// Whether there are tables that are not ours, of nft or of the older iptables in its place.
    fn strangers(&mut self) -> Result<bool, netfilter::Error>;

    /// Changes which flows are not tracked, at one instant.
    fn untrack<A: Address>(&mut self, change: &untracked::Change<A>) -> Result<(), netfilter::Error>;

    /// How full the namespace's table of flows is.
    fn usage(&mut self) -> Result<conntrack::Usage, netfilter::Error>;

    /// Deletes the flows that are stale, at most `limit`; says how many there were.
    fn delete_flows(&mut self, stale: &Stale<'_>, limit: usize) -> Result<usize, netfilter::Error>;
}
