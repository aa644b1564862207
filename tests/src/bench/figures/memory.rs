//! Resident memory of real agents.
use std::time::Duration;

use anyhow::Result;

use super::Options;
use super::scene::Scene;
use crate::machine;
use crate::report::{Goal, Row};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The host with one attachment.
const ONE_ATTACHMENT: &str = "h3";

/// Three hosts with twelve attachments and one service; a fourth has failed.
pub(crate) fn small(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    let mut samples = Vec::new();
    for _ in 0..options.rounds {
        samples.extend(scene.cluster.pids().into_iter().map(|(_, pid)| mebibytes(pid)));
        machine::pause(LOOK);
    }
    let what = "memory: agent of a cluster of three hosts";
    Ok(Row::new(what, "MiB", Goal::AtMost(25.0), samples).into_iter().collect())
}

/// After the crowd has told of its services.
pub(crate) fn large(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    let mut samples = vec![Vec::new(); scene.cluster.pids().len()];
    for _ in 0..options.rounds {
        for (samples, (_, pid)) in samples.iter_mut().zip(scene.cluster.pids()) {
            samples.push(mebibytes(pid));
        }
        machine::pause(LOOK);
    }
    let services = options.services_max();
    let rows = scene.cluster.pids().into_iter().zip(samples).map(|((host, _), samples)| {
        let (goal, with) = match host {
            ONE_ATTACHMENT => (Goal::AtMost(200.0), "1 attachment".to_owned()),
            "h2" => (Goal::None, format!("{} attachments", scene.replicas.len())),
            _ => (Goal::None, "1 attachment".to_owned()),
        };
        Row::new(
            format!("memory: agent with {services} services of 10, {with} ({host})"),
            "MiB",
            goal,
            samples,
        )
    });
    Ok(rows.flatten().collect())
}

fn mebibytes(pid: u32) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
    let bytes = machine::resident_bytes(Some(pid)) as f64;
    bytes / f64::from(1 << 20)
}
