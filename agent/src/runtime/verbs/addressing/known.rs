//! What a decision on addresses is made from.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::addresses::{Allocator, Layout, Uses};
use crate::catalog::facts::{ClaimKey, Region, Taken};
use crate::model::{Name, NodeId};
use crate::runtime::agent::State;

/// One network's addresses as this host knows them, under the state's lock: of what can be many only what is looked at is
/// looked up.
pub(super) struct Known<'a> {
    state: &'a State,
    network: &'a Name,
    region: Region,
    number: u32,
    members: BTreeSet<u32>,
    blocks: BTreeSet<(Region, u32)>,
    addresses: BTreeSet<IpAddr>,
    foreign_blocks: BTreeSet<(Region, u32)>,
    foreign_addresses: BTreeSet<IpAddr>,
    /// Given to attachments of this host that nobody has been told of yet.
    reserved: BTreeMap<IpAddr, &'a Name>,
    /// What times are counted from.
    began: Instant,
}

impl<'a> Known<'a> {
    pub(super) fn new(
        state: &'a State,
        me: NodeId,
        began: Instant,
        network: &'a Name,
        region: Region,
    ) -> Self {
        Self::for_asker(state, (me, me), began, network, region)
    }

    /// As [`Known::new`], for what another host asks to be granted: what it has left of an earlier grant is no obstacle.
    pub(super) fn for_asker(
        state: &'a State,
        (me, asker): (NodeId, NodeId),
        began: Instant,
        network: &'a Name,
        region: Region,
    ) -> Self {
        let reserved = state.local.values().filter(|it| !it.announced && it.network == *network);
        let reserved = reserved.flat_map(|it| it.addresses.iter().map(move |address| (*address, &it.name)));
        let mut known = Self {
            state,
            network,
            region,
            number: state.books.promises.number().unwrap_or_default(),
            members: state.catalog.hosts().map(|(_, host)| host.number).collect(),
            blocks: BTreeSet::new(),
            addresses: BTreeSet::new(),
            foreign_blocks: BTreeSet::new(),
            foreign_addresses: BTreeSet::new(),
            reserved: reserved.collect(),
            began,
        };
        let regranted = |key: &ClaimKey, holder: NodeId| {
            matches!(key, ClaimKey::Granted { by, .. } if *by == me) && holder == asker
        };
        for (key, holder) in state.catalog.claims_of(network) {
            if !regranted(key, holder) {
                known.note(key, holder == me);
            }
        }
        // What was promised to others counts before its fact arrives.
        let promised = state.books.promises.entries_of(network);
        for (key, claimant) in promised.filter(|(_, claimant)| *claimant != me) {
            if !regranted(key, claimant) {
                known.note(key, false);
            }
        }
        // Who took an address over need not hold its block; others give it to nobody meanwhile.
        for (key, claimant, _) in state.books.promises.takeovers_of(network) {
            if let ClaimKey::Takeover { object: Taken::Address(address), .. } = key
                && claimant != me
            {
                known.foreign_addresses.insert(*address);
            }
        }
        known
    }

    fn note(&mut self, key: &ClaimKey, mine: bool) {
        match key {
            ClaimKey::Block { region, index, .. } => {
                let set = if mine { &mut self.blocks } else { &mut self.foreign_blocks };
                set.insert((*region, *index));
            }
            ClaimKey::Address { address, .. } => {
                let set = if mine { &mut self.addresses } else { &mut self.foreign_addresses };
                set.insert(*address);
            }
            // What this host was granted is its own for as long as it is used, not to be given out again.
            ClaimKey::Granted { address, .. } => {
                if !mine {
                    self.foreign_addresses.insert(*address);
                }
            }
            ClaimKey::Vni { .. } | ClaimKey::Node { .. } | ClaimKey::Takeover { .. } => {}
        }
    }

    pub(super) fn allocator(&self, layout: Layout, now: Instant, may_claim: bool) -> Allocator<'_> {
        Allocator {
            layout,
            number: self.number,
            members: &self.members,
            blocks: &self.blocks,
            addresses: &self.addresses,
            foreign_blocks: &self.foreign_blocks,
            foreign_addresses: &self.foreign_addresses,
            uses: self,
            now_ms: self.milliseconds(now),
            may_claim,
        }
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Uses for Known<'_> {
    fn in_use(&self, address: IpAddr) -> Option<&Name> {
        if self.region == Region::Vip {
            return self.state.vips.holder(self.network, address);
        }
        let told = self.state.catalog.holders(self.network, address).next().map(|(name, _)| name);
        told.or_else(|| self.reserved.get(&address).copied())
            .or_else(|| self.state.leases.get(self.network, address))
            .or_else(|| self.state.granted.get(self.network, address).map(|_| self.network))
    }

    fn freed_ms(&self, address: IpAddr) -> Option<u64> {
        let freed = self.state.freed.get(&(self.network.clone(), address))?;
        Some(self.milliseconds(*freed))
    }
}
