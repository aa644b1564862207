//! Names, tags and addresses that we put in the kernel: stable, legible, hashed where 15 bytes are too few.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::Mac;

/// What the alias of each of our links begins with.
pub const TAG: &str = "svc-agent ";
/// Name of each of our nf_tables tables, in the host's namespace and in those of networks.
pub const TABLE: &str = "svc-agent-net";
/// The bridge of a network, in its namespace.
pub(crate) const BRIDGE: &str = "br";
/// The VXLAN device of a network, in its namespace.
pub(crate) const VXLAN: &str = "vxlan";
/// The VXLAN device that paths are tried through, in its namespace.
pub const PATHS: &str = "paths";
/// A network's end of its link to the host.
pub(crate) const LINK: &str = "link";
/// What the host's ends of those links begin with. No hashed port name does: "l" is no hexadecimal digit.
pub(crate) const HOST_LINK_PREFIX: &str = "svc-link";

/// Alias of the links of one attachment.
pub(crate) fn attachment_tag(network: &str, attachment: &str) -> String {
    format!("{TAG}{network}/{attachment}")
}

/// Alias of a network's own links.
pub(crate) fn network_tag(network: &str) -> String {
    format!("{TAG}{network}")
}

/// The host's end of a network's egress link.
pub fn host_link(link_index: u16) -> String {
    format!("{HOST_LINK_PREFIX}{link_index}")
}

/// The bridge port of an attachment, in the network's namespace: up to five bytes of its name and 36 bits of hash.
pub fn network_port(attachment: &str) -> String {
    let head: String = attachment.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
    format!("{head}-{:09x}", hash(attachment.as_bytes()) & 0xf_ffff_ffff)
}

/// The link of an attachment of the host's own namespace: 44 bits of hash.
pub fn host_port(network: &str, attachment: &str) -> String {
    let whole = format!("{network}/{attachment}");
    format!("svc-{:011x}", hash(whole.as_bytes()) & 0xfff_ffff_ffff)
}

/// The MAC that answers for a gateway: the same on every host, locally administered, in a range (0a:67, "g" for
/// gateway) of its own.
pub fn gateway_mac(gateway: IpAddr) -> Mac {
    let tail = match gateway {
        IpAddr::V4(four) => four.octets(),
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = hash(&six.octets()).to_be_bytes();
            [a, b, c, d]
        }
    };
    let [a, b, c, d] = tail;
    Mac([0x0a, 0x67, a, b, c, d])
}

/// The MAC of a host in the tunnel that paths are tried through: locally administered, in a range (0a:70, "p" for path) of
/// its own.
pub(crate) fn path_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x0a, 0x70, a, b, c, d])
}

/// Whether a link's forwarding table is that of a tunnel of ours.
pub(crate) fn is_tunnel(link: &str) -> bool {
    link == VXLAN || link == PATHS
}

/// The /31 between the host's namespace and a network's: (host's end, network's end). `None` if the pool is too
/// small for this index.
pub fn link_addresses(pool: Ipv4Network, link_index: u16) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = u32::from(pool.network()).checked_add(u32::from(link_index).checked_mul(2)?)?;
    let second = Ipv4Addr::from(first.checked_add(1)?);
    (pool.contains(second) && pool.contains(first.into())).then(|| (first.into(), second))
}

/// Where the IPv6 link addresses are: a unique local prefix of our own (RFC 4193), seen on this host only.
pub(crate) const LINK_SIX: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x7663, 0x6167, 0, 0, 0, 0, 0);
/// Its length in bits.
pub(crate) const LINK_SIX_BITS: u8 = 48;

/// Where the IPv6 link addresses are, as a network.
pub fn link_pool_six() -> IpNetwork {
    IpNetwork::new(LINK_SIX.into(), LINK_SIX_BITS).unwrap_or_else(|_| IpAddr::V6(LINK_SIX).into())
}

/// The /127 (RFC 6164) between the host's namespace and a network's: (host's end, network's end).
pub fn link_addresses_six(link_index: u16) -> (Ipv6Addr, Ipv6Addr) {
    let [a, b, c, ..] = LINK_SIX.segments();
    let address = |last| Ipv6Addr::new(a, b, c, link_index, 0, 0, 0, last);
    (address(2), address(3))
}

/// The link-local address that the kernel derives from a MAC (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from(bytes)
}

/// FNV-1a, 64 bits: stable over builds and architectures, which the standard library's hashers are not.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// An interface name as nf_tables keeps it: 16 bytes, padded with zeros.
pub(crate) fn interface_key(name: &str) -> Vec<u8> {
    let mut key: Vec<u8> = name.bytes().take(15).collect();
    key.resize(16, 0);
    key
}
