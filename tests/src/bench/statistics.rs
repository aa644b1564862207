//! What repeated measurements come to.

/// The middle of a list of samples and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Summary {
    /// How many samples.
    pub(crate) count: usize,
    /// The median.
    pub(crate) median: f64,
    /// Lower end of the median's 95 % interval.
    pub(crate) low: f64,
    /// Upper end of it.
    pub(crate) high: f64,
    /// The 99th percentile (nearest rank).
    pub(crate) p99: f64,
    /// The greatest.
    pub(crate) max: f64,
}

/// Beyond this the binomial's tails are taken from the normal distribution.
const EXACT_MAX: usize = 1_000;

impl Summary {
    /// `None` of no samples. With fewer than 6 there is no 95 % interval; least and greatest stand for it.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let count = samples.len();
        let at = |rank: usize| samples.get(rank.min(count.saturating_sub(1))).copied();
        let middle = (at(count.saturating_sub(1) / 2)? + at(count / 2)?) / 2.0;
        let outside = ranks_outside(count);
        Some(Self {
            count,
            median: middle,
            low: at(outside)?,
            high: at(count - 1 - outside)?,
            p99: at((count * 99).div_ceil(100).saturating_sub(1))?,
            max: at(count - 1)?,
        })
    }
}

/// Of `count` sorted samples, how many lie outside the median's 95 % interval on each side: the greatest k with
/// P(Binomial(count, 1/2) < k) ≤ 2.5 %. It assumes no distribution.
fn ranks_outside(count: usize) -> usize {
    let samples = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if count > EXACT_MAX {
        let ranks = (samples / 2.0 - 0.98 * samples.sqrt()).floor();
        return (0..count / 2).rev().find(|rank| from_usize(*rank) <= ranks - 1.0).unwrap_or(0);
    }
    let (mut mass, mut below) = (0.5_f64.powf(samples), 0.0);
    let mut ranks = 0;
    while ranks < count / 2 {
        below += mass;
        if below > 0.025 {
            break;
        }
        mass *= (samples - from_usize(ranks)) / (from_usize(ranks) + 1.0);
        ranks += 1;
    }
    ranks.saturating_sub(1)
}

fn from_usize(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics, table of the sign test: ranks r and n + 1 - r, counted from 1.
        for (count, rank) in [(6, 1), (10, 2), (20, 6), (30, 10), (40, 14)] {
            assert_eq!(ranks_outside(count) + 1, rank, "{count} samples");
        }
        assert_eq!(ranks_outside(3), 0);
        let (exact, normal) = (ranks_outside(1_000), ranks_outside(1_001));
        assert!(exact.abs_diff(normal) <= 1, "{exact} {normal}");
    }

    #[test]
    fn a_summary_is_of_the_sorted_samples() {
        let summary = Summary::of((1..=30).rev().map(f64::from).collect()).unwrap();
        assert_eq!((summary.median, summary.low, summary.high), (15.5, 10.0, 21.0));
        assert_eq!((summary.p99, summary.max, summary.count), (30.0, 30.0, 30));
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
