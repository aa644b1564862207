//! The division of a subnet: examples, and properties over all subnets.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use super::*;
use crate::catalog::facts::Region;

fn layout(subnet: &str) -> Layout {
    Layout::new(subnet.parse().unwrap()).unwrap()
}

fn range(layout: &Layout, region: Region, index: u32) -> String {
    layout.block_range(region, index).unwrap().to_string()
}

#[test]
fn a_16_gives_64_endpoints_and_8_vips_per_number() {
    let layout = layout("10.128.0.0/16");
    assert_eq!(layout.block_size(Region::Endpoint), Some(64));
    assert_eq!(layout.block_size(Region::Vip), Some(8));
    assert_eq!(range(&layout, Region::Endpoint, 1), "10.128.0.64 to 10.128.0.127");
    assert_eq!(range(&layout, Region::Vip, 1), "10.128.224.8 to 10.128.224.15");
    assert_eq!(layout.vip_prefix().to_string(), "10.128.224.0/19");
    assert_eq!(layout.gateway().to_string(), "10.128.0.1");
    assert_eq!(layout.capacity(Region::Endpoint), 57_342);
    assert_eq!(layout.capacity(Region::Vip), 8_191);
    assert_eq!(layout.nodes_max(), 895);
}

#[test]
fn blocks_scale_with_the_subnet() {
    for (subnet, endpoints, vips) in [
        ("10.0.0.0/12", 1024, 128),
        ("10.0.0.0/19", 8, 1),
        ("fd00::/64", 65_536, 8_192),
        ("fd00::/108", 1024, 128),
    ] {
        let layout = layout(subnet);
        assert_eq!(layout.block_size(Region::Endpoint), Some(endpoints), "{subnet}");
        assert_eq!(layout.block_size(Region::Vip), Some(vips), "{subnet}");
    }
    assert_eq!(layout("10.0.0.0/20").block_size(Region::Endpoint), None);
    assert_eq!(layout("10.0.0.0/20").nodes_max(), 0);
}

