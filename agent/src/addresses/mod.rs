//! Addresses: how a subnet is cut up, which one is given out next, and what follows from an address or a name alone.
//!
//! Nothing here does I/O, reads a clock or draws random numbers: every host computes the same.
mod allocator;
mod hash;
mod layout;
mod mac;
mod subnets;
mod vnis;

pub use allocator::{Allocation, Allocator, Exhausted, IpRefusal, REST_MS, Uses, Wanted};
pub use layout::{
    AddressRange, ENDPOINT_BLOCKS, LAYOUT_NODES_MAX, Layout, LayoutError, Reserved, VIP_BLOCKS,
};
pub use mac::{Mac, MacError, format_mac, gateway_mac, mac_for, parse_mac};
pub use subnets::{
    DEFAULT_PREFIX, DEFAULT_PREFIX_SIX, counts_as_taken, default_subnet, default_subnet_six, first_overlap,
    overlaps, pool_six,
};
pub use vnis::{VNI_CHOSEN_FIRST, VNI_CHOSEN_LAST, VNI_MAX, VNI_PATHS, VniError, check_vni, vni_candidates};

#[cfg(test)]
mod allocator_tests;
#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod tests;
