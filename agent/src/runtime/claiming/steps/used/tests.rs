use super::*;
use crate::catalog::facts::Value;
use crate::catalog::tests::world::{
    address, attachment, attachment_key, name, network, network_key, node, service, service_key, stamp,
};
use crate::catalog::{Catalog, Update};
use crate::runtime::claiming::Books;
use crate::runtime::local::{LocalAttachment, StoredPlace};

/// A /16: blocks of 64 addresses, and of 64 VIPs.
const SUBNET: &str = "10.65.0.0/16";
const NETWORK: &str = "beta";
/// Of block 6, whose holder is not there any more.
const GRANTED: &str = "10.65.1.130";

/// What host 1 knows: the network, an attachment of host 2 with an address of block 6, and a service that it made.
fn state() -> State {
    let mut catalog = Catalog::default();
    for owner in 1..=2 {
        catalog.restart(node(owner), 1);
    }
    let made = Value::Network(network(stamp(1, 2), SUBNET));
    let (vip, _) = block(Region::Vip, 6);
    let facts = vec![
        (network_key(NETWORK, stamp(1, 2)), Some(made)),
        (attachment_key(NETWORK, "web"), Some(attachment(&[GRANTED], stamp(5, 2)))),
        (
            service_key(NETWORK, "pay", stamp(6, 2)),
            Some(Value::Service(service(stamp(6, 2), &vip.to_string()))),
        ),
    ];
    let (delta, _) = catalog.write(node(2), facts).unwrap();
    catalog.apply_update(Update::Delta(delta));
    State::new(catalog, Books::new(node(1)), node(1))
}

fn block(region: Region, index: u32) -> (IpAddr, ClaimKey) {
    let layout = Layout::new(SUBNET.parse().unwrap()).unwrap();
    let first = layout.block_addresses(region, index).next().unwrap();
    (first, ClaimKey::Block { network: name(NETWORK), region, index })
}

/// Who stands in the way of a claimant.
fn holder(state: &State, key: &ClaimKey, claimant: u64) -> Option<NodeId> {
    match refusal(state, key, node(claimant), 7)? {
        Reply::Taken { key: of, attempt: 7, holder } if of == *key => Some(holder.claimant),
        other => panic!("{other:?}"),
    }
}

/// Seed 7972 of the simulation: the host that had granted an address left, and one that had been cut off claimed it.
#[test]
fn an_address_that_is_in_use_is_promised_to_its_user_alone_also_once_who_granted_it_is_removed() {
    let state = state();
    let single = |ip| ClaimKey::Address { network: name(NETWORK), address: address(ip) };
    assert_eq!(holder(&state, &single(GRANTED), 3), Some(node(2)));
    assert_eq!(holder(&state, &single(GRANTED), 2), None);
    assert_eq!(holder(&state, &single("10.65.1.131"), 3), None);
    let granted = ClaimKey::Granted { network: name(NETWORK), address: address(GRANTED), by: node(4) };
    assert_eq!(holder(&state, &granted, 3), Some(node(2)));
    assert_eq!(holder(&state, &granted, 2), None);
    let (_, around) = block(Region::Endpoint, 6);
    assert_eq!(holder(&state, &around, 3), Some(node(2)));
    assert_eq!(holder(&state, &around, 2), None);
    for index in [5, 7] {
        assert_eq!(holder(&state, &block(Region::Endpoint, index).1, 3), None);
    }
}

#[test]
fn a_block_of_vips_is_promised_to_nobody_but_who_made_the_service_that_has_one_of_them() {
    let state = state();
    let (_, around) = block(Region::Vip, 6);
    assert_eq!(holder(&state, &around, 3), Some(node(2)));
    assert_eq!(holder(&state, &around, 2), None);
    assert_eq!(holder(&state, &block(Region::Vip, 7).1, 3), None);
}

#[test]
fn what_this_host_reserves_is_in_use_before_anybody_is_told() {
    let mut state = state();
    let reserved = "10.65.1.140";
    let record = LocalAttachment {
        network: name(NETWORK),
        name: name("new"),
        place: StoredPlace::Host,
        boot_id: String::new(),
        cookie: 1,
        addresses: vec![address(reserved)],
        mac: String::new(),
        aliases: Vec::new(),
        default_route: false,
        order: 0,
        since: stamp(8, 1),
        succeeds: Vec::new(),
        resolv_conf: None,
        endpoint: None,
        announced: false,
        detaching: false,
    };
    let key = (record.network.clone(), record.name.clone());
    state.local.insert(key, record);
    let single = ClaimKey::Address { network: name(NETWORK), address: address(reserved) };
    assert_eq!(holder(&state, &single, 3), Some(node(1)));
    assert_eq!(holder(&state, &single, 1), None);
}
