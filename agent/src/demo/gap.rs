//! What the record of a client that connects all the time says of a failure. Pure.
use std::time::Duration;

use serde::Serialize;

use super::figures::millis;

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// When it was begun, since the client's start.
    pub(super) at: Duration,
    /// Who answered; `None`: nobody did, or the connection was refused.
    pub(super) answer: Option<String>,
}

/// What a failure cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    /// From the failure to the beginning of the last connection that failed; zero if none did.
    pub(super) gap_ms: u64,
    /// Connections begun after the failure, until the record's end.
    pub(super) connections: usize,
    pub(super) failed: usize,
    /// Connections that failed, by how long after the failure they were begun: one entry per [`SLICE`].
    pub(super) failed_by_slice: Vec<usize>,
    /// Connections begun, likewise.
    pub(super) begun_by_slice: Vec<usize>,
}

/// The grain of the record of failures.
pub(super) const SLICE: Duration = Duration::from_millis(250);

/// What happened to connections that were begun at `killed` or later.
pub(super) fn gap(attempts: &[Attempt], killed: Duration) -> Gap {
    let mut gap = Gap::default();
    for attempt in attempts {
        let Some(after) = attempt.at.checked_sub(killed) else { continue };
        let slice = usize::try_from(after.as_millis() / SLICE.as_millis()).unwrap_or(usize::MAX);
        if slice >= gap.begun_by_slice.len() {
            gap.begun_by_slice.resize(slice + 1, 0);
            gap.failed_by_slice.resize(slice + 1, 0);
        }
        gap.connections += 1;
        gap.begun_by_slice[slice] += 1;
        if attempt.answer.is_none() {
            gap.failed += 1;
            gap.failed_by_slice[slice] += 1;
            gap.gap_ms = gap.gap_ms.max(millis(after));
        }
    }
    gap
}

/// Whether the failure, which was complete at `broken`, is over: of the connections begun in the last `quiet` before
/// `settled`, until when the record is complete, none has failed, and at least `answered_min` were answered. Time alone
/// says nothing: a client that a busy machine kept waiting has no failures because it has no connections.
pub(super) fn is_over(
    attempts: &[Attempt],
    broken: Duration,
    settled: Duration,
    quiet: Duration,
    answered_min: usize,
) -> bool {
    let failures = attempts.iter().filter(|attempt| attempt.answer.is_none()).map(|attempt| attempt.at);
    let since = failures.max().map_or(broken, |failure| failure.max(broken));
    let answered = attempts.iter().filter(|attempt| attempt.answer.is_some() && attempt.at > since).count();
    settled.saturating_sub(since) >= quiet && answered >= answered_min
}

/// A line per slice up to the last one with a failure: how many of its connections failed.
pub(super) fn timeline(gap: &Gap) -> Vec<(Duration, usize, usize)> {
    let last = gap.failed_by_slice.iter().rposition(|failed| *failed > 0);
    let lines = last.map_or(0, |last| last + 2).min(gap.failed_by_slice.len());
    let starts = (0u32..).map(|slice| SLICE * slice);
    let rows = gap.failed_by_slice.iter().zip(&gap.begun_by_slice).take(lines);
    starts.zip(rows).map(|(start, (failed, begun))| (start, *failed, *begun)).collect()
}
