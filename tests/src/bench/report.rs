//! The table and its JSON.
use serde::Serialize;

use crate::statistics::Summary;

/// What a figure shall be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The whole interval is at or above it.
    AtLeast(f64),
    /// The whole interval is at or below it.
    AtMost(f64),
    /// The 99th percentile is at or below it.
    P99AtMost(f64),
    /// It is told for comparison.
    None,
}

/// Whether a goal is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The whole interval is inside.
    Met,
    /// The whole interval is outside.
    Missed,
    /// The goal lies in the interval: more rounds, or a quieter machine, would tell.
    Open,
    /// There is no goal.
    Information,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// What the numbers are of: `x` is a ratio.
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    pub(crate) summary: Summary,
    pub(crate) verdict: Verdict,
}

impl Row {
    /// `None` of no samples.
    pub(crate) fn new(
        what: impl Into<String>,
        unit: &'static str,
        goal: Goal,
        samples: Vec<f64>,
    ) -> Option<Self> {
        let summary = Summary::of(samples)?;
        Some(Self { what: what.into(), unit, goal, summary, verdict: verdict(goal, &summary) })
    }

    fn line(&self) -> String {
        let Summary { count, median, low, high, p99, .. } = self.summary;
        let goal = match self.goal {
            Goal::AtLeast(goal) => format!(">= {}", number(goal)),
            Goal::AtMost(goal) => format!("<= {}", number(goal)),
            Goal::P99AtMost(goal) => format!("p99<={}", number(goal)),
            Goal::None => String::new(),
        };
        let verdict = match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Open => "open",
            Verdict::Information => "",
        };
        let interval = format!("{} to {}", number(low), number(high));
        format!(
            "{:<74} {:>8} {:>8} {:<6} {:>18} {:>8} {:>6}  {verdict}",
            self.what,
            goal,
            number(median),
            self.unit,
            interval,
            number(p99),
            count
        )
    }
}

fn verdict(goal: Goal, summary: &Summary) -> Verdict {
    let (inside, outside) = match goal {
        Goal::None => return Verdict::Information,
        Goal::AtLeast(goal) => (summary.low >= goal, summary.high < goal),
        Goal::AtMost(goal) => (summary.high <= goal, summary.low > goal),
        Goal::P99AtMost(goal) => (summary.p99 <= goal, summary.p99 > goal),
    };
    match (inside, outside) {
        (true, _) => Verdict::Met,
        (_, true) => Verdict::Missed,
        _ => Verdict::Open,
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The table's head.
pub(crate) fn head() -> String {
    format!(
        "{:<74} {:>8} {:>8} {:<6} {:>18} {:>8} {:>6}",
        "", "goal", "median", "", "95 % interval", "p99", "n"
    )
}

/// One figure's lines.
pub(crate) fn lines(rows: &[Row]) -> String {
    rows.iter().map(|row| row.line() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(goal: Goal, low: u32, high: u32) -> Verdict {
        let samples = (low..=high).map(f64::from).collect();
        Row::new("x", "x", goal, samples).unwrap().verdict
    }

    #[test]
    fn a_goal_is_met_when_the_whole_interval_is_inside() {
        assert_eq!(of(Goal::AtMost(5.0), 1, 5), Verdict::Met);
        assert_eq!(of(Goal::AtMost(5.0), 1, 6), Verdict::Open);
        assert_eq!(of(Goal::AtMost(5.0), 6, 9), Verdict::Missed);
        assert_eq!(of(Goal::AtLeast(5.0), 5, 9), Verdict::Met);
        assert_eq!(of(Goal::AtLeast(5.0), 1, 4), Verdict::Missed);
        assert_eq!(of(Goal::AtLeast(5.0), 4, 6), Verdict::Open);
        assert_eq!(of(Goal::P99AtMost(9.0), 1, 9), Verdict::Met);
        assert_eq!(of(Goal::P99AtMost(8.0), 1, 9), Verdict::Missed);
        assert_eq!(of(Goal::None, 4, 6), Verdict::Information);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0123, 0.954, 1.234, 25.04, 311.6].map(number);
        assert_eq!(shown, ["0.012", "0.954", "1.23", "25.0", "312"]);
    }
}
