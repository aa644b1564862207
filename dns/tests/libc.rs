//! P38: what the C library makes of our resolv.conf, in namespaces of its own. Needs root, `unshare`, `ip` and `mount`.
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic as they may")]
use std::fs;
use std::process::Command;

use dns::{
    Mode, Network, Outcome, ServerSettings, Stats, Upstreams, ZoneHandle, parse_resolv_conf,
    render_resolv_conf,
};
use hickory_proto::op::ResponseCode;

use common::{Habit, attachment, network, service, upstream, zone};

mod common;

/// Runs the test below inside new namespaces.
#[test]
fn glibc_walks_the_search_list() {
    let itself = std::env::current_exe().unwrap();
    let inner = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(itself)
        .args(["inside", "--exact", "--ignored", "--nocapture"])
        .output();
    match inner {
        Ok(output) if output.status.success() => print!("{}", String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            if told.contains("Operation not permitted") && told.contains("unshare") {
                println!("skipped: new namespaces are not permitted here");
            } else {
                panic!("{}{told}", String::from_utf8_lossy(&output.stdout));
            }
        }
        Err(error) => println!("skipped: no unshare(1): {error}"),
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// What getaddrinfo says of a name over IPv4, and how many queries that took.
fn resolve(stats: &Stats, name: &str) -> (String, u64) {
    let asked = || Outcome::ALL.iter().map(|outcome| stats.outcome(*outcome)).sum::<u64>();
    let before = asked();
    let output = Command::new("getent").args(["ahostsv4", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.split_whitespace().next().unwrap_or("nothing").to_owned(), asked() - before)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by glibc_walks_the_search_list, in namespaces of its own"]
async fn inside() {
    run("ip", &["link", "set", "lo", "up"]);
    // Without an address besides 127.0.0.1 getent asks nothing at all (AI_ADDRCONFIG).
    run("ip", &["address", "add", "10.0.9.9/32", "dev", "lo"]);
    let mut blue = network("blue", "10.0.0.0/16");
    blue.set_service(service("payment-api", Mode::Vip, &["10.0.255.1"], Vec::new()));
    let mut green = Network::new("green", &[]);
    green.set_attachment(attachment("web", "10.1.0.1"));

    let udp = std::net::UdpSocket::bind("127.0.0.11:53").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.11:53").unwrap();
    let stats = std::sync::Arc::new(Stats::default());
    let forwarder = dns::Forwarder::new(dns::ForwardSettings::default(), stats.clone());
    forwarder.set_upstreams(&[upstream(Habit::Says(ResponseCode::NXDomain)).await.0]);
    let handle = ZoneHandle::new(zone(vec![blue, green]));
    let settings = ServerSettings::default();
    let kept = dns::Sockets { udp, tcp, notes: tempfile::tempfile().unwrap() };
    let server = dns::Server::start(kept, handle, forwarder, stats.clone(), settings).unwrap();

    // Both mounts are private to us (unshare(1) sees to that) and end with us.
    run("mount", &["-t", "tmpfs", "none", "/mnt"]);
    let file = "/mnt/resolv.conf";
    let write = |text: &str| fs::write(file, text).unwrap();
    write("");
    run("mount", &["--bind", file, "/etc/resolv.conf"]);

    // As we write it: a name costs one query, one more for each network before its own.
    write(&render_resolv_conf(&["blue", "green"], "svc.internal", &Upstreams::default()));
    let rows = [
        ("payment-api", "10.0.255.1", 1),
        ("payment-api.blue", "10.0.255.1", 1),
        ("Payment-API.blue.svc.internal", "10.0.255.1", 1),
        ("web", "10.1.0.1", 2),
        ("web.green", "10.1.0.1", 1),
        ("nobody", "nothing", 4),
    ];
    for (name, address, queries) in rows {
        assert_eq!(resolve(&stats, name), (address.to_owned(), queries), "{name}");
    }

    // Whatever a host or a user sets: the names resolve.
    for ndots in [0, 1, 2, 5] {
        for domains in 0..=6 {
            let search: Vec<String> = (0..domains).map(|n| format!("corp-{n}.example")).collect();
            let host =
                parse_resolv_conf(&format!("search {}\noptions ndots:{ndots}\n", search.join(" ")), &|_| {
                    None
                });
            write(&render_resolv_conf(&["blue", "green"], "svc.internal", &host));
            for (name, address, _) in rows {
                let (told, queries) = resolve(&stats, name);
                assert_eq!(told, address, "{name} ndots:{ndots}, {domains} domains");
                assert!(queries <= 8, "{name} ndots:{ndots}, {domains} domains: {queries} queries");
            }
        }
    }
    server.stop().await;
}
