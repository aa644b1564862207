//! Whose turn it is.
use std::collections::BTreeSet;

use super::*;
use crate::runtime::claiming::steps::gaps;

#[test]
fn withdrawals_take_turns() {
    let keys: BTreeSet<u32> = (0..5).collect();
    let mut last = None;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let now = turn(keys.iter(), last.as_ref(), 2);
        last = now.last().copied();
        seen.extend(now);
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 0]);
    assert_eq!(turn(keys.iter(), Some(&9), 2), [0, 1]);
    assert_eq!(turn(BTreeSet::<u32>::new().iter(), Some(&9), 2), [0; 0]);
}

#[test]
fn numbers_of_which_nothing_is_known_are_asked_about() {
    let member = |number: u32| Member { number, node: NodeId(u64::from(number)) };
    let counted = BTreeSet::from([member(1), member(5), member(6)]);
    let removed = BTreeSet::from([member(3)]);
    let numbers =
        |heard| -> Vec<u32> { gaps(&counted, &removed, heard).into_iter().map(|gap| gap.number).collect() };
    assert_eq!(numbers(0), [2, 4]);
    // Above all known ones there may be some that joined and were removed while this host was away: who claims the next
    // number counts them, and would be refused for ever.
    assert_eq!(numbers(9), [2, 4, 7, 8]);
    assert!(gaps(&BTreeSet::new(), &BTreeSet::new(), 1).is_empty());
}
