//! nf_tables: our tables, and what other tools do to forwarded packets.
use std::collections::{BTreeMap, BTreeSet};

use netfilter::{Batch, ElementData, ElementList, Error, Family, SetData, Socket, TableFlags};

use super::Open;
use crate::fence::forward_exception;
use crate::kernel::KernelError;
use crate::name::{HOST_LINK_PREFIX, TABLE, TAG};
use crate::observed::{ChainState, ForwardHook, TableState};
use crate::rule::{Chain, Entry, Rule, Table};

/// Number of the forward hook in families ip and inet (NF_INET_FORWARD).
const FORWARD: u32 = 2;
/// iptables' table, and the chain in it that Docker leaves to its users.
const FILTER: &str = "filter";
const DOCKER_USER: &str = "DOCKER-USER";

type Tables = (BTreeMap<Family, TableState>, BTreeMap<String, u64>);

impl Open {
    pub(super) async fn tables(&self, families: &'static [Family]) -> Result<Tables, KernelError> {
        self.netfilter(|socket| {
            let mut tables = BTreeMap::new();
            let mut drops = BTreeMap::new();
            for family in families.iter().copied() {
                if socket.table(named(family))?.is_some() {
                    tables.insert(family, read_table(socket, family, &mut drops)?);
                }
            }
            Ok((tables, drops))
        })
        .await
    }

    pub(super) async fn set_table(&self, table: Table) -> Result<(), KernelError> {
        self.netfilter(move |socket| socket.commit(&whole(&table))).await
    }

    pub(super) async fn change_elements(
        &self,
        family: Family,
        set: String,
        add: BTreeSet<Vec<u8>>,
        delete: BTreeSet<Vec<u8>>,
    ) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            if !delete.is_empty() {
                batch.delete_elements(named(family), &set, |list| push(list, &delete));
            }
            if !add.is_empty() {
                batch.add_elements(named(family), &set, |list| push(list, &add));
            }
            socket.commit(&batch)
        })
        .await
    }

    pub(super) async fn set_chain(
        &self,
        family: Family,
        name: String,
        chain: Chain,
    ) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            // Added first, so that there is one to delete.
            add_chain(&mut batch, named(family), &name, &chain);
            batch.delete_chain(named(family), &name);
            add_chain(&mut batch, named(family), &name, &chain);
            add_rules(&mut batch, named(family), &name, &chain);
            socket.commit(&batch)
        })
        .await
    }

    pub(super) async fn delete_chain(&self, family: Family, name: String) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            batch.delete_chain(named(family), &name);
            socket.commit(&batch)
        })
        .await
    }

    pub(super) async fn delete_table(&self, family: Family) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            batch.delete_table(named(family));
            socket.commit(&batch)
        })
        .await
    }

    /// Puts our rules at the front of DOCKER-USER in place of what is left of them, or takes them out.
    pub(super) async fn set_forward_exception(
        &self,
        family: Family,
        wanted: bool,
    ) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            let table = netfilter::Table { family, name: FILTER };
            for rule in socket.rules(table, Some(DOCKER_USER))?.iter().filter(|rule| is_ours(rule)) {
                batch.delete_rule(table, DOCKER_USER, rule.handle);
            }
            if wanted {
                for rule in forward_exception().iter().rev() {
                    batch.insert_rule(table, DOCKER_USER, &rule.expressions, Some(&rule.comment()));
                }
            }
            socket.commit(&batch)
        })
        .await
    }

    pub(super) async fn forward_hook(&self) -> Result<ForwardHook, KernelError> {
        self.netfilter(|socket| {
            let mut hook = ForwardHook::default();
            for table in socket.tables()? {
                let is_candidate =
                    matches!(table.family, Family::Ip | Family::Ip6 | Family::Inet) && table.name != TABLE;
                if is_candidate {
                    read_foreign(socket, table.family, &table.name, &mut hook)?;
                }
            }
            Ok(hook)
        })
        .await
    }
}

pub(super) fn named(family: Family) -> netfilter::Table<'static> {
    netfilter::Table { family, name: TABLE }
}

/// The whole table in one transaction: at no instant is there less than the old one or the new one.
fn whole(table: &Table) -> Batch {
    let name = named(table.family);
    let mut batch = Batch::new();
    batch.destroy_table(name);
    batch.add_table(name, TableFlags::PLAIN);
    for (set_name, set) in &table.sets {
        let set_name = *set_name;
        let data = set.data.as_ref().map_or(SetData::None, |data| SetData::Value(std::slice::from_ref(data)));
        let size_max = set.size_max;
        batch
            .add_set(name, &netfilter::Set { name: set_name, key: set.key, data, interval: false, size_max });
        if !set.elements.is_empty() {
            batch.add_elements(name, set_name, |list| push(list, &set.elements));
        }
    }
    // All of them before the first rule, which may jump to any.
    for (chain_name, chain) in &table.chains {
        add_chain(&mut batch, name, chain_name, chain);
    }
    for (chain_name, chain) in &table.chains {
        add_rules(&mut batch, name, chain_name, chain);
    }
    batch
}

