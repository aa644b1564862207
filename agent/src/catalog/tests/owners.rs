//! Writing, restarting, forgetting.
use super::world::*;
use crate::catalog::facts::*;
use crate::catalog::*;
use crate::model::Head;

fn started() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.restart(node(1), 1);
    catalog
}

#[test]
fn an_equal_value_is_no_write() {
    let mut catalog = started();
    let write = vec![(Key::Host, Some(host("192.0.2.1", 1500)))];
    let (delta, changes) = catalog.write(node(1), write.clone()).unwrap();
    assert_eq!((delta.base, delta.head), (0, 1));
    assert!(changes.hosts.contains(&node(1)));
    let (delta, changes) = catalog.write(node(1), write).unwrap();
    assert!(delta.is_empty() && delta.entries.is_empty() && changes.is_empty());
    let (delta, _) = catalog.write(node(1), vec![(attachment_key("alpha", "web"), None)]).unwrap();
    assert!(delta.is_empty(), "nothing to withdraw");
}

#[test]
fn a_batch_is_written_whole_or_not_at_all() {
    let mut catalog = started();
    let fine = (Key::Host, Some(host("192.0.2.1", 1500)));
    let mismatch = (Key::Removed { node: node(2) }, Some(Value::Claim));
    let error = catalog.write(node(1), vec![fine.clone(), mismatch.clone()]).unwrap_err();
    assert_eq!(error, WriteError::Mismatch { key: mismatch.0 });
    let mut large = service(stamp(1, 1), "10.0.0.200");
    large.settings.aliases = (0..1000).map(|index| name(&format!("alias-{index}"))).collect();
    let key = service_key("alpha", "pay", stamp(1, 1));
    let error =
        catalog.write(node(1), vec![fine.clone(), (key.clone(), Some(Value::Service(large)))]).unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { key: at, bytes } if at == key && bytes > ENTRY_BYTES_MAX));
    assert_eq!(catalog.head(node(1)), Head { incarnation: 1, version: 0 });
    let error = catalog.write(node(2), vec![fine]).unwrap_err();
    assert_eq!(error, WriteError::Unstarted { owner: node(2) });
}

#[test]
fn a_gap_is_told_and_filled() {
    let (mut owner, mut reader) = (started(), Catalog::default());
    let (first, _) = owner.write(node(1), vec![(Key::Host, Some(host("192.0.2.1", 1500)))]).unwrap();
    let claim = (Key::Claim(ClaimKey::Vni { vni: 7 }), Some(Value::Claim));
    let (second, _) = owner.write(node(1), vec![claim]).unwrap();
    let outcome = reader.apply(second.clone()).outcome;
    assert_eq!(outcome, Outcome::Gap { have: Head::default() });
    assert_eq!(reader.apply(first.clone()).outcome, Outcome::Current);
    assert_eq!(reader.behind(&owner.heads()), vec![node(1)]);
    let Some(Update::Delta(delta)) = owner.delta_since(node(1), reader.head(node(1))) else { panic!() };
    assert_eq!(delta, second);
    let applied = reader.apply(delta);
    assert!(applied.changes.claims.contains(&ClaimKey::Vni { vni: 7 }));
    let again = reader.apply(first);
    assert_eq!((again.outcome, again.changes), (Outcome::Known, Changes::default()));
    assert!(owner.delta_since(node(1), reader.head(node(1))).is_none());
    assert_eq!(states(&owner), states(&reader));
}

#[test]
fn a_new_incarnation_keeps_the_facts_and_ends_the_old() {
    let (mut owner, mut reader) = (started(), Catalog::default());
    let web = attachment_key("alpha", "web");
    let fact = attachment(&["10.0.0.2"], stamp(5, 1));
    let (old, _) = owner.write(node(1), vec![(web.clone(), Some(fact.clone()))]).unwrap();
    reader.apply(old.clone());
    owner.restart(node(1), 2);
    assert_eq!(owner.value(node(1), &web), Some(fact));
    let update = owner.delta_since(node(1), reader.head(node(1))).unwrap();
    assert!(matches!(update, Update::Full(_)), "an incarnation is handed over complete");
    let applied = reader.apply_update(update);
    assert!(applied.changes.is_empty(), "equal facts are no change: {applied:?}");
    assert_eq!(reader.apply(old).outcome, Outcome::Stale);
    let (next, _) = owner.write(node(1), vec![(web.clone(), None)]).unwrap();
    assert_eq!(reader.apply(next).outcome, Outcome::Current);
    assert_eq!(reader.attachments(&name("alpha")).count(), 0);
    owner.restart(node(1), 1);
    assert_eq!(owner.head(node(1)).incarnation, 2, "an incarnation never goes back");
}

