//! Which address comes next, and which is refused.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::catalog::facts::Region;
use crate::model::Name;

/// What an [`Allocator`] looks at, owned.
#[derive(Clone)]
struct Host {
    layout: Layout,
    number: u32,
    members: BTreeSet<u32>,
    blocks: BTreeSet<(Region, u32)>,
    addresses: BTreeSet<IpAddr>,
    foreign_blocks: BTreeSet<(Region, u32)>,
    foreign_addresses: BTreeSet<IpAddr>,
    in_use: BTreeMap<IpAddr, Name>,
    freed_ms: BTreeMap<IpAddr, u64>,
    now_ms: u64,
    may_claim: bool,
}

impl Host {
    fn new(subnet: &str, number: u32) -> Self {
        Self {
            layout: Layout::new(subnet.parse().unwrap()).unwrap(),
            number,
            members: [1, 2, 3].into(),
            blocks: BTreeSet::new(),
            addresses: BTreeSet::new(),
            foreign_blocks: BTreeSet::new(),
            foreign_addresses: BTreeSet::new(),
            in_use: BTreeMap::new(),
            freed_ms: BTreeMap::new(),
            now_ms: 1_000_000,
            may_claim: true,
        }
    }

    fn allocator(&self) -> Allocator<'_> {
        Allocator {
            layout: self.layout,
            number: self.number,
            members: &self.members,
            blocks: &self.blocks,
            addresses: &self.addresses,
            foreign_blocks: &self.foreign_blocks,
            foreign_addresses: &self.foreign_addresses,
            uses: self,
            now_ms: self.now_ms,
            may_claim: self.may_claim,
        }
    }

    fn any(&self, region: Region) -> Allocation {
        self.allocator().allocate(region, Wanted::Any).unwrap()
    }

    fn exactly(&self, text: &str) -> Result<Allocation, IpRefusal> {
        self.allocator().allocate(Region::Endpoint, Wanted::Exactly(ip(text)))
    }

    fn fill_own_block(&mut self) {
        for address in self.layout.block_addresses(Region::Endpoint, self.number) {
            self.in_use.insert(address, name("web"));
        }
    }
}

impl Uses for Host {
    fn in_use(&self, address: IpAddr) -> Option<&Name> {
        self.in_use.get(&address)
    }

