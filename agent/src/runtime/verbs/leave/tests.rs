//! What a host that goes leaves behind.
use super::*;
use crate::catalog::tests::world::{host, name, network, network_key, node, stamp};

/// Node 1 alone asserts `alpha`; nodes 1 to 5 are hosts.
fn world() -> (Catalog, Update) {
    let mut catalog = Catalog::default();
    for id in 1..=5 {
        catalog.restart(node(id), 1);
        catalog.write(node(id), vec![(Key::Host, Some(host("192.0.2.1", 1500)))]).unwrap();
    }
    let born = stamp(1, 1);
    let definition = Value::Network(network(born, "10.0.0.0/16"));
    catalog.write(node(1), vec![(network_key("alpha", born), Some(definition))]).unwrap();
    let mut gone = catalog.clone();
    let batch = vec![(Key::Removed { node: node(1) }, Some(Value::Removed))];
    let (delta, _) = gone.write(node(1), batch).unwrap();
    (catalog, Update::Delta(delta))
}

#[test]
fn a_network_without_users_does_not_die_with_its_maker() {
    let (mut catalog, update) = world();
    let stake = at_stake(&catalog, &update);
    assert_eq!(stake.len(), 1);
    catalog.apply_update(update.clone());
    assert!(catalog.network(&name("alpha")).is_none());
    let suspended = BTreeSet::from([node(2)]);
    let heirs: Vec<u64> =
        (1..=5).filter(|id| !taken_over(&catalog, &suspended, node(*id), stake.clone()).is_empty()).collect();
    assert_eq!(heirs, [3, 4, 5]);
    let taken = taken_over(&catalog, &suspended, node(3), stake.clone());
    let batch = taken.into_iter().map(|(key, value)| (key, Some(value))).collect();
    catalog.write(node(3), batch).unwrap();
    assert!(catalog.network(&name("alpha")).is_some());
    assert!(taken_over(&catalog, &suspended, node(4), stake).is_empty(), "somebody has it already");
    assert!(at_stake(&catalog, &update).is_empty(), "the removal is known already");
}

/// Also where a host that missed the removal takes what it knows for an orphan and writes it again (seed 11648 of the
/// simulation: a service came back with a VIP that another one had by then).
#[test]
fn what_was_removed_stays_removed() {
    let ((mut catalog, _), (mut away, _)) = (world(), world());
    let born = stamp(1, 1);
    let removed = crate::catalog::facts::NetworkDefinition {
        removed: true,
        revision: stamp(9, 1),
        ..network(born, "10.0.0.0/16")
    };
    catalog.write(node(1), vec![(network_key("alpha", born), Some(Value::Network(removed)))]).unwrap();
    let said = || vec![(Key::Removed { node: node(1) }, Some(Value::Removed))];
    let (left, _) = catalog.clone().write(node(1), said()).unwrap();
    let kept = take_over(&mut catalog, Update::Delta(left), 2);
    assert!(catalog.network(&name("alpha")).is_none());

    // Of the host that left it hears through another one.
    let (left, _) = catalog.write(node(2), said()).unwrap();
    let (kept, _) = catalog.write(node(2), kept).unwrap();
    let orphans = take_over(&mut away, Update::Delta(left), 3);
    away.write(node(3), orphans).unwrap();
    assert!(away.network(&name("alpha")).is_some());
    away.apply_update(Update::Delta(kept));
    assert!(away.network(&name("alpha")).is_none());
}

/// What a host takes over when it hears of a removal: one definition.
fn take_over(catalog: &mut Catalog, update: Update, at: u64) -> Vec<(Key, Option<Value>)> {
    let stake = at_stake(catalog, &update);
    catalog.apply_update(update);
    let taken = taken_over(catalog, &BTreeSet::new(), node(at), stake);
    assert_eq!(taken.len(), 1);
    taken.into_iter().map(|(key, value)| (key, Some(value))).collect()
}
