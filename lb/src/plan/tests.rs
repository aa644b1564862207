use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::plan;
use crate::element::{Chain, Element};
use crate::mirror::Mirror;
use crate::slots::shares;
use crate::wanted::{Scope, Wanted, WantedVip};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

fn wanted(replicas: &[u8]) -> Wanted<Ipv4Addr> {
    let weights: Vec<_> = replicas.iter().map(|last| (Ipv4Addr::new(10, 128, 0, *last), 1)).collect();
    let vip = WantedVip { shares: shares(&weights), ports: Vec::new() };
    Wanted {
        scope: Scope::All(HashMap::from([(VIP, vip)])),
        ranges: BTreeMap::new(),
        redirects: BTreeMap::new(),
    }
}

/// The mirror after a fresh load.
fn loaded(replicas: &[u8]) -> Mirror<Ipv4Addr> {
    let mut mirror = Mirror::default();
    mirror.apply(&plan(&wanted(replicas), None).transaction);
    mirror
}

#[test]
fn a_second_plan_is_empty() {
    let again = plan(&wanted(&[1, 2, 3]), Some(&loaded(&[1, 2, 3])));
    assert!(again.transaction.is_empty() && !again.pending, "{again:?}");
}

#[test]
fn a_replacement_is_one_slot_deleted_and_added() {
    let plan = plan(&wanted(&[1, 2, 4]), Some(&loaded(&[1, 2, 3])));
    let slot = |last| Element::Slot { vip: VIP, slot: 2, replica: Ipv4Addr::new(10, 128, 0, last) };
    assert_eq!((plan.transaction.delete, plan.transaction.add), (vec![slot(3)], vec![slot(4)]));
    assert!(plan.transaction.add_chains.is_empty() && !plan.pending);
}

#[test]
fn a_class_is_never_left_with_a_slot_that_is_deleted_with_it() {
    let mut mirror = loaded(&[1, 2, 3]);
    let mut steps = 0;
    loop {
        let plan = plan(&wanted(&[1]), Some(&mirror));
        let relinks = plan.transaction.add.iter().any(|element| matches!(element, Element::Vip { .. }));
        let before = mirror.vips[&VIP].slots.len();
        mirror.apply(&plan.transaction);
        let shrinks = mirror.vips[&VIP].slots.len() < before;
        assert!(!(relinks && shrinks), "{plan:?}");
        let entry = &mirror.vips[&VIP];
        assert!(entry.slots.len() >= usize::from(entry.class), "{entry:?}");
        steps += 1;
        if !plan.pending {
            break;
        }
    }
    assert_eq!((steps, mirror.vips[&VIP].slots.len()), (3, 1));
}

#[test]
fn a_class_beyond_the_fixed_ones_comes_with_its_first_user_and_goes_after_its_last() {
    let many: Vec<u8> = (1..=40).collect();
    let mut mirror = loaded(&many);
    assert!(mirror.chains.contains(&Chain::Class(40)));
    for _ in 0..5 {
        let plan = plan(&wanted(&[1]), Some(&mirror));
        if plan.transaction.delete_chains == [Chain::Class(40)] {
            assert_eq!(plan.transaction.changes(), 1);
        }
        mirror.apply(&plan.transaction);
    }
    assert!(!mirror.chains.contains(&Chain::Class(40)));
    assert_eq!(mirror, loaded(&[1]));
}

#[test]
fn the_mirror_that_follows_equals_the_mirror_that_is_read() {
    let mut mirror = loaded(&[1, 2, 3]);
    mirror.apply(&plan(&wanted(&[4, 5]), Some(&mirror)).transaction);
    let mut read = Mirror::from_elements(mirror.elements());
    read.chains.clone_from(&mirror.chains);
    assert_eq!(read, mirror);
}
