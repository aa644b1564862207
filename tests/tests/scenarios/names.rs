//! The resolver, asked by real clients and byte by byte.
use std::net::SocketAddr;
use std::time::Duration;

use agent::bed::{Sandbox, ask_udp};
use tests::cluster::Cluster;
use tests::family::Family;
use tests::names::{Manner, RESOLVER, TYPES, Upstream, Way, exchange_udp, query};
use tests::runner::Scenario;
use tests::statistics::Random;
use tests::wait::{pause, wait_until};

const LIMIT: Duration = Duration::from_secs(2);
/// What the name server outside answers.
const OUTSIDE: [u8; 4] = [192, 0, 2, 99];

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        every_type_is_answered_for_every_name_of_ours,
        search_lists_and_dots,
        case_is_folded_and_echoed,
        one_name_on_two_networks,
        other_name_servers_on_port_53,
        a_name_not_learned_yet_is_never_denied,
    ]
}

/// Hosts that ask a name server in the switch, which is on no network of ours.
pub(crate) fn with_upstream(sandbox: &Sandbox, hosts: usize, manner: Manner) -> (Cluster, Upstream) {
    let cluster = Cluster::with_flags(sandbox, hosts, &["--upstream", "192.168.77.253"]);
    cluster.bed().switch().run(|| ()).expect("the switch");
    let add = "ip addr add 192.168.77.253/24 dev br-u";
    let added = cluster.bed().switch().run(|| std::process::Command::new("sh").args(["-c", add]).status());
    assert!(added.expect("the switch").expect("ip").success());
    let at: SocketAddr = "192.168.77.253:53".parse().expect("an address");
    let upstream = Upstream::start(cluster.bed().switch(), at, manner);
    (cluster, upstream)
}

/// Row P33.
fn every_type_is_answered_for_every_name_of_ours(sandbox: &Sandbox) {
    let (mut cluster, upstream) = with_upstream(sandbox, 2, Manner::Address(OUTSIDE.into()));
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1b c2x");
    cluster.ok("h1", "register service --on c1a");
    cluster.ok("h1", "register headless --mode dnsrr --on c1b");
    cluster.ok("h1", "register empty --mode dnsrr --on c1b");
    cluster.ok("h1", "drain empty --on c1b");
    let vip = cluster.vip("h1", "service").to_string();
    let address = cluster.address_of("c1b").to_string();
    let owned = [("service", vip.as_str()), ("headless", &address), ("empty", "NODATA"), ("c1b", &address)];
    for (name, expected) in owned {
        for full in [name.to_owned(), format!("{name}.payment"), format!("{name}.payment.svc.internal")] {
            for (kind, _) in TYPES.into_iter().filter(|(kind, _)| *kind != "ANY" && *kind != "SRV") {
                for way in [Way::Udp, Way::Tcp] {
                    let answer = cluster.dns_by("c2x", &full, kind, way);
                    let family = Family::now();
                    let wanted = if kind == family.record() { expected } else { "NODATA" };
                    if family.has(kind) && kind != family.record() {
                        // It has an address of the other family, too, if it has any.
                        assert_eq!(answer.summary() == "NODATA", expected == "NODATA", "{full} {kind}");
                        continue;
                    }
                    assert_eq!(answer.summary(), wanted, "{full} {kind} over {way:?}");
                }
            }
        }
    }
    assert_eq!(cluster.resolve("c2x", "unknown.payment.svc.internal"), "NXDOMAIN");
    assert_eq!(cluster.dns("c2x", "unknown.svc.internal", "MX").code, "NXDOMAIN");
    let asked = upstream.asked();
    assert!(asked.is_empty(), "asked outside: {asked:?}");
    let to = "would be forwarded to 192.168.77.253:53";
    let output = cluster.cli("h2", "resolve www.example.com --on c2x");
    assert!(output.exit == 0 && output.stdout.contains(&format!(": not ours: {to}")), "{output:?}");
    let output = cluster.cli("h2", "resolve www.example.com --on c2x -o json");
    assert!(output.stdout.contains("\"FORWARDED\"") && output.stdout.contains("\"upstreams\""), "{output:?}");
    assert_eq!(cluster.resolve_outside("c2x", "www.example.com"), "192.0.2.99", "other names are forwarded");

    let hosts = if Family::now() == Family::Four { "ahostsv4" } else { "ahostsv6" };
    let glibc = cluster.shell("c2x", &format!("getent {hosts} service"));
    assert!(glibc.starts_with(&vip), "getent: {glibc}");
    if Family::now() == Family::Four {
        let mapped = cluster.try_shell("c2x", "getent ahostsv6 service").stdout;
        let all = mapped.lines().all(|line| line.starts_with("::ffff:"));
        assert!(all, "no IPv6 address of its own: {mapped}");
    }
    let record = Family::now().record().to_lowercase();
    let busybox =
        cluster.shell("c2x", &format!("busybox nslookup -type={record} service.payment.svc.internal"));
    assert!(busybox.contains(&vip), "busybox: {busybox}");
    let reverse = cluster.shell("c2x", &format!("getent hosts {address}"));
    assert!(reverse.contains("c1b.payment.svc.internal"), "reverse: {reverse}");
}

