//! Freed addresses rest: so long others may still send to who had them before.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::addresses::{Layout, REST_MS};
use crate::catalog::facts::{ClaimKey, Region, Taken};
use crate::catalog::{Catalog, Changes};
use crate::claims::Place;
use crate::model::{Name, NodeId};
use crate::runtime::agent::State;
use crate::runtime::claiming::steps;
use crate::runtime::verbs::addressing::holder;
use crate::runtime::verbs::addressing::known::Known;
use crate::store::{StoreError, Writes};

/// When an address was freed is forgotten after a day: by then the order in which they are given out again is settled.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(86_400);
/// The key of freed addresses in the store.
const FREED: &str = "freed";

/// Which services have which VIPs, kept up to date change by change: who had one is not in the catalog any more when it is
/// free.
#[derive(Debug, Default)]
pub struct Vips {
    services: BTreeMap<(Name, Name), Box<[IpAddr]>>,
    /// Network and VIP; more than one service is a conflict. Sorted lists, because a set's node takes 200 bytes for one.
    holders: BTreeMap<(Name, IpAddr), Box<[Name]>>,
}

impl Vips {
    /// All VIPs of a catalog.
    pub fn of(catalog: &Catalog) -> Self {
        let mut vips = Self::default();
        for network in catalog.networks() {
            for service in catalog.services(network) {
                vips.follow_one(catalog, network, service);
            }
        }
        vips
    }

    /// Which service has a VIP.
    pub fn holder(&self, network: &Name, vip: IpAddr) -> Option<&Name> {
        self.holders.get(&(network.clone(), vip))?.first()
    }

    /// Follows a change; returns what no service has any more.
    pub fn follow(&mut self, catalog: &Catalog, changes: &Changes) -> Vec<(Name, IpAddr)> {
        let changed = changes.services.iter();
        changed.flat_map(|(network, service)| self.follow_one(catalog, network, service)).collect()
    }

    fn follow_one(&mut self, catalog: &Catalog, network: &Name, service: &Name) -> Vec<(Name, IpAddr)> {
        let key = (network.clone(), service.clone());
        let vips = catalog.service(network, service).map(|record| record.vips()).unwrap_or_default();
        let before = self.services.get(&key).map_or(&[][..], |vips| &vips[..]);
        if before == vips.as_slice() {
            return Vec::new();
        }
        let gone: Vec<IpAddr> = before.iter().filter(|vip| !vips.contains(vip)).copied().collect();
        for vip in &vips {
            let holders = self.holders.entry((network.clone(), *vip)).or_default();
            let others = holders.iter().filter(|holder| *holder != service);
            let mut all: Vec<Name> = others.chain([service]).cloned().collect();
            all.sort_unstable();
            *holders = all.into();
        }
        match vips.is_empty() {
            true => self.services.remove(&key),
            false => self.services.insert(key, vips.into()),
        };
        let mut freed = Vec::new();
        for vip in gone {
            let place = (network.clone(), vip);
            let Some(holders) = self.holders.get_mut(&place) else { continue };
            *holders = holders.iter().filter(|holder| *holder != service).cloned().collect();
            if holders.is_empty() {
                self.holders.remove(&place);
                freed.push(place);
            }
        }
        freed
    }
}

/// Takes note of VIPs of this host's blocks that a change of the catalog freed, whoever made it; says whether there are
/// any. To be called with every change.
pub fn follow(state: &mut State, me: NodeId, now: Instant, changes: &Changes) -> bool {
    let State { catalog, vips, .. } = state;
    let freed = vips.follow(catalog, changes);
    follow_takeovers(state, me, now, changes);
    let own: Vec<(Name, IpAddr)> =
        freed.into_iter().filter(|(network, vip)| is_own(state, me, now, network, *vip)).collect();
    let any = !own.is_empty();
    state.freed.extend(own.into_iter().map(|place| (place, now)));
    any
}

/// An address of this host's blocks that was taken over is another's as if it had been granted: it rests when it is given
/// back.
fn follow_takeovers(state: &mut State, me: NodeId, now: Instant, changes: &Changes) {
    for (network, name) in &changes.attachments {
        let facts = state.catalog.attachment(network, name).filter(|(owner, _)| *owner != me);
        let taken: Vec<(NodeId, IpAddr)> = facts
            .flat_map(|(owner, fact)| {
                let taken = fact.addresses.iter().filter(|it| fact.took(&Taken::Address(**it)));
                taken.map(move |address| (owner, *address))
            })
            .collect();
        for (owner, address) in taken {
            if is_held(state, me, network, address) {
                let head = state.catalog.head(owner);
                state.granted.adopt(network, address, owner, head, now);
            }
        }
    }
}

fn is_held(state: &State, me: NodeId, network: &Name, address: IpAddr) -> bool {
    let key = ClaimKey::Address { network: network.clone(), address };
    let single = state.catalog.claimants(&key).any(|node| node == me);
    single
        || match steps::place_of(state, network, address) {
            Place::Block(region, index) => holder(state, network, region, index) == Some(me),
            Place::Unknown | Place::Open => false,
        }
}

/// Only who holds an address gives it out again; and nobody is left on a network that is gone.
fn is_own(state: &State, me: NodeId, now: Instant, network: &Name, vip: IpAddr) -> bool {
    let Some(record) = state.catalog.network(network) else { return false };
    let mut layouts = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    layouts.any(|layout| {
        let known = Known::new(state, me, now, network, Region::Vip);
        layout.region_of(vip).is_some() && known.allocator(layout, now, false).holds(vip)
    })
}

/// Whether an address that this host freed rests.
pub fn rests(state: &State, now: Instant, network: &Name, address: IpAddr) -> bool {
    let freed = state.freed.get(&(network.clone(), address));
    freed.is_some_and(|freed| now.saturating_duration_since(*freed) < Duration::from_millis(REST_MS))
}

/// Adds the addresses that still rest to a transaction, if there are any. Those of an earlier time that stay in the store
/// do no harm: they rest once more.
///
/// # Errors
/// When they cannot be written as JSON.
pub fn put_freed(state: &State, now: Instant, writes: &mut Writes) -> Result<(), StoreError> {
    let rest = Duration::from_millis(REST_MS);
    let resting = state.freed.iter().filter(|(_, freed)| now.saturating_duration_since(**freed) < rest);
    let resting: Vec<&(Name, IpAddr)> = resting.map(|(place, _)| place).collect();
    if resting.is_empty() {
        return Ok(());
    }
    writes.put_meta(FREED, &resting)
}

/// The addresses that rested when the last agent ended: they rest anew, as no clock says for how long they have.
///
/// # Errors
/// When the store cannot be read.
pub fn take_up(
    store: &crate::store::Store,
    now: Instant,
) -> Result<BTreeMap<(Name, IpAddr), Instant>, StoreError> {
    let resting: Vec<(Name, IpAddr)> = store.meta(FREED)?.unwrap_or_default();
    Ok(resting.into_iter().map(|place| (place, now)).collect())
}

/// Forgets what was freed long ago, and takes in what others have given back, to rest like any other.
pub fn forget_old(state: &mut State, now: Instant) {
    state.freed.retain(|_, freed| now.saturating_duration_since(*freed) < FORGOTTEN_AFTER);
    let State { granted, catalog, freed, .. } = state;
    freed.extend(granted.take_returned(catalog, now).into_iter().map(|place| (place, now)));
}

#[cfg(test)]
mod tests;
