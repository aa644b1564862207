//! Addresses that one host granted another of its block.
use super::*;
use crate::catalog::facts::Taken;
use crate::model::Stamp;

/// An address of block 9, say, that host `by` granted.
fn granted(text: &str, by: u64) -> ClaimKey {
    ClaimKey::Granted { network: "web".parse().unwrap(), address: text.parse().unwrap(), by: node(by) }
}

/// Who stands in the way.
fn in_the_way(reply: &Reply) -> Option<NodeId> {
    match reply {
        Reply::Taken { holder, .. } => Some(holder.claimant),
        _ => None,
    }
}

#[test]
fn a_granted_address_stays_its_takers_when_its_giver_is_removed() {
    let mut promises = member(1, 4);
    let view = [1, 2, 3, 4];
    // Number 3 has block 3, and so the address: an obstacle for whom it did not grant it.
    assert_eq!(in_the_way(&ask(&mut promises, &address("10.0.3.1"), 2, 1, &view)), Some(node(3)));
    assert!(promised(&ask(&mut promises, &granted("10.0.3.1", 3), 2, 1, &view)));
    promises.handle(Request::Removed { member: members(4)[2], table: Vec::new() }, &places);
    let view = [1, 2, 4];
    for (attempt, key) in [address("10.0.3.1"), block(3), granted("10.0.3.1", 3), granted("10.0.3.1", 1)]
        .into_iter()
        .enumerate()
    {
        let reply = ask(&mut promises, &key, 4, u64::try_from(attempt).unwrap() + 1, &view);
        assert_eq!(in_the_way(&reply), Some(node(2)), "{key:?}: {reply:?}");
    }
    assert!(promised(&ask(&mut promises, &address("10.0.3.2"), 4, 8, &view)));
    withdraw(&mut promises, &granted("10.0.3.1", 3), 2, 1);
    assert!(promised(&ask(&mut promises, &address("10.0.3.1"), 4, 9, &view)), "it was given back");
}

#[test]
fn a_claimed_block_is_no_obstacle_for_what_its_holder_granted_of_it() {
    let mut promises = member(1, 4);
    let view = [1, 2, 3, 4];
    assert!(promised(&ask(&mut promises, &block(9), 3, 1, &view)));
    assert_eq!(in_the_way(&ask(&mut promises, &granted("10.0.9.1", 4), 2, 1, &view)), Some(node(3)));
    assert!(promised(&ask(&mut promises, &granted("10.0.9.1", 3), 2, 2, &view)));
}

#[test]
fn what_was_claimed_or_taken_over_is_granted_to_nobody_else() {
    let mut promises = member(1, 4);
    let view = [1, 2, 3, 4];
    let since = Stamp { clock: 7, node: node(3) };
    let object = Taken::Address("10.0.3.1".parse().unwrap());
    let takeover = ClaimKey::Takeover { network: "web".parse().unwrap(), object, since };
    assert!(promised(&ask(&mut promises, &takeover, 2, 1, &view)));
    assert_eq!(in_the_way(&ask(&mut promises, &granted("10.0.3.1", 3), 4, 1, &view)), Some(node(2)));
    assert!(promised(&ask(&mut promises, &address("10.0.9.1"), 2, 2, &view)));
    assert_eq!(in_the_way(&ask(&mut promises, &granted("10.0.9.1", 3), 4, 2, &view)), Some(node(2)));
}

#[test]
fn a_network_that_is_not_known_has_nothing_to_grant() {
    let mut promises = member(1, 2);
    let key = ClaimKey::Granted {
        network: "other".parse().unwrap(),
        address: "10.0.2.1".parse().unwrap(),
        by: node(2),
    };
    assert!(matches!(ask(&mut promises, &key, 1, 1, &[1, 2]), Reply::NotReady { .. }));
}
