use std::net::Ipv4Addr;

use super::{SLOTS_MAX, Shares, shares, step};

fn a(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn of(weights: &[(u8, u16)]) -> Shares<Ipv4Addr> {
    shares(&weights.iter().map(|(last, weight)| (a(*last), *weight)).collect::<Vec<_>>())
}

#[test]
fn weights_are_divided_by_their_greatest_common_divisor() {
    assert_eq!(of(&[(2, 100), (1, 50), (3, 0)]), [(a(1), 1), (a(2), 2)]);
    assert_eq!(of(&[(1, 7)]), [(a(1), 1)]);
    assert_eq!(of(&[]), []);
    assert_eq!(of(&[(1, 0)]), []);
    assert_eq!(of(&[(1, 3), (1, 5)]), [(a(1), 1)]);
}

#[test]
fn too_many_slots_are_scaled_down_and_everybody_keeps_one() {
    let many: Vec<(Ipv4Addr, u16)> =
        (0..600_u32).map(|n| (Ipv4Addr::from_bits(n + 1), if n == 0 { 256 } else { 255 })).collect();
    let shares = shares(&many);
    assert_eq!(shares.len(), 600);
    assert!(shares.iter().all(|(_, share)| *share >= 1));
    assert!(shares.iter().map(|(_, share)| u32::from(*share)).sum::<u32>() <= u32::from(SLOTS_MAX));
    let crowd: Vec<(Ipv4Addr, u16)> = (0..2000_u32).map(|n| (Ipv4Addr::from_bits(n + 1), 1)).collect();
    assert_eq!(super::shares(&crowd).len(), usize::from(SLOTS_MAX));
}

#[test]
fn a_removal_refills_then_shrinks_then_deletes() {
    let wanted = of(&[(1, 1), (3, 1)]);
    let first = step(&[a(1), a(2), a(3)], 3, &wanted);
    assert_eq!((first.write.as_slice(), first.class, first.keep), ([(1, a(1))].as_slice(), 3, 3));
    assert!(!first.settled);
    let second = step(&[a(1), a(1), a(3)], 3, &wanted);
    assert_eq!((second.write.as_slice(), second.class, second.keep), ([(1, a(3))].as_slice(), 2, 3));
    assert!(!second.settled);
    let third = step(&[a(1), a(3), a(3)], 2, &wanted);
    assert_eq!((third.write.len(), third.class, third.keep, third.settled), (0, 2, 2, true));
}

#[test]
fn growth_fills_new_slots_with_the_change_of_class() {
    let grown = step(&[a(1)], 1, &of(&[(1, 1), (2, 2)]));
    assert_eq!(grown.write, [(1, a(2)), (2, a(2))]);
    assert_eq!((grown.class, grown.settled), (3, true));
}

#[test]
fn a_replacement_writes_one_slot() {
    let replaced = step(&[a(1), a(2), a(3)], 3, &of(&[(1, 1), (3, 1), (4, 1)]));
    assert_eq!((replaced.write.as_slice(), replaced.class), ([(1, a(4))].as_slice(), 3));
    assert!(replaced.settled);
}

#[test]
fn nobody_left_unlinks_first_and_deletes_later() {
    let first = step(&[a(1), a(2)], 2, &Shares::new());
    assert_eq!((first.class, first.keep, first.settled), (0, 2, false));
    let second = step(&[a(1), a(2)], 0, &Shares::new());
    assert_eq!((second.class, second.keep, second.settled), (0, 0, true));
}

#[test]
fn a_refill_goes_to_whoever_is_furthest_below_its_share() {
    // 9 is gone; 1 shall have twice as much as 2.
    let first = step(&[a(1), a(2), a(9), a(9), a(9), a(9)], 6, &of(&[(1, 2), (2, 1)]));
    let to = |last| first.write.iter().filter(|(_, replica)| *replica == a(last)).count();
    assert_eq!((to(1), to(2)), (3, 1));
}

#[test]
fn a_hole_is_filled() {
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let repaired = step(&[a(1), unspecified, a(3)], 3, &of(&[(1, 1), (2, 1), (3, 1)]));
    assert_eq!(repaired.write, [(1, a(2))]);
    let short = step(&[a(1)], 3, &of(&[(1, 1)]));
    assert_eq!((short.class, short.write.len()), (3, 2));
}
