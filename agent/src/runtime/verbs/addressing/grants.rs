//! Addresses of this host's blocks that other hosts asked for and use.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::addresses::Layout;
use crate::catalog::Catalog;
use crate::catalog::facts::Region;
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::{Agent, chain, host_name};
use crate::runtime::events::lock;
use crate::runtime::state::{Commit, State};
use crate::runtime::verbs::addressing::known::Known;
use crate::store::{StoreError, Writes};

/// So long after a grant its taker may still be making the attachment that it asked for.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// So long after it asked its taker may have claimed what it was granted; the rest is for the telling.
pub(crate) const CLAIMED_WITHIN: Duration = Duration::from_secs(30);

/// An address that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who has it.
    pub taker: NodeId,
    /// How far the taker was known then.
    pub head: Head,
    /// When; after a restart the time of the start.
    pub at: Instant,
    /// How far the taker was known when it had had its time: what it says later says whether it has the address.
    pub late: Option<Head>,
    /// Whether it has said that it has the address.
    pub seen: bool,
}

/// Granted addresses by network. They outlive a restart.
#[derive(Debug, Default)]
pub struct Grants(BTreeMap<(Name, IpAddr), Grant>);

/// As [`Grants`] rest.
pub(crate) type Row = (Name, IpAddr, NodeId, Head);

impl Grants {
    /// The grants as they were last written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &crate::store::Store) -> Result<Self, StoreError> {
        Ok(Self::of(store.meta("granted")?.unwrap_or_default(), Instant::now()))
    }

    /// As they rest, taken up again.
    pub(crate) fn of(rows: Vec<Row>, at: Instant) -> Self {
        let grants = rows.into_iter().map(|(network, address, taker, head)| {
            ((network, address), Grant { taker, head, at, late: None, seen: false })
        });
        Self(grants.collect())
    }

    /// Who has an address.
    pub fn get(&self, network: &Name, address: IpAddr) -> Option<&Grant> {
        self.0.get(&(network.clone(), address))
    }

    /// Takes note of who has an address without having asked for it: it was taken over.
    pub fn adopt(&mut self, network: &Name, address: IpAddr, taker: NodeId, head: Head, at: Instant) {
        let known = self.get(network, address).is_some_and(|grant| grant.taker == taker);
        if !known {
            self.0.insert((network.clone(), address), Grant { taker, head, at, late: None, seen: true });
        }
    }

    /// Takes out what was given back: its taker is removed, the network is gone, or the taker has had the time to make its
    /// attachment and nobody has the address, though it was said to be had, or the taker was heard of after that time.
    /// Silence says nothing: the taker may have been cut off in the midst of it.
    pub fn take_returned(&mut self, catalog: &Catalog, now: Instant) -> Vec<(Name, IpAddr)> {
        let had = |(network, address): &(Name, IpAddr), taker: NodeId| {
            let mut claims = catalog.granted(network, *address);
            catalog.holders(network, *address).next().is_some() || claims.any(|(_, node)| node == taker)
        };
        for (key, grant) in &mut self.0 {
            grant.seen |= had(key, grant.taker);
            let late = now.saturating_duration_since(grant.at) >= TAKEN_UP_WITHIN;
            if late && grant.late.is_none() {
                grant.late = Some(catalog.head(grant.taker).max(grant.head));
            }
        }
        let returned = |key: &(Name, IpAddr), grant: &Grant| {
            let over = grant.late.is_some_and(|late| grant.seen || catalog.head(grant.taker) > late);
            let unused = over && !had(key, grant.taker);
            unused || catalog.is_removed(grant.taker) || catalog.network(&key.0).is_none()
        };
        let gone: Vec<(Name, IpAddr)> =
            self.0.iter().filter(|(key, grant)| returned(key, grant)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.0.remove(key);
        }
        gone
    }

    fn put(&self, writes: &mut Writes) -> Result<(), StoreError> {
        let row = |((network, address), grant): (&(Name, IpAddr), &Grant)| {
            (network.clone(), *address, grant.taker, grant.head)
        };
        let rows: Vec<Row> = self.0.iter().map(row).collect();
        writes.put_meta("granted", &rows)
    }
}

/// Grants an address of a block of ours to another host.
///
/// # Errors
/// Why not.
pub fn grant(agent: &Agent, network: &Name, address: IpAddr, to: NodeId) -> Result<(), String> {
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let mut commit = |writes: &Writes| agent.store.commit(writes, true);
        give(&mut state, agent.identity.node, Instant::now(), (network, address), to, &mut commit)
    })
}

/// The grant itself: durable before it is answered.
///
/// # Errors
/// As [`grant`].
pub fn give(
    state: &mut State,
    me: NodeId,
    now: Instant,
    (network, address): (&Name, IpAddr),
    to: NodeId,
    commit: Commit<'_>,
) -> Result<(), String> {
    check(state, me, now, (network, address), to)?;
    let key = (network.clone(), address);
    let grant = Grant { taker: to, head: state.catalog.head(to), at: now, late: None, seen: false };
    let before = state.granted.0.insert(key.clone(), grant);
    let mut writes = Writes::default();
    let saved = state.granted.put(&mut writes).and_then(|()| commit(&writes));
    saved.map_err(|error| {
        match before {
            Some(before) => state.granted.0.insert(key, before),
            None => state.granted.0.remove(&key),
        };
        chain(&error)
    })
}

fn check(
    state: &State,
    me: NodeId,
    now: Instant,
    (network, address): (&Name, IpAddr),
    to: NodeId,
) -> Result<(), String> {
    if let Some((holder, on)) = state.catalog.holders(network, address).next() {
        let host = host_name(&state.catalog, on);
        return Err(format!("{address} of network {network} is in use by {holder} on host {host}"));
    }
    // Who asks again for what it was granted never got the answer, or gave the address back.
    match state.granted.get(network, address) {
        Some(grant) if grant.taker != to => {
            let host = host_name(&state.catalog, grant.taker);
            return Err(format!("{address} of network {network} is reserved for host {host}"));
        }
        _ => {}
    }
    let reserved = state.local.values().find(|it| it.network == *network && it.addresses.contains(&address));
    if let Some(record) = reserved {
        return Err(format!("{address} of network {network} is in use by {}", record.name));
    }
    if state.leases.get(network, address).is_some() {
        return Err(format!("{address} of network {network} is being taken into use there"));
    }
    let record =
        state.catalog.network(network).ok_or_else(|| format!("network {network} is not known here"))?;
    let known = Known::for_asker(state, (me, to), now, network, Region::Endpoint);
    let mut layouts = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    let holds = layouts.any(|layout| {
        layout.region_of(address) == Some(Region::Endpoint)
            && known.allocator(layout, now, false).holds(address)
    });
    if !holds {
        let host = host_name(&state.catalog, me);
        return Err(format!("{address} of network {network} is in no block of host {host}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
