use proptest::prelude::*;

use super::*;

fn ring(first: u8) -> KeyRing {
    ClusterKey::found([first; 44]).into()
}

fn sealed(sealer: &Sealer, kind: Kind, plain: &[u8]) -> Vec<u8> {
    sealer.seal(kind, b"context", plain, [9; 24]).unwrap().0
}

#[test]
fn what_was_sealed_opens() {
    let sealer = Sealer::new(ring(1));
    let record = sealed(&sealer, Kind::Gossip, b"hello");
    assert_eq!(record.len(), 5 + OVERHEAD_BYTES);
    assert!(!record.windows(5).any(|window| window == b"hello"));
    assert_eq!(sealer.open(record, b"context"), Ok((Kind::Gossip, b"hello".to_vec())));
}

#[test]
fn every_flipped_bit_is_refused() {
    let sealer = Sealer::new(ring(1));
    let record = sealed(&sealer, Kind::Gossip, b"hello");
    for bit in 0..record.len() * 8 {
        let mut forged = record.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(sealer.open(forged, b"context").is_err(), "bit {bit}");
    }
}

#[test]
fn each_reason_has_its_name() {
    let sealer = Sealer::new(ring(1));
    let record = sealed(&sealer, Kind::Gossip, b"hello");
    let token = [9; 8];
    for length in 0..record.len() - 5 {
        assert_eq!(sealer.open(record[..length].to_vec(), b"context"), Err(Unopened::Truncated));
    }
    let altered = |index: usize, value: u8| {
        let mut record = record.clone();
        record[index] = value;
        sealer.open(record, b"context")
    };
    assert_eq!(altered(0, 2), Err(Unopened::Version));
    assert_eq!(altered(1, 99), Err(Unopened::Kind));
    assert_eq!(altered(2, 0), Err(Unopened::UnknownKey(KeyId([0, 1, 1, 1]), token)));
    assert_eq!(altered(1, 2), Err(Unopened::BadTag(KeyId([1; 4]), token)));
    assert_eq!(sealer.open(record.clone(), b"other"), Err(Unopened::BadTag(KeyId([1; 4]), token)));
}

#[test]
fn the_cluster_id_is_authenticated() {
    let mut random = [1; 44];
    random[0] = 2;
    let here = Sealer::new(ring(1));
    let there = Sealer::new(ClusterKey::found(random).into());
    let record = sealed(&there, Kind::Gossip, b"hello");
    assert_eq!(here.open(record, b"context"), Err(Unopened::BadTag(KeyId([1; 4]), [9; 8])));
}

#[test]
fn a_ring_opens_with_each_key_while_they_rotate() {
    let old = ClusterKey::found([1; 44]);
    let new = old.successor([2; 36]);
    let both = KeyRing::parse(&format!("{}\n{}", new.to_text(), old.to_text())).unwrap();
    let sealer = Sealer::new(old.into());
    let record = sealed(&sealer, Kind::Hello, b"x");
    sealer.replace(both);
    assert!(sealer.open(record, b"context").is_ok());
}

#[test]
fn a_notice_is_smaller_than_any_record_and_survives() {
    let notice = Notice { key_id: KeyId([1, 2, 3, 4]), known: true, token: [5; 8] };
    const { assert!(NOTICE_BYTES < OVERHEAD_BYTES) };
    let sealer = Sealer::new(ring(1));
    assert_eq!(sealer.open(notice.encode().to_vec(), b""), Err(Unopened::Notice(notice)));
    assert_eq!(sealer.open(notice.encode()[..14].to_vec(), b""), Err(Unopened::Truncated));
}

proptest! {
    #[test]
    fn random_bytes_never_open_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let sealer = Sealer::new(ring(1));
        prop_assert!(sealer.open(bytes.clone(), b"").is_err());
        let mut dressed = vec![1, 1, 1, 1, 1, 1];
        dressed.extend(bytes);
        prop_assert!(sealer.open(dressed, b"").is_err());
    }
}
