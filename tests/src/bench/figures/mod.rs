//! The figures, and in which order they are taken.
mod balancer;
mod connects;
mod derive;
mod docker;
mod faults;
mod full;
mod hosts;
mod memory;
mod names;
mod registration;
mod scene;
mod throughput;

use std::path::PathBuf;
use std::time::Duration;

use agent::bed::Sandbox;
use anyhow::Result;
use clap::ValueEnum;

use crate::crowd::Crowd;
use crate::report::Row;
use scene::Scene;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Figure {
    /// One namespace's table at 10,000 services of 10 replicas: load and changes.
    Balancer,
    /// Clusters of 50 simulated hosts.
    Hosts,
    /// What each of 300 costs; only where it is named.
    MoreHosts,
    /// A change taken up and derived at 10,000 services of 10 replicas.
    Derive,
    /// Containers of Docker: streams, times until they answer and until two hundred run.
    Docker,
    /// Resident memory of agents.
    Memory,
    /// From a registration's request to its use on all hosts.
    Registration,
    /// From a replica's death to the end of its use, and from a harm to its repair.
    Faults,
    /// Thousands of endpoints, a thousand containers; only where it is named.
    Full,
    /// Questions answered by the resolver.
    Names,
    /// A stream over the overlay and over one made by hand.
    Overlay,
    /// A stream through a VIP and past it.
    Vip,
    /// Connects through a VIP and past it.
    Connect,
}

impl Figure {
    /// Its name in the JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Balancer => "balancer",
            Self::Hosts => "hosts",
            Self::MoreHosts => "more_hosts",
            Self::Derive => "derive",
            Self::Docker => "docker",
            Self::Memory => "memory",
            Self::Registration => "registration",
            Self::Faults => "faults",
            Self::Full => "full",
            Self::Names => "names",
            Self::Overlay => "overlay",
            Self::Vip => "vip",
            Self::Connect => "connect",
        }
    }
}

/// How to measure.
pub(crate) struct Options {
    /// Few rounds.
    pub(crate) quick: bool,
    /// Of each pair.
    pub(crate) rounds: u32,
    /// The agent.
    pub(crate) program: PathBuf,
}

impl Options {
    /// How long a stream is measured each time.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 50 } else { 100 })
    }

    /// Services of the large cluster.
    pub(crate) fn services_max(&self) -> u32 {
        if self.quick { 1_000 } else { 10_000 }
    }
}

/// Takes the figures, each line as it is ready.
pub(crate) fn measure(
    sandbox: &Sandbox,
    options: &Options,
    figures: &[Figure],
    emit: &mut dyn FnMut(Figure, Vec<Row>),
) -> Result<()> {
    let wanted = |figure| figures.contains(&figure);
    // In this process, before anything else has made it grow.
    if wanted(Figure::Hosts) {
        emit(Figure::Hosts, hosts::fifty(options)?);
    }
    if wanted(Figure::MoreHosts) && !options.quick {
        emit(Figure::MoreHosts, hosts::three_hundred()?);
    }
    if wanted(Figure::Balancer) {
        emit(Figure::Balancer, balancer::measure(options)?);
    }
    if wanted(Figure::Derive) {
        emit(Figure::Derive, derive::measure(options)?);
    }
    if wanted(Figure::Docker) {
        emit(Figure::Docker, docker::measure(sandbox, options)?);
    }
    let alone = [Figure::Hosts, Figure::MoreHosts, Figure::Balancer, Figure::Derive, Figure::Docker];
    if figures.iter().all(|figure| alone.contains(figure)) {
        return Ok(());
    }
    let mut scene = Scene::build(sandbox, &options.program)?;
    if wanted(Figure::Memory) {
        emit(Figure::Memory, memory::small(&scene, options)?);
    }
    if wanted(Figure::Registration) {
        emit(Figure::Registration, registration::measure(&scene, options)?);
    }
    if wanted(Figure::Faults) {
        emit(Figure::Faults, faults::measure(&mut scene, options)?);
    }
    if wanted(Figure::Names) {
        emit(Figure::Names, names::measure(&scene, options)?);
    }
    if wanted(Figure::Overlay) {
        emit(Figure::Overlay, throughput::overlay(&scene, options)?);
    }
    if wanted(Figure::Vip) {
        emit(Figure::Vip, throughput::vip(&scene, options)?);
    }
    if wanted(Figure::Connect) {
        emit(Figure::Connect, connects::measure(&scene, options, 1)?);
    }
    if ![Figure::Connect, Figure::Memory, Figure::Full].into_iter().any(wanted) {
        return Ok(());
    }
    let mut crowd = Crowd::start(&mut scene.cluster.bed, &scene.cluster.key)?;
    if wanted(Figure::Connect) && !options.quick {
        crowd.tell(999)?;
        emit(Figure::Connect, connects::measure(&scene, options, 1_000)?);
    }
    if wanted(Figure::Connect) || wanted(Figure::Memory) {
        crowd.tell(options.services_max() - 1)?;
    }
    if wanted(Figure::Connect) {
        emit(Figure::Connect, connects::measure(&scene, options, options.services_max())?);
    }
    if wanted(Figure::Memory) {
        emit(Figure::Memory, memory::large(&scene, options)?);
    }
    // Last: a host with a thousand containers is in no state to be measured otherwise.
    if wanted(Figure::Full) {
        emit(Figure::Full, full::measure(&mut scene, &mut crowd, options)?);
    }
    Ok(())
}
