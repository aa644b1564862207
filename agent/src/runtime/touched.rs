//! Namespaces in which something has changed, and when each is looked at.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use overlay::Space;
use tokio::sync::Notify;

use crate::runtime::events::lock;

/// Between two looks at one namespace: at least this long,
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// at most this long, so that what somebody breaks is repaired within a second,
const PAUSE_MAX: Duration = Duration::from_millis(700);
/// and else so many times as long as the look took, so that a namespace that is never quiet costs a tenth of a core.
const PAUSE_FACTOR: u32 = 9;

/// What the monitors have heard of. Bounded by the number of namespaces.
#[derive(Debug, Default)]
pub struct Touched {
    spaces: Mutex<BTreeSet<Space>>,
    /// Woken with each of them.
    pub heard: Notify,
}

impl Touched {
    /// Something has changed there.
    pub fn touch(&self, space: &Space) {
        if lock(&self.spaces).insert(space.clone()) {
            self.heard.notify_one();
        }
    }

    /// Takes those whose turn it is.
    pub fn take_due(&self, pace: &Pace, now: Instant) -> BTreeSet<Space> {
        lock(&self.spaces).extract_if(.., |space| pace.pause(space, now).is_zero()).collect()
    }

    /// How long until the next one's turn; nothing while all is quiet.
    pub fn next(&self, pace: &Pace, now: Instant) -> Option<Duration> {
        lock(&self.spaces).iter().map(|space| pace.pause(space, now)).min()
    }
}

/// When each namespace was last looked at, and what that cost.
#[derive(Debug, Default)]
pub struct Pace {
    looks: BTreeMap<Space, (Instant, Duration)>,
}

impl Pace {
    /// A look that ended at `now`.
    pub fn note(&mut self, space: Space, now: Instant, took: Duration) {
        self.looks.insert(space, (now, took));
    }

    /// Forgets namespaces that are open no more.
    pub fn keep(&mut self, open: impl Fn(&Space) -> bool) {
        self.looks.retain(|space, _| open(space));
    }

    fn pause(&self, space: &Space, now: Instant) -> Duration {
        let Some((ended, took)) = self.looks.get(space) else { return Duration::ZERO };
        let pause = took.saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
        (*ended + pause).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_namespace_is_looked_at_at_once_and_then_at_its_pace() {
        let (touched, mut pace, start) = (Touched::default(), Pace::default(), Instant::now());
        let blue = Space::Network("blue".to_owned());
        assert_eq!(touched.next(&pace, start), None);
        touched.touch(&blue);
        touched.touch(&blue);
        assert_eq!(touched.next(&pace, start), Some(Duration::ZERO));
        assert_eq!(touched.take_due(&pace, start), BTreeSet::from([blue.clone()]));
        assert_eq!(touched.take_due(&pace, start), BTreeSet::new(), "once");
        for (took, pause) in [(1, PAUSE_MIN), (20, MS(180)), (500, PAUSE_MAX)] {
            pace.note(blue.clone(), start, MS(took));
            touched.touch(&blue);
            touched.touch(&Space::Host);
            assert_eq!(
                touched.take_due(&pace, start),
                BTreeSet::from([Space::Host]),
                "the others do not wait"
            );
            assert_eq!(touched.next(&pace, start), Some(pause));
            assert_eq!(touched.take_due(&pace, start + pause), BTreeSet::from([blue.clone()]));
        }
    }

    #[test]
    fn what_is_closed_is_forgotten() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.note(Space::Container(7), now, MS(1));
        pace.keep(|space| *space != Space::Container(7));
        assert_eq!(pace.pause(&Space::Container(7), now), Duration::ZERO);
    }
}
