//! Which subnet a network gets when none was asked for.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::hash::stable_hash;

/// Prefix length of a default subnet: 57,342 endpoints and 8,191 VIPs.
pub const DEFAULT_PREFIX: u8 = 16;

/// The same of IPv6.
pub const DEFAULT_PREFIX_SIX: u8 = 64;
/// Of a cluster's own range of IPv6 (RFC 4193, 3.1).
const POOL_PREFIX_SIX: u8 = 48;
/// Subnets of that range that are tried: with that many taken somebody's route has all of it.
const CANDIDATES_MAX: u32 = 1 << 16;

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

/// The range that a cluster's networks get their IPv6 subnets from: unique local addresses whose 40 bits of Global ID follow
/// from the cluster's own random id (RFC 4193, 3.2), so that two clusters or sites that come to be joined do not meet.
pub fn pool_six(cluster: &str) -> Ipv6Network {
    let id = u128::from(stable_hash(cluster) >> 24);
    let address = Ipv6Addr::from(0xfd << 120 | id << 80);
    Ipv6Network::new(address, POOL_PREFIX_SIX).unwrap_or_else(|_| Ipv6Network::from(address))
}

/// As [`default_subnet`], a /64 of a range of IPv6.
pub fn default_subnet_six(name: &str, pool: Ipv6Network, taken: &[IpNetwork]) -> Option<IpNetwork> {
    let prefix = DEFAULT_PREFIX_SIX.max(pool.prefix());
    let count = 1_u32
        .checked_shl(u32::from(prefix - pool.prefix()))
        .map_or(CANDIDATES_MAX, |count| count.min(CANDIDATES_MAX));
    let start = u32::try_from(stable_hash(name) % u64::from(count)).unwrap_or(0);
    let mut candidates = (0..count).filter_map(|step| {
        let index = u128::from((start + step) % count);
        let address = Ipv6Addr::from(u128::from(pool.network()) + (index << (128 - prefix)));
        IpNetwork::new(IpAddr::V6(address), prefix).ok()
    });
    candidates.find(|subnet| first_overlap(subnet, taken).is_none())
}
