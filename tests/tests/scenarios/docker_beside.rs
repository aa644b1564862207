//! What Docker does by itself, beside what it does with us.
use std::net::{Ipv4Addr, SocketAddr};

use agent::api::routes;
use agent::api::types::AttachmentInfo;
use agent::bed::Sandbox;
use tests::names::{Manner, Upstream};
use tests::runner::Scenario;
use tests::wait::wait_until;

use crate::docker_guests::{GUEST, OUTSIDE, Watch, import_guest, now, serve};
use crate::engines::{Engines, LIMIT, SERVE, START_LIMIT, wait_state, wait_state_late};

/// What the name server outside says of every name.
const TOLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        dockers_own_networks_ports_and_dns_work_beside_ours once,
        containers_live_on_with_live_restore once,
    ]
}

fn dockers_own_networks_ports_and_dns_work_beside_ours(sandbox: &Sandbox) {
    let mut it = Engines::start(sandbox, 2);
    // A machine on the underlay that is no member: where egress goes.
    it.cluster.add_host(9);
    it.cluster.switch_address(&format!("{OUTSIDE}/24"));
    let _outside = it.cluster.server("h9", 80);
    let at = SocketAddr::new(OUTSIDE.parse().expect("an address"), 53);
    let upstream = Upstream::start(it.cluster.bed().switch(), at, Manner::Address(TOLD));
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

    // Ours publish no ports: Docker goes on without a word.
    it.docker("h1", &format!("{run} --network payment -p 18081:80 --name port box {SERVE}"));
    assert_eq!(it.docker("h1", "port port"), "");
    let refused = it.cluster.try_shell("h2", "curl -sS -m 2 http://192.168.77.1:18081/");
    assert_eq!(refused.exit, 7, "refused by the host: {refused:?}");
    it.docker("h1", "rm -f api both port");
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
    wait_state(&it, "payment-api", "api", Some("failing"));
    it.docker("h1", "unpause api");
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
