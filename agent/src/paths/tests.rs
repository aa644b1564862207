use super::path::MTU_FLOOR;
use super::*;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const FULL: u32 = 1450;

/// Runs rounds over a path that carries what `carries` says.
fn rounds(path: &mut Path, count: u32, carries: impl Fn(Probe) -> bool) {
    for _ in 0..count {
        for probe in path.next_round() {
            if carries(probe) {
                path.note(probe);
            }
        }
    }
}

fn up_to(size: u32) -> impl Fn(Probe) -> bool {
    move |probe| !matches!(probe, Probe::Echo(bytes) if bytes > size)
}

#[test]
fn a_path_dies_after_five_silent_rounds_and_lives_after_two_with_an_answer() {
    let mut path = Path::new(FULL, None);
    rounds(&mut path, 1, |_| true);
    assert!(!path.is_settled());
    rounds(&mut path, 1, |_| true);
    assert!(path.is_settled() && !path.is_dead());
    // Silence is seen when the next round begins.
    rounds(&mut path, DEAD_AFTER, |_| false);
    assert!(!path.is_dead());
    rounds(&mut path, 1, |_| false);
    assert!(path.is_dead());
    rounds(&mut path, 2, |_| true);
    assert!(path.is_dead(), "one answer may be one of long ago");
    rounds(&mut path, 1, |_| true);
    assert!(!path.is_dead() && path.narrow().is_none());
}

#[test]
fn p54_a_third_of_all_packets_lost_ends_nothing() {
    // In one direction, and in both: 1 - 0.7².
    for percent in [30, 51] {
        let mut path = Path::new(FULL, None);
        let mut state = 7_u64;
        // A day of it.
        for _ in 0..86_400 {
            for probe in path.next_round() {
                // A linear congruential generator (Knuth): the same numbers in every run.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (state >> 33) % 100 >= percent {
                    path.note(probe);
                }
            }
            assert!(!path.is_dead() && !path.is_damaging(), "{percent} %");
            assert!(path.narrow().is_none() && !path.carries_no_size(), "{percent} %");
        }
    }
}

#[test]
fn p11_every_size_is_found_to_the_byte_and_left_when_more_passes() {
    for carried in [MTU_FLOOR, 576, 1000, 1279, 1280, 1330, 1350, 1448, 1449] {
        let mut path = Path::new(FULL, None);
        rounds(&mut path, 3, |_| true);
        rounds(&mut path, 20, up_to(carried));
        assert_eq!(path.narrow(), Some(carried));
        assert!(!path.is_dead());
        rounds(&mut path, 12, |_| true);
        assert_eq!(path.narrow(), None, "{carried}");
    }
}

#[test]
fn p11_a_path_that_comes_to_carry_a_bit_more_or_less_is_measured_again() {
    let mut path = Path::new(FULL, Some(1300));
    rounds(&mut path, 3, up_to(1300));
    assert_eq!(path.narrow(), Some(1300), "what was known holds over a restart");
    rounds(&mut path, 45, up_to(1400));
    assert_eq!(path.narrow(), Some(1400));
    rounds(&mut path, 21, up_to(900));
    assert_eq!(path.narrow(), Some(900));
    path.set_full(800);
    assert_eq!(path.narrow(), None, "both ends' underlay is narrower");
}

#[test]
fn p12_damage_is_what_spares_echoes() {
    let mut path = Path::new(FULL, None);
    rounds(&mut path, 10, |probe| probe != Probe::Datagram);
    assert!(path.is_damaging() && !path.is_dead());
    path.set_full(FULL - 1);
    assert!(path.is_damaging(), "sizes are another matter");
    rounds(&mut path, 2, |_| true);
    assert_eq!(path.damage(), Damage::Intact);
    rounds(&mut path, 15, |_| false);
    assert_eq!(path.damage(), Damage::Unknown, "nothing passes at all");
}

#[test]
fn p11_small_sizes_are_measured_and_what_never_passed_is_not_claimed() {
    for full in [68, 100, MTU_FLOOR - 1, MTU_FLOOR, MTU_FLOOR + 1] {
        let mut path = Path::new(full, None);
        rounds(&mut path, 50, up_to(64));
        assert_eq!((path.narrow(), path.is_dead()), (None, false), "{full}");
    }
    let mut path = Path::new(FULL, None);
    rounds(&mut path, 20, up_to(64));
    assert!(path.narrow().is_none() && path.carries_no_size());
    rounds(&mut path, 30, up_to(64));
    assert!(path.narrow().is_none() && path.carries_no_size(), "nor later");
    rounds(&mut path, 15, |_| true);
    assert!(path.narrow().is_none() && !path.carries_no_size());
}

