//! Row P44: a cluster is cut in two, both sides give out addresses and VIPs until they are refused, and it heals.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::{Sandbox, Server};
use tests::cluster::{Cluster, host_of, shell_in};
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

/// Until a host's silence is noticed, with what a busy machine takes on top.
const NOTICED: Duration = Duration::from_secs(10);
/// Nobody promised a time for so much at once; a busy machine takes its own.
const HEAL_LIMIT: Duration = Duration::from_secs(20);
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
/// A network in which each address is claimed by itself.
struct Small {
    subnet: &'static str,
    /// How many endpoints and VIPs it has room for.
    room: (usize, usize),
    /// By host, more than it can attach before it is refused: two share what the third does not hold.
    containers: [usize; 3],
}

fn small() -> Small {
    match is_nightly() {
        true => Small { subnet: "10.60.0.0/26", room: (54, 7), containers: [54, 54, 26] },
        false => Small { subnet: "10.60.0.0/27", room: (26, 3), containers: [26, 26, 16] },
    }
}

/// Each host has a block of 8 endpoints and one VIP, and claims more.
const BLOCKS: &str = "10.61.0.0/19";
/// What the host that is cut off holds of the small network: endpoints and VIPs.
const HELD: (usize, usize) = (3, 2);
/// Where there is a majority it may be late on a busy machine: what is refused for that is asked for again.
const TRIES: usize = 10;
/// Registrations tried on each host and network.
const SERVICES_MAX: usize = 12;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![p44_both_sides_of_a_cut_give_out_all_they_can_and_nothing_serves_two once]
}

fn container(host: usize, index: usize) -> String {
    format!("c{}e{index}", host + 1)
}

/// What one host was given, and why it got no more.
#[derive(Debug, Default)]
struct Given {
    /// (network, attachment or service).
    done: BTreeSet<(String, String)>,
    /// By network and verb: the first that was refused, and why.
    refused: BTreeMap<(&'static str, &'static str), (String, String)>,
}

impl Given {
    /// Does one verb; false when it is refused. Done and on its way is done: much is going on at once.
    fn ask(
        &mut self,
        cluster: &Cluster,
        host: &str,
        (network, verb): (&'static str, &'static str),
        name: &str,
        rest: &str,
    ) -> bool {
        for tries_left in (0..TRIES).rev() {
            let output = cluster.cli(host, &format!("{verb} {name} --network {network} {rest}"));
            if [0, 4].contains(&output.exit) {
                self.done.insert((network.to_owned(), name.to_owned()));
                return true;
            }
            assert_eq!(output.exit, 1, "{host}: {verb} {name} on {network}: {output:?}");
            let is_final =
                output.stderr.contains("no address left") && !output.stderr.contains("no majority");
            if is_final || tries_left == 0 || host == HOSTS[2] {
                self.refused.insert((network, verb), (name.to_owned(), output.stderr));
                return false;
            }
        }
        false
    }

    /// Attaches and registers on one host until it is refused.
    fn take_all(cluster: &Cluster, host: usize) -> Self {
        let (mut given, name) = (Self::default(), HOSTS[host]);
        for network in ["small", "blocks"] {
            // The first of each host is attached; of the others that share the blocks nobody could come to an end.
            let wanted = if network == "blocks" && host < 2 { 4 } else { small().containers[host] };
            let attach = |given: &mut Self, at: usize| {
                let own = container(host, at);
                given.ask(cluster, name, (network, "attach"), &own, &format!("--netns {own}"))
            };
            let _all = (1..wanted).all(|at| attach(&mut given, at));
            let on = format!("--on {}", container(host, 0));
            let wanted = if network == "blocks" && host < 2 { 2 } else { SERVICES_MAX };
            let register = |given: &mut Self, at: usize| {
                given.ask(cluster, name, (network, "register"), &format!("s{}v{at}", host + 1), &on)
            };
            let _all = (0..wanted).all(|at| register(&mut given, at));
        }
        given
    }

    fn count(&self, network: &str, service: bool) -> usize {
        self.done.iter().filter(|(of, name)| of == network && name.starts_with('s') == service).count()
    }
}

