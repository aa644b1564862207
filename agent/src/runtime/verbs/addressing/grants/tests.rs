//! When a granted address comes back.
use super::*;
use crate::catalog::facts::{ClaimKey, Key, Value};
use crate::catalog::tests::world::{attachment, attachment_key, name, network, network_key, node, stamp};

const TAKER: u64 = 2;

fn world() -> Catalog {
    let mut catalog = Catalog::default();
    for id in 1..=2 {
        catalog.restart(node(id), 1);
    }
    let born = stamp(1, 1);
    let definition = Value::Network(network(born, "10.0.0.0/16"));
    catalog.write(node(1), vec![(network_key("alpha", born), Some(definition))]).unwrap();
    catalog
}

fn grants(catalog: &Catalog, at: Instant) -> Grants {
    let grant = Grant { taker: node(TAKER), head: catalog.head(node(TAKER)), at, late: None, seen: false };
    Grants([((name("alpha"), ip()), grant)].into())
}

fn ip() -> IpAddr {
    "10.0.0.9".parse().unwrap()
}

#[test]
fn it_comes_back_when_its_taker_was_heard_of_and_has_it_no_more() {
    let mut catalog = world();
    let start = Instant::now();
    let late = start + TAKEN_UP_WITHIN;
    let mut grants = grants(&catalog, start);
    let claim = Key::Claim(ClaimKey::Granted { network: name("alpha"), address: ip(), by: node(1) });
    catalog.write(node(TAKER), vec![(claim.clone(), Some(Value::Claim))]).unwrap();
    let key = attachment_key("alpha", "web");
    let value = attachment(&["10.0.0.9"], stamp(2, TAKER));
    catalog.write(node(TAKER), vec![(key.clone(), Some(value))]).unwrap();
    assert!(grants.take_returned(&catalog, late).is_empty(), "it is in use");
    catalog.write(node(TAKER), vec![(key, None)]).unwrap();
    assert!(grants.take_returned(&catalog, late).is_empty(), "it rests");
    catalog.write(node(TAKER), vec![(claim, None)]).unwrap();
    assert_eq!(grants.take_returned(&catalog, late), [(name("alpha"), ip())]);
    assert!(grants.get(&name("alpha"), ip()).is_none());
}

/// What its taker said in between says nothing: it may have been cut off before it said what it claimed and attached.
#[test]
fn it_comes_back_unused_when_its_taker_was_heard_of_after_its_time_only() {
    let mut catalog = world();
    let start = Instant::now();
    let late = start + TAKEN_UP_WITHIN;
    let mut grants = grants(&catalog, start);
    let say = |catalog: &mut Catalog, text| {
        let value = attachment(&["10.0.0.7"], stamp(2, TAKER));
        catalog.write(node(TAKER), vec![(attachment_key("alpha", text), Some(value))]).unwrap();
    };
    say(&mut catalog, "early");
    for now in [start, late, late + TAKEN_UP_WITHIN] {
        assert!(grants.take_returned(&catalog, now).is_empty(), "{:?}", now - start);
    }
    say(&mut catalog, "after");
    assert_eq!(grants.take_returned(&catalog, late), [(name("alpha"), ip())]);
}

#[test]
fn it_comes_back_with_its_takers_or_networks_end() {
    let mut catalog = world();
    let start = Instant::now();
    let mut of_removed = grants(&catalog, start);
    catalog.write(node(1), vec![(Key::Removed { node: node(TAKER) }, Some(Value::Removed))]).unwrap();
    assert_eq!(of_removed.take_returned(&catalog, start).len(), 1);
    let mut of_gone = grants(&catalog, start);
    catalog.write(node(1), vec![(network_key("alpha", stamp(1, 1)), None)]).unwrap();
    assert_eq!(of_gone.take_returned(&catalog, start).len(), 1);
}

/// Docker has it, or an attachment that is being made: nobody is told of that yet.
#[test]
fn what_is_given_out_here_is_granted_to_nobody() {
    use crate::runtime::claiming::Books;
    let mut state = State::new(world(), Books::new(node(1)), node(1));
    state.leases.insert(&name("alpha"), ip());
    let mut commit = |_: &Writes| -> Result<(), StoreError> { Ok(()) };
    let refused = give(&mut state, node(1), Instant::now(), (&name("alpha"), ip()), node(TAKER), &mut commit);
    assert!(refused.unwrap_err().contains("being taken into use"));
    state.leases.remove(&name("alpha"), ip());
    let refused = give(&mut state, node(1), Instant::now(), (&name("alpha"), ip()), node(TAKER), &mut commit);
    assert!(refused.unwrap_err().contains("in no block of host"), "the next thing that is looked at");
}
