//! Steps that the disk refuses.
use super::*;
use crate::catalog::Catalog;
use crate::catalog::tests::world;
use crate::runtime::claiming::Books;

const MEMBER: Member = Member { number: 1, node: NodeId(1) };
const ME: NodeId = NodeId(2);

fn joiner() -> (State, ClaimKey, View) {
    let state = State::new(Catalog::default(), Books::new(ME), ME);
    (state, ClaimKey::Node { number: 2 }, View::new([MEMBER], []))
}

fn full(_: &Writes) -> Result<(), StoreError> {
    Err(StoreError::Write { what: "a change".to_owned(), source: "no space left on device".into() })
}

#[test]
fn a_claim_that_cannot_begin_leaves_no_trace() {
    let (mut state, key, view) = joiner();
    let begun = begin(&mut state, ME, key.clone(), view.clone(), &mut full);
    assert!(matches!(begun, Err(ClaimError::Store(_))));
    assert!(state.books.claims.is_empty());
    begin(&mut state, ME, key, view, &mut |_| Ok(())).unwrap();
    assert_eq!(state.books.attempt, 2, "an attempt is never used twice");
}

#[test]
fn what_was_confirmed_and_cannot_be_written_is_given_up() {
    let (mut state, key, view) = joiner();
    let (mut claimant, _) = begin(&mut state, ME, key.clone(), view, &mut |_| Ok(())).unwrap();
    let attempt = claimant.record().attempt;
    let promised = Reply::Promised { key: key.clone(), attempt, table: Vec::new() };
    let step = claimant.on_reply(MEMBER.node, &promised);
    assert!(matches!(step.outcome, Some(Outcome::Confirmed { .. })));
    assert!(write(&mut state, &claimant, &step, &mut full).is_err());
    assert_eq!(state.books.claims[&key].state, ClaimState::Withdrawing);
    assert_eq!(state.books.promises.number(), None);
    // The same number again, not the one after it.
    assert_eq!(current_view(&mut state, &key).next_number(), 1);
    write(&mut state, &claimant, &step, &mut |_| Ok(())).unwrap();
    assert_eq!(state.books.promises.number(), Some(2));
}

/// What was granted is given back when it has rested, so that its next user is not sent what was meant for the last.
#[test]
fn a_granted_address_is_given_back_once_it_is_used_no_more_and_has_rested() {
    let mut catalog = Catalog::default();
    catalog.restart(ME, 1);
    let definition = Value::Network(world::network(world::stamp(1, 2), "10.65.0.0/16"));
    catalog.write(ME, vec![(world::network_key("beta", world::stamp(1, 2)), Some(definition))]).unwrap();
    let (network, address) = (world::name("beta"), world::address("10.65.1.130"));
    let key = ClaimKey::Granted { network: network.clone(), address, by: MEMBER.node };
    let mut state = State::new(catalog, Books::new(ME), ME);
    state.synced = true;
    let record = ClaimRecord {
        key: key.clone(),
        attempt: 1,
        state: ClaimState::Confirmed,
        members: vec![MEMBER],
        removed: Vec::new(),
    };
    state.books.claims.insert(key.clone(), record.clone());
    let now = Instant::now();
    let rest = std::time::Duration::from_millis(crate::addresses::REST_MS);
    state.books.taking.insert(key.clone());
    assert_eq!(unused(&state, ME, now), [], "it is being taken up");
    state.books.taking.clear();
    state.freed.insert((network, address), now);
    assert_eq!(unused(&state, ME, now + rest / 2), [], "it rests");
    assert_eq!(unused(&state, ME, now + rest), [record]);
}
