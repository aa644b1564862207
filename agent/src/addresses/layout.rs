//! How a network's subnet is cut up: endpoints in the first 7/8, VIPs in the last 1/8, each in equal blocks.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::catalog::facts::Region;

/// Endpoint blocks of a subnet that is large enough for blocks: 7/8 of 1,024.
pub const ENDPOINT_BLOCKS: u32 = 896;
/// VIP blocks of a subnet that is large enough for blocks.
pub const VIP_BLOCKS: u32 = 1024;
/// The highest node number that has a block of its own in both regions. Block 0 (network and gateway address) is nobody's by
/// number.
pub const LAYOUT_NODES_MAX: u32 = ENDPOINT_BLOCKS - 1;

/// Host bits from which a subnet has blocks (IPv4: /19, 8 endpoints and 1 VIP per number). In a smaller one a VIP block would be
/// smaller than one address, so single addresses are claimed there.
const BLOCK_HOST_BITS_MIN: u32 = 13;
/// Host bits of an endpoint block at most: 65,536 addresses per number are enough in any IPv6 subnet.
const ENDPOINT_BLOCK_BITS_MAX: u32 = 16;
/// Host bits of a VIP block at most.
const VIP_BLOCK_BITS_MAX: u32 = 13;

/// A subnet and its division. Cheap to make and to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    subnet: IpNetwork,
    base: u128,
    host_bits: u32,
}

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// An address that is never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reserved {
    /// The first address; in IPv6 the subnet-router anycast address (RFC 4291, 2.6.1).
    Network,
    /// The last address, IPv4 only.
    Broadcast,
    /// The first usable address: the same on every host.
    Gateway,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network address",
            Self::Broadcast => "broadcast address",
            Self::Gateway => "gateway",
        })
    }
}

/// Why a subnet cannot be a network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Bits below the prefix are set.
    #[error("subnet {subnet} has bits set below its prefix length; did you mean {meant}?")]
    HostBits {
        /// As it was given.
        subnet: IpNetwork,
        /// The network that it lies in.
        meant: IpNetwork,
    },
    /// No room for a gateway, an endpoint and a VIP.
    #[error("subnet {subnet} is too small; use a prefix length of /{longest} or shorter")]
    TooSmall {
        /// As it was given.
        subnet: IpNetwork,
        /// The longest prefix allowed.
        longest: u8,
    },
    /// More than anybody means.
    #[error("subnet {subnet} is too large; use a prefix length of /{shortest} or longer")]
    TooLarge {
        /// As it was given.
        subnet: IpNetwork,
        /// The shortest prefix allowed.
        shortest: u8,
    },
    /// Hosts treat these addresses in their own way.
    #[error(
        "subnet {subnet} overlaps {special}, {what}; use a private range, for instance 10.0.0.0/8 or fd00::/8"
    )]
    Special {
        /// As it was given.
        subnet: IpNetwork,
        /// The range that it overlaps.
        special: IpNetwork,
        /// What that range is for.
        what: &'static str,
    },
}

impl Layout {
    /// Divides a subnet.
    ///
    /// # Errors
    /// [`LayoutError`] if the prefix is outside /8 to /29 (IPv4) or /32 to /125 (IPv6), if host bits are set, or if the range has a
    /// special meaning.
    pub fn new(subnet: IpNetwork) -> Result<Self, LayoutError> {
        let (longest, shortest, width) = match subnet {
            IpNetwork::V4(_) => (29, 8, 32),
            IpNetwork::V6(_) => (125, 32, 128),
        };
        let prefix = subnet.prefix();
        if prefix > longest {
            return Err(LayoutError::TooSmall { subnet, longest });
        }
        if prefix < shortest {
            return Err(LayoutError::TooLarge { subnet, shortest });
        }
        let layout = Self { subnet, base: number_of(subnet.network()), host_bits: width - u32::from(prefix) };
        if subnet.ip() != subnet.network() {
            let meant = IpNetwork::new(subnet.network(), prefix).unwrap_or(subnet);
            return Err(LayoutError::HostBits { subnet, meant });
        }
        match special_ranges().into_iter().find(|(special, _)| super::overlaps(special, &subnet)) {
            Some((special, what)) => Err(LayoutError::Special { subnet, special, what }),
            None => Ok(layout),
        }
    }

    /// The subnet itself.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// The gateway: the first usable address.
    pub fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// Why this address is never given out, if it is not.
    pub fn reserved(&self, address: IpAddr) -> Option<Reserved> {
        match self.offset(address)? {
            0 => Some(Reserved::Network),
            1 => Some(Reserved::Gateway),
            offset if self.subnet.is_ipv4() && offset == self.size() - 1 => Some(Reserved::Broadcast),
            _ => None,
        }
    }

    /// In which region an address of the subnet lies, reserved ones included.
    pub fn region_of(&self, address: IpAddr) -> Option<Region> {
        let offset = self.offset(address)?;
        Some(if offset < self.vips_at() { Region::Endpoint } else { Region::Vip })
    }

    /// In which block an address lies. None outside the subnet, in a subnet without blocks, and (IPv6) beyond the blocks.
    pub fn block_of(&self, address: IpAddr) -> Option<(Region, u32)> {
        let region = self.region_of(address)?;
        let offset = self.offset(address)? - self.region_at(region);
        let index = u32::try_from(offset >> self.block_bits(region)?).ok()?;
        (index < self.blocks(region)).then_some((region, index))
    }

    /// The addresses of a block, reserved ones included. None if there is no such block.
    pub fn block_range(&self, region: Region, index: u32) -> Option<AddressRange> {
        let bits = self.block_bits(region).filter(|_| index < self.blocks(region))?;
        let first = self.region_at(region) + (u128::from(index) << bits);
        Some(AddressRange { first: self.at(first), last: self.at(first + (1 << bits) - 1) })
    }

