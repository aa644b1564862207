//! The books over a restart.
use super::*;
use crate::claims::{Entry, Member, Request};
use crate::store::Store;

fn record(vni: u32, state: ClaimState) -> ClaimRecord {
    ClaimRecord { key: ClaimKey::Vni { vni }, attempt: 3, state, members: Vec::new(), removed: Vec::new() }
}

#[test]
fn what_was_cut_short_is_given_up_and_the_rest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let me = NodeId(1);
    let mut books = Books::new(me);
    for (vni, state) in [(1, ClaimState::Pending), (2, ClaimState::Confirmed), (3, ClaimState::Withdrawing)] {
        books.claims.insert(ClaimKey::Vni { vni }, record(vni, state));
    }
    books.attempt = 9;
    let member = Member { number: 2, node: NodeId(2) };
    books.removals.push(Leaving { member, remover: me, attempt: 9 });
    let mut writes = Writes::default();
    books.save(&mut writes).unwrap();
    store.commit(&writes, true).unwrap();
    let loaded = Books::load(&store, me).unwrap();
    let states: Vec<ClaimState> = loaded.claims.values().map(|record| record.state).collect();
    assert_eq!(states, [ClaimState::Withdrawing, ClaimState::Confirmed, ClaimState::Withdrawing]);
    assert_eq!((loaded.attempt, loaded.removals), (9, books.removals));
}

/// The books are written whole with every promise: this bounds what one write takes with ten thousand promises, which
/// is what 64 hosts with some 150 claimed blocks each have given.
#[test]
fn ten_thousand_promises_take_little_more_than_a_megabyte() {
    let me = NodeId(1);
    let mut books = Books::new(me);
    books.promises.found();
    let network: Name = "a-network-with-a-name".parse().unwrap();
    let table: Vec<Entry> = (0..10_000)
        .map(|index| Entry {
            key: ClaimKey::Block { network: network.clone(), region: Region::Endpoint, index },
            claimant: NodeId(u64::MAX - u64::from(index % 64)),
            attempt: u64::from(index),
        })
        .collect();
    let gone = Member { number: 2, node: NodeId(2) };
    books
        .promises
        .handle(Request::Removed { member: gone, table }, &|_: &Name, _| crate::claims::Place::Open);
    let mut writes = Writes::default();
    books.save(&mut writes).unwrap();
    let bytes = writes.meta[0].1.len();
    assert!(bytes < 2_000_000, "{bytes} bytes");
}
