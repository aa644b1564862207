//! What Docker does by itself, beside what it does with us.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use agent::api::routes;
use agent::api::types::AttachmentInfo;
use agent::bed::Sandbox;
use tests::names::{Manner, Upstream};
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

use crate::docker::start_docker;
use crate::docker_guests::{GUEST, OUTSIDE, Watch, import_guest, now, serve};
use crate::engines::{Engines, LIMIT, SERVE, START_LIMIT, wait_state, wait_state_late};
use crate::reboot::{Boot, used};

/// The name server of the agents' hosts, which knows nothing.
const HOSTS_OWN: &str = "192.168.77.252";
/// What the name server outside says of every name.
const TOLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Until many containers run that one engine has to start.
const ALL_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        dockers_own_networks_ports_and_dns_work_beside_ours once,
        containers_live_on_with_live_restore once,
        a_host_that_boots_starts_its_containers once,
        a_network_removed_while_a_container_starts_leaves_nothing once,
    ]
}

fn dockers_own_networks_ports_and_dns_work_beside_ours(sandbox: &Sandbox) {
    let mut it = Engines::with_flags(sandbox, 2, &["--upstream", HOSTS_OWN], &[]);
    // A machine on the underlay that is no member: where egress goes.
    it.cluster.add_host(9);
    let _outside = it.cluster.server("h9", 80);
    let upstream = |address: &str, manner| {
        it.cluster.switch_address(&format!("{address}/24"));
        let at = SocketAddr::new(address.parse().expect("an address"), 53);
        Upstream::start(it.cluster.bed().switch(), at, manner)
    };
    let (hosts_own, upstream) = (upstream(HOSTS_OWN, Manner::Deny), upstream(OUTSIDE, Manner::Address(TOLD)));
    let run = "run -d --stop-timeout 1";
    it.docker("h1", "network create -d bridge local");
    let web =
        format!("{run} --network local -p 18080:80 --dns {OUTSIDE} --name web --hostname web box {SERVE}");
    it.docker("h1", &web);
    let published = |it: &Engines, when: &str| {
        for host in ["h1", "h2"] {
            wait_until(&format!("the published port answers {host} {when}"), START_LIMIT, || {
                let got = it.cluster.try_shell(host, "curl -sS -m 2 http://192.168.77.1:18080/");
                if got.stdout == "web\n" { Ok(()) } else { Err(format!("{got:?}")) }
            });
        }
        let found = it.look_up("h1", "web", "name.example");
        assert!(found.stdout.contains(&TOLD.to_string()), "{when}: {found:?}");
    };
    published(&it, "before there is a network of ours");
    assert!(upstream.asked().iter().any(|name| name == "name.example"), "{:?}", upstream.asked());
    // What is ours carries our name.
    let rules = |it: &Engines| {
        let all = it.cluster.shell("h1", "for table in filter nat mangle; do iptables -t $table -S; done");
        all.lines().filter(|line| !line.contains("svc-agent")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = rules(&it);
    assert!(before.iter().any(|line| line == "-P FORWARD DROP"), "{before:#?}");

    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    it.docker("h1", &format!("{run} --network payment --name api --hostname api box {SERVE}"));
    it.docker("h2", &format!("{run} --network payment --name shop --hostname shop box {SERVE}"));
    it.docker("h1", &format!("{run} --network local --name both --hostname both box {SERVE}"));
    it.docker("h1", "network connect payment both");
    let (api, shop) = (it.address("h1", "api", "payment"), it.address("h2", "shop", "payment"));
    let (both, web) = (it.address("h1", "both", "payment"), it.address("h1", "web", "local"));
    it.wait_answer("h2", "shop", &api, "api");
    it.wait_answer("h2", "shop", &both, "both");
    it.wait_answer("h1", "both", &shop, "shop");
    it.wait_answer("h1", "both", &web, "web");
    it.wait_name("h1", "both", "shop", &shop);
    it.wait_name("h1", "both", "web", &web);
    // Each way out has the host's address as its source, though Docker lets nothing be forwarded.
    for name in ["api", "both", "web"] {
        wait_until(&format!("{name} reaches the outside"), LIMIT, || {
            let got = it.try_docker("h1", &format!("exec {name} busybox nc -w 2 192.168.77.9 80"));
            if got.stdout.starts_with("h9 192.168.77.1:") { Ok(()) } else { Err(format!("{got:?}")) }
        });
    }
    published(&it, "beside a network of ours");
    assert_eq!(rules(&it), before, "Docker's rules");

    // Name servers that a container was given are asked in place of the host's.
    it.docker("h1", &format!("{run} --network payment --dns {OUTSIDE} --name told box {SERVE}"));
    it.wait_name("h1", "told", "other.example", &TOLD.to_string());
    it.wait_name("h1", "told", "shop", &shop);
    assert!(!it.look_up("h1", "api", "third.example").stdout.contains(&TOLD.to_string()));
    let (chosen, host) = (upstream.asked(), hosts_own.asked());
    assert!(
        chosen.iter().any(|name| name == "other.example") && !chosen.iter().any(|name| name == "shop"),
        "{chosen:?}"
    );
    assert!(
        host.iter().any(|name| name == "third.example") && !host.iter().any(|name| name == "other.example"),
        "{host:?}"
    );
    // Ours publish no ports: Docker goes on without a word, and we say it. One of Docker's beside it does.
    it.docker("h1", &format!("{run} --network payment -p 18081:80 --name port --hostname port box {SERVE}"));
    assert_eq!(it.docker("h1", "port port"), "");
    let refused = it.cluster.try_shell("h2", "curl -sS -m 2 http://192.168.77.1:18081/");
    assert_eq!(refused.exit, 7, "refused by the host: {refused:?}");
    let told = |it: &Engines| it.cluster.ok("h1", "events").matches("80/tcp is not published").count();
    wait_until("it is told", LIMIT, || match told(&it) {
        1 => Ok(()),
        count => Err(count),
    });
    it.docker("h1", "network connect bridge port");
    it.docker("h1", "restart -t 0 port");
    wait_until("the port is published by Docker's network", START_LIMIT, || {
        let got = it.cluster.try_shell("h2", "curl -sS -m 2 http://192.168.77.1:18081/");
        if got.stdout == "port\n" { Ok(()) } else { Err(format!("{got:?}")) }
    });
    it.wait_answer("h2", "shop", &it.address("h1", "port", "payment"), "port");
    assert_eq!(told(&it), 1, "{}", it.cluster.ok("h1", "events"));
    it.docker("h1", "rm -f api both port told");
    it.docker("h2", "rm -f shop");
    it.docker("h1", "network rm payment");
    it.wait_networks("");
    published(&it, "after a network of ours");
    assert_eq!(rules(&it), before, "Docker's rules");
    it.docker("h1", "rm -f web");
    it.docker("h1", "network rm local");
    it.cluster.wait_well(START_LIMIT);
}

fn containers_live_on_with_live_restore(sandbox: &Sandbox) {
    let mut it = Engines::with_flags(sandbox, 2, &[], &["--live-restore"]);
    import_guest(&it, None);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let health = "--health-cmd 'test ! -f /ill' --health-interval 200ms --health-retries 3";
    let api = serve(&it, "h1", "api", &format!("--label svc-agent.service=payment-api {health}"));
    serve(&it, "h2", "shop", "");
    wait_state_late(&it, "payment-api", "api", Some("serving"));
    let shop = it.address("h2", "shop", "payment");
    let vip = it.cluster.vip("h2", "payment-api").to_string();
    let answers = format!("api {shop}");
    let asks = |it: &Engines| {
        let said = it.docker("h2", &format!("exec shop {GUEST} ask payment-api 3"));
        assert!(said.lines().all(|line| line == answers), "{said}");
    };
    let watch = Watch::begin(&it, "h2", "shop", "payment-api", "standing");
    let goes_on = |it: &Engines| {
        let since = now();
        watch.wait(it, "the standing connection goes on", |lines| {
            lines.last().is_some_and(|line| line.at > since)
        });
        let heard = watch.heard(it);
        let other = heard.iter().find(|line| line.said != answers);
        assert!(other.is_none(), "the standing connection: {other:?}");
    };
    goes_on(&it);

    let left = it.engines.remove("h1").expect("an engine").leave();
    asks(&it);
    goes_on(&it);
    let engine = left.resume(&it.cluster, "h1");
    it.engines.insert("h1".to_owned(), engine);
    asks(&it);
    goes_on(&it);
    assert_eq!(it.address("h1", "api", "payment"), api);
    it.wait_name("h2", "shop", "api", &api);
    it.wait_name("h2", "shop", "payment-api", &vip);
    it.wait_name("h1", "api", "shop", &shop);
    it.wait_networks("payment");
    // What Docker tells is heard again. Docker 20.10 runs no HEALTHCHECK of a container that lived on until it was paused.
    it.docker("h1", "pause api");
    let paused = catch_unwind(AssertUnwindSafe(|| wait_state(&it, "payment-api", "api", Some("failing"))));
    // What is frozen cannot be killed, and this engine leaves it: the sandbox would never end.
    it.docker("h1", "unpause api");
    paused.unwrap_or_else(|failed| resume_unwind(failed));
    wait_state(&it, "payment-api", "api", Some("serving"));
    it.docker("h1", "exec api busybox touch /ill");
    wait_state_late(&it, "payment-api", "api", Some("failing"));
    it.docker("h1", "exec api busybox rm /ill");
    wait_state_late(&it, "payment-api", "api", Some("serving"));
    goes_on(&it);
    drop(watch.end(&it));

    it.docker("h1", "stop api");
    wait_state(&it, "payment-api", "api", None);
    let there: Vec<AttachmentInfo> = it.cluster.get("h2", routes::ATTACHMENTS, &[]);
    assert!(there.iter().all(|it| it.name.as_str() != "api"), "{there:?}");
    it.docker("h1", "start api");
    wait_until("api is there again", START_LIMIT, || {
        match crate::engines::state(&it, "payment-api", "api") {
            Some(state) if state == "serving" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    asks(&it);
    it.docker("h1", "rm -f api");
    it.docker("h2", "rm -f shop");
    it.cluster.wait_well(START_LIMIT);
}

/// All that are to run do again, under their names, as replicas; nothing of those before the boot is left.
fn a_host_that_boots_starts_its_containers(sandbox: &Sandbox) {
    let count = if is_nightly() { 50 } else { 12 };
    let mut it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    it.docker(
        "h1",
        "run -d --stop-timeout 1 --network payment --name shop --hostname shop box busybox sleep 1000",
    );
    let run =
        "run -d --restart always --stop-timeout 1 --network payment --label svc-agent.service=payment-api";
    let one = format!("docker {run} --name api$n --hostname api$n box {SERVE} >/dev/null &");
    it.shell("h2", &format!("for n in $(seq {count}); do {one} [ $((n % 4)) != 0 ] || wait; done; wait"));
    let first = it.address("h2", "api1", "payment");
    let fixed = format!("{}.250", first.rsplit_once('.').expect("an address").0);
    let run = "run -d --restart always --stop-timeout 1 --network payment";
    it.docker(
        "h2",
        &format!("{run} --ip {fixed} --network-alias till --name fixed --hostname fixed box {SERVE}"),
    );
    it.docker("h2", "run -d --stop-timeout 1 --network payment --name ends box busybox sleep 1000");
    let addresses = |it: &Engines| -> BTreeMap<String, String> {
        let names = (1..=count).map(|number| format!("api{number}")).chain(["fixed".to_owned()]);
        names.map(|name| (name.clone(), it.address("h2", &name, "payment"))).collect()
    };
    let wait_all = |it: &Engines| {
        wait_until("all of them serve", ALL_LIMIT, || {
            let service = it.cluster.service("h1", "payment-api");
            let replicas = service.map(|service| service.replicas).unwrap_or_default();
            let serving = replicas.iter().filter(|replica| replica.state == "serving").count();
            let there: Vec<AttachmentInfo> = it.cluster.get("h1", routes::ATTACHMENTS, &[]);
            let on_h2 = there.iter().filter(|it| !it.local).count();
            if (serving, on_h2) == (count, count + 1) {
                Ok(())
            } else {
                Err(format!("{serving} serve, {on_h2} there"))
            }
        });
        let since = Instant::now();
        for (name, address) in addresses(it) {
            it.wait_name("h1", "shop", &name, &address);
            it.wait_answer("h1", "shop", &address, &name);
        }
        it.wait_name("h1", "shop", "till", &fixed);
        let seen = it.docker("h1", "exec shop busybox nslookup -type=a tasks.payment-api 127.0.0.11");
        let seen = seen.lines().filter(|line| line.starts_with("Address: ")).count();
        // More than some 28 do not fit in a datagram of 512 bytes, and busybox does not ask over TCP.
        assert!(seen == count || (count > 28 && seen >= 20), "{seen} replicas by name");
        since
    };
    it.docker("h2", "rm -f ends");
    wait_all(&it);
    let (vip, in_use) = (it.cluster.vip("h1", "payment-api"), used(&it.cluster));

    it.docker("h2", "run -d --stop-timeout 1 --network payment --name ends box busybox sleep 1000");
    it.kill_host("h2");
    let _boot = Boot::begin(&it.cluster.bed().log_directory(), 1);
    it.cluster.add_host(2);
    let began = Instant::now();
    it.cluster.restart_agent("h2");
    let engine = start_docker(&it.cluster, "h2");
    it.engines.insert("h2".to_owned(), engine);
    let serve = wait_all(&it).duration_since(began);
    println!("  {count} containers serve {serve:?} after a boot");
    // Docker asks for an address with each start, and says whose it is to be only where it is a certain one.
    let after = addresses(&it);
    assert_eq!(after["fixed"], fixed);
    assert_eq!(
        after.values().collect::<BTreeSet<_>>().len(),
        count + 1,
        "each has one of its own: {after:?}"
    );
    assert_eq!(it.cluster.vip("h1", "payment-api"), vip, "the VIP that others know");
    // A new one finds room, and the one that was not to be kept running has left nothing.
    wait_until("as many addresses are in use as before", START_LIMIT, || {
        let now = used(&it.cluster);
        if now == in_use { Ok(()) } else { Err(format!("{now} instead of {in_use}")) }
    });
    it.docker("h2", "ps -aq | xargs docker rm -f >/dev/null");
    it.docker("h1", "rm -f shop");
    it.cluster.ok("h1", "deregister payment-api");
    it.docker("h1", "network rm payment");
    it.wait_networks("");
    it.cluster.wait_well(START_LIMIT);
}

/// Whichever of the two comes first, the other one works or is refused with words.
fn a_network_removed_while_a_container_starts_leaves_nothing(sandbox: &Sandbox) {
    let it = Engines::start(sandbox, 1);
    // A command takes some milliseconds to ask, and Docker some ten until it starts what it has made.
    let links = |it: &Engines| it.cluster.shell("h1", "ip -o link | cut -d: -f2 | sort");
    let before = links(&it);
    let (mut ran, mut refused) = (0, 0);
    for round in 0..10 {
        it.docker("h1", "network create -d svc-agent brief");
        it.wait_networks("brief");
        let run = "docker run -d --stop-timeout 1 --network brief --name racer box busybox sleep 1000";
        let both = format!(
            "{run} 2>&1 & run=$!; busybox usleep {}; docker network rm brief >/dev/null 2>&1; wait $run",
            round * 1_500
        );
        let output = it.try_shell("h1", &both);
        if output.exit == 0 {
            ran += 1;
            let address = it.address("h1", "racer", "brief");
            wait_until("what runs is attached", LIMIT, || {
                let there = it.cluster.ok("h1", "attachments");
                if there.contains(&address) { Ok(()) } else { Err(there) }
            });
        } else {
            refused += 1;
            assert!(output.stdout.contains("network brief"), "round {round}: {output:?}");
        }
        it.try_docker("h1", "rm -f racer");
        wait_until("nothing is attached", LIMIT, || {
            let there: Vec<AttachmentInfo> = it.cluster.get("h1", routes::ATTACHMENTS, &[]);
            if there.is_empty() { Ok(()) } else { Err(format!("{there:?}")) }
        });
        // One that comes back may do so in between.
        wait_until("the network is gone", START_LIMIT, || {
            let _refused = it.try_docker("h1", "network rm brief");
            let ours = it.cluster.ok("h1", "network ls");
            let there = format!("{ours} {}", it.docker("h1", "network ls -q --filter driver=svc-agent"));
            if there.contains("brief") || !it.networks("h1").is_empty() { Err(there) } else { Ok(()) }
        });
    }
    println!("  {ran} ran, {refused} were refused");
    it.wait_networks("");
    assert_eq!(it.docker("h1", "network ls -q --filter driver=svc-agent"), "");
    wait_until("no link and no namespace is left", START_LIMIT, || {
        let (now, namespaces) = (links(&it), it.cluster.network_namespaces().len());
        if now == before && namespaces == 0 {
            Ok(())
        } else {
            Err(format!("{namespaces}, {now} instead of {before}"))
        }
    });
    it.cluster.wait_well(START_LIMIT);
}