    /// The addresses of a block that can be given out, ascending; at most 65,536.
    pub fn block_addresses(&self, region: Region, index: u32) -> impl Iterator<Item = IpAddr> + use<> {
        let layout = *self;
        let range = self
            .block_range(region, index)
            .and_then(|range| Some((self.offset(range.first)?, self.offset(range.last)?)));
        let offsets = range.into_iter().flat_map(|(first, last)| first..=last);
        offsets
            .map(move |offset| layout.at(offset))
            .filter(move |&address| layout.reserved(address).is_none())
    }

    /// A whole region, reserved addresses included.
    pub fn region_range(&self, region: Region) -> AddressRange {
        let (first, end) = match region {
            Region::Endpoint => (0, self.vips_at()),
            Region::Vip => (self.vips_at(), self.size()),
        };
        AddressRange { first: self.at(first), last: self.at(end - 1) }
    }

    /// The VIP region as a prefix: three bits longer than the subnet's (two in a /29).
    pub fn vip_prefix(&self) -> IpNetwork {
        let width: u32 = if self.subnet.is_ipv4() { 32 } else { 128 };
        let prefix = u8::try_from(width - self.vip_bits()).unwrap_or(u8::MAX);
        IpNetwork::new(self.at(self.vips_at()), prefix).unwrap_or(self.subnet)
    }

    /// Whether the subnet has blocks; if not, each address is claimed for itself.
    pub fn has_blocks(&self) -> bool {
        self.host_bits >= BLOCK_HOST_BITS_MIN
    }

    /// How many blocks a region has: none in a small subnet.
    pub fn blocks(&self, region: Region) -> u32 {
        match region {
            _ if !self.has_blocks() => 0,
            Region::Endpoint => ENDPOINT_BLOCKS,
            Region::Vip => VIP_BLOCKS,
        }
    }

    /// Addresses per block, reserved ones included. None in a subnet without blocks.
    pub fn block_size(&self, region: Region) -> Option<u32> {
        self.block_bits(region).map(|bits| 1 << bits)
    }

    /// The highest node number that has blocks of its own here; 0 in a subnet without blocks. A node above it claims blocks.
    pub fn nodes_max(&self) -> u32 {
        if self.has_blocks() { LAYOUT_NODES_MAX } else { 0 }
    }

    /// How many addresses of a region can be given out in all.
    pub fn capacity(&self, region: Region) -> u128 {
        let all = match (region, self.block_bits(region)) {
            (_, Some(bits)) => u128::from(self.blocks(region)) << bits,
            (Region::Endpoint, None) => self.vips_at(),
            (Region::Vip, None) => self.size() - self.vips_at(),
        };
        let reserved = [self.at(0), self.at(1), self.at(self.size() - 1)];
        let here = |address: &&IpAddr| {
            let counted = !self.has_blocks() || self.block_of(**address).is_some();
            counted && self.reserved(**address).is_some() && self.region_of(**address) == Some(region)
        };
        all - reserved.iter().filter(here).count() as u128
    }

    /// The addresses of a region that can be given out in a subnet without blocks, ascending; empty in one with blocks.
    pub fn single_addresses(&self, region: Region) -> impl Iterator<Item = IpAddr> + use<> {
        let layout = *self;
        let offsets = match region {
            _ if self.has_blocks() => 0..0,
            Region::Endpoint => 0..self.vips_at(),
            Region::Vip => self.vips_at()..self.size(),
        };
        offsets
            .map(move |offset| layout.at(offset))
            .filter(move |&address| layout.reserved(address).is_none())
    }

    fn size(&self) -> u128 {
        1 << self.host_bits
    }

    /// 1/8, but at least two addresses: in a /29 the last one is the broadcast address.
    fn vip_bits(&self) -> u32 {
        self.host_bits.saturating_sub(3).max(1)
    }

    fn vips_at(&self) -> u128 {
        self.size() - (1 << self.vip_bits())
    }

    fn region_at(&self, region: Region) -> u128 {
        match region {
            Region::Endpoint => 0,
            Region::Vip => self.vips_at(),
        }
    }

    fn block_bits(&self, region: Region) -> Option<u32> {
        match region {
            _ if !self.has_blocks() => None,
            Region::Endpoint => Some((self.host_bits - 10).min(ENDPOINT_BLOCK_BITS_MAX)),
            Region::Vip => Some((self.host_bits - 13).min(VIP_BLOCK_BITS_MAX)),
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.subnet.contains(address).then(|| number_of(address) - self.base)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let number = self.base + offset;
        match self.subnet {
            // Within an IPv4 subnet a number has 32 bits.
            IpNetwork::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNetwork::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Ranges of the IANA special-purpose registries (RFC 6890) that a host's stack does not route like others.
fn special_ranges() -> Vec<(IpNetwork, &'static str)> {
    let v4 = |a, b, prefix, what| (IpNetwork::new(Ipv4Addr::new(a, b, 0, 0).into(), prefix), what);
    let v6 = |a, prefix, what| (IpNetwork::new(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0).into(), prefix), what);
    let ranges = [
        v4(0, 0, 8, "\"this network\""),
        v4(127, 0, 8, "loopback"),
        v4(169, 254, 16, "link-local addresses"),
        v4(224, 0, 4, "multicast"),
        v4(240, 0, 4, "reserved addresses and broadcast"),
        v6(0, 32, "loopback and IPv4-mapped addresses"),
        v6(0xfe80, 10, "link-local addresses"),
        v6(0xff00, 8, "multicast"),
    ];
    ranges.into_iter().filter_map(|(range, what)| Some((range.ok()?, what))).collect()
}
