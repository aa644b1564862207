//! Which subnet a network gets when none was asked for.
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::hash::stable_hash;

/// Where default subnets come from: the upper half of 10.0.0.0/8, which Docker's, Podman's and Swarm's default pools leave
/// alone (172.16.0.0/12, 192.168.0.0/16, 10.0.0.0/9 from below).
pub const DEFAULT_POOLS: [Ipv4Addr; 1] = [Ipv4Addr::new(10, 128, 0, 0)];
const DEFAULT_POOL_PREFIX: u8 = 9;
/// Prefix length of a default subnet: 57,342 endpoints and 8,191 VIPs.
pub const DEFAULT_PREFIX: u8 = 16;

/// Whether two subnets share an address. Of different families they never do.
pub fn overlaps(one: &IpNetwork, other: &IpNetwork) -> bool {
    match (one, other) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) | (IpNetwork::V6(_), IpNetwork::V6(_)) => {
            one.contains(other.network()) || other.contains(one.network())
        }
        _ => false,
    }
}

/// Whether a route of a host says that its addresses are in use. Default routes do not, nor the pairs of halves
/// (0.0.0.0/1 and 128.0.0.0/1, ::/1 and 8000::/1) by which VPNs override a default route.
pub fn counts_as_taken(route: &IpNetwork) -> bool {
    route.prefix() > 1
}

/// The first of `taken` that overlaps, default routes ignored.
pub fn first_overlap<'t>(subnet: &IpNetwork, taken: &'t [IpNetwork]) -> Option<&'t IpNetwork> {
    taken.iter().find(|range| counts_as_taken(range) && overlaps(subnet, range))
}

/// The subnet of a network for which none was asked: a /16 of the default pools, found from the network's name, so that hosts
/// which create it at the same moment choose alike. Skips what overlaps `taken` (subnets of other networks, routes of hosts).
/// None if all of them are taken.
pub fn default_subnet(name: &str, taken: &[IpNetwork]) -> Option<IpNetwork> {
    let count = 1_u32 << (DEFAULT_PREFIX - DEFAULT_POOL_PREFIX);
    let start = u32::try_from(stable_hash(name) % u64::from(count)).unwrap_or(0);
    let mut candidates = DEFAULT_POOLS.iter().flat_map(|pool| {
        (0..count).filter_map(move |step| {
            let index = (start + step) % count;
            let address = Ipv4Addr::from(u32::from(*pool) + (index << (32 - DEFAULT_PREFIX)));
            IpNetwork::new(IpAddr::V4(address), DEFAULT_PREFIX).ok()
        })
    });
    candidates.find(|subnet| first_overlap(subnet, taken).is_none())
}
