use std::net::Ipv4Addr;

use super::*;
use crate::{Replica, ReplicaState};

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn service(replicas: impl IntoIterator<Item = Ipv4Addr>) -> Option<Arc<Service>> {
    let replica = |address: Ipv4Addr| Replica {
        addresses: [address.into()].into(),
        weight: 1,
        state: ReplicaState::Quiescing,
    };
    let replicas = replicas.into_iter().map(replica).collect();
    Some(Arc::new(Service { name: "n/s".into(), vips: Vec::new(), ports: Vec::new(), replicas }))
}

fn a_shape() -> Shape<Ipv4Addr> {
    Shape { peers: BTreeMap::from([(address(0), address(99))]), own: BTreeSet::from([address(1)]) }
}

/// Makes a step, and says what it was.
fn turn(
    present: &mut Present<Ipv4Addr>,
    replicas: &mut Replicas,
    moment: Moment,
) -> Option<Change<Ipv4Addr>> {
    let change = step(present, Some(&a_shape()), replicas, moment);
    change.clone().into_iter().for_each(|change| present.follow(change));
    if moment == Moment::After {
        replicas.settled();
    }
    change
}

#[test]
fn a_replica_is_tracked_before_its_first_flow_and_until_its_last() {
    let (mut present, mut replicas) = (Present::Absent, Replicas::default());
    let (none, one, two) = (None, service([address(5)]), service([address(6)]));
    replicas.follow(&[(none, one.clone())], &[]);
    assert_eq!(turn(&mut present, &mut replicas, Moment::Before), None, "everything is tracked yet");
    assert!(matches!(turn(&mut present, &mut replicas, Moment::After), Some(Change::Make(..))));
    replicas.follow(&[(one, two.clone())], &[]);
    let before = Change::Tracked { add: vec![address(6)], delete: Vec::new() };
    assert_eq!(turn(&mut present, &mut replicas, Moment::Before), Some(before));
    let after = Change::Tracked { add: Vec::new(), delete: vec![address(5)] };
    assert_eq!(turn(&mut present, &mut replicas, Moment::After), Some(after));
    assert_eq!(turn(&mut present, &mut replicas, Moment::After), None);
    let Present::There(there, _) = &present else { panic!("{present:?}") };
    assert_eq!(there.tracked, BTreeSet::from([address(1), address(6)]), "the own address is tracked too");
    replicas.follow(&[(two, None)], &[]);
    turn(&mut present, &mut replicas, Moment::After);
    assert_eq!(step::<Ipv4Addr>(&present, None, &replicas, Moment::Before), Some(Change::Remove));
}

#[test]
fn the_list_is_made_anew_when_it_is_full() {
    let (mut present, mut replicas) = (Present::Absent, Replicas::default());
    turn(&mut present, &mut replicas, Moment::After);
    let many = service((10..100).map(address));
    replicas.follow(&[(None, many.clone())], &[]);
    let Some(Change::Make(whole, room)) = turn(&mut present, &mut replicas, Moment::Before) else {
        panic!("{present:?}")
    };
    assert_eq!((whole.tracked.len(), room), (91, 256));
}

#[test]
fn after_a_failure_it_is_removed_before_anything_else() {
    let mut replicas = Replicas::default();
    let mut present = Present::Unknown;
    assert_eq!(turn(&mut present, &mut replicas, Moment::Before), Some(Change::Remove));
    assert_eq!(present, Present::Absent);
}

#[test]
fn too_many_replicas_are_not_listed_until_they_are_few_again() {
    let mut replicas = Replicas::default();
    let many = |number: u32| {
        let first = 0x0a10_0000 + number * 0x1_0000;
        service((first..first + 3_000).map(Ipv4Addr::from))
    };
    let (first, second) = (many(0), many(1));
    replicas.follow(&[(None, first.clone())], &[]);
    assert!(!replicas.are_too_many());
    replicas.follow(&[(None, second.clone())], &[]);
    assert!(replicas.are_too_many() && replicas.services.is_empty());
    replicas.follow(&[(first, None)], second.as_slice());
    assert!(!replicas.are_too_many());
    assert_eq!(replicas.services.len(), 3_000);
}

#[test]
fn ranges_that_overlap_or_are_upside_down_are_left_out() {
    let range =
        |first: u8, last: u8| AddressRange { first: address(first).into(), last: address(last).into() };
    let own = VipRange { first: address(200).into(), last: address(210).into(), own: address(1).into() };
    let found = shape::<Ipv4Addr>(&[range(0, 9), range(5, 20), range(40, 30)], std::slice::from_ref(&own));
    assert_eq!(found.unwrap().peers, BTreeMap::from([(address(0), address(9))]));
    assert_eq!(shape::<Ipv4Addr>(&[], &[own]), None);
    assert_eq!(shape::<Ipv4Addr>(&[range(0, 9)], &[]), None);
}