#[test]
fn a_pause_keeps_what_was_found_and_is_no_silence() {
    let mut path = Path::new(FULL, Some(1300));
    rounds(&mut path, 3, up_to(1300));
    // Pauses after short silences, and then after every round.
    for silent in [[DEAD_AFTER - 1; 10], [1; 10]].concat() {
        rounds(&mut path, silent, |_| false);
        path.pause();
    }
    assert_eq!((path.is_dead(), path.narrow()), (false, Some(1300)));
    rounds(&mut path, 6, |_| false);
    assert!(path.is_dead());
    path.pause();
    assert!(path.is_dead(), "it comes back as it went");
    rounds(&mut path, 3, up_to(1300));
    assert!(!path.is_dead());
}

#[test]
fn p12_offload_goes_off_and_on_again_if_that_is_in_vain() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (damaged, intact, unknown) = (Damage::Damaged, Damage::Intact, Damage::Unknown);
    let mut offload = Offload::default();
    assert_eq!(offload.follow(intact, at(0)), Trial::Same);
    assert_eq!(offload.follow(damaged, at(1)), Trial::Began);
    assert!(!offload.is_on());
    assert_eq!(offload.follow(damaged, at(5)), Trial::Same);
    assert_eq!(offload.follow(unknown, at(12)), Trial::Same, "a path that has died says nothing");
    assert_eq!(offload.follow(intact, at(13)), Trial::Helped);
    assert_eq!((offload.follow(damaged, at(99)), offload.is_on()), (Trial::Same, false));
    let mut offload = Offload::default();
    offload.follow(damaged, at(0));
    assert_eq!((offload.follow(damaged, at(11)), offload.is_on()), (Trial::Failed, true));
    assert_eq!(offload.follow(damaged, at(12)), Trial::Same, "not again while the damage lasts");
    offload.follow(unknown, at(13));
    assert_eq!(offload.follow(damaged, at(14)), Trial::Same, "nor after a time without any news");
    offload.follow(intact, at(15));
    assert_eq!(offload.follow(damaged, at(16)), Trial::Began);
    assert_eq!((offload.follow(unknown, at(300)), offload.is_on()), (Trial::Same, false));
    assert_eq!((offload.follow(unknown, at(316)), offload.is_on()), (Trial::Failed, true));
}

#[test]
fn p12_only_paths_that_were_damaging_tell_that_none_is() {
    let (damaged, intact, unknown) = (Damage::Damaged, Damage::Intact, Damage::Unknown);
    assert_eq!(Damage::of_all([]), unknown);
    assert_eq!(Damage::of_all([(intact, false), (unknown, true)]), unknown);
    assert_eq!(Damage::of_all([(unknown, true), (intact, true), (intact, false)]), intact);
    assert_eq!(Damage::of_all([(intact, true), (damaged, false), (unknown, true)]), damaged);
}

#[test]
fn an_answer_is_read_and_a_foreign_one_is_not() {
    let (me, peer) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let tag = Tag { nonce: 5, round: 6, size: 1350 };
    let mut packet = echo(peer, tag);
    assert_eq!(packet.len(), 1350);
    packet[12..16].copy_from_slice(&peer.octets());
    assert_eq!(answer(&packet), Some((peer, Answer::Request)));
    packet[20] = 0;
    assert_eq!(answer(&packet), Some((peer, Answer::Echo(tag))));
    let header = |protocol: u8, from: Ipv4Addr, to: Ipv4Addr| {
        let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend(from.octets());
        header.extend(to.octets());
        header
    };
    let refusal = |to: Ipv4Addr| {
        let mut packet = header(1, peer, me);
        packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend(header(17, me, to));
        packet.extend([0; 8]);
        packet.extend(datagram(tag));
        packet
    };
    assert_eq!(answer(&refusal(peer)), Some((peer, Answer::Refusal(tag))));
    assert_eq!(answer(&refusal(me)), None, "of a datagram to somebody else");
    for length in 0..refusal(peer).len() - 24 {
        assert_eq!(answer(&refusal(peer)[..length]), None);
    }
}

#[test]
fn who_sent_a_tunnels_packet_is_read() {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1];
    packet.extend([0; 16 + 14]);
    packet.extend(echo(Ipv4Addr::new(10, 0, 0, 1), Tag { nonce: 0, round: 0, size: 64 }));
    let source = IpAddr::from([192, 0, 2, 9]);
    assert_eq!(outer_source(&packet), Some((source, Ipv4Addr::UNSPECIFIED)));
    assert_eq!(outer_source(&packet[..40]), None);
    assert_eq!(address(258), Some(Ipv4Addr::new(10, 0, 1, 2)));
    assert_eq!((address(0), address(1 << 24)), (None, None));
}
