//! What a service manager hears of the agent.
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use agent::bed::Sandbox;
use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::runner::Scenario;

const LIMIT: Duration = Duration::from_secs(10);
const WATCHDOG: Duration = Duration::from_secs(1);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![the_service_manager_hears_of_start_life_reload_and_end once]
}

fn the_service_manager_hears_of_start_life_reload_and_end(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    let path = cluster.bed().log_directory().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let socket = path.display().to_string();
    let microseconds = WATCHDOG.as_micros().to_string();
    cluster.set_environment("h1", &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", &microseconds)]);
    cluster.start_agent("h1", "--init");
    until(&manager, "READY=1");
    // It is as ready as it says.
    assert_eq!(cluster.cli("h1", "status").exit, 0);
    let (mut last, begun) = (Instant::now(), Instant::now());
    while begun.elapsed() < WATCHDOG * 3 {
        until(&manager, "WATCHDOG=1");
        assert!(last.elapsed() < WATCHDOG, "the watchdog would have bitten after {:?}", last.elapsed());
        last = Instant::now();
    }
    cluster.signal_agent("h1", Signal::HUP);
    let reload = until(&manager, "RELOADING=1");
    assert!(reload.contains("MONOTONIC_USEC="), "{reload}");
    until(&manager, "READY=1");
    cluster.signal_agent("h1", Signal::TERM);
    until(&manager, "STOPPING=1");
    cluster.wait_agent_end("h1");
}

/// All that is heard until this is among it.
fn until(manager: &UnixDatagram, wanted: &str) -> String {
    let (begun, mut heard) = (Instant::now(), String::new());
    let mut bytes = [0; 512];
    while !heard.lines().any(|line| line == wanted) {
        assert!(begun.elapsed() < LIMIT, "no {wanted} within {LIMIT:?}; heard: {heard:?}");
        match manager.recv(&mut bytes) {
            Ok(length) => {
                heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
                heard.push('\n');
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    heard
}