fn wait_suspended(cluster: &Cluster, host: &str, others: &[&str]) {
    wait_until(&format!("{host} holds {others:?} to be suspended"), NOTICED, || {
        let nodes: Vec<types::NodeInfo> = cluster.get(host, routes::NODES, &[]);
        let away: Vec<String> =
            nodes.into_iter().filter(|it| it.state == "suspended").map(|it| it.name).collect();
        if others.iter().all(|it| away.iter().any(|name| name == it)) {
            Ok(())
        } else {
            Err(format!("{away:?}"))
        }
    });
}

/// The first container of each host is on both networks, and what the third host is to hold was its own before.
fn prepare(cluster: &mut Cluster) -> Vec<Server> {
    let Small { subnet, containers, .. } = small();
    cluster.ok("h1", &format!("network create small --subnet {subnet}"));
    cluster.ok("h1", &format!("network create blocks --subnet {BLOCKS}"));
    let names: Vec<String> =
        (0..HOSTS.len()).flat_map(|host| (0..containers[host]).map(move |at| container(host, at))).collect();
    cluster.containers(&names.join(" "));
    for host in 0..HOSTS.len() {
        for network in ["small", "blocks"] {
            cluster.attach_again(network, &container(host, 0));
        }
    }
    for at in 1..HELD.0 {
        cluster.attach_again("small", &container(2, at));
    }
    for at in 1..HELD.0 {
        cluster.ok("h3", &format!("detach {} --network small", container(2, at)));
    }
    for at in 0..HELD.1 {
        cluster.ok("h3", &format!("register held{at} --network small --on {}", container(2, 0)));
    }
    for at in 0..HELD.1 {
        cluster.ok("h3", &format!("deregister held{at}"));
    }
    names.iter().map(|name| cluster.server(name, 80)).collect()
}

/// As [`everything`], once all hosts say the same.
fn agreed(cluster: &Cluster) -> (Vec<types::AttachmentInfo>, Vec<types::ServiceInfo>) {
    wait_until("all hosts know the same", HEAL_LIMIT, || {
        let said = HOSTS.map(|host| everything(cluster, host));
        let words = said.each_ref().map(|(attachments, services)| {
            let a = attachments.iter().map(|it| format!("{} {} {:?}", it.network, it.name, it.addresses));
            let s = services.iter().map(|it| {
                let on: BTreeSet<String> = it.replicas.iter().map(|it| it.attachment.to_string()).collect();
                format!("{} {} {:?} {on:?}", it.network, it.name, it.vips)
            });
            a.chain(s).collect::<BTreeSet<String>>()
        });
        let other = words.iter().find(|it| **it != words[0]);
        let differs = other.map(|it| it.symmetric_difference(&words[0]).cloned().collect::<Vec<_>>());
        match differs {
            Some(differs) => Err(format!("{differs:?}")),
            None => Ok(said.into_iter().next().expect("three hosts")),
        }
    })
}

fn everything(cluster: &Cluster, host: &str) -> (Vec<types::AttachmentInfo>, Vec<types::ServiceInfo>) {
    (cluster.get(host, routes::ATTACHMENTS, &[]), cluster.get(host, routes::SERVICES, &[]))
}

/// No address is an endpoint's and another's, by what hosts say and by what containers have.
fn assert_unique(cluster: &Cluster, attachments: &[types::AttachmentInfo], services: &[types::ServiceInfo]) {
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    let of_attachments =
        attachments.iter().flat_map(|it| it.addresses.iter().map(move |ip| (*ip, it.name.to_string())));
    let of_services = services.iter().flat_map(|it| it.vips.iter().map(move |ip| (*ip, it.name.to_string())));
    for (address, owner) in of_attachments.chain(of_services) {
        let other = owners.insert(address, owner.clone());
        assert_eq!(other, None, "{address} is also {owner}'s");
    }
    let containers: BTreeSet<String> = attachments.iter().map(|it| it.name.to_string()).collect();
    let mut has: BTreeMap<IpAddr, String> = BTreeMap::new();
    for name in containers {
        let said = cluster.shell(&name, "ip -o -4 addr show scope global | awk '{print $4}' | cut -d/ -f1");
        for address in said.lines().map(|line| line.parse().expect("an address")) {
            assert_eq!(owners.get(&address), Some(&name), "{name} has {address}");
            assert_eq!(has.insert(address, name.clone()), None, "two containers have {address}");
        }
    }
    assert_eq!(has.len(), attachments.len(), "every attachment has its address");
}

