//! MACs, default subnets and VNIs.
use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::*;

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_mac_follows_from_the_address() {
    assert_eq!(format_mac(mac_for("10.128.0.5".parse().unwrap())), "02:42:0a:80:00:05");
    assert_eq!(format_mac(mac_for("fd00::ab:1:2".parse().unwrap())), "06:ab:00:01:00:02");
    for text in ["02:42:0a:80:00:05", "02-42-0A-80-00-05"] {
        assert_eq!(parse_mac(text).unwrap(), [0x02, 0x42, 10, 128, 0, 5]);
    }
}

#[test]
fn a_mac_that_no_interface_can_have_is_refused() {
    for text in [
        "",
        "02:42:0a:80:00",
        "02:42:0a:80:00:05:06",
        "02:42:0a:80:00:5",
        "02:42:0a:80:00:+5",
        "0242.0a80.0005",
        "00:00:00:00:00:00",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "02:42-0a:80:00:05",
        "02:42:0a:80:00:é",
    ] {
        let refusal = parse_mac(text).unwrap_err().to_string();
        assert!(refusal.contains("use the form 02:42:0a:80:00:05"), "{refusal}");
    }
}

fn pool() -> ipnetwork::Ipv4Network {
    "10.128.0.0/9".parse().unwrap()
}

#[test]
fn a_default_subnet_follows_from_the_name_and_avoids_what_is_taken() {
    let first = default_subnet("default", pool(), &[]).unwrap();
    assert_eq!(Some(first), default_subnet("default", pool(), &[]));
    assert_eq!(first.prefix(), 16);
    assert!("10.128.0.0/9".parse::<IpNetwork>().unwrap().contains(first.network()));
    let second = default_subnet("default", pool(), &[first]).unwrap();
    assert!(!overlaps(&first, &second));
    assert_eq!(
        Some(first),
        default_subnet("default", pool(), &networks(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0"]))
    );
    assert_eq!(None, default_subnet("default", pool(), &networks(&["10.0.0.0/8"])));
    let left = networks(&[
        "10.128.0.0/10",
        "10.192.0.0/11",
        "10.224.0.0/12",
        "10.240.0.0/13",
        "10.248.0.0/14",
        "10.252.0.0/15",
        "10.255.3.0/24",
    ]);
    assert_eq!(default_subnet("default", pool(), &left).unwrap().to_string(), "10.254.0.0/16");
}

#[test]
fn p49_a_default_ipv6_subnet_follows_from_the_cluster_and_the_name() {
    let pool = pool_six("b6f1c0ffee");
    assert_eq!((pool.prefix(), pool), (48, pool_six("b6f1c0ffee")));
    let octets = pool.network().octets();
    assert_eq!((octets[0], &octets[6..]), (0xfd, &[0; 10][..]), "{pool}");
    let pools: BTreeSet<_> = (0..1000).map(|n| pool_six(&format!("cluster {n}"))).collect();
    assert_eq!(pools.len(), 1000, "no two clusters meet");
    let first = default_subnet_six("default", pool, &[]).unwrap();
    assert_eq!((first.prefix(), Some(first)), (64, default_subnet_six("default", pool, &[])));
    assert!(pool.contains(first.network().to_string().parse().unwrap()) && Layout::new(first).is_ok());
    let second = default_subnet_six("default", pool, &[first]).unwrap();
    assert!(!overlaps(&first, &second));
    assert_eq!(
        Some(first),
        default_subnet_six("default", pool, &networks(&["::/0", "8000::/1", "10.0.0.0/8"]))
    );
    assert_eq!(None, default_subnet_six("default", pool, &networks(&["fd00::/8"])));
    let starts: BTreeSet<_> =
        (0..100).filter_map(|n| default_subnet_six(&format!("net{n}"), pool, &[])).collect();
    assert!(starts.len() > 95, "names should seldom meet: {}", starts.len());
}

#[test]
fn overlaps_are_found_within_a_family() {
    let taken = networks(&["0.0.0.0/0", "192.168.0.0/16", "10.1.2.0/24", "fd00::/8"]);
    let found = |text: &str| first_overlap(&text.parse().unwrap(), &taken).map(ToString::to_string);
    assert_eq!(found("10.1.0.0/16").as_deref(), Some("10.1.2.0/24"));
    assert_eq!(found("192.168.7.0/24").as_deref(), Some("192.168.0.0/16"));
    assert_eq!(found("fd12::/64").as_deref(), Some("fd00::/8"));
    assert_eq!(found("10.2.0.0/16"), None);
}

#[test]
fn vnis_are_tried_in_an_order_that_the_name_decides() {
    let first: Vec<u32> = vni_candidates("default").take(100).collect();
    assert_eq!(first, vni_candidates("default").take(100).collect::<Vec<_>>());
    assert!(first.iter().all(|vni| (VNI_CHOSEN_FIRST..=VNI_CHOSEN_LAST).contains(vni)));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 100);
    let starts: BTreeSet<u32> = (0..1000).filter_map(|n| vni_candidates(&format!("net{n}")).next()).collect();
    assert!(starts.len() > 990, "names should seldom meet: {}", starts.len());
}

#[test]
fn a_vni_has_24_bits() {
    assert_eq!(check_vni(1), Ok(1));
    assert_eq!(check_vni(16_777_215), Ok(16_777_215));
    assert!(check_vni(0).unwrap_err().to_string().contains("use 1 to 16777215"));
    assert!(check_vni(16_777_216).is_err() && check_vni(VNI_PATHS).is_err());
}
