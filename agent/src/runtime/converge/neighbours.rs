//! How many neighbours the machine's namespaces have resolved: when there are too many, no object of ours fails, as our
//! own entries are permanent, but what containers send.
use std::time::Instant;

use super::Converger;
use crate::neighbours::{self, FAMILIES, Table, Watch};

/// What was seen of both families' tables.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    watches: [Watch; 2],
    /// The limit that was met.
    refusing: [Option<u64>; 2],
}

impl Neighbours {
    fn look(&mut self, tables: [Table; 2], now: Instant) {
        for (place, watch) in self.watches.iter_mut().enumerate() {
            self.refusing[place] = watch.look(tables[place], now).then_some(tables[place].limit);
        }
    }

    fn problems(&self) -> impl Iterator<Item = (String, String)> {
        let refusing = FAMILIES.iter().zip(self.refusing);
        refusing.filter_map(|(family, limit)| {
            Some((format!("host/neighbours/{family}"), neighbours::explain(family, limit?)))
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
            self.neighbours.look(tables, Instant::now());
        }
        problems.extend(self.neighbours.problems());
    }
}
