//! How long a settled removal is kept.
use super::*;
use crate::model::{NodeId, Stamp};

fn key(clock: u64) -> Key {
    Key::Network { name: "net".parse().unwrap(), born: Stamp { clock, node: NodeId(1) } }
}

#[test]
fn a_removal_is_withdrawn_a_day_after_it_was_settled() {
    let start = Instant::now();
    let hours = |hours: u64| start + Duration::from_secs(hours * 3_600);
    let mut settled = Settled::default();
    assert_eq!(settled.old(vec![key(1), key(2)], start), []);
    // One is asserted unremoved again for an hour: its day begins anew.
    assert_eq!(settled.old(vec![key(1)], hours(1)), []);
    assert_eq!(settled.old(vec![key(1), key(2)], hours(2)), []);
    assert_eq!(settled.old(vec![key(1), key(2)], hours(24)), [key(1)]);
    assert_eq!(settled.old(vec![key(2)], hours(26)), [key(2)]);
    assert_eq!(settled.old(Vec::new(), hours(27)), []);
    assert!(settled.0.is_empty());
}
