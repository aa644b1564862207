use proptest::prelude::*;

use super::*;

const OWN: Speaker = Speaker { node: NodeId(1), incarnation: 5, boot: 100 };
const PEER: Speaker = Speaker { node: NodeId(2), incarnation: 7, boot: 200 };

fn envelope(speaker: Speaker, receiver: u64, counter: u64) -> Envelope {
    Envelope { speaker, receiver, counter }
}

fn sessions() -> Sessions {
    Sessions::new(OWN, BTreeMap::new())
}

#[test]
fn only_frames_made_for_this_process_are_taken_and_each_once() {
    let (mut sessions, now) = (sessions(), Instant::now());
    let greet = Verdict::Greet { stale: false, newest: 0 };
    assert_eq!(sessions.judge(now, &envelope(PEER, 0, 1)), greet);
    assert_eq!(sessions.judge(now, &envelope(PEER, 99, 2)), greet);
    assert!(sessions.maxima().is_empty(), "an unfresh frame must not move a maximum");
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 3)), Verdict::Accept);
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 3)), Verdict::Refuse(Reason::Replayed));
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 2)), Verdict::Accept);
    assert_eq!(sessions.maxima(), &BTreeMap::from([(PEER.node, 7)]));
}

#[test]
fn a_stale_incarnation_is_refused_also_after_our_restart() {
    let (mut sessions, now) = (Sessions::new(OWN, BTreeMap::from([(PEER.node, 8)])), Instant::now());
    let stale = Verdict::Greet { stale: true, newest: 8 };
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 1)), stale);
    let newer = Speaker { incarnation: 9, boot: 201, ..PEER };
    assert_eq!(sessions.judge(now, &envelope(newer, 100, 1)), Verdict::Accept);
    assert_eq!(sessions.maxima(), &BTreeMap::from([(PEER.node, 9)]));
}

#[test]
fn a_second_process_in_one_incarnation_waits_for_silence() {
    let (mut sessions, now) = (sessions(), Instant::now());
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 9)), Verdict::Accept);
    let twin = Speaker { boot: 201, ..PEER };
    assert_eq!(sessions.judge(now, &envelope(twin, 100, 1)), Verdict::Refuse(Reason::OtherProcess));
    assert_eq!(sessions.judge(now + SILENCE, &envelope(twin, 100, 2)), Verdict::Accept);
}

#[test]
fn our_own_identity_elsewhere_is_a_duplicate_only_when_it_answers_our_nonce() {
    let (mut sessions, now) = (sessions(), Instant::now());
    assert_eq!(sessions.judge(now, &envelope(OWN, 100, 1)), Verdict::Refuse(Reason::Own));
    let twin = Speaker { boot: 101, ..OWN };
    assert_eq!(sessions.judge(now, &envelope(twin, 0, 1)), Verdict::Greet { stale: false, newest: 5 });
    assert_eq!(sessions.judge(now, &envelope(twin, 100, 1)), Verdict::Refuse(Reason::Duplicate));
}

#[test]
fn a_removed_node_is_refused_whatever_process_speaks() {
    let (mut sessions, now) = (sessions(), Instant::now());
    sessions.remove(PEER.node);
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 1)), Verdict::Refuse(Reason::Removed));
    let again = Speaker { boot: PEER.boot + 1, ..PEER };
    assert_eq!(sessions.judge(now, &envelope(again, 100, 2)), Verdict::Refuse(Reason::Removed));
}

#[test]
fn a_process_of_another_cluster_is_refused_and_its_successor_heard_out() {
    let (mut sessions, now) = (sessions(), Instant::now());
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 1)), Verdict::Accept);
    sessions.forget(PEER.node);
    assert_eq!(sessions.judge(now, &envelope(PEER, 100, 2)), Verdict::Refuse(Reason::Forgotten));
    let again = Speaker { incarnation: PEER.incarnation + 1, boot: PEER.boot + 1, ..PEER };
    // Not by an old frame.
    assert_ne!(sessions.judge(now, &envelope(again, 0, 1)), Verdict::Accept);
    assert!(sessions.is_forgotten(PEER.node));
    assert_eq!(sessions.judge(now, &envelope(again, 100, 2)), Verdict::Accept);
    assert!(!sessions.is_forgotten(PEER.node));
}

#[test]
fn a_hello_hands_the_message_back_once_and_only_for_what_was_sent() {
    let mut destinations = Destinations::default();
    let to: SocketAddr = "10.0.0.2:7946".parse().unwrap();
    destinations.sent(4, to, [1; 8], b"syn".to_vec());
    assert_eq!(destinations.greeted(5, 200), None);
    assert_eq!(destinations.noticed([1; 8]), Some(to));
    assert_eq!(destinations.noticed([2; 8]), None);
    assert_eq!(destinations.greeted(4, 200), Some((to, b"syn".to_vec())));
    assert_eq!(destinations.boot(to), 200);
    assert_eq!(destinations.greeted(4, 200), None);
}

#[test]
fn nothing_grows_without_bound() {
    let mut destinations = Destinations::default();
    for port in 1..=u16::MAX {
        let to = SocketAddr::from(([10, 0, 0, 1], port));
        destinations.learn(to, 1);
        destinations.sent(u64::from(port), to, [0; 8], Vec::new());
    }
    assert_eq!(destinations.boots.len(), ADDRESSES_MAX);
    assert_eq!(destinations.order.len(), ADDRESSES_MAX);
    assert_eq!(destinations.pending.len(), PENDING_MAX);
    let (mut sessions, now) = (sessions(), Instant::now());
    for node in 10..u64::try_from(NODES_MAX).unwrap() + 20 {
        sessions.judge(now, &envelope(Speaker { node: NodeId(node), ..PEER }, 100, 1));
    }
    assert_eq!(sessions.maxima().len(), NODES_MAX);
}

proptest! {
    /// Against the plain definition: seen before, or too far behind.
    #[test]
    fn the_window_takes_each_counter_once(counters in prop::collection::vec(0_u64..400, 1..200)) {
        let mut window = Window::default();
        let (mut highest, mut seen) = (0, BTreeSet::from([0_u64]));
        window.accept(0);
        for counter in counters {
            let expected = counter + 128 > highest && !seen.contains(&counter);
            prop_assert_eq!(window.accept(counter), expected, "{} after {}", counter, highest);
            seen.insert(counter);
            highest = highest.max(counter);
        }
    }

    #[test]
    fn extreme_counters_do_not_overflow(counters in prop::collection::vec(any::<u64>(), 1..50)) {
        let mut window = Window::default();
        for counter in counters.into_iter().chain([u64::MAX, 0, u64::MAX]) {
            window.accept(counter);
        }
    }
}
