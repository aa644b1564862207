//! How long it takes from the request to register a service until a client on every host can use it by name.
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::api::types::Wait;
use agent::netns::Namespace;
use anyhow::{Context, Result, bail};

use super::Options;
use super::scene::Scene;
use crate::connect::Acceptor;
use crate::machine;
use crate::report::{Goal, Row};
use crate::resolver;

const PORT: u16 = 7_001;
/// Between two tries of a client.
const LOOK: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_millis(100);

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    rows(scene, options.rounds, "registration: request to first connection by name")
}

/// A row for the use of a service, and one for the verb; `what` is what is registered.
pub(crate) fn rows(scene: &Scene, rounds: u32, what: &str) -> Result<Vec<Row>> {
    let server = scene.replicas.first().context("no replica")?;
    let _acceptor = Acceptor::start(std::slice::from_ref(&server.namespace), PORT)?;
    let clients = [&scene.client.namespace, &server.namespace, &scene.third.namespace];
    for (_, pid) in scene.cluster.pids() {
        machine::prioritise(pid, true);
    }
    let (mut usable, mut returned) = (Vec::new(), Vec::new());
    for turn in 0..rounds {
        let (elsewhere, verb) = one(scene, &clients, &format!("new-{turn}"))?;
        usable.push(elsewhere);
        returned.push(verb);
    }
    for (_, pid) in scene.cluster.pids() {
        machine::prioritise(pid, false);
    }
    let rows = [
        Row::new(format!("{what}, all 3 hosts"), "s", Goal::P99AtMost(0.5), usable),
        Row::new("  the verb returns", "s", Goal::None, returned),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Seconds until the last client got through, and until the verb returned.
fn one(scene: &Scene, clients: &[&Namespace], service: &str) -> Result<(f64, f64)> {
    let name = format!("{service}.default.svc.internal");
    let (asking, begin) = (AtomicUsize::new(0), std::sync::OnceLock::new());
    let (last, verb) = std::thread::scope(|scope| {
        let (name, asking) = (&name, &asking);
        let waiting: Vec<_> = clients
            .iter()
            .map(|namespace| scope.spawn(move || namespace.run(|| use_when_possible(name, asking))))
            .collect();
        // Each has asked once and been told that there is no such name.
        let deadline = Instant::now() + LIMIT;
        while asking.load(Ordering::Acquire) < clients.len() && Instant::now() < deadline {
            machine::pause(LOOK);
        }
        let begun = *begin.get_or_init(Instant::now);
        scene.cluster.register("h2", service, "replica-0", Wait::default())?;
        let verb = begun.elapsed();
        let mut last = Duration::ZERO;
        for client in waiting {
            let reached = client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))???;
            last = last.max(reached.duration_since(begun));
        }
        anyhow::Ok((last, verb))
    })?;
    scene.cluster.deregister("h2", service)?;
    Ok((last.as_secs_f64(), verb.as_secs_f64()))
}

/// When the first connection by that name stood.
fn use_when_possible(name: &str, asking: &AtomicUsize) -> Result<Instant> {
    let socket = resolver::socket()?;
    let (deadline, mut id) = (Instant::now() + LIMIT, 0_u16);
    while Instant::now() < deadline {
        id = id.wrapping_add(1);
        let address = resolver::ask(&socket, &resolver::question(name, id)).unwrap_or_default();
        if id == 1 {
            asking.fetch_add(1, Ordering::Release);
        }
        if address.is_some_and(connects) {
            return Ok(Instant::now());
        }
        machine::pause(LOOK);
    }
    bail!("{name} could not be used within {} s", LIMIT.as_secs())
}

fn connects(address: Ipv4Addr) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), CONNECT_LIMIT).is_ok()
}
