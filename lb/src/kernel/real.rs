//! The real kernel, through one netfilter socket.
use std::collections::BTreeMap;

use netfilter::conntrack::Tuple;
use netfilter::{Batch, ChainKind, Error, Rule, SetData, SetState, Socket, Table, TableFlags, conntrack};

use super::{Contents, Features, Kernel, TableStatus};
use crate::TABLE_NAME;
use crate::address::Address;
use crate::element::{Chain, Element, Map};
use crate::flows::Stale;
use crate::rules;
use crate::transaction::Transaction;
use crate::untracked;

/// A name that no table has but for the instant of a transaction that is never seen.
const PROBE_NAME: &str = "svc-agent-probe";

/// One network namespace's kernel.
#[derive(Debug)]
pub struct Real {
    socket: Socket,
}

impl Real {
    /// Uses a socket that was opened in the namespace.
    pub fn new(socket: Socket) -> Self {
        Self { socket }
    }
}

const fn table<A: Address>() -> Table<'static> {
    Table { family: A::FAMILY, name: TABLE_NAME }
}

impl Kernel for Real {
    fn features(&mut self) -> Result<Features, Error> {
        let probe = Table { family: netfilter::Family::Ip, name: PROBE_NAME };
        let mut owned = Batch::new();
        owned.add_table(probe, TableFlags::OWNED);
        owned.delete_table(probe);
        let mut timeouts = Batch::new();
        timeouts.add_table(probe, TableFlags::PLAIN);
        timeouts.add_timeout(probe, rules::TCP_TIMEOUT, rules::TCP, &rules::TCP_SECONDS);
        timeouts.add_timeout(probe, rules::UDP_TIMEOUT, rules::UDP, &rules::UDP_SECONDS);
        timeouts.delete_table(probe);
        let mut takes = |batch| match self.socket.commit(batch) {
            Ok(()) => Ok(true),
            Err(Error::Refused { source, .. }) if source.raw_os_error() != Some(libc_eperm()) => Ok(false),
            Err(error) => Err(error),
        };
        Ok(Features {
            owned: takes(&owned)?,
            timeouts: takes(&timeouts)?,
            untracked: takes(&untracked::probe(PROBE_NAME))?,
        })
    }

    fn generation(&mut self) -> Result<u32, Error> {
        self.socket.generation()
    }

    fn table<A: Address>(&mut self) -> Result<Option<TableStatus>, Error> {
        let port = self.socket.port();
        let found = self.socket.table(table::<A>())?;
        Ok(found.map(|state| TableStatus {
            handle: state.handle,
            ours: state.owner == Some(port),
            orphan: state.owner.is_none() && state.flags.persist,
        }))
    }

    fn contents<A: Address>(&mut self, features: Features) -> Result<Option<Contents<A>>, Error> {
        if self.socket.table(table::<A>())?.is_none() || !sound::<A>(&self.socket.sets(table::<A>())?) {
            return Ok(None);
        }
        let Some((chains, spoilt)) = self.chains::<A>(features)? else { return Ok(None) };
        Ok(self.elements::<A>()?.map(|elements| Contents { chains, spoilt, elements }))
    }

    fn commit<A: Address>(
        &mut self,
        transaction: &Transaction<A>,
        features: Features,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        let mut batch = encode(transaction, features);
        if let Some(generation) = generation {
            batch.require_generation(generation);
        }
        self.socket.commit(&batch)
    }

    fn remove<A: Address>(&mut self) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.destroy_table(table::<A>());
        self.socket.commit(&batch)
    }

    fn strangers(&mut self) -> Result<bool, Error> {
        let ours = [TABLE_NAME, untracked::TABLE_NAME];
        Ok(self.socket.tables()?.iter().any(|table| !ours.contains(&table.name.as_str())))
    }

    fn untrack<A: Address>(&mut self, change: &untracked::Change<A>) -> Result<(), Error> {
        self.socket.commit(&untracked::encode(change))
    }

    fn delete_untracked<A: Address>(
        &mut self,
        untracked: &untracked::Untracked<A>,
        limit: usize,
    ) -> Result<usize, Error> {
        let mut room = limit;
        let wanted = |flow: &conntrack::Flow| {
            let take = room > 0 && untracked.covers(flow);
            room -= usize::from(take);
            take.then_some(*flow)
        };
        if self.tracks_nothing()? {
            return Ok(0);
        }
        let found = conntrack::flows(&mut self.socket, A::FAMILY.number(), wanted)?;
        for flow in &found {
            conntrack::delete(&mut self.socket, flow)?;
        }
        Ok(found.len())
    }

    fn usage(&mut self) -> Result<conntrack::Usage, Error> {
        conntrack::usage(&mut self.socket)
    }

    fn delete_flows(&mut self, stale: &Stale<'_>, limit: usize) -> Result<usize, Error> {
        let mut room = limit;
        let wanted = |flow: &conntrack::Flow| {
            let take = room > 0 && stale.is_stale(flow);
            room -= usize::from(take);
            take.then_some(*flow)
        };
        if self.tracks_nothing()? {
            return Ok(0);
        }
        let found = conntrack::flows(&mut self.socket, 0, wanted)?;
        for flow in &found {
            conntrack::delete(&mut self.socket, flow)?;
        }
        Ok(found.len())
    }
}