/// Row P38: the resolv.conf that is written for a named namespace, and others that a container may have.
fn search_lists_and_dots(sandbox: &Sandbox) {
    let (mut cluster, upstream) = with_upstream(sandbox, 1, Manner::Deny);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x");
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api").to_string();
    let written = cluster.shell("c1x", "cat /etc/resolv.conf");
    assert!(written.contains("nameserver 127.0.0.11"), "{written}");
    assert!(written.contains("svc.internal"), "our domain is searched: {written}");
    let hosts = if Family::now() == Family::Four { "ahostsv4" } else { "ahostsv6" };
    let domains = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"];
    for dots in [0, 1, 2, 5] {
        for count in [0, 1, 6] {
            let search = domains[..count].join(" ");
            for name in ["payment-api", "payment-api.payment", "payment-api.payment.svc.internal"] {
                let before = upstream.asked().len();
                let script = format!("LOCALDOMAIN='{search}' RES_OPTIONS=ndots:{dots} getent {hosts} {name}");
                let output = cluster.try_shell("c1x", &script);
                assert!(output.stdout.starts_with(&vip), "{script}: {output:?}");
                assert!(output.took < Duration::from_secs(1), "{script}: {:?}", output.took);
                // Each suffix is one question for A; nothing is asked twice.
                let outside = upstream.asked().len() - before;
                assert!(outside <= count, "{script}: {outside} questions outside");
            }
        }
    }
    // Without an environment, with what was written: at once, and nobody outside is asked.
    let before = upstream.asked().len();
    let plain =
        cluster.shell("c1x", &format!("getent {hosts} payment-api; getent {hosts} payment-api.payment"));
    assert_eq!(plain.matches(&format!("{vip} ")).count() % 2, 0, "{plain}");
    assert_eq!(upstream.asked().len(), before, "{:?}", upstream.asked());
}

/// Row P40.
fn case_is_folded_and_echoed(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x");
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api").to_string();
    let namespace = cluster.namespace("c1x");
    let mut random = Random::new(40);
    for round in 0..64 {
        let name: String = "payment-api.payment.svc.internal"
            .chars()
            .map(|letter| if random.below(2) == 0 { letter } else { letter.to_ascii_uppercase() })
            .collect();
        let sent = query(round, &name, 1);
        let reply = exchange_udp(&namespace, RESOLVER, &sent, LIMIT).expect("an answer");
        assert_eq!(
            reply.get(12..sent.len()),
            sent.get(12..),
            "the question of {name} comes back as it was sent"
        );
        assert_eq!(cluster.resolve("c1x", &name), vip);
    }
    cluster.refused("h1", "network create PAYMENT --subnet 10.9.0.0/16", 1, &["payment"]);
}

