//! Subnets of networks: clear of the hosts' routes, and told before they are full.
use std::time::Duration;

use agent::addresses;
use agent::api::{routes, types};
use agent::bed::Sandbox;
use ipnetwork::IpNetwork;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

/// Routes and fullness are looked at every 10 s.
const LOOKED_AT: Duration = Duration::from_secs(30);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p49_default_subnets_are_clear_of_all_hosts_routes once,
        p49_default_ipv6_subnets_are_the_clusters_own once,
        p51_a_network_is_told_before_it_is_full once,
    ]
}

/// Row P49: a host's route into the pool, a VPN that takes everything, and a route that comes later.
fn p49_default_subnets_are_clear_of_all_hosts_routes(sandbox: &Sandbox) {
    let cluster = Cluster::start(sandbox, 3);
    cluster.shell("h1", "ip route add 0.0.0.0/1 dev eth0; ip route add 128.0.0.0/1 dev eth0");
    // Of the pool 10.128.0.0/9 the upper eighth is left.
    cluster.shell("h2", "ip route add 10.128.0.0/10 dev eth0");
    cluster.shell("h3", "ip route add 10.192.0.0/11 dev eth0; ip route add 10.224.0.0/12 dev eth0");
    let wide = cluster.cli("h1", "network create wide --subnet 10.128.0.0/9");
    assert_eq!(wide.exit, 0, "what is asked for by name is had: {wide:?}");
    let inspect =
        |network: &str| -> types::NetworkInfo { cluster.get("h1", routes::NETWORK, &[("name", network)]) };
    let overlap = |host: &str, route: &str| {
        wait_until(&format!("h1 has heard of {route}"), LOOKED_AT, || {
            let problems = inspect("wide").problems;
            let told = |it: &String| it.contains(&format!("host {host} ")) && it.contains(route);
            if problems.iter().any(told) { Ok(()) } else { Err(format!("{problems:?}")) }
        });
    };
    overlap("h2", "10.128.0.0/10");
    overlap("h3", "10.192.0.0/11");
    assert!(
        !inspect("wide").problems.iter().any(|it| it.contains("host h1")),
        "a VPN's halves are no routes"
    );
    let again = cluster.cli("h1", "network create wide --subnet 10.128.0.0/9");
    assert!(again.exit == 0 && again.stderr.contains("host h2 has a route to 10.128.0.0/10"), "{again:?}");
    cluster.ok("h1", "network rm wide");

    let left: IpNetwork = "10.240.0.0/12".parse().expect("a subnet");
    let mut last = None;
    for index in 0..6 {
        let name = format!("net-{index}");
        cluster.ok("h1", &format!("network create {name}"));
        let subnet = inspect(&name).subnets[0];
        assert!(addresses::overlaps(&left, &subnet) && subnet.prefix() == 16, "{name} has {subnet}");
        last = Some((name, subnet));
    }
    let (name, subnet) = last.expect("a network");
    assert!(inspect(&name).problems.is_empty());
    cluster.shell("h3", &format!("ip route add {subnet} dev eth0"));
    let said = |what: &str| {
        wait_until(&format!("h3 says {what}"), LOOKED_AT, || {
            let events = cluster.ok("h3", "events");
            if events.contains(what) { Ok(()) } else { Err(events) }
        });
    };
    said(&format!("{name}: host h3 has a route to {subnet}"));
    cluster.shell("h3", &format!("ip route delete {subnet} dev eth0"));
    said(&format!("{name}: no longer so: host h3 has a route to {subnet}"));
}