/// What the networks' namespaces hold: in each, neighbours of all its attachments, and the tunnel to those of others.
fn tables(cluster: &Cluster, attachments: &[types::AttachmentInfo]) -> Result<(), String> {
    let mut wanted = Vec::new();
    for (host, network) in HOSTS.iter().flat_map(|host| ["small", "blocks"].map(|network| (*host, network))) {
        let of = || attachments.iter().filter(|it| it.network.as_str() == network);
        let neighbours: BTreeSet<String> = of().map(|it| format!("{} {}", it.addresses[0], it.mac)).collect();
        let there = |it: &types::AttachmentInfo| {
            let number = host_of(it.name.as_str()).trim_start_matches('h').parse().expect("a host's number");
            format!("{} {}", it.mac, cluster.address(number))
        };
        let tunnel: BTreeSet<String> = of().filter(|it| it.host != host).map(there).collect();
        wanted.push((neighbours, tunnel));
    }
    let subnets = ["10.60.0.", "10.61."];
    let lines = |namespace: &_, script: &str| -> BTreeSet<String> {
        shell_in(namespace, script).lines().map(str::to_owned).collect()
    };
    let mut seen: Vec<(BTreeSet<String>, BTreeSet<String>)> = cluster
        .network_namespaces()
        .iter()
        .map(|namespace| {
            let mut neighbours = lines(
                namespace,
                "ip -4 neigh show nud permanent | sed -E 's/ dev .* lladdr ([^ ]*) .*/ \\1/'",
            );
            // The gateway is everybody's.
            neighbours.retain(|it| subnets.iter().any(|of| it.starts_with(of)) && !it.contains(".0.1 "));
            let tunnel = "bridge fdb show dev vxlan | grep -v ^00:00:00:00:00:00 | grep ' dst ' | \
                          sed -E 's/ .* ?dst ([^ ]*).*/ \\1/'";
            (neighbours, lines(namespace, tunnel))
        })
        .filter(|(neighbours, _)| !neighbours.is_empty())
        .collect();
    seen.sort();
    wanted.sort();
    if seen == wanted { Ok(()) } else { Err(format!("the kernels hold {seen:#?}, not {wanted:#?}")) }
}

/// Names in the VIPs' tables of one container of each host, and everybody reaches everything.
fn assert_reached(cluster: &Cluster, attachments: &[types::AttachmentInfo], services: &[types::ServiceInfo]) {
    let at = |name: &str, network: &str| {
        let found = attachments.iter().find(|it| it.name.as_str() == name && it.network.as_str() == network);
        found.expect("a replica's attachment").addresses[0]
    };
    let mut table: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for service in services {
        let on = service.replicas.iter().map(|it| at(it.attachment.as_str(), service.network.as_str()));
        table.insert(service.vips[0], on.collect());
    }
    for client in (0..HOSTS.len()).map(|host| container(host, 0)) {
        wait_until(&format!("the table of {client}"), HEAL_LIMIT, || {
            let mut seen = cluster.vip_table(&client);
            // What was withdrawn leads nowhere.
            seen.retain(|_, replicas| !replicas.is_empty());
            if seen == table { Ok(()) } else { Err(format!("{seen:?}, not {table:?}")) }
        });
        for it in attachments {
            let answer = cluster.udp(&client, it.addresses[0], 80);
            let name = answer.map(|answer| answer.name).map_err(|error| error.to_string());
            assert_eq!(name.as_deref(), Ok(it.name.as_str()), "{client} to {}", it.addresses[0]);
        }
        for it in services {
            let answer = cluster.tcp(&client, it.vips[0], 80).expect("an answer").name;
            assert_eq!(answer, it.replicas[0].attachment.to_string(), "{client} to {}", it.name);
        }
    }
}

