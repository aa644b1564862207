//! What clients of a service get.
use std::sync::Arc;

use super::Bed;
use crate::catalog::facts::{Health, Value};
use crate::catalog::tests::world::{
    address, attachment_key, name, replica, replica_key, service, service_key, stamp,
};
use crate::view::{Conflict, ReplicaState, ServiceView, ViewChanges};

fn bed() -> Bed {
    let mut bed = Bed::new();
    let born = stamp(2, 1);
    bed.say(1, service_key("alpha", "pay", born), Some(Value::Service(service(born, "10.0.0.200"))));
    bed.attach(1, "web-1", &["10.0.0.2"], 3);
    bed.attach(2, "web-2", &["10.0.0.3"], 3);
    serve(&mut bed, 1, "web-1", &["10.0.0.2"], Health::Serving);
    serve(&mut bed, 2, "web-2", &["10.0.0.3"], Health::Serving);
    bed
}

fn serve(bed: &mut Bed, owner: u64, box_name: &str, addresses: &[&str], health: Health) -> ViewChanges {
    bed.say(owner, replica_key("alpha", "pay", box_name), Some(replica(addresses, health)))
}

fn pay(bed: &Bed) -> Arc<ServiceView> {
    bed.view.service(&name("alpha"), &name("pay")).unwrap().clone()
}

fn states(bed: &Bed) -> Vec<(String, ReplicaState, bool)> {
    let pay = pay(bed);
    pay.replicas.iter().map(|it| (it.attachment.to_string(), it.state, it.suspended)).collect()
}

#[test]
fn health_decides_who_gets_flows() {
    let mut bed = bed();
    let expect =
        |state| [("web-1".to_owned(), ReplicaState::Serving, false), ("web-2".to_owned(), state, false)];
    assert_eq!(states(&bed), expect(ReplicaState::Serving));
    for health in [Health::Failing, Health::Draining] {
        serve(&mut bed, 2, "web-2", &["10.0.0.3"], health);
        assert_eq!(states(&bed), expect(ReplicaState::Quiescing), "{health:?}");
    }
    let out = serve(&mut bed, 2, "web-2", &["10.0.0.3"], Health::Starting);
    assert_eq!(states(&bed), expect(ReplicaState::Serving)[..1]);
    assert_eq!(out.services, [(name("alpha"), name("pay"))].into());
}

#[test]
fn a_suspended_hosts_replicas_quiesce_and_return_as_they_were() {
    let mut bed = bed();
    let out = bed.suspend(&[2]);
    assert_eq!(out.services, [(name("alpha"), name("pay"))].into());
    assert_eq!(states(&bed)[1], ("web-2".to_owned(), ReplicaState::Quiescing, true));
    bed.suspend(&[]);
    assert_eq!(states(&bed)[1], ("web-2".to_owned(), ReplicaState::Serving, false));
}

#[test]
fn a_replica_needs_its_attachment_to_stand() {
    let mut bed = bed();
    let out = bed.attach(3, "web-2", &["10.0.0.9"], 8);
    assert_eq!(out.services, [(name("alpha"), name("pay"))].into(), "the name was taken over by host 3");
    assert_eq!(states(&bed).len(), 1);
    bed.say(3, attachment_key("alpha", "web-2"), None);
    assert_eq!(states(&bed).len(), 2);
    bed.say(2, attachment_key("alpha", "web-2"), None);
    assert_eq!(states(&bed).len(), 1);
}

#[test]
fn of_an_attachment_taken_over_with_its_address_only_the_new_owners_replica_counts() {
    let mut bed = bed();
    bed.attach(3, "web-2", &["10.0.0.3"], 8);
    assert_eq!(states(&bed).len(), 1);
    serve(&mut bed, 3, "web-2", &["10.0.0.3"], Health::Serving);
    let owners: Vec<u64> = pay(&bed).replicas.iter().map(|replica| replica.owner.0).collect();
    assert_eq!(owners, vec![1, 3]);
}

#[test]
fn a_replica_serves_only_addresses_of_its_attachment() {
    let mut bed = bed();
    serve(&mut bed, 2, "web-2", &["10.0.0.3", "10.0.0.66"], Health::Serving);
    assert_eq!(*pay(&bed).replicas[1].addresses, [address("10.0.0.3")]);
    serve(&mut bed, 2, "web-2", &["10.0.0.66"], Health::Serving);
    assert_eq!(states(&bed).len(), 1);
    let shared = &bed.view.attachment(&name("alpha"), &name("web-1")).unwrap().addresses;
    assert!(Arc::ptr_eq(shared, &pay(&bed).replicas[0].addresses), "one copy of equal addresses");
}

#[test]
fn every_vip_works_and_names_answer_the_oldest() {
    let mut bed = bed();
    let mut twin = service(stamp(1, 3), "10.0.0.201");
    twin.settings.aliases = vec![name("billing")];
    bed.say(3, service_key("alpha", "pay", stamp(1, 3)), Some(Value::Service(twin)));
    let pay = pay(&bed);
    assert_eq!(pay.vips, vec![address("10.0.0.201"), address("10.0.0.200")]);
    assert_eq!(
        (pay.dns_vips.clone(), pay.aliases.clone()),
        (vec![address("10.0.0.201")], vec![name("billing")])
    );
    let settings = Conflict::Settings { network: name("alpha"), service: name("pay"), born: stamp(2, 1) };
    assert_eq!(bed.view.conflicts().cloned().collect::<Vec<_>>(), vec![settings]);
}

#[test]
fn a_vip_outside_the_network_is_not_served() {
    let mut bed = bed();
    let born = stamp(1, 3);
    bed.say(3, service_key("alpha", "pay", born), Some(Value::Service(service(born, "172.16.0.1"))));
    let pay = pay(&bed);
    assert_eq!(pay.vips, vec![address("10.0.0.200")]);
    assert_eq!(pay.dns_vips, pay.vips, "names answer the oldest that works");
    let conflict =
        Conflict::Vip { network: name("alpha"), service: name("pay"), born, vip: address("172.16.0.1") };
    assert_eq!(bed.view.conflicts().cloned().collect::<Vec<_>>(), vec![conflict]);
}

#[test]
fn a_weight_has_a_bound() {
    let mut bed = bed();
    let Value::Replica(mut fact) = replica(&["10.0.0.3"], Health::Serving) else { panic!() };
    fact.weight = u16::MAX;
    bed.say(2, replica_key("alpha", "pay", "web-2"), Some(Value::Replica(fact)));
    assert_eq!(pay(&bed).replicas[1].weight, 256);
}
