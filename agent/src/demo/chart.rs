//! Figures as text. Pure.
use std::collections::BTreeMap;
use std::time::Duration;

/// One line per entry: name, bar, count and share. The longest bar has `width` characters.
pub(super) fn bars(counts: &BTreeMap<String, u64>, width: u64) -> String {
    let (total, most) =
        (counts.values().sum::<u64>().max(1), counts.values().copied().max().unwrap_or(0).max(1));
    let names = counts.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let bar = usize::try_from(width).unwrap_or(usize::MAX);
    let line = |(name, count): (&String, &u64)| {
        let length = usize::try_from(scaled(*count, most, width)).unwrap_or(0);
        let share = permille(*count, total);
        format!(
            "{name:<names$}  {:<bar$}  {count:>5}  {:>2}.{} %\n",
            "#".repeat(length),
            share / 10,
            share % 10
        )
    };
    counts.iter().map(line).collect()
}

/// `count` of `most` on a scale to `width`, rounded; what is there is at least one.
fn scaled(count: u64, most: u64, width: u64) -> u64 {
    let exact = count.saturating_mul(width).saturating_add(most / 2) / most.max(1);
    if count == 0 { 0 } else { exact.max(1) }
}

fn permille(count: u64, total: u64) -> u64 {
    (count.saturating_mul(1000) + total / 2) / total.max(1)
}

/// The smallest value that at least `percent` of all values do not exceed (nearest rank); zero of none.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// A time to about three digits: `87 us`, `1.62 ms`, `5 s`.
pub(super) fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => decimal(micros, 1_000, "ms"),
        _ => decimal(micros, 1_000_000, "s"),
    }
}

fn decimal(micros: u128, unit: u128, name: &str) -> String {
    let hundredths = (micros * 100 + unit / 2) / unit;
    if hundredths.is_multiple_of(100) {
        return format!("{} {name}", hundredths / 100);
    }
    if hundredths < 10_000 {
        return format!("{}.{:02} {name}", hundredths / 100, hundredths % 100);
    }
    format!("{} {name}", (hundredths + 50) / 100)
}

/// Rows as aligned columns.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