#[test]
fn small_subnets_have_single_addresses() {
    let texts = |layout: &Layout, region| {
        layout.single_addresses(region).map(|address| address.to_string()).collect::<Vec<_>>()
    };
    let smallest = layout("10.0.0.0/29");
    assert_eq!(texts(&smallest, Region::Endpoint), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    assert_eq!(texts(&smallest, Region::Vip), ["10.0.0.6"]);
    assert_eq!(smallest.capacity(Region::Endpoint), 4);
    assert_eq!(smallest.capacity(Region::Vip), 1);
    let larger = layout("10.0.0.0/24");
    assert_eq!(larger.capacity(Region::Endpoint), 222);
    assert_eq!(larger.capacity(Region::Vip), 31);
    assert_eq!(texts(&layout("10.0.0.0/16"), Region::Vip), Vec::<String>::new());
}

#[test]
fn bad_subnets_are_refused_with_what_to_do() {
    let refusal = |text: &str| Layout::new(text.parse().unwrap()).unwrap_err().to_string();
    assert!(refusal("10.0.0.0/30").contains("use a prefix length of /29 or shorter"));
    assert!(refusal("fd00::/126").contains("/125"));
    assert!(refusal("10.0.0.0/7").contains("/8 or longer"));
    assert!(refusal("10.1.2.3/16").contains("did you mean 10.1.0.0/16"));
    for special in [
        "127.0.0.0/16",
        "224.0.0.0/16",
        "169.254.0.0/24",
        "0.0.0.0/8",
        "255.255.255.0/24",
        "fe80::/64",
        "ff02::/64",
    ] {
        assert!(refusal(special).contains("overlaps"), "{special}");
    }
}

fn subnets() -> impl Strategy<Value = IpNetwork> {
    let v4 = (any::<u32>(), 8_u8..=29).prop_map(|(bits, prefix)| {
        let address = Ipv4Addr::from((bits & 0x00ff_ffff | 0x0a00_0000) & (u32::MAX << (32 - prefix)));
        IpNetwork::new(IpAddr::V4(address), prefix).unwrap()
    });
    let v6 = (any::<u128>(), 32_u8..=125).prop_map(|(bits, prefix)| {
        let ula = bits >> 8 | 0xfd << 120;
        let address = Ipv6Addr::from(ula & (u128::MAX << (128 - prefix)));
        IpNetwork::new(IpAddr::V6(address), prefix).unwrap()
    });
    prop_oneof![v4, v6]
}

proptest! {
    /// Every address of a block is found in that block and no other, lies in its region, and no reserved one is given out:
    /// so blocks are disjoint, and two node numbers never share an address.
    #[test]
    fn blocks_and_addresses_agree(subnet in subnets(), vip in any::<bool>(), index in 0..1100_u32, pick in any::<u32>()) {
        let layout = Layout::new(subnet).unwrap();
        let region = if vip { Region::Vip } else { Region::Endpoint };
        let Some(range) = layout.block_range(region, index) else {
            prop_assert!(index >= layout.blocks(region));
            prop_assert_eq!(layout.block_addresses(region, index).count(), 0);
            return Ok(());
        };
        prop_assert!(index < layout.blocks(region));
        let size = layout.block_size(region).unwrap();
        for address in layout.block_addresses(region, index).skip((pick % size) as usize).take(3).chain([range.first, range.last]) {
            prop_assert!(subnet.contains(address));
            prop_assert_eq!(layout.block_of(address), Some((region, index)));
            prop_assert_eq!(layout.region_of(address), Some(region));
            prop_assert!(range.first <= address && address <= range.last);
        }
        prop_assert!(layout.block_addresses(region, index).all(|address| layout.reserved(address).is_none()));
    }

    /// Any address of the subnet is in exactly one region; in the VIP region if and only if it has the VIP prefix; with blocks,
    /// an IPv4 address always has one. Addresses outside are in none.
    #[test]
    fn regions_cover_the_subnet(subnet in subnets(), offset in any::<u128>(), low in any::<u32>(), foreign in any::<u32>()) {
        let layout = Layout::new(subnet).unwrap();
        let address: IpAddr = match subnet {
            IpNetwork::V4(v4) => Ipv4Addr::from(u32::from(v4.network()) | low & !u32::from(v4.mask())).into(),
            IpNetwork::V6(v6) => Ipv6Addr::from(u128::from(v6.network()) | offset & !u128::from(v6.mask())).into(),
        };
        let region = layout.region_of(address).unwrap();
        prop_assert_eq!(region == Region::Vip, layout.vip_prefix().contains(address));
        let range = layout.region_range(region);
        prop_assert!(range.first <= address && address <= range.last);
        if layout.has_blocks() && subnet.is_ipv4() {
            let (of, index) = layout.block_of(address).unwrap();
            prop_assert_eq!(of, region);
            let block = layout.block_range(region, index).unwrap();
            prop_assert!(block.first <= address && address <= block.last);
        }
        let outside = IpAddr::V4(Ipv4Addr::from(foreign));
        if !subnet.contains(outside) {
            prop_assert_eq!(layout.region_of(outside), None);
            prop_assert_eq!(layout.block_of(outside), None);
            prop_assert_eq!(layout.reserved(outside), None);
        }
    }

    /// Capacity is what the blocks or single addresses come to.
    #[test]
    fn capacity_is_what_can_be_given_out(prefix in 18_u8..=29, vip in any::<bool>()) {
        let region = if vip { Region::Vip } else { Region::Endpoint };
        let layout = Layout::new(IpNetwork::new("10.0.0.0".parse().unwrap(), prefix).unwrap()).unwrap();
        let in_blocks: usize = (0..layout.blocks(region)).map(|index| layout.block_addresses(region, index).count()).sum();
        let single = layout.single_addresses(region).count();
        prop_assert_eq!(layout.capacity(region), (in_blocks + single) as u128);
    }
}
