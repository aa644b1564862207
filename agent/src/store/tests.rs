use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

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

/// A store with something in each table, closed; its content.
fn filled(directory: &Path) -> (Vec<StoredFact>, usize) {
    let store = Store::open(directory).unwrap();
    for round in 0..20_u64 {
        let mut writes = Writes::default();
        writes.put_meta("incarnation", &round).unwrap();
        writes.put_local(&format!("net/{round}"), Some(&"record")).unwrap();
        writes.facts = (0..50).map(|n| ((round, format!("key {n}").into()), vec![7; 100])).collect();
        writes.heads.insert(round, b"head".to_vec());
        store.commit(&writes, true).unwrap();
    }
    all_facts(&store)
}

#[test]
fn a_store_that_has_lost_its_end_is_refused_as_damaged() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let path = directory.path().join("state.redb");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 64, 4_096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{length} bytes: {error:?}");
        assert!(error.to_string().contains("state.redb is damaged"), "{error}");
        assert!(error.hints().iter().any(|hint| hint.contains("node rm")), "{:?}", error.hints());
        assert_eq!(std::fs::read(&path).unwrap().len(), length, "it is left as it is");
    }
}

#[test]
fn a_store_with_a_changed_bit_is_refused_or_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let before = filled(directory.path());
    let path = directory.path().join("state.redb");
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for step in 0..150 {
        let mut bytes = whole.clone();
        // From the header into the pages, at odd places.
        let place = step * step * 37 % (whole.len() - 1);
        bytes[place] ^= 1 << (step % 8);
        std::fs::write(&path, &bytes).unwrap();
        match Store::open(directory.path()) {
            Ok(store) => {
                assert_eq!(all_facts(&store), before, "bit {} of byte {place}", step % 8);
                assert_eq!(store.meta::<u64>("incarnation").unwrap(), Some(19));
                assert_eq!(store.local::<String>().unwrap().0.len(), 20);
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, StoreError::Damaged { .. }), "byte {place}: {error:?}");
                let again = Store::open(directory.path()).unwrap_err();
                assert!(matches!(again, StoreError::Damaged { .. }), "byte {place}: {again:?}");
                // A repair that was not marked as one, by a kill or for want of room, would pass for the whole.
                assert!(std::fs::read(&path).unwrap() == bytes, "byte {place}: it is left as it is");
            }
        }
    }
    assert!(refused > 10, "{refused} of 150 were noticed");
}

#[test]
fn what_a_crash_left_of_a_new_store_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    for left in [&b""[..], b"redb, but no more of it"] {
        std::fs::write(directory.path().join("state.redb.new"), left).unwrap();
        drop(Store::open(directory.path()).unwrap());
        std::fs::remove_file(directory.path().join("state.redb")).unwrap();
    }
}

#[test]
fn after_a_failure_another_write_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut writes = Writes::default();
    writes.put_meta("incarnation", &7u64).unwrap();
    store.commit(&writes, true).unwrap();
    let failed = store.with(|_| -> Result<(), Boxed> { Err("no space left on device".into()) });
    assert!(failed.is_err() && store.database.read().unwrap().is_none());
    assert_eq!(store.meta::<u64>("incarnation").unwrap(), Some(7));
    writes.put_meta("incarnation", &8u64).unwrap();
    store.commit(&writes, true).unwrap();
    assert_eq!(store.meta::<u64>("incarnation").unwrap(), Some(8));
}

/// A file whose syncs fail while that is wished; all else of it works.
#[derive(Debug)]
struct Unsyncable(redb::backends::FileBackend, Arc<AtomicBool>);

impl StorageBackend for Unsyncable {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::Error::other("the sync failed"));
        }
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn everything_in(store: &Store) -> (Vec<StoredFact>, usize, Vec<String>, Option<u64>) {
    let (facts, heads) = all_facts(store);
    (facts, heads, store.local().unwrap().0, store.meta("incarnation").unwrap())
}

#[test]
fn what_failed_to_be_synced_is_not_there_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let before = everything_in(&Store::open(directory.path()).unwrap());
    let path = directory.path().join("state.redb");
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let backend = Unsyncable(redb::backends::FileBackend::new(file).unwrap(), Arc::clone(&fails));
    let store = Store::new(path, Database::builder().create_with_backend(backend).unwrap());
    let mut writes = Writes { replaced_owners: vec![3], ..Writes::default() };
    writes.put_meta("incarnation", &99_u64).unwrap();
    writes.put_meta("new", &1_u64).unwrap();
    writes.put_local("net/1", None::<&String>).unwrap();
    writes.put_local("net/new", Some(&"new")).unwrap();
    writes.heads = [(1, b"new".to_vec()), (99, b"new".to_vec())].into();
    writes.facts =
        [((1, b"key 1".to_vec()), b"new".to_vec()), ((3, b"new".to_vec()), b"new".to_vec())].into();
    fails.store(true, Ordering::Relaxed);
    assert!(store.commit(&writes, true).is_err());
    assert!(store.fails(Instant::now()).is_none(), "it can be written again");
    assert_eq!(store.meta::<u64>("new").unwrap(), None);
    assert_eq!(everything_in(&store), before);
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(everything_in(&store), before, "after a start");
    store.commit(&writes, true).unwrap();
    assert_ne!(everything_in(&store), before);
}

#[test]
fn a_panic_while_writing_is_an_error_and_another_write_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut writes = Writes::default();
    for number in [7_u64, 8] {
        writes.put_meta("incarnation", &number).unwrap();
        let failed = store.with(|database| {
            let transaction = database.begin_write()?;
            put(&transaction, &writes)?;
            panic!("the library took something for granted");
            #[expect(unreachable_code, reason = "the type of what is never returned")]
            Ok(())
        });
        assert!(failed.unwrap_err().to_string().contains("took something for granted"));
        store.commit(&writes, true).unwrap();
        assert_eq!(store.meta::<u64>("incarnation").unwrap(), Some(number));
    }
}

#[test]
fn a_disk_that_fails_is_probed_once_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let began = Instant::now();
    assert_eq!(store.fails(began), None);
    let _failed = store.failed("no space left on device".into());
    // Nothing can be written beside it.
    std::fs::create_dir(directory.path().join("state.redb.probe")).unwrap();
    assert!(store.fails(began).is_some());
    std::fs::remove_dir(directory.path().join("state.redb.probe")).unwrap();
    assert!(store.fails(began + PROBE_INTERVAL / 2).is_some(), "it was looked again at once");
    assert_eq!(store.fails(began + PROBE_INTERVAL), None);
}

#[test]
fn a_new_store_does_not_take_the_place_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    drop(Store::open(directory.path()).unwrap());
    let before = std::fs::read(&path).unwrap();
    // As a second first start does that has looked before the first one was done.
    let refused = file::make(directory.path(), &path);
    assert!(matches!(refused, Err(StoreError::InUse { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Each start reads all of it to see whether it is as it was written.
#[test]
#[ignore = "a measurement, of use with optimisation only: `make nightly` runs it"]
fn opening_takes() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(directory.path()).unwrap();
        let facts = (0..110_000).map(|n| ((n % 50, format!("key {n}").into()), vec![7; 200])).collect();
        store.commit(&Writes { facts, ..Writes::default() }, true).unwrap();
    }
    let began = Instant::now();
    let store = Store::open(directory.path()).unwrap();
    println!("opened in {:?}", began.elapsed());
    drop(store);
}
