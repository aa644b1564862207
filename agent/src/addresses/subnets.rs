//! Which subnet a network gets when none was asked for.
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

use super::hash::stable_hash;

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

/// The subnet of a network for which none was asked: a /16 of the pool (the whole pool if that is smaller), found from the
/// network's name, so that hosts which create it at the same moment choose alike. Skips what overlaps `taken` (subnets of other
/// networks, routes of hosts). None if all of them are taken.
pub fn default_subnet(name: &str, pool: Ipv4Network, taken: &[IpNetwork]) -> Option<IpNetwork> {
    let prefix = DEFAULT_PREFIX.max(pool.prefix());
    let count = 1_u32.checked_shl(u32::from(prefix - pool.prefix()))?;
    let start = u32::try_from(stable_hash(name) % u64::from(count)).unwrap_or(0);
    let mut candidates = (0..count).filter_map(|step| {
        let index = (start + step) % count;
        let address = Ipv4Addr::from(u32::from(pool.network()) + (index << (32 - prefix)));
        IpNetwork::new(IpAddr::V4(address), prefix).ok()
    });
    candidates.find(|subnet| first_overlap(subnet, taken).is_none())
}
