//! The resolver, asked by a C library that is not glibc. Facts of musl's resolver that matter (src/network/lookup_name.c,
//! 1.2.3 and later): it asks for A and AAAA at once; a name with as many dots as `ndots` says is asked as it stands and
//! nowhere else; the walk along the search list goes on after NXDOMAIN alone.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::family::Family;
use tests::names::{Manner, Musl, Said};
use tests::runner::Scenario;

use crate::names::with_upstream;

/// For a whole run over many names; a single retry of musl takes longer.
const LIMIT: Duration = Duration::from_secs(2);
/// EAI_NODATA since musl 1.2.4; EAI_NONAME, as for a name that is not there, before.
const WITHOUT_DATA: [&str; 2] = ["NODATA", "NONAME"];

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![musl_resolves_every_name_of_ours, musl_walks_the_search_list]
}

/// Row P33.
fn musl_resolves_every_name_of_ours(sandbox: &Sandbox) {
    let musl = Musl::compile();
    let (mut cluster, upstream) = with_upstream(sandbox, 2, Manner::Deny);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1b c2x");
    cluster.ok("h1", "register service --on c1a --alias other");
    cluster.ok("h1", "register headless --mode dnsrr --on c1b");
    cluster.ok("h1", "register empty --mode dnsrr --on c1b");
    cluster.ok("h1", "drain empty --on c1b");
    let vip = cluster.vip("h1", "service").to_string();
    let [first, second] = ["c1a", "c1b"].map(|name| cluster.address_of(name).to_string());
    let owned = [
        ("service", Some(&vip)),
        ("other", Some(&vip)),
        ("tasks.service", Some(&first)),
        ("headless", Some(&second)),
        ("tasks.headless", Some(&second)),
        ("c1b", Some(&second)),
        ("empty", None),
    ];
    let spelled = |name: &str| ["", ".payment", ".payment.svc.internal"].map(|end| format!("{name}{end}"));
    let names: Vec<String> = owned.iter().flat_map(|(name, _)| spelled(name)).collect();
    // A domain of others at the end of the list: who walks on past a name of ours asks outside.
    let written = cluster.shell("c2x", "cat /etc/resolv.conf");
    let searched: String = written.lines().map(|line| with_search(line, "corp.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for conf in [None, Some(searched.as_str())] {
        let said = musl.look_up(&cluster, "c2x", conf, &names);
        for (name, address) in owned {
            for name in spelled(name) {
                assert_said(&said, &name, address.map(String::as_str));
            }
        }
        assert!(said.output.took < LIMIT, "{said:?}");
        assert!(upstream.asked().is_empty(), "asked outside: {:?}", upstream.asked());
    }
    assert_denied(
        &musl,
        &cluster,
        &["unknown.payment.svc.internal", "unknown.svc.internal", "tasks.unknown.payment.svc.internal"],
    );
    assert!(upstream.asked().is_empty(), "asked outside: {:?}", upstream.asked());
}

/// A line of a resolv.conf, with one more domain to be searched.
fn with_search(line: &str, domain: &str) -> String {
    if line.starts_with("search ") { format!("{line} {domain}\n") } else { format!("{line}\n") }
}

fn assert_said(said: &Said, name: &str, address: Option<&str>) {
    // With both families it is musl's choice which comes first, and each has an address.
    let (here, absent) = match Family::now() {
        Family::Four => (&["any", "inet"][..], Some("inet6")),
        Family::Six => (&["any", "inet6"][..], Some("inet")),
        Family::Both => (&["inet6"][..], None),
    };
    for family in here.iter().copied().chain(absent) {
        let seen = said.of(name, family);
        match address.filter(|_| absent != Some(family)) {
            Some(address) => assert_eq!(seen, address, "{name} {family}"),
            None => assert!(WITHOUT_DATA.contains(&seen), "{name} {family} is {seen}"),
        }
    }
}

/// That there is no such name, at once, and not that the server failed (EAI_AGAIN, EAI_FAIL).
fn assert_denied(musl: &Musl, cluster: &Cluster, names: &[&str]) {
    let said = musl.look_up(cluster, "c2x", None, names);
    for name in names {
        for family in ["any", "inet", "inet6"] {
            assert_eq!(said.of(name, family), "NONAME", "{name} {family}");
        }
    }
    assert!(said.output.took < LIMIT, "{said:?}");
}

/// Row P38: the resolv.conf that is written for a named namespace, and others that a container may have.
fn musl_walks_the_search_list(sandbox: &Sandbox) {
    let musl = Musl::compile();
    let (mut cluster, upstream) = with_upstream(sandbox, 1, Manner::Deny);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x");
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api").to_string();
    let domains = ["a.example", "b.example", "c.example", "d.example", "e.example", "f.example"];
    for dots in [0, 1, 2, 5] {
        for count in [0, 1, 6] {
            let search = domains[..count].join(" ");
            let conf = format!("nameserver 127.0.0.11\nsearch {search}\noptions ndots:{dots}\n");
            for name in ["payment-api", "payment-api.payment", "payment-api.payment.svc.internal"] {
                let before = upstream.asked().len();
                let said = musl.look_up(&cluster, "c1x", Some(&conf), &[name]);
                let context = format!("{name} with {conf}: {said:?}");
                assert_said(&said, name, Some(&vip));
                assert!(said.output.took < LIMIT, "{context}");
                // Each family that is asked for walks past each suffix once: A, AAAA, and both at once.
                let walks = name.matches('.').count() < dots;
                let outside = upstream.asked().len() - before;
                assert!(
                    outside <= if walks { 4 * count } else { 0 },
                    "{outside} questions outside: {context}"
                );
            }
        }
    }
    // With what was written nobody outside is asked for a name of ours ...
    let before = upstream.asked().len();
    let said = musl.look_up(&cluster, "c1x", None, &["payment-api", "payment-api.payment"]);
    for name in ["payment-api", "payment-api.payment"] {
        assert_said(&said, name, Some(&vip));
    }
    assert_eq!(upstream.asked().len(), before, "{:?}", upstream.asked());
    // ... and a short name of others is looked for in the host's domains, which with `ndots:0` musl would not do.
    let written = cluster.shell("c1x", "cat /etc/resolv.conf");
    let searched: String = written.lines().map(|line| with_search(line, "corp.example")).collect();
    assert_eq!(musl.look_up(&cluster, "c1x", Some(&searched), &["wiki"]).of("wiki", "any"), "NONAME");
    let asked = upstream.asked().split_off(before);
    assert!(asked.iter().any(|name| name == "wiki.corp.example"), "asked outside: {asked:?}");
}
