//! What one change costs where 10,000 services of 10 replicas are known.
use std::time::Instant;

use agent::view::scale::{self, Size};
use anyhow::Result;

use super::Options;
use crate::machine;
use crate::report::{Goal, Row};

pub(crate) fn measure(options: &Options) -> Result<Vec<Row>> {
    let size = Size { services: options.services_max(), ..Size::LARGE };
    let rounds = options.rounds.max(if options.quick { 6 } else { 200 });
    let measured = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            machine::under_test(0);
            let begin = Instant::now();
            scale::measure(size, rounds, &|| begin.elapsed(), &|| machine::resident_bytes(None))
        });
        work.join().map_err(|_| anyhow::anyhow!("deriving has panicked"))
    })?;
    let measured = measured.map_err(anyhow::Error::msg)?;
    let changes = measured.changes.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let with = format!("{} services of {}", size.services, size.replicas);
    let rows = [
        Row::new(format!("derive: one change of a replica, {with}"), "ms", Goal::AtMost(10.0), changes),
        Row::new("  everything from nothing", "ms", Goal::None, vec![measured.build.as_secs_f64() * 1e3]),
    ];
    Ok(rows.into_iter().flatten().collect())
}