    fn freed_ms(&self, address: IpAddr) -> Option<u64> {
        self.freed_ms.get(&address).copied()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn gives(text: &str) -> Allocation {
    Allocation::Address { address: ip(text), rested_short: false }
}

#[test]
fn addresses_come_from_the_own_block() {
    let mut host = Host::new("10.128.0.0/16", 2);
    assert_eq!(host.any(Region::Endpoint), gives("10.128.0.128"));
    assert_eq!(host.any(Region::Vip), gives("10.128.224.16"));
    host.in_use.insert(ip("10.128.0.128"), name("web"));
    assert_eq!(host.any(Region::Endpoint), gives("10.128.0.129"));
}

#[test]
fn the_address_freed_longest_ago_comes_first_and_none_before_its_rest() {
    let mut host = Host::new("10.0.0.0/19", 1);
    for (at, address) in host.layout.block_addresses(Region::Endpoint, 1).enumerate() {
        host.freed_ms.insert(address, 900_000 - at as u64);
    }
    assert_eq!(host.any(Region::Endpoint), gives("10.0.0.15"));
    host.now_ms = 950_000;
    assert!(matches!(host.any(Region::Endpoint), Allocation::NeedBlock { .. }));
    host.may_claim = false;
    let early = Allocation::Address { address: ip("10.0.0.15"), rested_short: true };
    assert_eq!(host.any(Region::Endpoint), early);
}

#[test]
fn further_blocks_are_claimed_from_the_top() {
    let mut host = Host::new("10.128.0.0/16", 1);
    host.fill_own_block();
    host.foreign_blocks.insert((Region::Endpoint, 895));
    // Somebody's single address lies in 894.
    host.foreign_addresses.insert(host.layout.block_range(Region::Endpoint, 894).unwrap().first);
    let Allocation::NeedBlock { candidates } = host.any(Region::Endpoint) else { panic!("no block wanted") };
    assert_eq!(candidates[..2], [893, 892]);
    assert!(![1, 2, 3].iter().any(|number| candidates.contains(number)));
    host.blocks.insert((Region::Endpoint, 893));
    assert_eq!(host.any(Region::Endpoint), gives("10.128.223.64"));
}

#[test]
fn what_was_promised_before_the_number_is_left_out() {
    let mut host = Host::new("10.128.0.0/16", 2);
    host.foreign_addresses.insert(ip("10.128.0.128"));
    assert_eq!(host.any(Region::Endpoint), gives("10.128.0.129"));
    assert_eq!(host.exactly("10.128.0.128"), Err(IpRefusal::HeldElsewhere { address: ip("10.128.0.128") }));
    host.foreign_blocks.insert((Region::Endpoint, 2));
    assert!(matches!(host.any(Region::Endpoint), Allocation::NeedBlock { .. }));
    assert!(matches!(host.exactly("10.128.0.130"), Ok(Allocation::RequestOther { index: 2, .. })));
}

#[test]
fn a_minority_says_what_is_missing() {
    let mut host = Host::new("10.128.0.0/16", 1);
    host.fill_own_block();
    host.may_claim = false;
    let Allocation::Exhausted(why) = host.any(Region::Endpoint) else { panic!("not exhausted") };
    assert!(why.to_string().contains("needs a majority of all members"), "{why}");
    host.may_claim = true;
    host.foreign_blocks = (0..ENDPOINT_BLOCKS).filter(|&n| n != 1).map(|n| (Region::Endpoint, n)).collect();
    let Allocation::Exhausted(why) = host.any(Region::Endpoint) else { panic!("not exhausted") };
    assert!(why.to_string().contains("use a larger subnet"), "{why}");
}

#[test]
fn a_small_subnet_claims_single_addresses() {
    let mut host = Host::new("10.0.0.0/28", 1);
    let Allocation::NeedAddress { candidates } = host.any(Region::Endpoint) else {
        panic!("nothing to claim")
    };
    assert_eq!(candidates.len(), 12);
    let other = Host { number: 2, ..host.clone() };
    assert_ne!(other.any(Region::Endpoint), host.any(Region::Endpoint));
    host.addresses.insert(candidates[0]);
    assert_eq!(
        host.any(Region::Endpoint),
        Allocation::Address { address: candidates[0], rested_short: false }
    );
    host.in_use.insert(candidates[0], name("web"));
    host.foreign_addresses.extend(&candidates[1..]);
    assert!(matches!(host.any(Region::Endpoint), Allocation::Exhausted(Exhausted::Region { .. })));
    assert!(!host.allocator().wants_block_ahead(Region::Endpoint));
}

#[test]
fn a_requested_address_is_granted_asked_for_or_claimed() {
    let host = Host::new("10.128.0.0/16", 2);
    assert_eq!(host.exactly("10.128.0.130").unwrap(), gives("10.128.0.130"));
    let other = Allocation::RequestOther { region: Region::Endpoint, index: 3 };
    assert_eq!(host.exactly("10.128.0.200").unwrap(), other);
    let nobodys = Allocation::NeedAddress { candidates: vec![ip("10.128.1.5")] };
    assert_eq!(host.exactly("10.128.1.5").unwrap(), nobodys);
}

#[test]
fn a_requested_address_is_refused_with_the_reason() {
    let mut host = Host::new("10.128.0.0/16", 2);
    host.in_use.insert(ip("10.128.0.130"), name("web"));
    let refusal = |text| host.exactly(text).unwrap_err().to_string();
    assert_eq!(
        refusal("10.1.2.3"),
        "10.1.2.3 is not in 10.128.0.0/16; choose one from 10.128.0.0 to 10.128.223.255"
    );
    assert!(refusal("fd00::1").contains("is not in 10.128.0.0/16"));
    assert!(refusal("10.128.0.0").contains("is the network address of"));
    assert!(refusal("10.128.0.1").contains("is the gateway of"));
    assert!(refusal("10.128.255.255").contains("is the broadcast address of"));
    assert!(
        refusal("10.128.224.9").contains("which is for VIPs; choose one from 10.128.0.0 to 10.128.223.255")
    );
    assert!(refusal("10.128.0.130").contains("is in use by \"web\""));
}

#[test]
fn a_block_is_claimed_before_the_last_quarter_is_used_up() {
    let mut host = Host::new("10.128.0.0/16", 1);
    let addresses: Vec<IpAddr> = host.layout.block_addresses(Region::Endpoint, 1).collect();
    host.in_use = addresses[..48].iter().map(|&address| (address, name("web"))).collect();
    assert!(!host.allocator().wants_block_ahead(Region::Endpoint));
    assert_eq!(host.allocator().block_ahead(Region::Endpoint), None);
    host.in_use.insert(addresses[48], name("web"));
    assert!(host.allocator().wants_block_ahead(Region::Endpoint));
    let ahead = host.allocator().block_ahead(Region::Endpoint).unwrap();
    assert_eq!(ahead[..2], [895, 894], "{ahead:?}");
}

proptest! {
    /// Hosts that allocate to exhaustion without hearing of each other, as in a partition, never give out the same address.
    #[test]
    fn two_numbers_never_share_an_address(prefix in 14_u8..=19, one in 1..=895_u32, step in 1..=894_u32, vip in any::<bool>()) {
        let region = if vip { Region::Vip } else { Region::Endpoint };
        let other = (one - 1 + step) % 895 + 1;
        let mut seen = BTreeSet::new();
        for number in [one, other] {
            let mut host = Host { may_claim: false, ..Host::new(&format!("10.64.0.0/{}", prefix.max(12)), number) };
            while let Allocation::Address { address, .. } = host.any(region) {
                prop_assert!(seen.insert(address), "{address} twice");
                prop_assert_eq!(host.layout.reserved(address), None);
                host.in_use.insert(address, name("web"));
            }
        }
        prop_assert!(!seen.is_empty());
    }
}