/// EPERM: not a missing feature, but a missing capability.
const fn libc_eperm() -> i32 {
    1
}

impl Real {
    /// Deletes the flow that was begun so, if it is tracked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_flow(&mut self, original: Tuple) -> Result<(), Error> {
        let flow = conntrack::Flow::new(original, original, 0);
        conntrack::delete(&mut self.socket, &flow).map(drop)
    }

    /// To ask costs microseconds; to look for flows milliseconds, as the table is the machine's and is gone through whole
    /// (net/netfilter/nf_conntrack_netlink.c, ctnetlink_dump_table).
    fn tracks_nothing(&mut self) -> Result<bool, Error> {
        conntrack::is_empty(&mut self.socket)
    }

    /// Chains with right rules and with other ones; `None` if there is a chain that is not ours, or a base chain
    /// is missing or tied in otherwise.
    #[allow(clippy::type_complexity)] // Two lists of one thing.
    fn chains<A: Address>(&mut self, features: Features) -> Result<Option<(Vec<Chain>, Vec<Chain>)>, Error> {
        let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for rule in self.socket.rules(table::<A>(), None)? {
            rules.entry(rule.chain.clone()).or_default().push(rule);
        }
        let (mut right, mut spoilt) = (Vec::new(), Vec::new());
        for found in self.socket.chains(table::<A>())? {
            let Some(chain) = Chain::named(&found.name).filter(|chain| tied_in(*chain, &found)) else {
                return Ok(None);
            };
            let present = rules.remove(&found.name).unwrap_or_default();
            let wanted = rules::rules::<A>(chain, features);
            let equal = present.len() == wanted.len()
                && present
                    .iter()
                    .zip(&wanted)
                    .all(|(present, wanted)| present.comment == Some(rules::comment(wanted)));
            if equal { right.push(chain) } else { spoilt.push(chain) }
        }
        Ok(Some((right, spoilt)))
    }

    fn elements<A: Address>(&mut self) -> Result<Option<Vec<Element<A>>>, Error> {
        let mut all = Vec::new();
        for map in Map::ALL {
            let strays = match map {
                Map::Ranges => {
                    let ends = self.socket.elements(table::<A>(), map.name(), |element| {
                        Some((A::read(element.key)?, !element.interval_end, A::read(element.data)))
                    })?;
                    !pair_ranges(ends, &mut all)
                }
                Map::Protocols => {
                    let mut found = self
                        .socket
                        .elements(table::<A>(), map.name(), |element| element.key.first().copied())?;
                    found.sort_unstable();
                    found != rules::REFUSED_PROTOCOLS
                }
                _ => {
                    let mut strays = false;
                    let found = self.socket.elements(table::<A>(), map.name(), |element| {
                        let read = Element::read(map, &element);
                        strays |= read.is_none();
                        read
                    })?;
                    all.extend(found);
                    strays
                }
            };
            if strays {
                return Ok(None);
            }
        }
        Ok(Some(all))
    }
}

fn tied_in(chain: Chain, found: &netfilter::Chain) -> bool {
    match (rules::hook(chain), &found.hook) {
        (None, None) => true,
        (Some(wanted), Some(found)) => {
            let kind = if wanted.kind == ChainKind::Nat { "nat" } else { "filter" };
            found.priority == wanted.priority && found.kind == kind && !found.drop_by_default
        }
        _ => false,
    }
}

/// Whether exactly our maps are there, each in its shape.
fn sound<A: Address>(found: &[SetState]) -> bool {
    let padded = |fields: &[netfilter::FieldType]| match fields {
        [single] => single.length,
        _ => fields.iter().map(|field| field.length.next_multiple_of(4)).sum(),
    };
    let fits = |map: Map| {
        let shape = map.shape::<A>();
        let data = match shape.data {
            SetData::None | SetData::Verdict => 0,
            SetData::Value(fields) => padded(fields),
        };
        found.iter().any(|set| {
            set.name == shape.name
                && set.key_length == padded(shape.key)
                && set.interval == shape.interval
                && set.verdicts == (shape.data == SetData::Verdict)
                && (set.verdicts || set.data_length == data)
        })
    };
    found.len() == Map::ALL.len() && Map::ALL.into_iter().all(fits)
}

