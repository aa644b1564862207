use std::net::IpAddr;
use std::sync::Arc;

use netfilter::conntrack::{Flow, STATUS_DESTINATION_NAT, STATUS_SEEN_REPLY, Transport, Tuple};

use super::{Stale, may_strand};
use crate::{Replica, ReplicaState, Service, VipRange, Vips};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(replicas: &[(&str, u16, ReplicaState)]) -> Service {
    let replica = |(ip, weight, state): &(&str, u16, ReplicaState)| Replica {
        addresses: [address(ip)].into(),
        weight: *weight,
        state: *state,
    };
    Service {
        name: "shop".into(),
        vips: vec![address("10.96.0.1")],
        ports: Vec::new(),
        replicas: replicas.iter().map(replica).collect(),
    }
}

fn flow(protocol: u8, to: &str, lands: &str, port: u16) -> Flow {
    let tuple = |source: &str, destination: &str, from: u16, at: u16| Tuple {
        source: address(source),
        destination: address(destination),
        protocol,
        transport: Transport::Ports { source: from, destination: at },
    };
    let status = STATUS_DESTINATION_NAT | STATUS_SEEN_REPLY;
    Flow::new(tuple("10.80.0.2", to, 4000, 80), tuple(lands, "10.80.0.2", port, 4000), status)
}

#[test]
fn a_connection_that_was_never_answered_does_not_wait_for_a_replica_that_quiesces() {
    let service =
        service(&[("10.128.0.1", 1, ReplicaState::Serving), ("10.128.0.2", 1, ReplicaState::Quiescing)]);
    let services = Vips::from_iter([(service.vips[0], Arc::new(service))]);
    let stale = Stale { services: &services, ranges: &[], removed: &[] };
    for (lands, expected) in [("10.128.0.1", false), ("10.128.0.2", true)] {
        let answered = flow(6, "10.96.0.1", lands, 80);
        let unanswered = Flow::new(answered.original, answered.reply, STATUS_DESTINATION_NAT);
        assert!(!stale.is_stale(&answered), "{lands}");
        assert_eq!(stale.is_stale(&unanswered), expected, "{lands}");
    }
}

/// Protocol, destination, where it lands, port there, whether it is stale.
type Case = (u8, &'static str, &'static str, u16, bool);

fn check(service: Option<Service>, cases: &[Case]) {
    let services: Vips = service.into_iter().map(|service| (service.vips[0], Arc::new(service))).collect();
    let range =
        VipRange { first: address("10.96.0.0"), last: address("10.96.0.255"), own: address("10.80.0.2") };
    let removed = [address("10.97.0.1")];
    let stale = Stale { services: &services, ranges: &[range], removed: &removed };
    for (protocol, to, lands, port, expected) in cases {
        assert_eq!(stale.is_stale(&flow(*protocol, to, lands, *port)), *expected, "{protocol} {to} {lands}");
    }
}

#[test]
fn flows_follow_their_replica() {
    let service = service(&[
        ("10.128.0.1", 1, ReplicaState::Serving),
        ("10.128.0.2", 1, ReplicaState::Quiescing),
        ("10.128.0.3", 0, ReplicaState::Serving),
    ]);
    check(
        Some(service),
        &[
            (6, "10.96.0.1", "10.128.0.1", 80, false),
            (17, "10.96.0.1", "10.128.0.1", 80, false),
            (6, "10.96.0.1", "10.128.0.2", 80, false),
            (17, "10.96.0.1", "10.128.0.2", 80, true),
            (132, "10.96.0.1", "10.128.0.3", 80, false),
            (17, "10.96.0.1", "10.128.0.3", 80, true),
            (6, "10.96.0.1", "10.128.0.9", 80, true),
            (17, "10.96.0.1", "10.80.0.2", 0, true),
            (6, "9.9.9.9", "10.128.0.9", 80, false),
        ],
    );
}

#[test]
fn flows_of_a_removed_service_go_and_refusals_stay() {
    check(
        None,
        &[
            (6, "10.96.0.1", "10.128.0.1", 80, true),
            (6, "10.97.0.1", "10.128.0.1", 80, true),
            (17, "10.96.0.1", "10.80.0.2", 0, false),
            (6, "10.98.0.1", "10.128.0.1", 80, false),
        ],
    );
}

#[test]
fn what_is_not_translated_is_not_ours() {
    let mut direct = flow(6, "10.96.0.1", "10.96.0.1", 80);
    direct.status = 0;
    let stale = Stale { services: &Vips::default(), ranges: &[], removed: &[address("10.96.0.1")] };
    assert!(!stale.is_stale(&direct));
}

#[test]
fn only_losses_and_revivals_strand_flows() {
    let one = ("10.128.0.1", 1, ReplicaState::Serving);
    let two = ("10.128.0.2", 1, ReplicaState::Serving);
    let drained = ("10.128.0.2", 1, ReplicaState::Quiescing);
    assert!(!may_strand(&service(&[one]), &service(&[one, two])));
    assert!(may_strand(&service(&[one, two]), &service(&[one])));
    assert!(may_strand(&service(&[one, two]), &service(&[one, drained])));
    assert!(may_strand(&service(&[]), &service(&[one])));
}
