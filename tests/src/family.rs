//! The families of addresses inside the networks: each scenario runs with one, the other, and both.
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};

/// What networks have that are created without saying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// An IPv4 subnet, the default of `network create`.
    Four,
    /// An IPv6 subnet.
    Six,
    /// Both.
    Both,
}

static NOW: AtomicU8 = AtomicU8::new(0);

impl Family {
    /// In the order in which they are run.
    pub const ALL: [Self; 3] = [Self::Four, Self::Six, Self::Both];

    /// That of the scenario that runs.
    pub fn now() -> Self {
        Self::ALL.into_iter().nth(NOW.load(Ordering::Relaxed).into()).unwrap_or(Self::Four)
    }

    pub(crate) fn begin(self) {
        let place = Self::ALL.iter().position(|family| *family == self).unwrap_or(0);
        NOW.store(u8::try_from(place).unwrap_or(0), Ordering::Relaxed);
    }

    /// What is written behind a scenario's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Four => "",
            Self::Six => "/six",
            Self::Both => "/both",
        }
    }

    /// Words for a `network create` that names no subnet.
    pub(crate) fn subnets(self, network: &str) -> Vec<String> {
        let sum = network.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        let four = format!("--subnet=10.{}.0.0/16", 128 + sum / 2);
        let six = format!("--subnet=fd77:{sum:x}::/64");
        match self {
            Self::Four => Vec::new(),
            Self::Six => vec![six],
            Self::Both => vec![four, six],
        }
    }

    /// Type of the records that are asked for.
    pub fn record(self) -> &'static str {
        if self == Self::Four { "A" } else { "AAAA" }
    }

    /// Whether names have addresses of this type, too.
    pub fn has(self, record: &str) -> bool {
        match record {
            "A" => self != Self::Six,
            "AAAA" => self != Self::Four,
            _ => false,
        }
    }

    /// `ip` or `ip6`, as nft names its families.
    pub fn table(self) -> &'static str {
        if self == Self::Four { "ip" } else { "ip6" }
    }

    /// Of something's addresses the one that is tried: with both families the IPv6 one, as clients prefer it.
    pub fn choose(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let wanted = |address: &&IpAddr| address.is_ipv6() == (self != Self::Four);
        addresses.iter().find(wanted).or(addresses.first()).copied()
    }
}