/// Makes ranges of starts (with data) and ends (one past the last). `false` if they do not pair.
fn pair_ranges<A: Address>(mut ends: Vec<(A, bool, Option<A>)>, out: &mut Vec<Element<A>>) -> bool {
    // An end sorts before a start at the same key: the ranges touch.
    ends.sort_unstable_by_key(|(key, start, _)| (*key, *start));
    let mut open = None;
    // A first end without a start is how some kernels and nft mark what lies before the first range.
    for (key, start, data) in ends {
        match (start, open.take(), data) {
            (true, None, Some(own)) => open = Some((key, own)),
            (false, Some((first, own)), _) => match key.previous() {
                Some(last) => out.push(Element::Range { first, last, own }),
                None => return false,
            },
            (false, None, _) if key == A::UNSPECIFIED => {}
            _ => return false,
        }
    }
    if let Some((first, own)) = open {
        out.push(Element::Range { first, last: A::LAST, own });
    }
    true
}

/// The transaction as netlink messages.
pub(crate) fn encode<A: Address>(transaction: &Transaction<A>, features: Features) -> Batch {
    let table = table::<A>();
    let flags = if features.owned { TableFlags::OWNED } else { TableFlags::PLAIN };
    let mut batch = Batch::new();
    if transaction.rebuild {
        batch.destroy_table(table);
        batch.add_table(table, flags);
        encode_fixed::<A>(&mut batch, features);
    } else if transaction.adopt {
        batch.add_table(table, flags);
    }
    for chain in &transaction.add_chains {
        let name = chain.to_string();
        batch.add_chain(table, &name, rules::hook(*chain).as_ref());
        batch.flush_chain(table, &name);
        for rule in rules::rules::<A>(*chain, features) {
            batch.add_rule(table, &name, &rule, Some(&rules::comment(&rule)));
        }
    }
    encode_elements(&mut batch, &transaction.delete, false);
    encode_elements(&mut batch, &transaction.add, true);
    for chain in &transaction.delete_chains {
        batch.delete_chain(table, &chain.to_string());
    }
    batch
}

/// What a table has from its first day: time-outs, maps, and the one set that never changes.
fn encode_fixed<A: Address>(batch: &mut Batch, features: Features) {
    let table = table::<A>();
    if features.timeouts {
        batch.add_timeout(table, rules::TCP_TIMEOUT, rules::TCP, &rules::TCP_SECONDS);
        batch.add_timeout(table, rules::UDP_TIMEOUT, rules::UDP, &rules::UDP_SECONDS);
    }
    for map in Map::ALL {
        batch.add_set(table, &map.shape::<A>());
    }
    batch.add_elements(table, Map::Protocols.name(), |list| {
        for protocol in rules::REFUSED_PROTOCOLS {
            list.push(&[protocol], &netfilter::ElementData::None);
        }
    });
}

fn encode_elements<A: Address>(batch: &mut Batch, elements: &[Element<A>], add: bool) {
    use netfilter::{ElementData, Verdict};
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for map in Map::ALL {
        let mut fill = |list: &mut netfilter::ElementList<'_>| {
            // Neighbours mostly go to one class; its name is made once.
            let mut named: Option<(Chain, String)> = None;
            for element in elements.iter().filter(|element| element.map() == map) {
                element.write_key(&mut key);
                element.write_value(&mut value);
                match element.chain() {
                    _ if !add => list.push(&key, &ElementData::None),
                    Some(chain) => {
                        if named.as_ref().is_none_or(|(previous, _)| *previous != chain) {
                            named = Some((chain, chain.to_string()));
                        }
                        let name = named.as_ref().map_or("", |(_, name)| name);
                        list.push(&key, &ElementData::Verdict(Verdict::Goto(name.into())));
                    }
                    None if value.is_empty() => list.push(&key, &ElementData::None),
                    None => list.push(&key, &ElementData::Value(&value)),
                }
                if let Element::Range { last, .. } = element
                    && let Some(end) = last.next()
                {
                    key.clear();
                    end.write(&mut key);
                    list.push_interval_end(&key);
                }
            }
        };
        if add {
            batch.add_elements(table::<A>(), map.name(), &mut fill);
        } else {
            batch.delete_elements(table::<A>(), map.name(), &mut fill);
        }
    }
}
