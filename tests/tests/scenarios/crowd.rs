//! More endpoints on one host than a bridge has ports.
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use agent::api::{routes, types};
use agent::bed::{Sandbox, connect};
use agent::netns::Namespace;
use tests::cluster::Cluster;
use tests::runner::{Scenario, is_nightly};
use tests::wait::{pause, wait_until};

const HOSTS: usize = 3;
/// A bridge has 1,024 ports, so there are as many networks.
const NETWORKS: [&str; 2] = ["blue", "red"];
/// Containers of each host: 1,500 on one, and 3,000 that are others' on the last.
const NIGHTLY: [usize; HOSTS] = [1_500, 1_500, 30];
const CI: [usize; HOSTS] = [30; HOSTS];
/// A port that nobody has: who is there refuses.
const CLOSED: u16 = 9;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Each connection has two namespaces resolve one address each, and all namespaces of a machine may have 1,024 that nobody
/// wrote (gc_thresh3 as it is by default). One that is confirmed is held for 15 to 45 s (its timer, neigh_forced_gc): some 600
/// are at this pace. At four times and more the table was full, a few connections timed out, and the agent said why.
const PACE: Duration = Duration::from_millis(100);
const EVERYWHERE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![p18_more_endpoints_than_a_bridge_has_ports_are_all_reachable once]
}

fn p18_more_endpoints_than_a_bridge_has_ports_are_all_reachable(sandbox: &Sandbox) {
    let each = if is_nightly() { NIGHTLY } else { CI };
    let mut cluster = Cluster::start(sandbox, HOSTS);
    for network in NETWORKS {
        cluster.ok("h1", &format!("network create {network} --subnet {}", subnet(network)));
    }
    let most = each.into_iter().max().unwrap_or_default();
    let of = |place: usize| (1..=HOSTS).zip(each).filter(move |(_, count)| place < *count);
    let names: Vec<(String, &str)> = (0..most)
        .flat_map(|place| of(place).map(move |(host, _)| (format!("c{host}n{place}"), NETWORKS[place % 2])))
        .collect();
    let began = Instant::now();
    let (mut slowest, mut late) = (Duration::ZERO, 0);
    for (place, (name, network)) in names.iter().enumerate() {
        let started = Instant::now();
        cluster.containers(name);
        let laggards = cluster.behind(
            &tests::cluster::host_of(name),
            &format!("attach {name} --network {network} --netns {name}"),
        );
        late += usize::from(!laggards.is_empty());
        slowest = slowest.max(started.elapsed());
        if (place + 1).is_multiple_of(600) {
            println!("  {} attached after {:?}", place + 1, began.elapsed());
        }
    }
    // Where others use the machine, too, some verbs may not see all hosts follow within their two seconds.
    println!(
        "  {} attached within {:?}, the slowest in {slowest:?}, {late} not everywhere when the verb ended",
        names.len(),
        began.elapsed()
    );
    for host in cluster.hosts() {
        wait_until(&format!("{host} knows all"), EVERYWHERE_LIMIT, || {
            let all: Vec<types::AttachmentInfo> = cluster.get(&host, routes::ATTACHMENTS, &[]);
            if all.len() == names.len() { Ok(()) } else { Err(all.len()) }
        });
    }
    // From a container of each network, and of each end of the list: its own host's and the others'.
    let addresses: Vec<types::AttachmentInfo> = cluster.get("h1", routes::ATTACHMENTS, &[]);
    for network in NETWORKS {
        let here = |it: &&types::AttachmentInfo| it.network.as_str() == network;
        let on: Vec<&types::AttachmentInfo> = addresses.iter().filter(here).collect();
        let from = on.iter().rfind(|it| it.name.as_str().starts_with("c1n")).expect("a container of h1's");
        let from = cluster.namespace(from.name.as_str());
        let began = Instant::now();
        let mut lost: Vec<String> = Vec::new();
        for endpoint in &on {
            if let Err(error) = reach(&from, endpoint.addresses[0]) {
                lost.push(format!("{}: {error}", endpoint.name));
            }
            pause(PACE);
        }
        assert!(
            lost.is_empty(),
            "{} of {} in {network} are not reached: {:?}",
            lost.len(),
            on.len(),
            &lost[..lost.len().min(9)]
        );
        println!("  {} endpoints of {network} reached within {:?}", on.len(), began.elapsed());
    }
    cluster.wait_well(EVERYWHERE_LIMIT);
    for (host, count) in cluster.hosts().iter().zip(each) {
        let began = Instant::now();
        cluster.ok(host, "leave");
        println!("  {host} left within {:?}, with {count} containers", began.elapsed());
        cluster.wait_agent_end(host);
    }
}

/// A /18 for each: room for 750 of a host.
fn subnet(network: &str) -> &'static str {
    if network == NETWORKS[0] { "10.200.0.0/18" } else { "10.200.64.0/18" }
}

fn reach(from: &Namespace, to: IpAddr) -> Result<(), String> {
    match connect(from, SocketAddr::new(to, CLOSED), CONNECT_LIMIT) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("somebody answers".to_owned()),
    }
}
