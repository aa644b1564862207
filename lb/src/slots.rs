//! Weights become slots, and slots move to new weights in steps that live traffic does not notice.
use crate::address::Address;
use crate::element::SLOTS_MAX;

/// Whom new flows go to: each replica's number of slots, sorted by address, each at least 1.
pub type Shares<A> = Vec<(A, u16)>;

/// Turns weights into slots: divided by their greatest common divisor, and scaled down (with at least one slot
/// each) to [`SLOTS_MAX`] in total. Of more replicas than that the lowest addresses are taken.
pub fn shares<A: Address>(weights: &[(A, u16)]) -> Shares<A> {
    let mut shares: Shares<A> = weights.iter().copied().filter(|(_, weight)| *weight > 0).collect();
    shares.sort_unstable();
    shares.dedup_by_key(|(address, _)| *address);
    shares.truncate(usize::from(SLOTS_MAX));
    let divisor = shares.iter().fold(0, |divisor, (_, weight)| greatest_common_divisor(divisor, *weight));
    shares.iter_mut().for_each(|(_, weight)| *weight /= divisor.max(1));
    let total: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total > u64::from(SLOTS_MAX) {
        scale_down(&mut shares, total);
    }
    shares
}

/// Rounds each share down (one slot at least), then takes from the largest what is still too much.
fn scale_down<A: Address>(shares: &mut Shares<A>, total: u64) {
    let mut sum = 0;
    for (_, weight) in shares.iter_mut() {
        let scaled = (u64::from(*weight) * u64::from(SLOTS_MAX) / total).max(1);
        *weight = u16::try_from(scaled).unwrap_or(SLOTS_MAX);
        sum += scaled;
    }
    while sum > u64::from(SLOTS_MAX) {
        if let Some((_, largest)) = shares.iter_mut().max_by_key(|(_, weight)| *weight) {
            *largest -= 1;
        }
        sum -= 1;
    }
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// One transaction's worth of change to a VIP's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<A> {
    /// Slots to be written, with whom they shall lead to.
    pub write: Vec<(u16, A)>,
    /// The class afterwards; 0 = the VIP is not linked.
    pub class: u16,
    /// Slots from this one on are deleted.
    pub keep: u16,
    /// Nothing is left to do in a later transaction.
    pub settled: bool,
}

/// The next step from the slots that are there (holes are [`Address::UNSPECIFIED`]) and their class towards the
/// shares that are wanted.
///
/// 1. While a replica that has gone still holds a slot and fewer slots are wanted, the slot is refilled: the class
///    stays, which costs 10 µs where changing it costs 1 ms at 10,000 services.
/// 2. Then the class changes, with every slot of it filled in the same transaction.
/// 3. Slots beyond the class are deleted in a later transaction: deleted together with the change of class, 114 of
///    1.17 million new flows had already been sent to the old class and found no slot.
pub fn step<A: Address>(slots: &[A], class: u16, wanted: &Shares<A>) -> Step<A> {
    let total = wanted.iter().map(|(_, share)| *share).sum::<u16>();
    let present = u16::try_from(slots.len()).unwrap_or(u16::MAX);
    let linked = &slots[..slots.len().min(usize::from(class))];
    let gone =
        linked.len() < usize::from(class) || linked.iter().any(|replica| find(wanted, *replica).is_none());
    if total > 0 && total < class && gone {
        let write = refill(linked, class, wanted);
        return Step { write, class, keep: present, settled: false };
    }
    let write = assign(slots, wanted, total);
    let still = write.is_empty() && total == class;
    Step {
        write,
        class: total,
        keep: if still { total } else { present },
        settled: still || present <= total,
    }
}

fn find<A: Address>(shares: &Shares<A>, replica: A) -> Option<usize> {
    shares.binary_search_by_key(&replica, |(address, _)| *address).ok()
}

/// Writes so that slots `0..total` hold exactly the shares, leaving right ones where they are.
fn assign<A: Address>(slots: &[A], wanted: &Shares<A>, total: u16) -> Vec<(u16, A)> {
    let mut missing = wanted.clone();
    let mut vacant = Vec::new();
    for slot in 0..total {
        let place = slots.get(usize::from(slot)).and_then(|replica| find(wanted, *replica));
        match place {
            Some(place) if missing[place].1 > 0 => missing[place].1 -= 1,
            _ => vacant.push(slot),
        }
    }
    let replicas =
        missing.into_iter().flat_map(|(replica, count)| std::iter::repeat_n(replica, usize::from(count)));
    vacant.into_iter().zip(replicas).collect()
}

/// Gives each vacated slot to the replica that is furthest below its share; the others stay.
fn refill<A: Address>(linked: &[A], class: u16, wanted: &Shares<A>) -> Vec<(u16, A)> {
    let mut held = vec![0_u32; wanted.len()];
    let mut vacant = Vec::new();
    for slot in 0..class {
        match linked.get(usize::from(slot)).and_then(|replica| find(wanted, *replica)) {
            Some(place) => held[place] += 1,
            None => vacant.push(slot),
        }
    }
    let mut write = Vec::with_capacity(vacant.len());
    for slot in vacant {
        // Least held per share; compared crosswise, so without fractions.
        let least = (0..wanted.len()).min_by(|a, b| {
            let share = |place: usize| u32::from(wanted[place].1);
            (held[*a] * share(*b)).cmp(&(held[*b] * share(*a)))
        });
        if let Some(place) = least {
            held[place] += 1;
            write.push((slot, wanted[place].0));
        }
    }
    write
}

#[cfg(test)]
mod tests;