#[test]
fn tombstones_are_bounded_by_age_and_readers_below_the_floor_get_everything() {
    let (mut owner, mut reader) = (started(), Catalog::default());
    let web = attachment_key("alpha", "web");
    let fact = attachment(&["10.0.0.2"], stamp(5, 1));
    let (delta, _) = owner.write(node(1), vec![(web.clone(), Some(fact))]).unwrap();
    reader.apply(delta);
    owner.write(node(1), vec![(web.clone(), None)]).unwrap();
    owner.write(node(1), vec![(Key::Host, Some(host("192.0.2.1", 1500)))]).unwrap();
    owner.forget_tombstones(1000);
    owner.forget_tombstones(1000 + TOMBSTONE_AGE_MS - 1);
    assert_eq!(owner.owner(node(1)).unwrap().tombstones(), 1);
    owner.forget_tombstones(1000 + TOMBSTONE_AGE_MS);
    let state = owner.owner(node(1)).unwrap();
    assert_eq!((state.tombstones(), state.floor()), (0, 3));
    let update = owner.delta_since(node(1), reader.head(node(1))).unwrap();
    assert!(matches!(update, Update::Full(_)));
    let applied = reader.apply_update(update);
    assert!(applied.changes.attachments.contains(&(name("alpha"), name("web"))));
    assert_eq!(reader.attachments(&name("alpha")).count(), 0, "a forgotten tombstone still removes");
    assert_indexed(&reader);
}

#[test]
fn tombstones_are_bounded_by_number() {
    let mut catalog = started();
    let key = |index: usize| Key::Claim(ClaimKey::Node { number: u32::try_from(index).unwrap() });
    for index in 0..TOMBSTONES_MAX + 10 {
        catalog.write(node(1), vec![(key(index), Some(Value::Claim))]).unwrap();
        catalog.write(node(1), vec![(key(index), None)]).unwrap();
    }
    let state = catalog.owner(node(1)).unwrap();
    assert!(state.tombstones() <= TOMBSTONES_MAX, "{}", state.tombstones());
    assert!(state.len() <= TOMBSTONES_MAX && state.floor() > 0);
}

#[test]
fn a_removed_nodes_facts_are_ignored_everywhere() {
    let mut catalog = started();
    catalog.restart(node(2), 1);
    let facts = vec![
        (Key::Host, Some(host("192.0.2.2", 1500))),
        (attachment_key("alpha", "web"), Some(attachment(&["10.0.0.2"], stamp(1, 2)))),
        (Key::Claim(ClaimKey::Vni { vni: 7 }), Some(Value::Claim)),
    ];
    catalog.write(node(2), facts.clone()).unwrap();
    let (_, changes) =
        catalog.write(node(1), vec![(Key::Removed { node: node(2) }, Some(Value::Removed))]).unwrap();
    assert!(changes.hosts.contains(&node(2)) && !changes.attachments.is_empty());
    assert!(catalog.is_removed(node(2)) && catalog.host(node(2)).is_none());
    assert_eq!(catalog.attachments(&name("alpha")).count() + catalog.claims().count(), 0);
    let head = Head { incarnation: 9, version: 9 };
    assert!(catalog.behind(&[(node(2), head)].into()).is_empty(), "nothing of it is asked for");
    catalog.write(node(2), vec![(Key::Host, Some(host("192.0.2.9", 1500)))]).unwrap();
    assert!(catalog.host(node(2)).is_none(), "not even what it says later");
    catalog.forget(node(2));
    assert!(catalog.is_removed(node(2)));
    assert_indexed(&catalog);
}

#[test]
fn stamps_are_later_than_all_seen() {
    let mut catalog = started();
    let fact = attachment(&["10.0.0.2"], stamp(41, 1));
    catalog.write(node(1), vec![(attachment_key("alpha", "web"), Some(fact))]).unwrap();
    assert_eq!(catalog.clock(), 41);
    assert_eq!(catalog.next_stamp(node(1)), stamp(42, 1));
    assert_eq!(catalog.next_stamp(node(1)), stamp(43, 1));
    catalog.raise_clock(u64::MAX);
    assert_eq!(catalog.next_stamp(node(1)).clock, u64::MAX, "a forged clock does not overflow");
}

#[test]
fn a_pull_is_answered_alike_whether_the_list_of_recent_writes_reaches_back_or_not() {
    let mut catalog = started();
    let key = |number: u32| Key::Claim(ClaimKey::Node { number });
    for number in 0..3000 {
        catalog
            .write(
                node(1),
                vec![(key(number % 1500), (number < 1500 || number % 7 == 0).then_some(Value::Claim))],
            )
            .unwrap();
    }
    let state = catalog.owner(node(1)).unwrap();
    let head = state.head();
    assert!(head.version > 1200, "more than is listed");
    for behind in [1, 5, 256, 257, 500, 1100] {
        let have = Head { version: head.version - behind, ..head };
        let Some(Update::Delta(delta)) = catalog.delta_since(node(1), have) else { panic!() };
        let mut expected = state.full(node(1)).entries;
        expected.retain(|entry| entry.version > have.version);
        assert_eq!(delta.entries, expected, "{behind} behind");
    }
}
