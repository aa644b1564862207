//! What is in use although nobody was promised it.
//!
//! Addresses that a host granted of its blocks, and VIPs of its blocks that services still have, are covered by its node
//! number alone. Once it is removed the number covers nothing any more, and a claimant that was away may know neither: so
//! every member that knows of the use refuses.
use std::net::IpAddr;

use crate::addresses::{AddressRange, Layout};
use crate::catalog::facts::{ClaimKey, Region};
use crate::claims::{Entry, Reply};
use crate::model::{Name, NodeId};
use crate::runtime::state::State;

/// Why a member does not promise addresses, beside what it has promised: somebody else uses one of them.
pub(super) fn refusal(state: &State, key: &ClaimKey, claimant: NodeId, attempt: u64) -> Option<Reply> {
    let used = match key {
        ClaimKey::Address { network, address } | ClaimKey::Granted { network, address, .. } => {
            let range = AddressRange { first: *address, last: *address };
            endpoint(state, network, range, claimant)
        }
        ClaimKey::Block { network, region, index } => {
            let record = state.catalog.network(network)?;
            let layouts = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
            let mut ranges = layouts.filter_map(|layout| layout.block_range(*region, *index));
            ranges.find_map(|range| match region {
                Region::Endpoint => endpoint(state, network, range, claimant),
                Region::Vip => virtual_ip(state, network, range, claimant),
            })
        }
        ClaimKey::Node { .. } | ClaimKey::Vni { .. } | ClaimKey::Takeover { .. } => None,
    };
    let (network, address, user) = used?;
    // No claim has the attempt 0: who asks the user whether it still holds this, and withdraws it, withdraws nothing.
    let holder = Entry { key: ClaimKey::Address { network, address }, claimant: user, attempt: 0 };
    Some(Reply::Taken { key: key.clone(), attempt, holder })
}

/// An attachment's address, of which one here may not be known to others yet.
fn endpoint(
    state: &State,
    network: &Name,
    range: AddressRange,
    claimant: NodeId,
) -> Option<(Name, IpAddr, NodeId)> {
    let me = state.books.promises.me();
    let local = state.local.values().filter(|record| me != claimant && record.network == *network);
    let own = local.flat_map(|record| &record.addresses).map(|address| (*address, me));
    let own = own.filter(|(address, _)| (range.first..=range.last).contains(address));
    let leased = state.leases.within(network, range).filter(|_| me != claimant).map(|address| (address, me));
    let told = state.catalog.holders_in(network, range).filter(|(_, user)| *user != claimant);
    let (address, user) = told.chain(own).chain(leased).next()?;
    Some((network.clone(), address, user))
}

/// A service's VIP; the service is its maker's.
fn virtual_ip(
    state: &State,
    network: &Name,
    range: AddressRange,
    claimant: NodeId,
) -> Option<(Name, IpAddr, NodeId)> {
    state.catalog.services(network).find_map(|service| {
        let record = state.catalog.service(network, service)?;
        let births = record.births().filter(|(born, _)| born.node != claimant);
        let mut vips = births.flat_map(|(born, it)| it.vips.iter().map(move |vip| (*vip, born.node)));
        let (vip, maker) = vips.find(|(vip, _)| (range.first..=range.last).contains(vip))?;
        Some((network.clone(), vip, maker))
    })
}

#[cfg(test)]
mod tests;
