//! Which promises stand in the way of a claim.
use std::net::IpAddr;

use crate::catalog::facts::{ClaimKey, Region, Taken};
use crate::model::Name;

/// Where an address lies in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The network is not known here (any more).
    Unknown,
    /// In no block: the network is too small for blocks, or the address lies beyond them.
    Open,
    /// In this block.
    Block(Region, u32),
}

/// What the conflict rule needs to know of networks.
pub trait Places {
    /// Where the address lies.
    fn place_of(&self, network: &Name, address: IpAddr) -> Place;
}

impl<F: Fn(&Name, IpAddr) -> Place> Places for F {
    fn place_of(&self, network: &Name, address: IpAddr) -> Place {
        self(network, address)
    }
}

/// Whether a claim of one key is refused because another node was promised the other. (Two keys of one node never conflict.)
///
/// - A key conflicts with itself.
/// - Node n holds block n of both regions of every network. So a block n, or an address in it, is refused once number n is
///   promised. The other way round it is **not** refused, or a single `--ip` could keep a host out of the cluster for
///   ever: number n is promised, and with the table that comes along the joiner learns what in its blocks was
///   promised before, and leaves that out ([`super::Promises::entries`] of other claimants).
/// - An address conflicts with the block it lies in, and the block with the address.
/// - An address that another host granted of its block is an address like any other, but that node numbers are no obstacle:
///   its giver holds it, and says so. Nor is the giver's block ([`super::Promises::holder`]).
/// - An address that was taken over conflicts with a claim of it or of its block: who takes over need not have either. The
///   other way round it does not: the one taken over from may hold them.
///
/// An address of an unknown network conflicts with every block of that name: it was promised when the network was known,
/// and refusing too much is safe.
pub fn conflicts(claimed: &ClaimKey, promised: &ClaimKey, places: &dyn Places) -> bool {
    use ClaimKey::{Address, Block, Granted, Node, Takeover};
    match (claimed, promised) {
        (Block { index, .. }, Node { number }) => number == index,
        (Address { network, address }, Node { number }) => {
            matches!(places.place_of(network, *address), Place::Block(_, index) if index == *number)
        }
        (
            Block { network, region, index },
            Address { network: of, address } | Granted { network: of, address, .. },
        )
        | (
            Address { network: of, address } | Granted { network: of, address, .. },
            Block { network, region, index },
        ) => {
            network == of
                && match places.place_of(of, *address) {
                    Place::Unknown => true,
                    Place::Open => false,
                    Place::Block(lies_in, at) => lies_in == *region && at == *index,
                }
        }
        (
            Address { network, address } | Granted { network, address, .. },
            Address { network: of, address: taken }
            | Granted { network: of, address: taken, .. }
            | Takeover { network: of, object: Taken::Address(taken), .. },
        ) => network == of && address == taken,
        (Block { .. }, Takeover { network, object: Taken::Address(address), .. }) => {
            let taken = Address { network: network.clone(), address: *address };
            conflicts(claimed, &taken, places)
        }
        _ => claimed == promised,
    }
}
