//! Addresses that move and addresses that rest.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use agent::bed::{Answer, Sandbox, Server, ask_udp};
use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

/// So long a host may be slow without being taken for dead, however busy this machine is.
const PATIENT: [&str; 2] = ["--failure-after", "10s"];
const FAILURE_AFTER: Duration = Duration::from_secs(10);
/// For a host that has to catch up.
const MOVED: Duration = Duration::from_secs(2);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        an_address_moves_to_another_host,
        an_address_moves_past_a_slow_host,
        a_freed_address_rests once,
        a_freed_address_rests_past_a_slow_host once,
    ]
}

/// Attaches `mover` in `c1a` of the first host, with servers in all containers it will move through.
fn mover_on_the_first_host(cluster: &mut Cluster) -> (IpAddr, [Server; 3]) {
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c2x c1x c3x");
    cluster.containers("c1a c3a c3b");
    cluster.ok("h1", "attach mover --network payment --netns c1a");
    let address = moved_address(cluster);
    let servers = ["c1a", "c3a", "c3b"].map(|name| cluster.server(name, 80));
    assert_lands(cluster, address, "c1a");
    (address, servers)
}

/// Row P10: the receiver says nothing by itself, before and after; with the same MAC and with another.
fn an_address_moves_to_another_host(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    let (address, _servers) = mover_on_the_first_host(&mut cluster);
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
        assert_lands_from(cluster, client, address, on);
    }
}

fn assert_lands_from(cluster: &Cluster, client: &str, address: IpAddr, on: &str) {
    wait_until(&format!("{client} reaches {address} on {on}"), MOVED, || {
        match ask_briefly(cluster, client, address) {
            Some(answer) if answer.name == on => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn ask_briefly(cluster: &Cluster, client: &str, address: IpAddr) -> Option<Answer> {
    let to = SocketAddr::new(address, 80);
    ask_udp(&cluster.namespace(client), to, Duration::from_millis(200)).ok()
}

/// Does something while a host's agent is stopped, for less than its silence is taken for its end. What names it as
/// behind is right; a verb names nobody else.
fn while_slow(cluster: &Cluster, host: &str, work: impl FnOnce()) {
    let stopped = Instant::now();
    cluster.signal_agent(host, Signal::STOP);
    work();
    cluster.signal_agent(host, Signal::CONT);
    assert!(stopped.elapsed() < FAILURE_AFTER, "{host} was stopped for {:?}", stopped.elapsed());
}

/// A verb that is done although one host does not answer, which it names.
fn done_but_for(cluster: &Cluster, slow: &str, host: &str, words: &str) {
    let behind = cluster.behind(host, &format!("{words} --timeout 1s"));
    assert!(behind.iter().eq([slow]), "{words} on {host}: {behind:?} are behind");
}

/// Row P10 with a slow third host, which learns only afterwards; to another host, then to another MAC.
fn an_address_moves_past_a_slow_host(sandbox: &Sandbox) {
    let mut cluster = Cluster::with_flags(sandbox, 3, &PATIENT);
    let (address, _servers) = mover_on_the_first_host(&mut cluster);
    for (old, left, on, mac) in [("h1", "c1a", "c3a", ""), ("h3", "c3a", "c3b", "--mac 02:00:00:00:77:01")] {
        while_slow(&cluster, "h2", || {
            done_but_for(&cluster, "h2", old, "detach mover");
            let attach = format!("attach mover --network payment --netns {on} --ip {address} {mac}");
            done_but_for(&cluster, "h2", "h3", &attach);
            for client in ["c1x", "c3x"] {
                assert_lands_from(&cluster, client, address, on);
            }
            let answer = ask_briefly(&cluster, "c2x", address);
            assert!(
                answer.as_ref().is_none_or(|answer| answer.name == on),
                "{left} has been left: {answer:?}"
            );
        });
        assert_lands(&cluster, address, on);
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

/// Row P46 with a slow host: while it knows only of the owner before, an address that was freed reaches nobody. Of three
/// hosts, so that more addresses can be claimed without the slow one.
fn a_freed_address_rests_past_a_slow_host(sandbox: &Sandbox) {
    let mut cluster = Cluster::with_flags(sandbox, 3, &PATIENT);
    cluster.ok("h1", "network create small --subnet 10.60.0.0/28");
    cluster.ok("h1", "network create large --subnet 10.61.0.0/24");
    for (network, client) in [("small", "c2s"), ("large", "c2l")] {
        cluster.attach(network, client);
        let names: Vec<String> = (0..4).map(|round| format!("c1{}{round}", &network[..1])).collect();
        cluster.containers(&names.join(" "));
        cluster.attach_again(network, &names[0]);
        let _servers: Vec<_> = names.iter().map(|name| cluster.server(name, 80)).collect();
        let started = Instant::now();
        let mut owners = BTreeMap::from([(cluster.address_of(&names[0]), &names[0])]);
        // What an agent that is stopped has not heard of, its kernel sends where the owner was.
        let assert_no_other_owner = |owners: &BTreeMap<IpAddr, &String>| {
            for (address, owner) in owners {
                let answer = ask_briefly(&cluster, client, *address);
                assert!(
                    answer.is_none_or(|it| it.name == **owner),
                    "{address} was {owner}'s, not {owners:?}"
                );
            }
        };
        for pair in names.windows(2) {
            let [old, new] = pair else { unreachable!("windows of two") };
            while_slow(&cluster, "h2", || {
                cluster.ok("h1", &format!("detach {old} --no-wait"));
                cluster.ok("h1", &format!("attach {new} --network {network} --netns {new} --no-wait"));
                let address = cluster.address_of(new);
                let before = owners.insert(address, new);
                assert_eq!(
                    before,
                    None,
                    "{address} of {network} was given out again after {:?}",
                    started.elapsed()
                );
                assert_no_other_owner(&owners);
            });
            let address = cluster.address_of(new);
            wait_until(&format!("{client} knows {new}"), MOVED, || {
                let resolved = cluster.resolve(client, new);
                let answer = resolved.parse().ok().and_then(|address| ask_briefly(&cluster, client, address));
                let is_right =
                    resolved == address.to_string() && answer.as_ref().is_some_and(|it| it.name == *new);
                if is_right { Ok(()) } else { Err(format!("{resolved}, answered by {answer:?}")) }
            });
            assert_no_other_owner(&owners);
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "within the rest of the first: {:?}",
            started.elapsed()
        );
    }
}
