//! Addresses of one host's block that another one has.
use std::net::IpAddr;
use std::time::Duration;

use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

use agent::bed::Sandbox;

const HEAL_LIMIT: Duration = Duration::from_secs(5);
const NOTICED: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![an_address_of_another_hosts_block_is_had_with_a_majority_only]
}

/// Its giver and its taker alone know of a grant: where both are cut off from the others, who then remove the giver, the
/// others would give the address to a second one.
fn an_address_of_another_hosts_block_is_had_with_a_majority_only(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 5);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c3a");
    cluster.containers("c2b c3b c4b");
    let first = cluster.address_of("c1a");
    let [kept, wanted] = [5, 9].map(|offset| later(first, offset));
    cluster.ok("h4", &format!("attach kept --network payment --netns c4b --ip {kept}"));
    let hosts = cluster.hosts();
    for host in &hosts[..2] {
        cluster.shell(
            host,
            "nft 'table inet cut { chain in { type filter hook input priority -350; ip saddr 192.168.77.3-192.168.77.5 \
             drop; }; chain out { type filter hook output priority -350; ip daddr 192.168.77.3-192.168.77.5 drop; }; }'",
        );
    }
    wait_members(&cluster, &hosts[..2], 2);
    wait_members(&cluster, &hosts[2..], 3);
    let taker = format!("attach taker --network payment --netns c2b --ip {wanted}");
    let why = ["lies in the block of host h1, which granted it, but no majority", "silent: h3, h4, h5"];
    let refused = cluster.cli("h2", &taker);
    assert_eq!(refused.exit, 1, "{refused:?}");
    assert!(why.iter().all(|part| refused.stderr.contains(part)), "{refused:?}");
    cluster.ok("h3", "node rm h1");
    cluster.ok("h3", &format!("attach heir --network payment --netns c3b --ip {wanted}"));
    let stolen = format!("attach thief --network payment --netns c3a --ip {kept}");
    cluster.refused("h3", &stolen, 1, &[]);
    let _servers = ["c3b", "c4b"].map(|name| cluster.server(name, 80));
    cluster.kill_host("h1");
    cluster.shell("h2", "nft delete table inet cut");
    wait_members(&cluster, &hosts[1..], 4);
    cluster.wait_well(NOTICED);
    cluster.refused("h2", &taker, 1, &["in use by \"heir\""]);
    for (address, name) in [(kept, "c4b"), (wanted, "c3b")] {
        wait_until(&format!("c2a reaches {name}"), HEAL_LIMIT, || {
            let answer = cluster.tcp("c2a", address, 80).map_err(|error| error.to_string())?;
            if answer.name == name { Ok(()) } else { Err(answer.name) }
        });
    }
}

fn later(address: IpAddr, offset: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => std::net::Ipv4Addr::from_bits(four.to_bits() + u32::from(offset)).into(),
        IpAddr::V6(six) => std::net::Ipv6Addr::from_bits(six.to_bits() + u128::from(offset)).into(),
    }
}

fn wait_members(cluster: &Cluster, hosts: &[String], live: usize) {
    for host in hosts {
        wait_until(&format!("{host} knows {live} live hosts"), NOTICED, || {
            let nodes: Vec<agent::api::types::NodeInfo> = cluster.get(host, agent::api::routes::NODES, &[]);
            let seen = nodes.iter().filter(|node| node.state != "suspended").count();
            if seen == live { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    }
}
