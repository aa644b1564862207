use super::*;

/// All facts, and how many heads there are.
fn all_facts(store: &Store) -> (Vec<StoredFact>, usize) {
    let (mut facts, mut heads) = (Vec::new(), 0);
    let visit = |row: StoredRow<'_>| match row {
        StoredRow::Head { .. } => heads += 1,
        StoredRow::Fact { owner, key, entry } => {
            facts.push(StoredFact { owner, key: key.to_vec(), entry: entry.to_vec() });
        }
    };
    store.facts(visit).unwrap();
    (facts, heads)
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(directory.path()).unwrap();
        let mut writes = Writes::default();
        writes.put_meta("incarnation", &7u64).unwrap();
        writes.put_local("net/a", Some(&"record")).unwrap();
        writes.facts.insert((1, b"k".to_vec()), b"e".to_vec());
        writes.heads.insert(1, b"h".to_vec());
        store.commit(&writes, true).unwrap();
    }
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.meta::<u64>("incarnation").unwrap(), Some(7));
    assert_eq!(store.local::<String>().unwrap().0, ["record"]);
    let (facts, heads) = all_facts(&store);
    assert_eq!((facts.len(), heads), (1, 1));
}

#[test]
fn replacing_an_owner_leaves_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let fact = |owner: u64, key: &[u8]| ((owner, key.to_vec()), b"e".to_vec());
    let writes = Writes { facts: [fact(1, b"a"), fact(2, b"{a"), fact(3, b"a")].into(), ..Writes::default() };
    store.commit(&writes, false).unwrap();
    let writes = Writes { replaced_owners: vec![2], facts: [fact(2, b"{b")].into(), ..Writes::default() };
    store.commit(&writes, true).unwrap();
    let keys: Vec<_> = all_facts(&store).0.into_iter().map(|f| (f.owner, f.key)).collect();
    assert_eq!(keys, [(1, b"a".to_vec()), (2, b"{b".to_vec()), (3, b"a".to_vec())]);
}

#[test]
fn a_later_layout_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(directory.path()).unwrap();
        let mut writes = Writes::default();
        writes.put_meta("layout", &99u32).unwrap();
        store.commit(&writes, true).unwrap();
    }
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("layout 99") && error.contains("join as a new host"), "{error}");
}

#[test]
fn two_processes_do_not_share_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("an agent runs here already; see svc-agent status"));
}

#[test]
fn a_row_that_was_written_anew_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let facts = [((1, b"a".to_vec()), b"gone".to_vec()), ((1, b"b".to_vec()), b"gone".to_vec())].into();
    store.commit(&Writes { facts, ..Writes::default() }, true).unwrap();
    let (rows, _) = all_facts(&store);
    let facts = [((1, b"a".to_vec()), b"back".to_vec())].into();
    store.commit(&Writes { facts, ..Writes::default() }, true).unwrap();
    store.forget(&rows).unwrap();
    let (rows, _) = all_facts(&store);
    assert_eq!(rows, [StoredFact { owner: 1, key: b"a".to_vec(), entry: b"back".to_vec() }]);
}