/// Row P08.
fn one_name_on_two_networks(sandbox: &Sandbox) {
    let (mut cluster, upstream) = with_upstream(sandbox, 2, Manner::Address(OUTSIDE.into()));
    cluster.ok("h1", "network create one");
    cluster.ok("h1", "network create two --internal");
    cluster.ok("h1", "network create three");
    cluster.attach("one", "c1a c2a");
    cluster.attach("two", "c1b c2b");
    cluster.attach("three", "c2n");
    cluster.containers("c2t c2o");
    for (first, second, name) in [("one", "two", "c2o"), ("two", "one", "c2t")] {
        cluster.attach_again(first, name);
        cluster.attach_again(second, name);
    }
    cluster.ok("h1", "register db --on c1a");
    cluster.ok("h1", "register db --on c1b");
    let vip = |network: &str| cluster.resolve("c2o", &format!("db.{network}"));
    let (one, two) = (vip("one"), vip("two"));
    assert_ne!(one, two);
    for (container, plain) in [("c2a", &one), ("c2b", &two), ("c2o", &one), ("c2t", &two)] {
        assert_eq!(&cluster.resolve(container, "db"), plain, "db in {container}");
    }
    for (container, name, expected) in [
        ("c2a", "db.two.svc.internal", "NXDOMAIN"),
        ("c2b", "db.one.svc.internal", "NXDOMAIN"),
        ("c2o", "db.two", two.as_str()),
        ("c2t", "db.one.svc.internal", one.as_str()),
        ("c2n", "db.one.svc.internal", "NXDOMAIN"),
    ] {
        assert_eq!(cluster.resolve(container, name), expected, "{name} in {container}");
    }
    let asked = upstream.asked();
    assert!(asked.is_empty(), "names of ours were asked outside: {asked:?}");
    // An internal network asks nobody; one that is on none of ours by that name asks outside, as the host would.
    assert_ne!(cluster.resolve_outside("c2b", "www.example.com"), "192.0.2.99");
    assert!(upstream.asked().is_empty(), "from an internal network: {:?}", upstream.asked());
    assert_eq!(cluster.resolve_outside("c2n", "www.example.com"), "192.0.2.99");
}

/// Row P42: servers of others on port 53, in a container and on its host.
fn other_name_servers_on_port_53(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.containers("c1a c1b");
    let _on_host = cluster.server("h1", 53);
    let _before = cluster.server("c1a", 53);
    cluster.attach_again("payment", "c1a");
    cluster.attach_again("payment", "c1b");
    let _after = cluster.server("c1b", 53);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api").to_string();
    for (container, other) in [("c1a", "c1b"), ("c1b", "c1a")] {
        assert_eq!(cluster.resolve(container, "payment-api"), vip, "ours, in {container}");
        let own: SocketAddr = "127.0.0.1:53".parse().expect("an address");
        assert_eq!(ask_udp(&cluster.namespace(container), own, LIMIT).expect("an answer").name, container);
        let to = cluster.address_of(container);
        assert_eq!(
            cluster.udp(other, to, 53).expect("an answer").name,
            container,
            "the container's, from {other}"
        );
    }
    let own: SocketAddr = "127.0.0.1:53".parse().expect("an address");
    assert_eq!(ask_udp(&cluster.namespace("h1"), own, LIMIT).expect("an answer").name, "h1");
}

/// Row P66: a resolver whose agent came back without a word from the others.
fn a_name_not_learned_yet_is_never_denied(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c3x");
    cluster.ok("h1", "register old --on c1a");
    let old = cluster.vip("h1", "old").to_string();
    // What other hosts say is saved every second.
    pause(Duration::from_millis(1_500));
    cluster.kill_agent("h3");
    cluster.ok("h1", "register new --on c1a --no-wait");
    let new = cluster.vip("h1", "new").to_string();
    cluster.cut("h3");
    cluster.start_agent("h3", "");
    // An agent that has met nobody for failure-after (3.5 s) takes what it kept for all there is.
    wait_until("what was known is served alone", Duration::from_secs(2), || {
        let seen = cluster.resolve("c3x", "old");
        if seen == old { Ok(()) } else { Err(seen) }
    });
    for name in ["never.payment.svc.internal", "new.payment.svc.internal"] {
        let seen = cluster.resolve("c3x", name);
        assert!(seen != "NXDOMAIN" && seen != "NODATA", "{name} is {seen} before the first word from others");
    }
    cluster.heal("h3");
    wait_until("learned", Duration::from_secs(5), || {
        let seen = cluster.resolve("c3x", "new.payment.svc.internal");
        assert_ne!(seen, "NXDOMAIN");
        if seen == new { Ok(()) } else { Err(seen) }
    });
    wait_until("what does not exist is denied now", Duration::from_secs(5), || {
        let seen = cluster.resolve("c3x", "never.payment.svc.internal");
        if seen == "NXDOMAIN" { Ok(()) } else { Err(seen) }
    });
}
