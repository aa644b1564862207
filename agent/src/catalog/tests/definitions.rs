//! Many owners' assertions become one definition, and none dies with a host.
use super::world::*;
use crate::catalog::facts::*;
use crate::catalog::{Catalog, Changes};
use crate::model::NodeId;

fn cluster() -> Catalog {
    let mut catalog = Catalog::default();
    for id in 1..=3 {
        catalog.restart(node(id), 1);
    }
    catalog
}

fn say(catalog: &mut Catalog, owner: u64, key: Key, value: Value) -> Changes {
    catalog.write(node(owner), vec![(key, Some(value))]).unwrap().1
}

/// Writes what every owner owes until nobody owes anything.
fn settle(catalog: &mut Catalog, mut changes: Changes) {
    for _ in 0..4 {
        let mut next = Changes::default();
        for id in 1..=3 {
            let owed = catalog.reassertions(node(id), &changes);
            let batch = owed.into_iter().map(|(key, value)| (key, Some(value))).collect();
            next.extend(catalog.write(node(id), batch).unwrap().1);
        }
        if next.is_empty() {
            return;
        }
        changes = next;
    }
    panic!("still something owed after four rounds");
}

fn asserters(catalog: &Catalog, key: &Key) -> Vec<NodeId> {
    (1..=3).map(node).filter(|owner| catalog.value(*owner, key).is_some()).collect()
}

#[test]
fn the_older_network_stands_and_the_younger_is_told() {
    let mut catalog = cluster();
    let (older, younger) = (stamp(3, 1), stamp(3, 2));
    say(&mut catalog, 2, network_key("alpha", younger), Value::Network(network(younger, "10.1.0.0/24")));
    let changes =
        say(&mut catalog, 1, network_key("alpha", older), Value::Network(network(older, "10.0.0.0/24")));
    assert!(changes.networks.contains(&name("alpha")));
    let record = catalog.network(&name("alpha")).unwrap();
    assert_eq!((record.born, record.definition.subnets.len()), (older, 1));
    assert_eq!(record.losers.iter().map(|(born, _)| *born).collect::<Vec<_>>(), vec![younger]);
    let removed = NetworkDefinition { removed: true, ..network(stamp(9, 3), "10.0.0.0/24") };
    say(&mut catalog, 3, network_key("alpha", older), Value::Network(removed));
    let record = catalog.network(&name("alpha")).unwrap();
    assert_eq!(
        (record.born, record.losers.len()),
        (younger, 0),
        "once the older is removed the younger stands"
    );
}

#[test]
fn the_greatest_revision_of_a_birth_stands() {
    let mut catalog = cluster();
    let born = stamp(1, 1);
    let key = service_key("alpha", "pay", born);
    let mut newer = service(stamp(5, 2), "10.0.0.200");
    newer.settings.mode = ServiceMode::Dnsrr;
    say(&mut catalog, 2, key.clone(), Value::Service(newer.clone()));
    say(&mut catalog, 1, key, Value::Service(service(born, "10.0.0.200")));
    let record = catalog.service(&name("alpha"), &name("pay")).unwrap();
    assert_eq!(*record.definition, newer);
}

#[test]
fn twins_of_a_service_keep_all_vips_and_the_older_settings() {
    let mut catalog = cluster();
    let mut younger = service(stamp(4, 2), "10.0.0.201");
    younger.settings.balance = Balance::Hash;
    say(&mut catalog, 2, service_key("alpha", "pay", stamp(4, 2)), Value::Service(younger));
    say(
        &mut catalog,
        1,
        service_key("alpha", "pay", stamp(3, 1)),
        Value::Service(service(stamp(3, 1), "10.0.0.200")),
    );
    let record = catalog.service(&name("alpha"), &name("pay")).unwrap();
    assert_eq!(record.vips(), vec![address("10.0.0.200"), address("10.0.0.201")]);
    assert_eq!(record.definition.settings.balance, Balance::Random);
    assert_eq!(record.conflicts().map(|(born, _)| born).collect::<Vec<_>>(), vec![stamp(4, 2)]);
}

