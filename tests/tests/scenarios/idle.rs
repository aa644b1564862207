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
    cluster.attach("payment", "c1a c1b c2x");
    // Two replicas: of a forgotten flow the next packet goes to the other one half of the time.
    let _servers = ["c1a", "c1b"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h1", "register payment-api --on c1b");
    let vip = cluster.vip("h1", "payment-api");
    for place in ["c1a", "c1b", "c2x"] {
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
        assert!(bytes[..length].starts_with(b"c1"));
        stream
    };
    let mut streams: Vec<TcpStream> = (0..10).map(|_| open()).collect();
    pause(Duration::from_secs(4));
    for stream in &mut streams {
        assert_eq!(echo(stream), Ok("x".to_owned()), "idle for four times the namespace's time-outs");
    }
    // As when whatever tracked it was flushed: it goes on, or is reset within a second; silence is the failure.
    cluster.shell("c2x", "conntrack -F");
    for stream in &mut streams {
        if let Err(error) = echo(stream) {
            assert!(error.contains("reset"), "a write into an unknown flow came to: {error}");
        }
    }
}

fn echo(stream: &mut TcpStream) -> Result<String, String> {
    stream.write_all(b"x").map_err(|error| error.to_string())?;
    let mut byte = [0];
    stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&byte).into_owned())
}
