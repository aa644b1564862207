//! Addresses that move and addresses that rest.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent::bed::{Sandbox, ask_udp};
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![an_address_moves_to_another_host, a_freed_address_rests]
}

/// Row P10: the receiver says nothing by itself, before and after; with the same MAC and with another.
fn an_address_moves_to_another_host(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c2x c1x c3x");
    cluster.containers("c1a c3a c3b");
    cluster.ok("h1", "attach mover --network payment --netns c1a");
    let address = moved_address(&cluster);
    let _servers = ["c1a", "c3a", "c3b"].map(|name| cluster.server(name, 80));
    assert_lands(&cluster, address, "c1a");
    cluster.ok("h1", "detach mover");
    cluster.ok("h3", &format!("attach mover --network payment --netns c3a --ip {address}"));
    assert_lands(&cluster, address, "c3a");
    cluster.ok("h3", "detach mover");
    let other = "02:00:00:00:77:01";
    cluster.ok("h3", &format!("attach mover --network payment --netns c3b --ip {address} --mac {other}"));
    assert_lands(&cluster, address, "c3b");
}

fn moved_address(cluster: &Cluster) -> IpAddr {
    cluster.resolve("c2x", "mover").parse().expect("an address")
}

/// From a third host, from the old one and from the new one.
fn assert_lands(cluster: &Cluster, address: IpAddr, on: &str) {
    for client in ["c2x", "c1x", "c3x"] {
        wait_until(&format!("{client} reaches {address} on {on}"), Duration::from_secs(2), || {
            let to = SocketAddr::new(address, 80);
            match ask_udp(&cluster.namespace(client), to, Duration::from_millis(200)) {
                Ok(answer) if answer.name == on => Ok(()),
                Ok(answer) => Err(answer.name),
                Err(error) => Err(error.to_string()),
            }
        });
    }
}

/// Row P46: containers come and go quickly; whoever is asked by name is who answers.
fn a_freed_address_rests(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create small --subnet 10.60.0.0/28");
    cluster.ok("h1", "network create large --subnet 10.61.0.0/24");
    cluster.attach("small", "c2s");
    cluster.attach("large", "c2l");
    for (network, client, rounds) in [("small", "c2s", 8), ("large", "c2l", 12)] {
        let mut used: Vec<IpAddr> = Vec::new();
        let prefix = &network[..1];
        for round in 0..rounds {
            let name = format!("c1{prefix}{round}");
            cluster.attach(network, &name);
            let _server = cluster.server(&name, 80);
            let address = cluster.address_of(&name);
            assert_eq!(cluster.resolve(client, &name), address.to_string());
            let answer = cluster.tcp(client, address, 80).expect("an answer");
            assert_eq!(answer.name, name, "{address} of {network} was delivered to the owner before");
            used.push(address);
            cluster.ok("h1", &format!("detach {name}"));
        }
        let distinct: BTreeSet<&IpAddr> = used.iter().collect();
        match network {
            // 13 addresses for endpoints and VIPs, the client's taken: some come again, and as late as can be.
            "small" => assert!(distinct.len() >= 4, "{used:?}"),
            _ => assert_eq!(distinct.len(), used.len(), "none comes again within its rest: {used:?}"),
        }
    }
}
