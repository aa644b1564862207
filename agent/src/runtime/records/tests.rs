//! What is kept of facts, and what is forgotten.
use super::*;
use crate::catalog::facts::ClaimKey;

fn row(owner: u64, key: &str, version: u64, gone: bool) -> StoredFact {
    let value = (!gone).then_some(Value::Claim);
    let entry = serde_json::to_vec(&Row { version, value }).unwrap();
    StoredFact { owner, key: key.as_bytes().to_vec(), entry }
}

#[test]
fn withdrawals_below_the_floor_and_strangers_are_forgotten() {
    let rows = vec![row(1, "a", 4, true), row(1, "b", 5, true), row(1, "c", 3, false), row(2, "a", 9, false)];
    let head = HeadRow { head: Head { incarnation: 1, version: 9 }, floor: 4 };
    let mut forgettable = Forgettable::default();
    forgettable.visit(StoredRow::Head { owner: 1, head: &serde_json::to_vec(&head).unwrap() });
    for StoredFact { owner, key, entry } in &rows {
        forgettable.visit(StoredRow::Fact { owner: *owner, key, entry });
    }
    assert_eq!(forgettable.rows, [row(1, "a", 4, true), row(2, "a", 9, false)]);
}

/// Row P56: the others stand, it is named, and comes again from whoever has it.
#[test]
fn a_fact_that_cannot_be_read_is_told_and_asked_for_again() {
    let (owner, reader) = (NodeId(7), NodeId(8));
    let mut source = Catalog::default();
    source.restart(owner, 1);
    for vni in 1..=3 {
        let key = Key::Claim(ClaimKey::Vni { vni });
        source.write(owner, vec![(key, Some(Value::Claim))]).unwrap();
    }
    let full = source.owner(owner).unwrap().full(owner);
    let mut loading = Loading::default();
    let head = serde_json::to_vec(&HeadRow { head: full.head, floor: full.floor }).unwrap();
    loading.visit(StoredRow::Head { owner: owner.0, head: &head });
    for (number, entry) in full.entries.iter().enumerate() {
        let key = serde_json::to_vec(&entry.key).unwrap();
        let row = Row { version: entry.version, value: entry.value.clone() };
        let mut row = serde_json::to_vec(&row).unwrap();
        if number == 1 {
            row[0] ^= 1;
        }
        loading.visit(StoredRow::Fact { owner: owner.0, key: &key, entry: &row });
    }
    let (mut loaded, unreadable) = loading.finish();
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    loaded.restart(reader, 1);
    let missing = source.delta_since(owner, loaded.head(owner)).expect("something to send");
    assert!(!loaded.apply_update(missing).changes.is_empty());
    assert_eq!(loaded.head(owner), source.head(owner));
    assert!(source.delta_since(owner, loaded.head(owner)).is_none());
    let facts = |catalog: &Catalog| catalog.owner(owner).unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(facts(&loaded), facts(&source));
}

#[test]
fn what_waits_to_be_saved_is_kept_once() {
    let mut unsaved = Writes::default();
    for version in 0..100_u64 {
        let mut more = Writes::default();
        more.facts.insert((1, b"key".to_vec()), version.to_string().into_bytes());
        more.heads.insert(1, version.to_string().into_bytes());
        more.put_meta("freed", &version).unwrap();
        append(&mut unsaved, more);
    }
    assert_eq!((unsaved.facts.len(), unsaved.heads.len(), unsaved.meta.len()), (1, 1, 1));
    assert_eq!(unsaved.meta[0].1, b"99");
    append(&mut unsaved, Writes { replaced_owners: vec![1], ..Writes::default() });
    assert!(unsaved.facts.is_empty());
}
