//! Questions that one client asks the resolver at 127.0.0.11.
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Options;
use super::scene::Scene;
use crate::machine;
use crate::report::{Goal, Row};
use crate::resolver;

/// Questions under way at a time.
const UNDER_WAY: u16 = 64;

pub(crate) fn measure(scene: &Scene, options: &Options) -> Result<Vec<Row>> {
    let window = Duration::from_millis(if options.quick { 20 } else { 100 });
    let rounds = options.rounds;
    let speeds = scene.client.namespace.run(|| {
        machine::under_test(0);
        let socket = resolver::socket()?;
        (0..rounds).map(|_| flood(&socket, window)).collect::<std::io::Result<Vec<f64>>>()
    })??;
    Ok(Row::new("names: A questions answered, one client", "k/s", Goal::None, speeds).into_iter().collect())
}

/// Thousands of answers per second.
fn flood(socket: &UdpSocket, window: Duration) -> std::io::Result<f64> {
    let question = resolver::question("service", 1);
    let mut answer = [0; 512];
    for _ in 0..UNDER_WAY {
        socket.send(&question)?;
    }
    let (begin, mut answers) = (Instant::now(), 0_u32);
    while begin.elapsed() < window {
        let length = socket.recv(&mut answer)?;
        if resolver::address(answer.get(..length).unwrap_or_default()).is_none() {
            return Err(std::io::Error::other("the resolver does not know the service"));
        }
        answers += 1;
        socket.send(&question)?;
    }
    let speed = f64::from(answers) / begin.elapsed().as_secs_f64() / 1e3;
    for _ in 0..UNDER_WAY {
        socket.recv(&mut answer)?;
    }
    Ok(speed)
}
