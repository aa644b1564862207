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

/// All but numbers and names is the same for both.
macro_rules! address {
    (
        $address:ident, $variant:ident, $bits:ty, $family:ident, $field:ident,
        words $words:literal, destination at $offset:literal, icmp $icmp:literal
    ) => {
        impl Address for $address {
            const FAMILY: Family = Family::$family;
            const FIELD: FieldType = FieldType::$field;
            const WORDS: u8 = $words;
            const DESTINATION_OFFSET: u32 = $offset;
            const ICMP: u8 = $icmp;
            const UNSPECIFIED: Self = Self::UNSPECIFIED;
            const LAST: Self = Self::from_bits(<$bits>::MAX);

            fn of(address: IpAddr) -> Option<Self> {
                if let IpAddr::$variant(address) = address { Some(address) } else { None }
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| Self::from(*bytes))
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
    };
}

address!(Ipv4Addr, V4, u32, Ip, IPV4_ADDRESS, words 1, destination at 16, icmp 1);
address!(Ipv6Addr, V6, u128, Ip6, IPV6_ADDRESS, words 4, destination at 24, icmp 58);
