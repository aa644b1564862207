//! Random sequences of desired states, faults and foreign changes, on the kernel in memory.
#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.
mod common;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use common::{desired, settle};
use lb::element::Element;
use lb::kernel::Features;
use lb::kernel::fake::{Fake, Landing};
use lb::kernel::faulty::Faulty;
use lb::{AddressRange, Balancer, Desired, Port, Replica, ReplicaState, Service};
use proptest::prelude::*;

const SERVICES: u8 = 4;
const OWNED: Features = Features { owned: true, timeouts: false, untracked: true };
const PLAIN: Features = Features { owned: false, timeouts: false, untracked: false };

fn a_replica(last: u8) -> impl Strategy<Value = Replica> {
    (0_u16..5, any::<bool>()).prop_map(move |(weight, serving)| Replica {
        addresses: [Ipv4Addr::new(10, 128, 0, last).into()].into(),
        weight,
        state: if serving { ReplicaState::Serving } else { ReplicaState::Quiescing },
    })
}

fn a_service(number: u8) -> impl Strategy<Value = Service> {
    let replicas = (1..7).map(|last| prop::option::of(a_replica(last))).collect::<Vec<_>>();
    let port = |protocol, public| Port { protocol, public, target: public + 8000 };
    let ports = prop_oneof![
        3 => Just(vec![]),
        1 => Just(vec![port(6, 80)]),
        1 => Just(vec![port(6, 80), port(17, 53)]),
    ];
    (replicas, ports).prop_map(move |(replicas, ports)| Service {
        name: format!("net/service-{number}"),
        vips: vec![vip(number).into()],
        ports,
        replicas: replicas.into_iter().flatten().collect(),
    })
}

/// Where the replicas are.
fn peers() -> Vec<AddressRange> {
    vec![AddressRange { first: common::address("10.128.0.0"), last: common::address("10.255.255.255") }]
}

/// Whoever new flows may be sent to is tracked, and so are the own addresses.
fn check_tracked(fake: &Fake) {
    let Some(untracked) = fake.untracked::<Ipv4Addr>() else { return };
    for element in fake.elements::<Ipv4Addr>() {
        if let Element::Slot { replica, .. } = element {
            assert!(untracked.tracked.contains(&replica.into()), "{replica} of {untracked:?}");
        }
    }
    assert!(untracked.own.is_subset(&untracked.tracked), "{untracked:?}");
}

fn vip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, number)
}

fn a_state() -> impl Strategy<Value = Desired> {
    let services = (0..SERVICES).map(|number| prop::option::of(a_service(number))).collect::<Vec<_>>();
    services.prop_map(|services| Desired { peers: peers(), ..desired(services.into_iter().flatten()) })
}

/// All elements but slots, and the numbers and replicas of each VIP's slots.
type Canonical = (Vec<Element<Ipv4Addr>>, BTreeMap<Ipv4Addr, (Vec<u16>, Vec<Ipv4Addr>)>);

/// The elements, with slots in an order of their own: which replica is in which slot does not matter.
fn canonical(elements: Vec<Element<Ipv4Addr>>) -> Canonical {
    let mut slots: BTreeMap<Ipv4Addr, (Vec<u16>, Vec<Ipv4Addr>)> = BTreeMap::new();
    let mut others = Vec::new();
    for element in elements {
        match element {
            Element::Slot { vip, slot, replica } => {
                let entry = slots.entry(vip).or_default();
                entry.0.push(slot);
                entry.1.push(replica);
            }
            other => others.push(other),
        }
    }
    slots.values_mut().for_each(|(numbers, replicas)| {
        numbers.sort_unstable();
        replicas.sort_unstable();
    });
    (others, slots)
}

fn fresh(desired: &Desired, features: Features) -> Fake {
    let fake = Fake::new(features);
    settle(&mut Balancer::new(fake.clone()), desired);
    fake
}

fn serving(service: &Service) -> Vec<Ipv4Addr> {
    let serving = service.replicas.iter().filter(|r| r.state == ReplicaState::Serving && r.weight > 0);
    serving.filter_map(|replica| replica.addresses[0].to_string().parse().ok()).collect()
}

