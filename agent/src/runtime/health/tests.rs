use std::collections::{BTreeMap, BTreeSet};

use super::judged::worse;
use super::rule::{self, Due, settled};
use super::{Said, Service, Unfollowed};
use crate::catalog::facts::{Check, Health, Key, Probe, ServiceDefinition, Value};
use crate::catalog::tests::world::{
    address, attachment, attachment_key, name, node, replica, replica_key, service, service_key, stamp,
};
use crate::catalog::{Catalog, Changes};
use crate::model::{Name, NodeId, Stamp};
use crate::runtime::local::{LocalAttachment, StoredPlace};

const THIS: NodeId = NodeId(1);

fn pay() -> Service {
    (name("alpha"), name("pay"))
}

fn tcp(port: u16) -> Check {
    Check { probe: Probe::Tcp { port }, interval_ms: 1_000, timeout_ms: 1_000, failures: 2 }
}

fn definition(revision: Stamp, check: Option<Check>) -> Option<Value> {
    let mut definition: ServiceDefinition = service(revision, "10.0.255.1");
    definition.settings.check = check;
    Some(Value::Service(definition))
}

fn key(attachment: &str) -> Key {
    replica_key("alpha", "pay", attachment)
}

/// Service "pay" with a replica on this host and one elsewhere.
fn world(check: Option<Check>, health: Health) -> Catalog {
    let mut catalog = Catalog::default();
    for (id, place, at) in [(1, "web", "10.0.0.1"), (2, "far", "10.0.1.1")] {
        catalog.restart(node(id), 1);
        let batch = vec![
            (attachment_key("alpha", place), Some(attachment(&[at], stamp(1, id)))),
            (key(place), Some(replica(&[at], health))),
        ];
        catalog.write(node(id), batch).unwrap();
    }
    let born = stamp(1, 1);
    catalog.write(THIS, vec![(service_key("alpha", "pay", born), definition(born, check))]).unwrap();
    catalog
}

fn local(cookie: u64) -> BTreeMap<(Name, Name), LocalAttachment> {
    let record = LocalAttachment {
        network: name("alpha"),
        name: name("web"),
        place: StoredPlace::Pid(1),
        boot_id: "boot".into(),
        cookie,
        addresses: vec![address("10.0.0.1")],
        mac: "02:00:00:00:00:01".into(),
        aliases: Vec::new(),
        default_route: false,
        order: 0,
        since: stamp(1, 1),
        succeeds: Vec::new(),
        resolv_conf: None,
        endpoint: None,
        announced: true,
        detaching: false,
    };
    BTreeMap::from([((name("alpha"), name("web")), record)])
}

fn due(catalog: &Catalog, synced: bool, found: Option<Health>) -> Option<Due> {
    due_said(catalog, synced, (found, Said::Nothing))
}

fn due_said(catalog: &Catalog, synced: bool, found: (Option<Health>, Said)) -> Option<Due> {
    rule::due(catalog, THIS, synced, &pay(), &name("web"), found).map(|(_, _, due)| due)
}

fn taken(unfollowed: &mut Unfollowed, catalog: &Catalog) -> BTreeSet<Service> {
    unfollowed.take(catalog, THIS, std::iter::empty())
}

#[test]
fn a_finding_is_written_unless_the_replica_is_drained() {
    use Health::{Draining, Failing, Serving, Starting};
    assert_eq!(settled(Starting, Serving), Some(Serving));
    assert_eq!(settled(Serving, Failing), Some(Failing));
    assert_eq!(settled(Failing, Serving), Some(Serving));
    for found in [Starting, Serving, Failing, Draining] {
        assert_eq!(settled(Draining, found), None);
        assert_eq!(settled(found, found), None);
    }
}

#[test]
fn what_may_have_flows_does_not_go_back_to_starting() {
    assert_eq!(settled(Health::Failing, Health::Starting), None);
    assert_eq!(settled(Health::Serving, Health::Starting), Some(Health::Failing));
}

#[test]
fn a_finding_from_before_a_drain_counts_after_it() {
    // Drained and registered again, it stands as failing; its check has said "serving" all along.
    let catalog = world(Some(tcp(80)), Health::Failing);
    assert_eq!(due(&catalog, true, Some(Health::Serving)), Some(Due::Found(Health::Serving)));
}

#[test]
fn nothing_is_due_before_anything_was_found() {
    for health in [Health::Starting, Health::Serving, Health::Failing, Health::Draining] {
        assert_eq!(due(&world(Some(tcp(80)), health), true, None), None);
    }
}

#[test]
fn a_service_without_a_check_serves() {
    assert_eq!(due(&world(None, Health::Starting), true, None), Some(Due::Unchecked));
    assert_eq!(due(&world(None, Health::Failing), true, None), Some(Due::Unchecked));
    assert_eq!(due(&world(None, Health::Serving), true, None), None);
    assert_eq!(due(&world(None, Health::Draining), true, None), None);
}

#[test]
fn replicas_of_a_service_that_is_gone_are_withdrawn_once_all_is_known() {
    let mut catalog = world(None, Health::Serving);
    let born = stamp(1, 1);
    catalog.write(THIS, vec![(service_key("alpha", "pay", born), None)]).unwrap();
    assert_eq!(due(&catalog, false, None), None);
    assert_eq!(due(&catalog, true, None), Some(Due::Withdrawn));
    catalog.write(THIS, vec![(key("web"), None)]).unwrap();
    assert_eq!(due(&catalog, true, None), None);
}

