use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn random<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first.wrapping_add(u8::try_from(index % 251).unwrap()))
}

#[test]
fn a_key_survives_its_text() {
    let key = ClusterKey::found(random(1));
    assert_eq!(key.to_text().parse::<ClusterKey>().unwrap(), key);
    assert_eq!(key.to_text().len(), 15 + 3 + 16 + 8 + 64);
}

#[test]
fn debug_hides_the_secret() {
    let key = ClusterKey::found(random(1));
    let secret = key.to_text().rsplit('.').next().unwrap().to_owned();
    for text in [format!("{key:?}"), format!("{:?}", KeyRing::from(key.clone()))] {
        assert!(!text.contains(&secret[..8]), "{text}");
        assert!(text.contains(&key.id().to_string()), "{text}");
    }
}

#[test]
fn the_first_of_several_seals_and_each_is_found() {
    let old = ClusterKey::found(random(1));
    let new = old.successor(random(99));
    let ring =
        KeyRing::parse(&format!("# rotated\n\n{}\n  {} # old\n", new.to_text(), old.to_text())).unwrap();
    assert_eq!(ring.sealing(), &new);
    assert_eq!(ring.find(old.id()), Some(&old));
    assert_eq!(ring.find(KeyId([0; 4])), None);
    assert_eq!(ring.cluster(), old.cluster());
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let key = ClusterKey::found(random(1));
    let other = ClusterKey::found(random(2));
    let expected = key.cluster();
    let found = other.cluster();
    let parse = |text: String| KeyRing::parse(&text).unwrap_err();
    assert_eq!(parse(String::new()), KeyRingError::Empty);
    assert_eq!(
        parse(format!("{}\n{}", key.to_text(), other.to_text())),
        KeyRingError::OtherCluster { line: 2, expected, found }
    );
    assert_eq!(parse(format!("{0}\n{0}", key.to_text())), KeyRingError::Repeated { line: 2, id: key.id() });
    assert!(matches!(parse(format!("#\n{}", &key.to_text()[..60])), KeyRingError::Line { line: 2, .. }));
    let many: Vec<String> = (0..9).map(|first| key.successor(random(first)).to_text()).collect();
    assert_eq!(parse(many.join("\n")), KeyRingError::TooMany);
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, ClusterKey::found(random(1)).to_text()).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o644] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = KeyRing::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("key"), "{error}");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    KeyRing::load(&path).unwrap();
    assert!(matches!(KeyRing::load(&directory.path().join("none")), Err(KeyFileError::Read { .. })));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = KeyRing::parse(&text);
        let _ = format!("svc-agent-key-1.{text}").parse::<ClusterKey>();
    }
}