/// What new flows meet, after any single transaction.
fn check_landings(fake: &Fake, desired: &Desired) {
    for service in &desired.services {
        let vip: Ipv4Addr = service.vips[0].to_string().parse().unwrap();
        let serving = serving(service);
        let port = service.ports.first().map_or(80, |port| port.public);
        let landings = fake.land(vip, 6, port);
        if serving.is_empty() {
            assert_eq!(landings, [Landing::AtPort([10, 80, 0, 2].into(), 0)], "{}", service.name);
            continue;
        }
        for landing in &landings {
            let replica = match (landing, service.ports.first()) {
                (Landing::At(replica), None) => *replica,
                (Landing::AtPort(replica, target), Some(port)) if *target == port.target => *replica,
                other => panic!("{}: {other:?} of {landings:?}", service.name),
            };
            assert!(
                serving.iter().any(|address| *address == replica),
                "{}: {replica} of {landings:?}",
                service.name
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_where_a_fresh_load_ends(
        states in prop::collection::vec((a_state(), 1_usize..4), 1..8),
        owned in any::<bool>(),
    ) {
        let features = if owned { OWNED } else { PLAIN };
        let fake = Fake::new(features);
        let mut balancer = Balancer::new(fake.clone());
        for (state, turns) in &states {
            for _ in 0..*turns {
                balancer.reconcile(state).unwrap();
                check_landings(&fake, state);
                check_tracked(&fake);
            }
        }
        let (last, _) = states.last().unwrap();
        settle(&mut balancer, last);
        let wanted = fresh(last, features);
        prop_assert_eq!(canonical(fake.elements()), canonical(wanted.elements::<Ipv4Addr>()));
        prop_assert_eq!(fake.chains::<Ipv4Addr>(), wanted.chains::<Ipv4Addr>());
        prop_assert_eq!(fake.untracked::<Ipv4Addr>(), wanted.untracked::<Ipv4Addr>());
        prop_assert_eq!(wanted.untracked::<Ipv4Addr>().is_some(), owned);
        let commits = fake.commits();
        let again = balancer.reconcile(last).unwrap();
        prop_assert_eq!((again.changes, again.pending, fake.commits()), (0, false, commits));
        // Equal values behind other pointers, in another order, are the same desired state.
        let mut copies: Vec<Arc<Service>> = last.services.iter().map(|s| Arc::new(Service::clone(s))).collect();
        copies.reverse();
        let again = settle(&mut balancer, &Desired { services: copies, ..last.clone() });
        prop_assert_eq!((again.changes, fake.commits()), (0, commits));
    }

    #[test]
    fn faults_and_foreign_changes_are_repaired(
        states in prop::collection::vec((a_state(), any::<prop::sample::Index>(), 0_u8..5), 1..8),
        seed in any::<u64>(),
        owned in any::<bool>(),
    ) {
        let features = if owned { OWNED } else { PLAIN };
        let fake = Fake::new(features);
        let mut balancer = Balancer::new(Faulty::new(fake.clone(), seed, 250));
        for (state, index, event) in &states {
            for _ in 0..3 {
                let _ = balancer.reconcile(state);
                check_tracked(&fake);
            }
            let elements = fake.elements::<Ipv4Addr>();
            match event {
                0 if !elements.is_empty() => fake.delete_foreign(index.get(&elements)),
                1 => fake.flush_ruleset(),
                2 => fake.touch_ruleset(),
                3 => fake.spoil_chain::<Ipv4Addr>(lb::element::Chain::Class(1)),
                _ => fake.strangers(index.index(2) == 0),
            }
            let _ = balancer.check();
            check_tracked(&fake);
        }
        let (last, ..) = states.last().unwrap();
        // The process dies and another one takes over, on a kernel that works.
        let reopened = fake.reopen();
        reopened.strangers(false);
        let mut balancer = Balancer::new(reopened.clone());
        settle(&mut balancer, last);
        check_landings(&reopened, last);
        let wanted = fresh(last, features);
        prop_assert_eq!(canonical(reopened.elements()), canonical(wanted.elements::<Ipv4Addr>()));
        prop_assert_eq!(reopened.chains::<Ipv4Addr>(), wanted.chains::<Ipv4Addr>());
        prop_assert_eq!(reopened.untracked::<Ipv4Addr>(), wanted.untracked::<Ipv4Addr>());
        prop_assert!(!balancer.check().unwrap());
        // A firewall comes, and goes.
        reopened.strangers(true);
        balancer.check().unwrap();
        prop_assert_eq!(reopened.untracked::<Ipv4Addr>(), None);
        reopened.strangers(false);
        balancer.check().unwrap();
        prop_assert_eq!(reopened.untracked::<Ipv4Addr>(), wanted.untracked::<Ipv4Addr>());
    }
}

/// Whatever fails in the turn that learns of it.
#[test]
fn flows_of_a_replica_that_vanished_are_looked_for_after_a_failure() {
    for rate in [1000, 300] {
        for seed in 0..50 {
            let fake = Fake::new(OWNED);
            let mut balancer = Balancer::new(Faulty::new(fake.clone(), seed, 0));
            let state = |replicas: &[u8]| Desired {
                peers: peers(),
                ..desired([common::service("shop", "10.96.0.1", replicas)])
            };
            settle(&mut balancer, &state(&[1, 2]));
            let before = fake.sweeps();
            balancer.kernel().set_rate(rate);
            let _ = balancer.reconcile(&state(&[1]));
            balancer.kernel().set_rate(0);
            settle(&mut balancer, &state(&[1]));
            assert!(fake.sweeps() > before, "rate {rate}, seed {seed}");
        }
    }
}

#[test]
fn a_change_of_one_replica_is_one_small_transaction() {
    let fake = Fake::new(OWNED);
    let mut balancer = Balancer::new(fake.clone());
    let before =
        desired((0..100).map(|number| {
            common::service(&format!("s{number:03}"), &format!("10.96.1.{number}"), &[1, 2, 3])
        }));
    settle(&mut balancer, &before);
    let mut after = before.clone();
    after.services[7] = Arc::new(common::service("s007", "10.96.1.7", &[1, 2, 4]));
    let report = balancer.reconcile(&after).unwrap();
    assert_eq!(report.changes, 2);
    let commits = fake.commits();
    settle(&mut balancer, &after);
    assert_eq!(fake.commits(), commits);
}

#[test]
fn contested_vips_and_bad_objects_are_named_and_block_nothing() {
    let fake = Fake::new(PLAIN);
    let mut balancer = Balancer::new(fake.clone());
    let mut state = desired([
        common::service("a", "10.96.0.1", &[1]),
        common::service("b", "10.96.0.1", &[2]),
        common::service("c", "224.0.0.1", &[3]),
        common::with_ports(common::service("d", "10.96.0.4", &[4]), &[(1, 80, 80)]),
        common::service("e", "10.96.0.5", &[5]),
    ]);
    state.ranges.push(lb::VipRange {
        first: common::address("10.96.3.0"),
        last: common::address("10.96.4.0"),
        own: common::address("10.80.0.2"),
    });
    let report = settle(&mut balancer, &state);
    let named: Vec<&str> = report.problems.iter().map(|problem| problem.object.as_str()).collect();
    assert_eq!(named, ["VIP range 10.96.3.0 to 10.96.4.0", "b", "c", "d"]);
    assert_eq!(fake.land(Ipv4Addr::new(10, 96, 0, 1), 6, 80), [Landing::At([10, 128, 0, 1].into())]);
    assert_eq!(fake.land(Ipv4Addr::new(10, 96, 0, 5), 6, 80), [Landing::At([10, 128, 0, 5].into())]);
    assert_eq!(fake.land(Ipv4Addr::new(10, 96, 0, 4), 6, 80), [Landing::AtPort([10, 80, 0, 2].into(), 0)]);
    // The first claimant goes: the other one gets the VIP.
    state.services.remove(0);
    assert_eq!(settle(&mut balancer, &state).problems.len(), 3);
    assert_eq!(fake.land(Ipv4Addr::new(10, 96, 0, 1), 6, 80), [Landing::At([10, 128, 0, 2].into())]);
}
