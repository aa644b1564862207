//! How many neighbours the machine's namespaces have resolved: when there are too many, no object of ours fails, as our
//! own entries are permanent, but what containers send.
use std::time::Instant;

use super::Converger;
use crate::neighbours::{self, FAMILIES, Pressure, Table, Watch};

/// What was seen of both families' tables.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    watches: [Watch; 2],
    found: [Option<(Pressure, u64)>; 2],
}

impl Neighbours {
    fn look(&mut self, tables: [Table; 2], permanent: [u64; 2], now: Instant) {
        for (place, watch) in self.watches.iter_mut().enumerate() {
            let pressure = watch.look(tables[place], permanent[place], now);
            self.found[place] = pressure.map(|pressure| (pressure, tables[place].limit));
        }
    }

    fn problems(&self) -> impl Iterator<Item = (String, String)> {
        FAMILIES.iter().zip(self.found).filter_map(|(family, found)| {
            let (pressure, limit) = found?;
            Some((format!("host/neighbours/{family}"), neighbours::explain(pressure, family, limit)))
        })
    }
}

impl Converger {
    /// With `look` the kernel is asked again.
    pub(super) fn note_neighbours(&mut self, look: bool, problems: &mut Vec<(String, String)>) {
        // Where the kernel does not tell what was found before stays.
        if let Some(tables) = look.then(neighbours::read).and_then(Result::ok) {
            let permanent = self.overlay.neighbours().map(|count| u64::try_from(count).unwrap_or(u64::MAX));
            for (family, count) in FAMILIES.iter().zip(permanent) {
                let gauge = self.agent.metrics.neighbours_permanent.with_label_values(&[family]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            self.neighbours.look(tables, permanent, Instant::now());
        }
        problems.extend(self.neighbours.problems());
    }
}