/// Row P49: of one range that is this cluster's alone, clear of all hosts' routes.
fn p49_default_ipv6_subnets_are_the_clusters_own(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    let inspect = |cluster: &Cluster, network: &str| -> types::NetworkInfo {
        cluster.get("h1", routes::NETWORK, &[("name", network)])
    };
    for words in ["both --ipv6", "six --ipv6-only", "given --ipv6 --subnet 10.9.0.0/16", "later --ipv6-only"]
    {
        cluster.ok("h1", &format!("network create {words}"));
    }
    let subnets = |network: &str| inspect(&cluster, network).subnets;
    let (both, six, given) = (subnets("both"), subnets("six"), subnets("given"));
    assert!(both[0].is_ipv4() && both[0].prefix() == 16 && both.len() == 2, "{both:?}");
    assert_eq!((six.len(), given[0].to_string().as_str()), (1, "10.9.0.0/16"), "{six:?} {given:?}");
    let own = [both[1], six[0], given[1]];
    let ranges = own.map(|subnet| match subnet {
        IpNetwork::V6(subnet) => subnet.network().octets()[..6].to_vec(),
        IpNetwork::V4(_) => panic!("{own:?}"),
    });
    let [first, ..] = &ranges;
    assert!(first[0] == 0xfd && first[1..] != [0; 5] && ranges.iter().all(|it| it == first), "{own:?}");
    assert!(
        own.iter().all(|subnet| subnet.prefix() == 64) && own[0] != own[1] && own[1] != own[2],
        "{own:?}"
    );
    // Again it is the same; of other families it is another one.
    for words in
        ["both --ipv6", "both", "six --ipv6-only", "six", "given --ipv6", "given --ipv6 --subnet 10.9.0.0/16"]
    {
        cluster.ok("h2", &format!("network create {words}"));
    }
    for (words, exit, said) in [
        ("both --ipv6-only", 1, "not IPv6 alone"),
        ("six --ipv6", 1, "not both families"),
        ("other --ipv6 --ipv6-only", 2, "--ipv6-only"),
        ("other --ipv6-only --subnet 10.9.0.0/16", 2, "--subnet"),
        ("other --ipv6 --subnet fd60::/64", 2, "leave one of them out"),
        ("other --ipv6 --mtu 1279", 1, "1280"),
    ] {
        cluster.refused("h1", &format!("network create {words}"), exit, &[said]);
    }
    cluster.attach("six", "c1a c2a");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register api --on c1a");
    let vip = cluster.vip("h1", "api");
    assert!(six[0].contains(vip), "{vip}");
    assert!(cluster.tcp("c2a", vip, 80).is_ok());

    let taken = inspect(&cluster, "later").subnets[0];
    cluster.shell("h2", &format!("ip -6 route add {taken} dev eth0"));
    wait_until("h1 has heard of it", LOOKED_AT, || {
        let problems = inspect(&cluster, "later").problems;
        if problems.iter().any(|it| it.contains("host h2 has a route")) {
            Ok(())
        } else {
            Err(format!("{problems:?}"))
        }
    });
    cluster.ok("h1", "network rm later");
    cluster.ok("h1", "network create later --ipv6-only");
    let clear = inspect(&cluster, "later");
    assert!(clear.subnets[0] != taken && clear.problems.is_empty(), "{clear:?}");
}

/// Row P51.
fn p51_a_network_is_told_before_it_is_full(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create small --subnet 10.9.0.0/26");
    cluster.attach("small", "c1a c2a");
    // IPv6 has room for ever, which is of no use to who needs an address of each.
    cluster.ok("h1", "network create both --subnet 10.10.0.0/26 --subnet fd00:10::/64");
    cluster.attach("both", "c1b");
    let vips = |cluster: &Cluster| {
        let info: types::NetworkInfo = cluster.get("h1", routes::NETWORK, &[("name", "small")]);
        info.capacity["vips"]
    };
    let total = vips(&cluster).total;
    assert!((3..=8).contains(&total), "{total} VIPs");
    let mut count = 0;
    while vips(&cluster).used * 100 / total < 80 {
        cluster.ok("h1", &format!("register service-{count} --on c1a"));
        cluster.ok("h1", &format!("register service-{count} --on c1b"));
        count += 1;
    }
    let told = |cluster: &Cluster, host: &str| {
        let status = cluster.status(host);
        let problems = status.hosts.into_iter().flat_map(|it| it.problems);
        let full = ["capacity/both/vips", "capacity/small/vips"];
        problems.filter(|it| full.contains(&it.object.as_str())).collect::<Vec<_>>()
    };
    for host in ["h1", "h2"] {
        wait_until(&format!("{host} says that it fills up"), LOOKED_AT, || {
            let told = told(&cluster, host);
            if told.len() == 2 { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }
    // Each host looks at its own time.
    wait_until("h2's gauge", LOOKED_AT, || {
        let metrics = cluster.shell("h2", "curl -s http://127.0.0.1:9472/metrics || true");
        let name = "svc_agent_fullest_network_percent{region=\"vips\"} ";
        let percent = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
        if percent == Some(vips(&cluster).used * 100 / total) { Ok(()) } else { Err(metrics) }
    });
    for index in 0..count {
        cluster.ok("h1", &format!("deregister service-{index} --network small"));
        cluster.ok("h1", &format!("deregister service-{index} --network both"));
    }
    cluster.wait_well(LOOKED_AT);
    let events = cluster.ok("h1", "events");
    assert!(events.contains("capacity/small/vips works again"), "{events}");
}
