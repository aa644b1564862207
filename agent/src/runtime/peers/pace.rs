//! How often a host is told of changes: at once while they are few, together while they are many.
use std::time::{Duration, Instant};

/// Pushes that this host sends in a second to all others together, once changes go on and on. What a push costs both ends
/// does not depend on how many changes are in it.
const PER_SECOND: f64 = 100.0;
/// Changes in a row that go to each host at once.
const BURST: f64 = 6.0;
/// The longest time for which a change that nobody waits for rests.
const REST_MAX: Duration = Duration::from_millis(500);

/// Pushes to one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    left: f64,
    filled: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now }
    }

    /// Counts a push that goes now.
    pub(super) fn pushed(&mut self, now: Instant, others: usize) {
        self.fill(now, others);
        self.left = (self.left - 1.0).max(0.0);
    }

    /// How long a push that nobody waits for rests, where this host pushes to so many others.
    pub(super) fn rest(&mut self, now: Instant, others: usize) -> Duration {
        self.fill(now, others);
        between(others).mul_f64((1.0 - self.left).max(0.0))
    }

    fn fill(&mut self, now: Instant, others: usize) {
        let passed = now.saturating_duration_since(self.filled);
        self.left = (self.left + passed.as_secs_f64() / between(others).as_secs_f64()).min(BURST);
        self.filled = now;
    }
}

/// Between two pushes to one of so many hosts.
fn between(others: usize) -> Duration {
    let others = u32::try_from(others.max(1)).unwrap_or(u32::MAX);
    Duration::from_secs_f64(f64::from(others) / PER_SECOND).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_changes_go_at_once_and_many_go_together() {
        let (begun, others) = (Instant::now(), 49);
        let mut pace = Pace::new(begun);
        for _ in 0..6 {
            assert_eq!(pace.rest(begun, others), Duration::ZERO);
            pace.pushed(begun, others);
        }
        // A change each 10 ms for 10 s.
        let (mut pushes, mut longest, mut waiting) = (0, Duration::ZERO, None);
        for tick in 1..=1_000 {
            let now = begun + Duration::from_millis(10) * tick;
            let since = *waiting.get_or_insert(now);
            if pace.rest(now, others).is_zero() {
                pace.pushed(now, others);
                longest = longest.max(now - since);
                waiting = None;
                pushes += 1;
            }
        }
        assert!((20..=22).contains(&pushes), "{pushes} pushes in 10 s");
        assert!(longest <= Duration::from_millis(500), "a change rested for {longest:?}");
        // What was used up is back after four quiet seconds.
        let later = begun + Duration::from_secs(14);
        for _ in 0..6 {
            assert_eq!(pace.rest(later, others), Duration::ZERO);
            pace.pushed(later, others);
        }
        assert!(!pace.rest(later, others).is_zero());
    }

    #[test]
    fn few_hosts_hardly_wait_and_many_no_longer_than_bound() {
        assert!(between(2) <= Duration::from_millis(20));
        assert!(between(0) <= between(1));
        assert_eq!(between(299), REST_MAX);
        assert_eq!(between(usize::MAX), REST_MAX);
    }
}