fn add_chain(batch: &mut Batch, table: netfilter::Table<'_>, name: &str, chain: &Chain) {
    match &chain.entry {
        Entry::Hook(hook) => batch.add_chain(table, name, Some(hook)),
        Entry::Device(device) => batch.add_ingress_chain(table, name, device, 0),
        Entry::Jump => batch.add_chain(table, name, None),
    }
}

fn add_rules(batch: &mut Batch, table: netfilter::Table<'_>, name: &str, chain: &Chain) {
    for rule in &chain.rules {
        batch.add_rule(table, name, &rule.expressions, Some(&rule.comment()));
    }
}

fn push(list: &mut ElementList<'_>, keys: &BTreeSet<Vec<u8>>) {
    keys.iter().for_each(|key| list.push(key, &ElementData::None));
}

fn read_table(
    socket: &mut Socket,
    family: Family,
    drops: &mut BTreeMap<String, u64>,
) -> Result<TableState, Error> {
    let mut state = TableState::default();
    for chain in socket.chains(named(family))? {
        let hook = chain.hook.map(|hook| (hook.priority, hook.drop_by_default, hook.device));
        let (priority, drop_by_default, device) = hook.unwrap_or_default();
        state.chains.insert(chain.name, ChainState { priority, drop_by_default, device, rules: Vec::new() });
    }
    for rule in socket.rules(named(family), None)? {
        let comment = rule.comment.clone().unwrap_or_default();
        if let Some(count) = rule.counts().first() {
            let label = comment.split(' ').next().unwrap_or_default().to_owned();
            let total: &mut u64 = drops.entry(label).or_default();
            *total = total.saturating_add(count.packets);
        }
        if let Some(chain) = state.chains.get_mut(&rule.chain) {
            chain.rules.push(comment);
        }
    }
    for set in socket.sets(named(family))?.into_iter().filter(|set| set.data_length == 0) {
        let elements = socket.elements(named(family), &set.name, |element| Some(element.key.to_vec()))?;
        state.sets.insert(set.name, elements.into_iter().collect());
    }
    Ok(state)
}

/// Notes DOCKER-USER with our rules in it, and chains of the forward hook that end in a drop.
fn read_foreign(
    socket: &mut Socket,
    family: Family,
    name: &str,
    hook: &mut ForwardHook,
) -> Result<(), Error> {
    let table = netfilter::Table { family, name };
    let chains = socket.chains(table)?;
    let rules = socket.rules(table, None)?;
    let has_docker_user =
        name == FILTER && family != Family::Inet && chains.iter().any(|chain| chain.name == DOCKER_USER);
    if has_docker_user {
        let comments = rules.iter().filter(|rule| rule.chain == DOCKER_USER).map(|rule| rule.comment.clone());
        hook.docker_user.insert(family);
        if comments.take(2).eq(forward_exception().iter().map(|rule| Some(Rule::comment(rule)))) {
            hook.exceptions.insert(family);
        }
    }
    let admits_us = rules.iter().any(mentions_links);
    for chain in chains {
        let Some(at) = chain.hook.filter(|at| at.number == FORWARD) else { continue };
        let last = rules.iter().rfind(|rule| rule.chain == chain.name);
        let drops = at.drop_by_default || last.is_some_and(refuses_all);
        if drops && !has_docker_user && !admits_us {
            hook.blocking.push((family, format!("{} {name} {}", family_name(family), chain.name)));
        }
    }
    Ok(())
}

/// A rule that an administrator made for our links.
fn mentions_links(rule: &netfilter::Rule) -> bool {
    let prefix = HOST_LINK_PREFIX.as_bytes();
    let mentions = |attributes: &[u8]| attributes.windows(prefix.len()).any(|window| window == prefix);
    rule.expressions.iter().any(|expression| mentions(&expression.attributes))
}

/// A rule that rejects whatever reaches it, as firewalld's last one does.
fn refuses_all(rule: &netfilter::Rule) -> bool {
    let named = |name: &str| rule.expressions.iter().any(|expression| expression.name == name);
    named("reject") && !named("cmp") && !named("lookup")
}

fn is_ours(rule: &netfilter::Rule) -> bool {
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(TAG))
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Arp => "arp",
        Family::Netdev => "netdev",
        Family::Bridge => "bridge",
        Family::Ip6 => "ip6",
    }
}
