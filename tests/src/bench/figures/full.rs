//! A network with thousands of endpoints on other hosts, and a host with a thousand containers.
use std::time::Instant;

use anyhow::Result;

use super::scene::Scene;
use super::{Options, registration};
use crate::crowd::Crowd;
use crate::report::{Goal, Row};

/// The host that gets the containers.
const HOST: &str = "h3";

pub(crate) fn measure(scene: &mut Scene, crowd: &mut Crowd, options: &Options) -> Result<Vec<Row>> {
    let (remote, local) = if options.quick { (500, 20) } else { (5_000, 1_000) };
    let rounds = options.rounds.min(30);
    let mut rows = Vec::new();
    let begun = Instant::now();
    crowd.tell_of(1, remote)?;
    let told = begun.elapsed().as_secs_f64();
    let what = format!("{remote} endpoints of 10 further hosts: in force on 3 hosts");
    rows.extend(Row::new(what, "s", Goal::AtMost(5.0), vec![told]));
    rows.extend(registration::rows(scene, rounds, &format!("  beside {remote} endpoints: a registration"))?);
    crowd.tell_of(1, 10)?;

    let mut attached = Vec::new();
    for index in 1..local {
        let name = format!("full-{index}");
        scene.cluster.bed.container(HOST, &name)?;
        let begun = Instant::now();
        scene.cluster.attach_only(HOST, &name)?;
        attached.push(begun.elapsed().as_secs_f64());
    }
    let all: f64 = attached.iter().sum();
    let last = attached.split_off(attached.len() - attached.len() / 10);
    let what = format!("attach: the last tenth of {local} containers of a host");
    rows.extend(Row::new(what, "s", Goal::P99AtMost(1.0), last));
    rows.extend(Row::new(format!("  all {local}, one after the other"), "s", Goal::None, vec![all]));
    rows.extend(registration::rows(scene, rounds, &format!("  beside {local} containers: a registration"))?);
    Ok(rows)
}
