//! Connections that idle for longer than the kernel's own time-outs.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use agent::bed::{Sandbox, connect};
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::pause;

const LIMIT: Duration = Duration::from_secs(1);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![idle_connections_survive_short_timeouts]
}

/// Row P20.
fn idle_connections_survive_short_timeouts(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    for place in ["c1a", "c2x"] {
        cluster
            .shell(place, "for f in /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_*; do echo 1 >$f; done");
    }
    let tables = cluster.shell("c2x", "nft list table ip svc-agent");
    assert!(tables.contains("ct timeout "), "no time-outs of our own:\n{tables}");
    let open = || {
        let mut stream =
            connect(&cluster.namespace("c2x"), SocketAddr::new(vip, 80), LIMIT).expect("a connection");
        let mut bytes = [0; 64];
        let length = stream.read(&mut bytes).expect("the greeting");
        assert!(bytes[..length].starts_with(b"c1a "));
        stream
    };
    let (mut kept, mut forgotten) = (open(), open());
    pause(Duration::from_secs(4));
    assert_eq!(echo(&mut kept), Ok("x".to_owned()), "idle for four times the namespace's time-outs");
    // As after a reboot of what tracked it: it goes on, or is reset within a second; silence is the failure.
    cluster.shell("c2x", "conntrack -F");
    if let Err(error) = echo(&mut forgotten) {
        assert!(error.contains("reset"), "a write into an unknown flow came to: {error}");
    }
}

fn echo(stream: &mut TcpStream) -> Result<String, String> {
    stream.write_all(b"x").map_err(|error| error.to_string())?;
    let mut byte = [0];
    stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&byte).into_owned())
}
