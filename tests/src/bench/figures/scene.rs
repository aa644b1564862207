//! The bed that the figures of a cluster share.
//!
//! ```text
//!   h1: client      h2: replica-0 .. replica-9      h3: third      our agents, network default
//!   h4: plain                                                      as h1, but the container's table is removed
//!   m1: mc          m2: ms                                         the overlay made by hand
//!   m3: nc          m4: ns                                         the same, with an engine's translations
//! ```
//! `service` has the ten replicas on h2. The agent of h4 is killed, or it would repair what is removed.
use std::net::Ipv4Addr;
use std::path::Path;

use agent::api::types::Wait;
use agent::bed::Sandbox;
use anyhow::Result;
use lb::{Balancer, Real};

use crate::cluster::{Attached, Cluster};
use crate::handmade::{Handmade, Kind};

/// Replicas of the service that connects go to.
const REPLICAS: usize = 10;

pub(crate) struct Scene {
    pub(crate) client: Attached,
    pub(crate) replicas: Vec<Attached>,
    pub(crate) third: Attached,
    pub(crate) plain: Attached,
    pub(crate) handmade: Handmade,
    pub(crate) translated: Handmade,
    /// VIP of `service`.
    pub(crate) vip: Ipv4Addr,
    pub(crate) cluster: Cluster,
}

impl Scene {
    pub(crate) fn build(sandbox: &Sandbox, program: &Path) -> Result<Self> {
        let mut cluster = Cluster::start(sandbox, program)?;
        let client = cluster.attach("h1", "client")?;
        let plain = cluster.attach("h4", "plain")?;
        let third = cluster.attach("h3", "third")?;
        let replicas = (0..REPLICAS).map(|index| cluster.attach("h2", &format!("replica-{index}")));
        let replicas: Vec<Attached> = replicas.collect::<Result<_>>()?;
        for index in 0..REPLICAS {
            cluster.register("h2", "service", &format!("replica-{index}"), Wait::default())?;
        }
        cluster.kill_agent("h4")?;
        plain
            .namespace
            .run(|| anyhow::Ok(Balancer::new(Real::new(netfilter::Socket::open()?)).remove()?))??;
        let handmade = Handmade::build(&mut cluster.bed, Kind::Plain)?;
        let translated = Handmade::build(&mut cluster.bed, Kind::Translated)?;
        let vip = cluster.vip("h2", "service")?;
        Ok(Self { client, replicas, third, plain, handmade, translated, vip, cluster })
    }
}
