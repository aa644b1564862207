//! Which address is given out next.
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::layout::{AddressRange, Layout, Reserved};
use crate::catalog::facts::Region;
use crate::model::Name;

/// How long a freed address rests, in milliseconds: so long a peer may still send to its old owner.
pub const REST_MS: u64 = 60_000;
/// How many single addresses are proposed for a claim.
const SINGLE_CANDIDATES_MAX: usize = 64;

/// What is known of single addresses. It is asked of those that are looked at, so that nothing has to be copied for
/// one decision.
pub trait Uses {
    /// By which attachment or service an address is in use: this host's, and others' as far as is known.
    fn in_use(&self, address: IpAddr) -> Option<&Name>;

    /// When this host freed an address last, in milliseconds of the clock of [`Allocator::now_ms`]. Answer beyond the
    /// rest: the address that was freed longest ago is given out first.
    fn freed_ms(&self, address: IpAddr) -> Option<u64>;
}

/// What an allocation is decided from: one network and family, seen from one host. All sets may hold more than is
/// needed (other regions, other families).
#[derive(Clone, Copy)]
pub struct Allocator<'a> {
    /// The network's subnet, divided.
    pub layout: Layout,
    /// This host's node number.
    pub number: u32,
    /// Node numbers of all members, suspended ones included, removed ones not.
    pub members: &'a BTreeSet<u32>,
    /// Blocks that this host holds by claim.
    pub blocks: &'a BTreeSet<(Region, u32)>,
    /// Single addresses that this host holds by claim.
    pub addresses: &'a BTreeSet<IpAddr>,
    /// Blocks that others hold by claim or were promised, as far as is known: facts and this host's own promises. What is in
    /// here is left out of this host's own blocks, too: it was promised before this host's number was.
    pub foreign_blocks: &'a BTreeSet<(Region, u32)>,
    /// Single addresses that others hold by claim or were promised, likewise.
    pub foreign_addresses: &'a BTreeSet<IpAddr>,
    /// What is known of single addresses.
    pub uses: &'a dyn Uses,
    /// Now.
    pub now_ms: u64,
    /// Whether more may be claimed. Ask again with `false` when a claim found no majority.
    pub may_claim: bool,
}

impl fmt::Debug for Allocator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocator").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any address.
    Any,
    /// This one.
    Exactly(IpAddr),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Use this one.
    Address {
        /// The address.
        address: IpAddr,
        /// Whether it had not rested for [`REST_MS`]: count this.
        rested_short: bool,
    },
    /// Claim one of these blocks, in this order, and ask again. From the top downward, as node numbers grow from the bottom;
    /// blocks of members' numbers are left out.
    NeedBlock {
        /// Indices in the region asked for; never empty.
        candidates: Vec<u32>,
    },
    /// Claim one of these addresses, in this order, and ask again.
    NeedAddress {
        /// Addresses of the region asked for; never empty, at most 64.
        candidates: Vec<IpAddr>,
    },
    /// The address is free as far as is known, and lies in another host's block: that host grants it. If it cannot be reached,
    /// the request is refused.
    RequestOther {
        /// The block.
        region: Region,
        /// Its index; held by the node of that number, or by claim.
        index: u32,
    },
    /// Nothing is left.
    Exhausted(Exhausted),
}

/// Why nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Every block is held by somebody.
    #[error("all addresses for {what} in {range} are given out or held by other hosts; use a larger subnet, or remove hosts that will not return with \"svc-agent node rm\"", what = name_of(*region))]
    Region {
        /// Of which region.
        region: Region,
        /// Its addresses.
        range: AddressRange,
    },
    /// What this host holds is in use, and no more can be claimed now.
    #[error("all addresses for {what} that this host holds in {range} are in use, and claiming more needs a majority of all members; bring members back, or remove those that will not return with \"svc-agent node rm\"", what = name_of(*region))]
    Held {
        /// Of which region.
        region: Region,
        /// Its addresses.
        range: AddressRange,
    },
}

