//! What differs between the families.
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netfilter::{Family, FieldType};

/// An address of one family; everything else is the same code for both.
pub trait Address: Copy + Ord + Hash + Debug + Display + Send + Sync + Into<IpAddr> + 'static {
    /// The family of its table.
    const FAMILY: Family;
    /// Its type in keys and data.
    const FIELD: FieldType;
    /// Registers that it fills.
    const WORDS: u8;
    /// Where the destination stands in the IP header, in bytes (RFC 791, RFC 8200).
    const DESTINATION_OFFSET: u32;
    /// The family's ICMP.
    const ICMP: u8;
    /// No address: `0.0.0.0` or `::`.
    const UNSPECIFIED: Self;
    /// The highest address.
    const LAST: Self;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;
    /// Reads it from the first bytes; `None` if there are too few.
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Appends its bytes.
    fn write(self, out: &mut Vec<u8>);
    /// The next higher address; `None` after the last one.
    fn next(self) -> Option<Self>;
    /// The next lower address; `None` before the first one.
    fn previous(self) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::Ip;
    const FIELD: FieldType = FieldType::IPV4_ADDRESS;
    const WORDS: u8 = 1;
    const DESTINATION_OFFSET: u32 = 16;
    const ICMP: u8 = 1;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
    const LAST: Self = Self::from_bits(u32::MAX);

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?.into())
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }

    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::Ip6;
    const FIELD: FieldType = FieldType::IPV6_ADDRESS;
    const WORDS: u8 = 4;
    const DESTINATION_OFFSET: u32 = 24;
    const ICMP: u8 = 58;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;
    const LAST: Self = Self::from_bits(u128::MAX);

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?.into())
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }

    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }
}
