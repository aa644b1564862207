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
    /// Base chains by name.
    pub chains: BTreeMap<&'static str, Chain>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Fields of its key.
    pub key: &'static [FieldType],
    /// Keys, each field padded to 4 bytes.
    pub elements: BTreeSet<Vec<u8>>,
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it hooks in.
    pub hook: Hook,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is for, in one word; the name of its counter.
    pub label: &'static str,
    /// Its expressions.
    pub expressions: Vec<Expression>,
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
        let chains = self.chains.iter().map(|(name, chain)| {
            let rules = chain.rules.iter().map(Rule::comment).collect();
            let Hook { priority, drop_by_default, .. } = chain.hook;
            ((*name).to_owned(), ChainState { priority, drop_by_default, rules })
        });
        let sets = self.sets.iter().map(|(name, set)| ((*name).to_owned(), set.elements.clone()));
        TableState { chains: chains.collect(), sets: sets.collect() }
    }
}
