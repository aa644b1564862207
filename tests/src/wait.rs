//! Waiting on states, with a deadline.
use std::time::{Duration, Instant};

use crate::vm::patient;

/// Between two looks at a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Looks until it is so, and returns what was seen; a panic with the last other state after `limit`.
///
/// `Ok` ends the wait; `Err` is the state that is not yet what is waited for, in words.
pub fn wait_until<T, E: std::fmt::Display>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let (started, limit) = (Instant::now(), patient(limit));
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(state) if started.elapsed() >= limit => {
                panic!("{what}: not within {limit:?}; last seen: {state}")
            }
            Err(_) => pause(LOOK_INTERVAL),
        }
    }
}

/// As [`wait_until`], for two values that are to become equal.
pub fn wait_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    limit: Duration,
    wanted: &T,
    mut look: impl FnMut() -> T,
) {
    wait_until(what, limit, || {
        let seen = look();
        if seen == *wanted { Ok(()) } else { Err(format!("{seen:?} instead of {wanted:?}")) }
    });
}

/// Lets time go by where time itself is what a scenario is about (an idle connection, a pace), never to await a state.
pub fn pause(time: Duration) {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let Ok(left) = rustix::event::Timespec::try_from(left) else { return };
        // Interrupted by a signal, it goes on with what is left.
        let _elapsed = rustix::event::poll(&mut [], Some(&left));
    }
}