#[test]
fn only_replicas_of_this_host_are_checked() {
    let catalog = world(Some(tcp(80)), Health::Serving);
    let (defined, own) = rule::own(&catalog, &local(7), THIS, &pay());
    assert!(defined);
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].attachment, name("web"));
    let wanted = own[0].wanted.as_ref().unwrap();
    assert_eq!((wanted.cookie, wanted.address, &wanted.check), (7, address("10.0.0.1"), &tcp(80)));
}

#[test]
fn another_check_or_namespace_is_another_start() {
    let catalog = world(Some(tcp(80)), Health::Serving);
    let wanted = |catalog: &Catalog, cookie| {
        let (_, own) = rule::own(catalog, &local(cookie), THIS, &pay());
        own[0].wanted.clone()
    };
    assert_eq!(wanted(&catalog, 7), wanted(&catalog, 7));
    assert_ne!(wanted(&catalog, 7), wanted(&catalog, 8));
    assert_ne!(wanted(&catalog, 7), wanted(&world(Some(tcp(81)), Health::Serving), 7));
    assert_eq!(wanted(&world(None, Health::Serving), 7), None);
}

#[test]
fn only_what_changed_is_looked_at() {
    let mut catalog = world(Some(tcp(80)), Health::Serving);
    let mut unfollowed = Unfollowed::default();
    let (_, changes) =
        catalog.write(THIS, vec![(key("web"), Some(replica(&["10.0.0.1"], Health::Failing)))]).unwrap();
    unfollowed.note(&catalog, THIS, &changes);
    assert_eq!(taken(&mut unfollowed, &catalog), BTreeSet::from([pay()]));
    assert_eq!(taken(&mut unfollowed, &catalog), BTreeSet::new());

    let (_, changes) = catalog
        .write(THIS, vec![(service_key("alpha", "other", stamp(2, 1)), definition(stamp(2, 1), None))])
        .unwrap();
    unfollowed.note(&catalog, THIS, &changes);
    assert_eq!(taken(&mut unfollowed, &catalog), BTreeSet::from([(name("alpha"), name("other"))]));
}

#[test]
fn an_attachment_that_changes_counts_for_its_services_if_it_is_this_hosts() {
    let catalog = world(None, Health::Serving);
    let mut unfollowed = Unfollowed::default();
    let changed =
        |place| Changes { attachments: BTreeSet::from([(name("alpha"), name(place))]), ..Changes::default() };
    unfollowed.note(&catalog, THIS, &changed("far"));
    assert_eq!(taken(&mut unfollowed, &catalog), BTreeSet::new());
    unfollowed.note(&catalog, THIS, &changed("web"));
    assert_eq!(taken(&mut unfollowed, &catalog), BTreeSet::from([pay()]));
}

#[test]
fn after_a_start_everything_is_looked_at_and_what_was_followed_too() {
    let catalog = world(None, Health::Serving);
    let mut unfollowed = Unfollowed::default();
    unfollowed.note(&catalog, THIS, &Changes::everything());
    let gone = (name("alpha"), name("gone"));
    let services = unfollowed.take(&catalog, THIS, std::iter::once(gone.clone()));
    assert_eq!(services, BTreeSet::from([gone, pay()]));
}

#[test]
fn who_waits_for_a_verdict_is_kept_whatever_is_looked_at() {
    let catalog = world(None, Health::Serving);
    let mut unfollowed = Unfollowed::default();
    let _receiver = unfollowed.first_verdict((pay(), name("web")));
    unfollowed.note(&catalog, THIS, &Changes::everything());
    taken(&mut unfollowed, &catalog);
    assert_eq!(unfollowed.take_awaited().len(), 1);
    assert!(unfollowed.take_awaited().is_empty());
}

#[test]
fn a_replica_that_fails_its_check_is_a_problem_unless_it_is_drained_or_gone() {
    use Health::{Draining, Failing, Serving, Starting};
    let stands = |catalog: &Catalog| rule::stands(catalog, THIS, &pay(), &name("web"));
    for (health, problem) in [(Starting, true), (Serving, true), (Failing, true), (Draining, false)] {
        let catalog = world(Some(tcp(80)), health);
        assert_eq!(rule::fails(stands(&catalog), Failing), problem, "{health:?}");
        assert!(!rule::fails(stands(&catalog), Serving));
    }
    assert!(!rule::fails(stands(&Catalog::default()), Failing));
}

/// A container's HEALTHCHECK counts beside the service's check, and each may take the replica out.
#[test]
fn the_worse_of_what_a_check_and_an_engine_say_counts() {
    use Health::{Failing, Serving, Starting};
    let says = |said| Said::Health(said);
    let checked = |stands, found, said| due_said(&world(Some(tcp(80)), stands), true, (Some(found), said));
    assert_eq!(checked(Serving, Serving, says(Failing)), Some(Due::Found(Failing)));
    assert_eq!(checked(Serving, Failing, says(Serving)), Some(Due::Found(Failing)));
    assert_eq!(checked(Failing, Serving, says(Serving)), Some(Due::Found(Serving)));
    assert_eq!(checked(Starting, Serving, says(Starting)), None);
    let unchecked = |stands, said| due_said(&world(None, stands), true, (None, said));
    assert_eq!(unchecked(Serving, says(Failing)), Some(Due::Found(Failing)));
    assert_eq!(unchecked(Failing, says(Serving)), Some(Due::Unchecked));
    assert_eq!(unchecked(Health::Draining, says(Failing)), None);
    // A start of the agent does not make it serve: the engine is asked first.
    assert_eq!(unchecked(Failing, Said::Awaited), None);
    assert_eq!(checked(Failing, Serving, Said::Awaited), None);
    assert_eq!(unchecked(Serving, Said::Awaited), None);
    assert_eq!([worse(Serving, Starting), worse(Failing, Starting)], [Starting, Failing]);
}