fn p44_both_sides_of_a_cut_give_out_all_they_can_and_nothing_serves_two(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, HOSTS.len());
    let _servers = prepare(&mut cluster);
    cluster.cut("h3");
    wait_suspended(&cluster, "h1", &["h3"]);
    wait_suspended(&cluster, "h2", &["h3"]);
    wait_suspended(&cluster, "h3", &["h1", "h2"]);
    let given: Vec<Given> = std::thread::scope(|scope| {
        let cluster = &cluster;
        let all: Vec<_> =
            (0..HOSTS.len()).map(|host| scope.spawn(move || Given::take_all(cluster, host))).collect();
        all.into_iter().map(|it| it.join().expect("a host's verbs")).collect()
    });
    for (host, given) in HOSTS.iter().zip(&given) {
        let count = |network| (given.count(network, false), given.count(network, true));
        println!("  {host} gave out {:?} of small, {:?} of blocks", count("small"), count("blocks"));
    }
    assert_refused(&given);

    cluster.heal("h3");
    cluster.wait_members(HOSTS.len());
    let (attachments, services) = agreed(&cluster);
    let known = attachments.iter().map(|it| (it.network.to_string(), it.name.to_string()));
    let known: BTreeSet<_> =
        known.chain(services.iter().map(|it| (it.network.to_string(), it.name.to_string()))).collect();
    let lost: Vec<_> = given.iter().flat_map(|it| &it.done).filter(|it| !known.contains(*it)).collect();
    assert!(lost.is_empty(), "what was given is gone: {lost:?}");
    assert_unique(&cluster, &attachments, &services);
    wait_until("the kernels forward to everybody", HEAL_LIMIT, || tables(&cluster, &attachments));
    assert_reached(&cluster, &attachments, &services);

    // What was refused for want of a majority is had now, and what was refused for want of room once there is some.
    let (left, _) = &given[2].refused[&("blocks", "attach")];
    cluster.ok("h3", &format!("attach {left} --network blocks --netns {left}"));
    cluster.ok("h3", &format!("register late --network blocks --on {left}"));
    let (left, _) = &given[0].refused[&("small", "attach")];
    let again = format!("attach {left} --network small --netns {left}");
    let full = cluster.cli("h1", &again);
    assert!(full.exit == 1 && full.stderr.contains("no address left"), "{full:?}");
    cluster.ok("h1", &format!("detach {} --network small", container(0, 1)));
    cluster.ok("h1", &again);
    let (attachments, services) = agreed(&cluster);
    assert_unique(&cluster, &attachments, &services);
    wait_until("the kernels forward to them", HEAL_LIMIT, || tables(&cluster, &attachments));
    assert_reached(&cluster, &attachments, &services);
}

/// Everybody was refused in the end, with the reason; together they had all there is.
fn assert_refused(given: &[Given]) {
    let minority = &given[2];
    for key in [("small", "attach"), ("small", "register"), ("blocks", "attach"), ("blocks", "register")] {
        let (name, why) = minority.refused.get(&key).unwrap_or_else(|| panic!("h3 is never refused {key:?}"));
        assert!(why.contains("majority"), "{key:?} {name}: {why}");
    }
    assert_eq!(minority.count("small", false), HELD.0 - 1, "what h3 held of endpoints");
    assert_eq!(minority.count("small", true), HELD.1, "what h3 held of VIPs");
    for majority in &given[..2] {
        for verb in ["attach", "register"] {
            let refused = majority.refused.get(&("small", verb));
            let (name, why) = refused.unwrap_or_else(|| panic!("never refused {verb}: {majority:?}"));
            assert!(why.contains("no address left"), "{verb} {name}: {why}");
        }
    }
    let all = |service| given.iter().map(|it| it.count("small", service)).sum::<usize>();
    assert_eq!((all(false) + HOSTS.len(), all(true)), small().room, "all of the small network is given out");
}
