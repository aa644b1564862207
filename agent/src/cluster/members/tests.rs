use super::*;

const NODE: NodeId = NodeId(2);

fn seen(incarnation: u64, heartbeat: u64, strings: Option<&[(&str, &str)]>) -> Seen {
    Seen {
        node: NODE,
        beat: Beat { incarnation, heartbeat },
        generation: incarnation << 16,
        version: heartbeat,
        address: "10.0.0.2:7946".parse().unwrap(),
        strings: strings.map(|strings| {
            strings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        }),
    }
}

fn liveness() -> Liveness {
    Liveness::new(Duration::from_secs(3), Duration::from_millis(200))
}

#[test]
fn the_newest_incarnation_counts_and_strings_stay_when_chitchat_drops_them() {
    let (mut registry, mut liveness, now) = (Registry::default(), liveness(), Instant::now());
    let old = seen(1, 5, Some(&[("name", "a"), ("p/head", "1.9")]));
    let new = seen(2, 1, Some(&[("name", "b")]));
    registry.take(now, vec![old.clone(), new.clone()], &mut liveness);
    let members = registry.members(&liveness);
    assert_eq!((members[&NODE].incarnation, &members[&NODE].name[..]), (2, "b"));
    assert!(members[&NODE].published.is_empty());
    registry.take(now, vec![old], &mut liveness);
    registry.take(now, Vec::new(), &mut liveness);
    assert_eq!(registry.members(&liveness), members);
}

#[test]
fn a_goodbye_suspends_until_the_next_incarnation() {
    let (mut registry, mut liveness, now) = (Registry::default(), liveness(), Instant::now());
    registry.take(now, vec![seen(1, 1, Some(&[("name", "a")]))], &mut liveness);
    liveness.heard(now, NODE, 1);
    assert!(registry.members(&liveness)[&NODE].live);
    registry.take(now, vec![seen(1, 2, Some(&[("name", "a"), ("left", "1")]))], &mut liveness);
    let member = registry.members(&liveness).remove(&NODE).unwrap();
    assert!(member.left && !member.live);
    registry.take(now, vec![seen(2, 1, Some(&[("name", "a")]))], &mut liveness);
    liveness.heard(now, NODE, 2);
    let member = registry.members(&liveness).remove(&NODE).unwrap();
    assert!(!member.left && member.live);
}

#[test]
fn a_forgotten_host_is_gone() {
    let (mut registry, mut liveness, now) = (Registry::default(), liveness(), Instant::now());
    registry.take(now, vec![seen(1, 1, Some(&[("name", "a")]))], &mut liveness);
    registry.forget(|node| node == NODE);
    assert!(registry.members(&liveness).is_empty());
}

#[test]
fn a_generation_without_its_strings_does_not_hide_the_one_before() {
    let (mut registry, mut liveness, now) = (Registry::default(), liveness(), Instant::now());
    registry.take(now, vec![seen(1, 5, Some(&[("name", "a"), ("p/head", "1.9")]))], &mut liveness);
    let members = registry.members(&liveness);
    registry.take(now, vec![seen(2, 0, Some(&[]))], &mut liveness);
    assert_eq!(registry.members(&liveness), members);
    registry.take(now, vec![seen(1, 2, Some(&[("name", "a")]))], &mut liveness);
    assert_eq!(registry.members(&liveness), members);
}