#[test]
fn a_removal_reaches_every_asserter() {
    let mut catalog = cluster();
    let born = stamp(1, 1);
    let key = service_key("alpha", "pay", born);
    for id in 1..=2 {
        say(&mut catalog, id, key.clone(), Value::Service(service(born, "10.0.0.200")));
    }
    let removed = ServiceDefinition { removed: true, ..service(stamp(7, 3), "10.0.0.200") };
    let changes = say(&mut catalog, 3, key.clone(), Value::Service(removed.clone()));
    assert!(catalog.service(&name("alpha"), &name("pay")).is_none());
    assert!(catalog.settled_removals(node(3)).is_empty(), "two owners still assert it");
    settle(&mut catalog, changes);
    for id in 1..=3 {
        assert_eq!(catalog.value(node(id), &key), Some(Value::Service(removed.clone())));
        assert_eq!(catalog.settled_removals(node(id)), vec![key.clone()]);
    }
}

#[test]
fn a_definition_outlives_the_host_that_made_it() {
    let mut catalog = cluster();
    let born = stamp(1, 1);
    let (net, pay) = (network_key("alpha", born), service_key("alpha", "pay", born));
    let mut changes = say(&mut catalog, 1, net.clone(), Value::Network(network(born, "10.0.0.0/24")));
    changes.extend(say(&mut catalog, 1, pay.clone(), Value::Service(service(born, "10.0.0.200"))));
    let fact = attachment(&["10.0.0.2"], stamp(2, 2));
    changes.extend(say(&mut catalog, 2, attachment_key("alpha", "web"), fact));
    let fact = replica(&["10.0.0.2"], Health::Serving);
    changes.extend(say(&mut catalog, 2, replica_key("alpha", "pay", "web"), fact));
    settle(&mut catalog, changes);
    assert_eq!(asserters(&catalog, &net), vec![node(1), node(2)]);
    assert_eq!(asserters(&catalog, &pay), vec![node(1), node(2)]);
    let changes = say(&mut catalog, 3, Key::Removed { node: node(1) }, Value::Removed);
    settle(&mut catalog, changes);
    assert!(
        catalog.network(&name("alpha")).is_some() && catalog.service(&name("alpha"), &name("pay")).is_some()
    );
    assert!(
        catalog.value(node(2), &Key::Removed { node: node(1) }).is_some(),
        "others take over the removal"
    );
    assert!(catalog.reassertions(node(1), &Changes::everything()).is_empty(), "a removed node owes nothing");
}

#[test]
fn what_only_a_removed_node_asserted_can_be_taken_over() {
    let mut catalog = cluster();
    let born = stamp(1, 1);
    let (alpha, beta) = (network_key("alpha", born), network_key("beta", born));
    for key in [&alpha, &beta] {
        say(&mut catalog, 1, key.clone(), Value::Network(network(born, "10.0.0.0/24")));
    }
    say(&mut catalog, 2, beta, Value::Network(network(born, "10.0.0.0/24")));
    let sole = catalog.sole_assertions(node(1));
    assert_eq!(sole.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), vec![alpha]);
}

#[test]
fn equal_facts_are_shared() {
    let mut catalog = cluster();
    let born = stamp(1, 1);
    for id in 1..=2 {
        let key = service_key("alpha", "pay", born);
        say(&mut catalog, id, key, Value::Service(service(born, "10.0.0.200")));
    }
    let index = catalog.service_index(&name("alpha"), &name("pay")).unwrap();
    let assertions = &index.births.iter().next().unwrap().assertions;
    assert!(std::sync::Arc::ptr_eq(&assertions[0].1, &assertions[1].1));
    for service in ["pay", "mail"] {
        say(&mut catalog, 1, replica_key("alpha", service, "web"), replica(&["10.0.0.2"], Health::Serving));
    }
    let fact = |service: &str| {
        let index = catalog.service_index(&name("alpha"), &name(service)).unwrap();
        index.replica(&name("web"), node(1)).unwrap().clone()
    };
    assert!(std::sync::Arc::ptr_eq(&fact("pay"), &fact("mail")));
}
