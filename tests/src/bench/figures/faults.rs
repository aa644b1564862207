//! How long it takes until what has died is out of use on all hosts, and until what somebody broke is right again.
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::api::types::Wait;
use agent::netns::Namespace;
use anyhow::{Result, bail, ensure};

use super::Options;
use super::scene::Scene;
use crate::connect::Acceptor;
use crate::machine;
use crate::report::{Goal, Row};

const PORT: u16 = 7_002;
/// Between two tries of a client.
const LOOK: Duration = Duration::from_millis(1);
const CONNECT_LIMIT: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn measure(scene: &mut Scene, options: &Options) -> Result<Vec<Row>> {
    let rounds = options.rounds.min(30);
    for (_, pid) in scene.cluster.pids() {
        machine::prioritise(pid, true);
    }
    let deaths: Vec<f64> = (0..rounds).map(|turn| death(scene, turn)).collect::<Result<_>>()?;
    let repairs: Vec<f64> = (0..rounds).map(|_| repair(scene)).collect::<Result<_>>()?;
    for (_, pid) in scene.cluster.pids() {
        machine::prioritise(pid, false);
    }
    let rows = [
        Row::new(
            "a replica's namespace is removed: refused on all 3 hosts",
            "s",
            Goal::P99AtMost(1.0),
            deaths,
        ),
        Row::new("a container's address is flushed: it connects again", "s", Goal::P99AtMost(1.0), repairs),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Seconds from the removal of a service's only replica until clients on all hosts are refused.
fn death(scene: &mut Scene, turn: u32) -> Result<f64> {
    let name = format!("mortal-{turn}");
    let replica = scene.cluster.attach("h2", &name)?;
    scene.cluster.register("h2", &name, &name, Wait::default())?;
    let vip = SocketAddr::from((scene.cluster.vip("h2", &name)?, PORT));
    let acceptor = Acceptor::start(std::slice::from_ref(&replica.namespace), PORT)?;
    let clients = [&scene.client.namespace, &scene.replicas[0].namespace, &scene.third.namespace];
    let all = |wanted: fn(&std::io::Result<TcpStream>) -> bool| -> Result<Instant> {
        let mut last = Instant::now();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter()
                .map(|namespace| scope.spawn(move || namespace.run(|| until(vip, wanted))))
                .collect();
            for client in waiting {
                let at = client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))???;
                last = last.max(at);
            }
            anyhow::Ok(last)
        })
    };
    all(Result::is_ok)?;
    let begun = Instant::now();
    scene.cluster.bed.delete_container(&name)?;
    let refused = |outcome: &std::io::Result<TcpStream>| {
        outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let last = all(refused)?;
    drop(acceptor);
    scene.cluster.deregister("h2", &name)?;
    Ok(last.duration_since(begun).as_secs_f64())
}

/// When connecting first came to what is wanted.
fn until(to: SocketAddr, wanted: fn(&std::io::Result<TcpStream>) -> bool) -> Result<Instant> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if wanted(&TcpStream::connect_timeout(&to, CONNECT_LIMIT)) {
            return Ok(Instant::now());
        }
        machine::pause(LOOK);
    }
    bail!("connecting to {to} did not come to what is wanted within {} s", LIMIT.as_secs())
}

/// Seconds until a container whose address somebody removed, and its routes with it, reaches another host again.
fn repair(scene: &Scene) -> Result<f64> {
    let to = SocketAddr::from((scene.replicas[0].address, PORT));
    let _acceptor = Acceptor::start(std::slice::from_ref(&scene.replicas[0].namespace), PORT)?;
    let harm = || -> Result<()> {
        let flushed = Command::new("ip").args(["address", "flush", "dev", "eth0"]).status()?;
        ensure!(flushed.success(), "ip address flush: {flushed}");
        Ok(())
    };
    let client: &Namespace = &scene.client.namespace;
    client.run(|| until(to, Result::is_ok))??;
    let begun = Instant::now();
    client.run(harm)??;
    let again = client.run(|| until(to, Result::is_ok))??;
    Ok(again.duration_since(begun).as_secs_f64())
}