/// Why a requested address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpRefusal {
    /// Not an address of the network.
    #[error("{address} is not in {subnet}; choose one from {range}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network's subnet.
        subnet: ipnetwork::IpNetwork,
        /// The region to choose from.
        range: AddressRange,
    },
    /// Never given out.
    #[error("{address} is the {reserved} of {subnet}; choose another address")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// What it is.
        reserved: Reserved,
        /// The network's subnet.
        subnet: ipnetwork::IpNetwork,
    },
    /// In the other region.
    #[error("{address} is in {theirs}, which is for {what}; choose one from {ours}", what = name_of(*region))]
    Region {
        /// The address.
        address: IpAddr,
        /// What the region it lies in is for.
        region: Region,
        /// That region.
        theirs: AddressRange,
        /// The region to choose from.
        ours: AddressRange,
    },
    /// In use.
    #[error("{address} is in use by \"{by}\"; choose another address, or end that one first")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The attachment or service.
        by: Name,
    },
    /// Claimed by another host.
    #[error("{address} is held by another host; choose another address, or attach there")]
    HeldElsewhere {
        /// The address.
        address: IpAddr,
    },
}

impl Allocator<'_> {
    /// Decides on one address of a region.
    ///
    /// # Errors
    /// [`IpRefusal`] if an address was asked for that cannot be had.
    pub fn allocate(&self, region: Region, wanted: Wanted) -> Result<Allocation, IpRefusal> {
        match wanted {
            Wanted::Any => Ok(self.any(region)),
            Wanted::Exactly(address) => self.exactly(region, address),
        }
    }

    /// Whether to claim another block ahead of need: less than a quarter of a block is free in what is held.
    pub fn wants_block_ahead(&self, region: Region) -> bool {
        let low = self.layout.block_size(region).map(|size| size.div_ceil(4).max(1));
        low.is_some_and(|low| {
            let low = usize::try_from(low).unwrap_or(usize::MAX);
            self.held(region).filter(|address| self.free(*address)).take(low).count() < low
        })
    }

    /// Blocks to claim ahead of need, in this order; nothing where there is enough, or no more can be claimed.
    pub fn block_ahead(&self, region: Region) -> Option<Vec<u32>> {
        let claim = self.wants_block_ahead(region).then(|| self.claimable(region)).flatten();
        match claim {
            Some(Allocation::NeedBlock { candidates }) => Some(candidates),
            _ => None,
        }
    }

    /// Whether this host may give out an address without asking anybody: it lies in a block of its own or is claimed.
    pub fn holds(&self, address: IpAddr) -> bool {
        let block = self.layout.block_of(address);
        let in_block = block.is_some_and(|(region, index)| self.holds_block(region, index));
        self.addresses.contains(&address) || (in_block && !self.foreign_addresses.contains(&address))
    }

    fn any(&self, region: Region) -> Allocation {
        // Never used before comes first, from the block that was claimed last, where most are free; so no more is
        // looked at than has to be. Then what was freed longest ago.
        let fresh = |address: &IpAddr| self.free(*address) && self.uses.freed_ms(*address).is_none();
        if let Some(address) = self.held(region).find(fresh) {
            return Allocation::Address { address, rested_short: false };
        }
        let free = self.held(region).filter(|address| self.free(*address));
        let longest_free = free.min_by_key(|address| (self.uses.freed_ms(*address), *address));
        if let Some(address) = longest_free.filter(|address| self.rested(*address)) {
            return Allocation::Address { address, rested_short: false };
        }
        let claim = self.may_claim.then(|| self.claimable(region)).flatten();
        match (claim, longest_free) {
            (Some(claim), _) => claim,
            (None, Some(address)) => Allocation::Address { address, rested_short: true },
            (None, None) => {
                let range = self.layout.region_range(region);
                Allocation::Exhausted(match self.may_claim {
                    true => Exhausted::Region { region, range },
                    false => Exhausted::Held { region, range },
                })
            }
        }
    }

    fn exactly(&self, region: Region, address: IpAddr) -> Result<Allocation, IpRefusal> {
        let subnet = self.layout.subnet();
        let range = self.layout.region_range(region);
        let Some(lies_in) = self.layout.region_of(address) else {
            return Err(IpRefusal::Outside { address, subnet, range });
        };
        if let Some(reserved) = self.layout.reserved(address) {
            return Err(IpRefusal::Reserved { address, reserved, subnet });
        }
        if lies_in != region {
            let theirs = self.layout.region_range(lies_in);
            return Err(IpRefusal::Region { address, region: lies_in, theirs, ours: range });
        }
        if let Some(by) = self.uses.in_use(address) {
            return Err(IpRefusal::Taken { address, by: by.clone() });
        }
        if self.holds(address) {
            return Ok(Allocation::Address { address, rested_short: !self.rested(address) });
        }
        if self.foreign_addresses.contains(&address) {
            return Err(IpRefusal::HeldElsewhere { address });
        }
        match self.layout.block_of(address) {
            Some((region, index)) if self.held_elsewhere(region, index) => {
                Ok(Allocation::RequestOther { region, index })
            }
            _ if self.may_claim => Ok(Allocation::NeedAddress { candidates: vec![address] }),
            _ => Ok(Allocation::Exhausted(Exhausted::Held { region, range })),
        }
    }

    /// Everything of a region that this host may give out.
    fn held(&self, region: Region) -> impl Iterator<Item = IpAddr> + '_ {
        let own = std::iter::once(self.number).filter(move |_| self.own_block(region));
        let claimed = self.blocks.iter().filter(move |(of, _)| *of == region).map(|&(_, index)| index);
        let claimed = claimed.filter(move |&index| index != self.number || !self.own_block(region));
        let in_blocks = own.chain(claimed).flat_map(move |index| self.layout.block_addresses(region, index));
        let in_blocks = in_blocks.filter(|address| !self.foreign_addresses.contains(address));
        let single = self.addresses.iter().copied().filter(move |&address| {
            let block = self.layout.block_of(address);
            let in_held_block = block.is_some_and(|(of, index)| self.holds_block(of, index));
            self.layout.region_of(address) == Some(region) && !in_held_block
        });
        in_blocks.chain(single)
    }

    fn free(&self, address: IpAddr) -> bool {
        self.uses.in_use(address).is_none()
    }

    fn own_block(&self, region: Region) -> bool {
        let has_one = (1..=self.layout.nodes_max()).contains(&self.number);
        has_one && !self.foreign_blocks.contains(&(region, self.number))
    }

    fn holds_block(&self, region: Region, index: u32) -> bool {
        (index == self.number && self.own_block(region)) || self.blocks.contains(&(region, index))
    }

    fn held_elsewhere(&self, region: Region, index: u32) -> bool {
        let by_number = index <= self.layout.nodes_max() && self.members.contains(&index);
        !self.holds_block(region, index) && (by_number || self.foreign_blocks.contains(&(region, index)))
    }

    fn rested(&self, address: IpAddr) -> bool {
        let rests = |freed: u64| self.now_ms.saturating_sub(freed) < REST_MS;
        !self.uses.freed_ms(address).is_some_and(rests)
    }

    fn claimable(&self, region: Region) -> Option<Allocation> {
        if self.layout.has_blocks() {
            let free =
                |index: &u32| !self.held_elsewhere(region, *index) && !self.holds_block(region, *index);
            // A block in which somebody claimed a single address cannot be claimed; nor one with nothing to give out.
            let whole = |index: &u32| {
                let mut addresses = self.layout.block_addresses(region, *index).peekable();
                addresses.peek().is_some() && !self.split(region, *index)
            };
            let candidates: Vec<u32> =
                (0..self.layout.blocks(region)).rev().filter(free).filter(whole).collect();
            return (!candidates.is_empty()).then_some(Allocation::NeedBlock { candidates });
        }
        let taken = |address: &IpAddr| {
            !self.free(*address)
                || self.foreign_addresses.contains(address)
                || self.addresses.contains(address)
        };
        let free: Vec<IpAddr> =
            self.layout.single_addresses(region).filter(|address| !taken(address)).collect();
        // Hosts begin at different places, so that they seldom want the same address at once.
        let begin = usize::try_from(self.number).unwrap_or(0).wrapping_mul(7).checked_rem(free.len())?;
        let candidates = free.iter().cycle().skip(begin).take(free.len().min(SINGLE_CANDIDATES_MAX));
        Some(Allocation::NeedAddress { candidates: candidates.copied().collect() })
    }

    fn split(&self, region: Region, index: u32) -> bool {
        let Some(AddressRange { first, last }) = self.layout.block_range(region, index) else { return true };
        self.foreign_addresses.range(first..=last).next().is_some()
    }
}

fn name_of(region: Region) -> &'static str {
    match region {
        Region::Endpoint => "endpoints",
        Region::Vip => "VIPs",
    }
}
