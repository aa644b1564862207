//! Joining is commutative, associative and idempotent over all states that an owner's history gives.
use proptest::prelude::*;

use super::world::{OWNERS, Write, assert_indexed, batch, node, states};
use crate::catalog::{Catalog, Delta, Head, Outcome, TOMBSTONE_AGE_MS};

/// What befalls an owner.
#[derive(Clone, Debug)]
enum Event {
    Write(Vec<Write>),
    Restart,
    /// The copy taken here has forgotten its tombstones.
    Copy {
        forgetful: bool,
    },
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let event = prop_oneof![
        4 => batch().prop_map(Event::Write),
        1 => Just(Event::Restart),
        3 => any::<bool>().prop_map(|forgetful| Event::Copy { forgetful }),
    ];
    (1..=OWNERS, event)
}

/// Catalogs that hosts may hold during one history: prefixes of each owner's, tombstones forgotten or not.
fn copies(events: &[(u64, Event)]) -> Vec<Catalog> {
    let mut truth = Catalog::default();
    let mut copies = vec![Catalog::default()];
    for (owner, event) in events {
        let head = truth.head(node(*owner));
        if head == Head::default() {
            truth.restart(node(*owner), 1);
        }
        match event {
            Event::Write(batch) => _ = truth.write(node(*owner), batch.clone()).unwrap(),
            Event::Restart => truth.restart(node(*owner), head.incarnation + 1),
            Event::Copy { forgetful } => {
                // Of one owner only, so that copies know different owners to different heads.
                let mut copy = copies.last().cloned().unwrap_or_default();
                if let Some(state) = truth.owner(node(*owner)) {
                    copy.apply_full(state.full(node(*owner)));
                }
                if *forgetful {
                    copy.forget_tombstones(0);
                    copy.forget_tombstones(TOMBSTONE_AGE_MS);
                }
                copies.push(copy);
            }
        }
    }
    copies.push(truth);
    copies
}

fn join(a: &Catalog, b: &Catalog) -> Catalog {
    let mut joined = a.clone();
    joined.merge(b);
    joined
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn join_is_a_semilattice(
        events in prop::collection::vec(event(), 1..40),
        picks in prop::array::uniform3(any::<prop::sample::Index>()),
    ) {
        let copies = copies(&events);
        let [a, b, c] = picks.map(|pick| pick.get(&copies));
        prop_assert_eq!(states(&join(a, a)), states(a), "idempotent");
        prop_assert_eq!(states(&join(a, b)), states(&join(b, a)), "commutative");
        prop_assert_eq!(states(&join(&join(a, b), c)), states(&join(a, &join(b, c))), "associative");
        assert_indexed(&join(a, b));
    }

    #[test]
    fn a_join_with_all_copies_in_any_order_is_the_truth(
        events in prop::collection::vec(event(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let copies = copies(&events);
        let mut joined = Catalog::default();
        for pick in &order {
            joined.merge(pick.get(&copies));
        }
        let truth = &copies[copies.len() - 1];
        joined.merge(truth);
        prop_assert_eq!(super::world::live(&joined), super::world::live(truth));
        assert_indexed(&joined);
    }

    #[test]
    fn json_keeps_everything(events in prop::collection::vec(event(), 1..20)) {
        for copy in copies(&events) {
            let json = serde_json::to_string(&copy).unwrap();
            let again: Catalog = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(states(&again), states(&copy));
        }
    }

    /// No honest owner sends these, and a host must neither panic nor lose its index.
    #[test]
    fn forged_deltas_do_no_harm(
        events in prop::collection::vec(event(), 1..10),
        forged in prop::collection::vec((1..=OWNERS, 0..4u64, 0..9u64, 0..9u64, batch(), 0..12u64), 1..10),
    ) {
        let mut catalog = copies(&events).pop().unwrap();
        for (owner, incarnation, base, head, batch, version) in forged {
            let entry = |(key, value)| crate::catalog::Entry { key, version, value };
            let entries = batch.into_iter().map(entry).collect();
            let delta = Delta { owner: node(owner), incarnation, base, head, entries };
            let before = states(&catalog);
            let applied = catalog.apply(delta);
            if applied.outcome != Outcome::Current {
                prop_assert!(applied.changes.is_empty());
                prop_assert_eq!(before, states(&catalog));
            }
            assert_indexed(&catalog);
        }
    }

    /// Two contents of one version, told in either order, end the same.
    #[test]
    fn ties_are_settled_alike(one in batch(), other in batch()) {
        let full = |batch: &[Write]| {
            let mut catalog = Catalog::default();
            catalog.restart(node(1), 1);
            catalog.write(node(1), batch.to_vec()).unwrap();
            catalog
        };
        let (one, other) = (full(&one), full(&other));
        prop_assert_eq!(states(&join(&one, &other)), states(&join(&other, &one)));
    }
}
