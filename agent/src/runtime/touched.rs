//! Namespaces in which something has changed, and when each is looked at.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use overlay::{Look, Space};
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
    spaces: Mutex<BTreeMap<Space, Look>>,
    /// Woken with each of them.
    pub heard: Notify,
}

impl Touched {
    /// Something has changed there that `look` shows.
    pub fn touch(&self, space: &Space, look: Look) {
        let mut spaces = lock(&self.spaces);
        match spaces.get_mut(space) {
            Some(known) => *known = look.max(*known),
            None => {
                spaces.insert(space.clone(), look);
                self.heard.notify_one();
            }
        }
    }

    /// Takes those whose turn it is.
    pub fn take_due(&self, pace: &Pace, now: Instant) -> BTreeMap<Space, Look> {
        lock(&self.spaces).extract_if(.., |space, _| pace.pause(space, now).is_zero()).collect()
    }

    /// How long until the next one's turn; nothing while all is quiet.
    pub fn next(&self, pace: &Pace, now: Instant) -> Option<Duration> {
        lock(&self.spaces).keys().map(|space| pace.pause(space, now)).min()
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
        for look in [Look::Links, Look::All, Look::Links] {
            touched.touch(&blue, look);
        }
        assert_eq!(touched.next(&pace, start), Some(Duration::ZERO));
        assert_eq!(touched.take_due(&pace, start), BTreeMap::from([(blue.clone(), Look::All)]));
        assert_eq!(touched.take_due(&pace, start), BTreeMap::new(), "once");
        for (took, pause) in [(1, PAUSE_MIN), (20, MS(180)), (500, PAUSE_MAX)] {
            pace.note(blue.clone(), start, MS(took));
            touched.touch(&blue, Look::Links);
            touched.touch(&Space::Host, Look::All);
            assert_eq!(
                touched.take_due(&pace, start),
                BTreeMap::from([(Space::Host, Look::All)]),
                "the others do not wait"
            );
            assert_eq!(touched.next(&pace, start), Some(pause));
            assert_eq!(touched.take_due(&pace, start + pause), BTreeMap::from([(blue.clone(), Look::Links)]));
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
