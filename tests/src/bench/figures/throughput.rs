//! Streams: ours beside one made by hand, through a VIP beside direct, and the underlay as the physical limit.
use std::time::Duration;

use agent::api::types::Wait;
use anyhow::{Context, Result};

use super::Options;
use super::scene::Scene;
use crate::handmade::{Handmade, UNDERLAY_SERVER};
use crate::report::{Goal, Row};
use crate::stream::Stream;

/// One port per stream.
const PORT: u16 = 5_001;

pub(crate) fn overlay(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    let bed = &scene.cluster.bed;
    let (first, second) = (bed.namespace("m1")?, bed.namespace("m2")?);
    let server = scene.replicas.first().context("no replica")?;
    // Neither is a replica of anything.
    let ours = Stream::open(&scene.client.namespace, &scene.third.namespace, scene.third.address, PORT)?;
    let serving = Stream::open(&scene.client.namespace, &server.namespace, server.address, PORT)?;
    let made = |by: &Handmade| Stream::open(&by.client, &by.server, by.server_address, PORT);
    let (by_hand, translated) = (made(&scene.handmade)?, made(&scene.translated)?);
    let bare = Stream::open(&first, &second, UNDERLAY_SERVER, PORT)?;
    let streams = [&ours, &serving, &by_hand, &translated, &bare];
    let [ours, serving, by_hand, translated, bare] = rounds(options, streams)?;
    let rows = [
        Row::new(
            "stream: our overlay / the same made with ip(8)",
            "x",
            Goal::AtLeast(0.95),
            ratios(&ours, &by_hand),
        ),
        Row::new(
            "  to a replica of a service, past its VIP / made with ip(8)",
            "x",
            Goal::None,
            ratios(&serving, &by_hand),
        ),
        Row::new(
            "  our overlay / the same with an engine's egress and resolver",
            "x",
            Goal::None,
            ratios(&ours, &translated),
        ),
        Row::new("  our overlay", "Gbit/s", Goal::None, ours.clone()),
        Row::new("  to a replica of a service, past its VIP", "Gbit/s", Goal::None, serving),
        Row::new("  made with ip(8)", "Gbit/s", Goal::None, by_hand.clone()),
        Row::new("  the same with an engine's egress and resolver", "Gbit/s", Goal::None, translated.clone()),
        Row::new("  bare underlay (physical limit)", "Gbit/s", Goal::None, bare.clone()),
        Row::new("  our overlay / bare underlay", "x", Goal::None, ratios(&ours, &bare)),
    ];
    Ok(rows.into_iter().flatten().collect())
}

pub(crate) fn vip(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    let server = scene.replicas.first().context("no replica")?;
    scene.cluster.register("h2", "single", "replica-0", Wait::default())?;
    let vip = scene.cluster.vip("h2", "single")?;
    let through = Stream::open(&scene.client.namespace, &server.namespace, vip, PORT + 1)?;
    let direct = Stream::open(&scene.client.namespace, &server.namespace, server.address, PORT + 2)?;
    let [through, direct] = rounds(options, [&through, &direct])?;
    scene.cluster.deregister("h2", "single")?;
    let rows = [
        Row::new("stream: through a VIP / direct", "x", Goal::AtLeast(0.9), ratios(&through, &direct)),
        Row::new("  through a VIP", "Gbit/s", Goal::None, through.clone()),
        Row::new("  direct, over our overlay (physical limit)", "Gbit/s", Goal::None, direct.clone()),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Each in turn, again and again.
pub(super) fn rounds<const N: usize>(options: &Options, streams: [&Stream; N]) -> Result<[Vec<f64>; N]> {
    let mut speeds = [const { Vec::new() }; N];
    for stream in streams {
        let _warm = stream.measure(Duration::from_millis(100))?;
    }
    for _ in 0..options.rounds {
        for (stream, speeds) in streams.iter().zip(&mut speeds) {
            speeds.push(stream.measure(options.window())?);
        }
    }
    Ok(speeds)
}

/// Of the two of each round.
pub(super) fn ratios(of: &[f64], by: &[f64]) -> Vec<f64> {
    of.iter().zip(by).map(|(of, by)| of / by).collect()
}
