//! Names of addresses: `in-addr.arpa` (RFC 1035, 3.5) and `ip6.arpa` (RFC 3596, 2.5).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// What a name under one of the two trees says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reverse {
    /// One whole address.
    Address(IpAddr),
    /// A node above addresses: all of them begin with this many bits of `base`.
    Above { base: IpAddr, bits: u8 },
    /// A name that is below, or not quite, an address; it begins with this many bits of `base`.
    Odd { base: IpAddr, bits: u8 },
}

/// Reads a name; `None` when it is in neither tree.
pub(crate) fn parse(name: &str) -> Option<Reverse> {
    if let Some(rest) = below(name, "in-addr.arpa") {
        let mut bytes = [0; 4];
        let (count, odd) = read(rest, &mut bytes, octet);
        return Some(classify(IpAddr::V4(Ipv4Addr::from(bytes)), count, 8, 32, odd));
    }
    let rest = below(name, "ip6.arpa")?;
    let mut nibbles = [0; 32];
    let (count, odd) = read(rest, &mut nibbles, nibble);
    let value = nibbles.iter().fold(0_u128, |value, nibble| value << 4 | u128::from(*nibble));
    Some(classify(IpAddr::V6(Ipv6Addr::from(value)), count, 4, 128, odd))
}

impl Reverse {
    /// Whether every address that the name could be about is inside `subnet`.
    pub(crate) fn inside(&self, subnet: &IpNetwork) -> bool {
        match *self {
            Self::Address(address) => subnet.contains(address),
            Self::Above { base, bits } | Self::Odd { base, bits } => {
                bits >= subnet.prefix() && subnet.contains(base)
            }
        }
    }
}

fn below<'a>(name: &'a str, tree: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(tree)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// Fills `parts` from the last label on. Returns how many it read and whether labels are left over.
fn read(labels: &str, parts: &mut [u8], part: impl Fn(&str) -> Option<u8>) -> (u8, bool) {
    let mut labels = labels.rsplit('.').filter(|label| !label.is_empty());
    let mut count = 0;
    for place in parts {
        let Some(label) = labels.next() else { return (count, false) };
        let Some(value) = part(label) else { return (count, true) };
        *place = value;
        count += 1;
    }
    (count, labels.next().is_some())
}

fn classify(base: IpAddr, count: u8, bits_each: u8, bits_all: u8, odd: bool) -> Reverse {
    let bits = count.saturating_mul(bits_each).min(bits_all);
    match (odd, bits == bits_all) {
        (true, _) => Reverse::Odd { base, bits },
        (false, true) => Reverse::Address(base),
        (false, false) => Reverse::Above { base, bits },
    }
}

fn octet(label: &str) -> Option<u8> {
    let plain =
        label.bytes().all(|byte| byte.is_ascii_digit()) && (label.len() == 1 || !label.starts_with('0'));
    if plain { label.parse().ok() } else { None }
}

fn nibble(label: &str) -> Option<u8> {
    if label.len() == 1 { u8::from_str_radix(label, 16).ok() } else { None }
}
