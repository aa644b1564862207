//! Two who want one key.
use super::*;
use crate::claims::ClaimRecord;
use crate::model::NodeId;

#[test]
fn the_second_waits_for_the_first_and_finds_it_held() {
    let key = ClaimKey::Vni { vni: 7 };
    let mut books = Books::new(NodeId(1));
    let Next::Claim(first) = next(&mut books, &key) else { panic!("nobody claims it yet") };
    let Next::Wait(ended) = next(&mut books, &key) else { panic!("the first claims it") };
    assert!(matches!(next(&mut books, &ClaimKey::Vni { vni: 8 }), Next::Claim(_)));
    assert!(ended.has_changed().is_ok());
    let record = ClaimRecord {
        key: key.clone(),
        attempt: 1,
        state: ClaimState::Confirmed,
        members: Vec::new(),
        removed: Vec::new(),
    };
    books.claims.insert(key.clone(), record);
    books.running.remove(&key);
    drop(first);
    assert!(ended.has_changed().is_err());
    assert!(matches!(next(&mut books, &key), Next::Held));
}
