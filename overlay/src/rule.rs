//! nf_tables tables as plain values.
use std::collections::{BTreeMap, BTreeSet};

use netfilter::{Expression, Family, FieldType, Hook, fingerprint};

use crate::observed::{ChainState, TableState};

/// A whole table named [`crate::TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Sets by name.
    pub sets: BTreeMap<&'static str, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Fields of its key.
    pub key: &'static [FieldType],
    /// What its elements carry, if it is a map. A map's elements are not part of the table: see [`crate::Op::SetWay`].
    pub data: Option<FieldType>,
    /// How many elements it may have.
    pub size_max: Option<u32>,
    /// Keys, each field padded to 4 bytes.
    pub elements: BTreeSet<Vec<u8>>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How packets get into it.
    pub entry: Entry,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// How packets get into a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By a hook.
    Hook(Hook),
    /// By a device where they arrive (family netdev).
    Device(String),
    /// From another chain.
    Jump,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is for, in one word; the name of its counter.
    pub label: &'static str,
    /// Its expressions.
    pub expressions: Vec<Expression>,
}

impl Set {
    /// Bytes of a key.
    pub(crate) fn key_length(&self) -> u32 {
        match self.key {
            [single] => single.length,
            fields => fields.iter().map(|field| field.length.next_multiple_of(4)).sum(),
        }
    }
}

impl Rule {
    /// What the kernel keeps beside the rule: two rules with one comment are the same rule.
    pub fn comment(&self) -> String {
        format!("{} {:016x}", self.label, fingerprint(&self.expressions))
    }
}

impl Table {
    /// What the kernel shows once it holds this table.
    pub fn state(&self) -> TableState {
        let chains = self.chains.iter().map(|(name, chain)| (name.clone(), chain.state()));
        let sets = self.sets.iter().filter(|(_, set)| set.data.is_none());
        let sets = sets.map(|(name, set)| ((*name).to_owned(), set.elements.clone()));
        TableState { chains: chains.collect(), sets: sets.collect() }
    }
}

impl Chain {
    /// What the kernel shows once it holds this chain.
    pub fn state(&self) -> ChainState {
        let rules = self.rules.iter().map(Rule::comment).collect();
        match &self.entry {
            Entry::Hook(Hook { priority, drop_by_default, .. }) => {
                ChainState { priority: *priority, drop_by_default: *drop_by_default, device: None, rules }
            }
            Entry::Device(device) => {
                ChainState { device: Some(device.clone()), rules, ..ChainState::default() }
            }
            Entry::Jump => ChainState { rules, ..ChainState::default() },
        }
    }
}
