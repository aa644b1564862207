//! Whether a split is the one that was asked for.
use std::collections::BTreeMap;

/// Upper 0.1 % points of chi-square for 1 to 9 degrees of freedom (Abramowitz and Stegun, table 26.8).
const CRITICAL: [f64; 9] = [10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124, 27.877];

/// Panics unless a sample agrees with weights by a chi-square test at p > 0.001. A right split fails that once in a
/// thousand samples; so a sample that fails is followed by another, of its own, that must not.
pub fn assert_split(weights: &[(&str, u32)], mut sample: impl FnMut() -> BTreeMap<String, u64>) {
    let first = agrees(&sample(), weights);
    let second = first.as_ref().err().map(|_| agrees(&sample(), weights));
    if let (Err(first), Some(Err(second))) = (first, second) {
        panic!("{first}\nand again: {second}");
    }
}

fn agrees(counts: &BTreeMap<String, u64>, weights: &[(&str, u32)]) -> Result<(), String> {
    let total: f64 = counts.values().map(|&count| as_float(count)).sum();
    let weight_sum: f64 = weights.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let names: Vec<&str> = weights.iter().map(|&(name, _)| name).collect();
    let unexpected: Vec<&String> = counts.keys().filter(|name| !names.contains(&name.as_str())).collect();
    assert!(unexpected.is_empty(), "answers by {unexpected:?}, which are no replicas");
    let chi_square: f64 = weights
        .iter()
        .map(|&(name, weight)| {
            let expected = total * f64::from(weight) / weight_sum;
            let seen = as_float(counts.get(name).copied().unwrap_or_default());
            (seen - expected).powi(2) / expected
        })
        .sum();
    let critical = CRITICAL[weights.len().saturating_sub(2).min(CRITICAL.len() - 1)];
    if chi_square < critical {
        return Ok(());
    }
    Err(format!("{counts:?} for {weights:?}: chi-square {chi_square:.1} ≥ {critical}"))
}

/// Counts of a test are far below 2^32.
fn as_float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A small generator for test decisions (xorshift64*); equal seeds, equal numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The seed is printed by whoever uses it, so that a failure can be repeated.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// From 0 to below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap_or_default() % bound.max(1)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
