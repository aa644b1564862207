//! Connects through a VIP and past it.
use std::net::SocketAddrV4;

use anyhow::Result;

use super::Options;
use super::scene::Scene;
use super::throughput::ratios;
use crate::connect::{Acceptor, Way, round};
use crate::handmade::UNDERLAY_SERVER;
use crate::report::{Goal, Row};

const PORT: u16 = 6_001;
/// Connects of each way in a round.
const COUNT: usize = 50;

/// With so many services in the client's table.
pub(crate) fn measure(scene: &Scene, options: &Options, services: u32) -> Result<Vec<Row>> {
    let mut servers: Vec<_> = scene.replicas.iter().map(|replica| replica.namespace.clone()).collect();
    servers.push(scene.handmade.server.clone());
    servers.push(scene.cluster.bed.namespace("m2")?);
    let _acceptor = Acceptor::start(&servers, PORT)?;
    let replicas = scene.replicas.iter().map(|replica| SocketAddrV4::new(replica.address, PORT));
    let replicas: Vec<SocketAddrV4> = replicas.collect();
    let at = |address| vec![SocketAddrV4::new(address, PORT)];
    let ways = [
        Way { from: scene.client.namespace.clone(), to: at(scene.vip) },
        Way { from: scene.client.namespace.clone(), to: replicas.clone() },
        Way { from: scene.plain.namespace.clone(), to: replicas },
        Way { from: scene.handmade.client.clone(), to: at(scene.handmade.server_address) },
        Way { from: scene.cluster.bed.namespace("m1")?, to: at(UNDERLAY_SERVER) },
    ];
    let mut times = [const { Vec::new() }; 5];
    for turn in 0..options.rounds {
        let first = usize::try_from(turn).unwrap_or_default() * COUNT;
        for (times, time) in times.iter_mut().zip(round(&ways, COUNT, first)?) {
            times.push(time);
        }
    }
    let [vip, direct, plain, by_hand, bare] = times;
    let with = format!("{services} services of 10");
    let goal = Goal::AtMost(1.1);
    let rows = [
        Row::new(format!("connect: VIP / direct with our table, {with}"), "x", goal, ratios(&vip, &direct)),
        Row::new(format!("connect: VIP / direct without it, {with}"), "x", goal, ratios(&vip, &plain)),
        Row::new(
            "  VIP / direct over the overlay made with ip(8), no table anywhere",
            "x",
            Goal::None,
            ratios(&vip, &by_hand),
        ),
        Row::new("  through the VIP", "us", Goal::None, vip),
        Row::new("  direct, with our table", "us", Goal::None, direct),
        Row::new("  direct, our table removed in the client", "us", Goal::None, plain),
        Row::new("  direct, over the overlay made with ip(8)", "us", Goal::None, by_hand),
        Row::new("  bare underlay (physical limit)", "us", Goal::None, bare),
    ];
    Ok(rows.into_iter().flatten().collect())
}
