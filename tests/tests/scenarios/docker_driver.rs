//! The network driver of real Docker engines, one on each host.
use agent::bed::Sandbox;
use tests::runner::Scenario;
use tests::wait::wait_until;

use crate::docker::plugins;
use crate::engines::{Engines, LIMIT, SERVE, START_LIMIT, state, wait_state};

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        docker_networks_are_the_clusters_and_their_containers_reach_each_other once,
        docker_containers_are_replicas_by_their_labels_and_judged_by_their_health once,
        names_of_dockers_own_networks_are_known_beside_ours once,
    ]
}

fn docker_networks_are_the_clusters_and_their_containers_reach_each_other(sandbox: &Sandbox) {
    let it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let subnet = it.docker("h1", "network inspect --format '{{(index .IPAM.Config 0).Subnet}}' payment");
    let ours = it.cluster.ok("h2", "network ls");
    assert!(
        ours.contains("payment") && ours.contains(&subnet) && !subnet.starts_with("172."),
        "{ours}, {subnet}"
    );

    // Docker goes on to the next of its pools; that is no person's choice either, but this one is.
    it.docker("h1", "network create -d svc-agent second");
    it.docker("h2", "network create -d svc-agent --subnet 10.77.0.0/16 third_net");
    for (name, begin) in [("second", "10."), ("third_net", "10.77.")] {
        wait_until(&format!("{name} is one of ours"), LIMIT, || {
            let ours = it.cluster.ok("h1", "network ls");
            let subnet = "network inspect --format '{{(index .IPAM.Config 0).Subnet}}'";
            let subnet = it.try_docker("h2", &format!("{subnet} {name}"));
            let subnet = subnet.stdout.trim();
            if !subnet.is_empty() && ours.contains(subnet) && subnet.starts_with(begin) {
                Ok(())
            } else {
                Err(format!("{ours}, {subnet}"))
            }
        });
    }
    wait_until("Docker on h1 has it by its name in the cluster", LIMIT, || {
        let there = it.networks("h1");
        if there.contains("third-net") { Ok(()) } else { Err(there) }
    });
    // Both families, as a container has them.
    it.docker("h1", "network create -d svc-agent --ipv6 --subnet fd10:7::/64 both");
    it.docker("h1", "run -d --stop-timeout 1 --network second --name brief box busybox sleep 1000");
    wait_until("the network of both families is one of ours", LIMIT, || {
        let there = it.networks("h2");
        if there.contains("both") { Ok(()) } else { Err(there) }
    });
    it.docker("h1", "run -d --stop-timeout 1 --network both --name dual box busybox sleep 1000");
    wait_until("a container has both addresses", LIMIT, || {
        let there = it.cluster.ok("h2", "attachments");
        let line = there.lines().find(|line| line.contains("dual")).unwrap_or_default().to_owned();
        if line.contains("fd10:7:") && line.contains("172.") { Ok(()) } else { Err(there) }
    });
    it.docker("h1", "rm -f dual brief");
    it.docker("h1", "network rm second third-net both");
    wait_until("both are gone", LIMIT, || {
        let there = it.cluster.ok("h2", "network ls");
        if there.contains("second") || there.contains("third") { Err(there) } else { Ok(()) }
    });
    it.wait_networks("payment");

    // A name of Docker's, an address of ours, the way between the hosts, both ways.
    it.docker(
        "h1",
        &format!("run -d --stop-timeout 1 --network payment --name api --hostname api box {SERVE}"),
    );
    it.docker(
        "h2",
        &format!("run -d --stop-timeout 1 --network payment --name shop_1 --hostname shop box {SERVE}"),
    );
    let (api, shop) = (it.address("h1", "api", "payment"), it.address("h2", "shop_1", "payment"));
    it.wait_name("h2", "shop_1", "api", &api);
    it.wait_answer("h2", "shop_1", &api, "api");
    it.wait_answer("h1", "api", &shop, "shop");
    it.wait_name("h1", "api", "shop-1", &shop);

    // A service's VIP.
    it.cluster.ok("h1", "register payment-api --on api");
    let vip = it.cluster.vip("h2", "payment-api").to_string();
    it.wait_name("h2", "shop_1", "payment-api", &vip);
    it.wait_answer("h2", "shop_1", &vip, "api");

    // A certain address, also of another host's, and aliases.
    let last = |address: &str| address.rsplit('.').next().and_then(|text| text.parse::<u8>().ok());
    let wanted = format!("{}.{}", api.rsplit_once('.').expect("an address").0, last(&api).expect("one") + 9);
    let run = format!(
        "run -d --stop-timeout 1 --network payment --ip {wanted} --network-alias cash --name till --hostname till box {SERVE}"
    );
    it.docker("h2", &run);
    assert_eq!(it.address("h2", "till", "payment"), wanted);
    it.wait_name("h1", "api", "till", &wanted);
    it.wait_name("h1", "api", "cash", &wanted);
    it.wait_answer("h1", "api", &wanted, "till");

    // Stopped and started: out of names, and in again.
    it.docker("h1", "stop -t 0 api");
    wait_until("api is detached", LIMIT, || {
        let there = it.cluster.ok("h2", "attachments");
        if there.contains("api") { Err(there) } else { Ok(()) }
    });
    it.docker("h1", "start api");
    it.wait_answer("h2", "shop_1", &it.address("h1", "api", "payment"), "api");

    // Made here with our own words, and what cannot be.
    it.cluster.ok("h2", "network create books --internal");
    it.wait_networks("books payment");
    assert_eq!(it.docker("h1", "network inspect --format '{{.Internal}}' books"), "true");
    it.refused("h1", "network create -d svc-agent -o encrypted secret", "will not carry it in clear");
    it.cluster.ok("h1", "network rm books");
    it.wait_networks("payment");

    // Removed with Docker: not while somebody uses it elsewhere, then everywhere.
    it.docker("h1", "rm -f api");
    it.docker("h1", "network rm payment");
    wait_until("the network that is in use on h2 is there again", LIMIT, || {
        let events = it.cluster.ok("h1", "events");
        let told = events.contains("network payment was removed with Docker here and is made again");
        if told && it.networks("h1") == "payment" { Ok(()) } else { Err(events) }
    });
    it.docker("h2", "rm -f shop_1 till");
    wait_until("nothing is attached", LIMIT, || {
        let there = it.cluster.ok("h1", "attachments");
        if there.contains("payment") { Err(there) } else { Ok(()) }
    });
    it.cluster.ok("h1", "deregister payment-api");
    it.docker("h2", "network rm payment");
    it.wait_networks("");
    assert!(!it.cluster.ok("h1", "network ls").contains("payment"));
    it.cluster.wait_well(START_LIMIT);

    // Who leaves takes what it made at Docker along.
    it.cluster.ok("h1", "network create last");
    it.wait_networks("last");
    let removed = it.cluster.ok("h2", "leave");
    let plugin = plugins(&it.cluster, "h2").join("svc-agent.sock");
    assert!(removed.contains("Docker's network last") && removed.contains("svc-agent.sock"), "{removed}");
    assert!(!plugin.exists(), "Docker would wait there");
    assert_eq!(it.docker("h2", "network ls -q --filter driver=svc-agent"), "");
    assert_eq!(it.networks("h1"), "last");
}

fn docker_containers_are_replicas_by_their_labels_and_judged_by_their_health(sandbox: &Sandbox) {
    let it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let service = "--label svc-agent.service=payment-api --label svc-agent.network=payment --label svc-agent.port=80 --label svc-agent.alias=pay";
    let health =
        "--health-cmd 'test -f /well' --health-interval 300ms --health-retries 1 --health-start-period 30s";
    let labels = format!("run -d --stop-timeout 1 --network payment {service}");
    it.docker(
        "h1",
        &format!("{labels} {health} --label svc-agent.weight=3 --name api --hostname api box {SERVE}"),
    );
    it.docker("h2", &format!("{labels} --name other --hostname other box {SERVE}"));
    it.docker("h2", "run -d --stop-timeout 1 --network payment --name shop box busybox sleep 1000");

    // The HEALTHCHECK first, then both serve, by weight, under the alias, too.
    wait_state(&it, "payment-api", "other", Some("serving"));
    wait_state(&it, "payment-api", "api", Some("starting"));
    let vip = it.cluster.vip("h2", "payment-api").to_string();
    it.wait_answer("h2", "shop", &vip, "other");
    it.docker("h1", "exec api busybox touch /well");
    wait_state(&it, "payment-api", "api", Some("serving"));
    it.wait_name("h2", "shop", "pay", &vip);
    let info = it.cluster.service("h2", "payment-api").expect("the service");
    let weights: Vec<u16> = info.replicas.iter().map(|it| it.weight).collect();
    assert_eq!((weights, info.ports.len()), (vec![3, 1], 1), "{info:?}");

    // Unhealthy, well again, paused and not.
    it.docker("h1", "exec api busybox rm /well");
    wait_state(&it, "payment-api", "api", Some("failing"));
    let status = it.cluster.cli("h1", "status").stdout;
    assert!(status.contains("payment-api/api: its container is unhealthy"), "{status}");
    it.docker("h1", "exec api busybox touch /well");
    wait_state(&it, "payment-api", "api", Some("serving"));
    it.docker("h2", "pause other");
    wait_state(&it, "payment-api", "other", Some("failing"));
    it.docker("h2", "unpause other");
    wait_state(&it, "payment-api", "other", Some("serving"));

    // Another name, and another network: what an operator did stays.
    it.cluster.ok("h2", "drain payment-api --on other");
    it.cluster.ok("h2", "network create extra");
    it.wait_networks("extra payment");
    it.docker("h2", "network connect extra other");
    it.docker("h2", "rename other second");
    wait_state(&it, "payment-api", "second", Some("draining"));
    wait_state(&it, "payment-api", "other", None);
    wait_until("it is attached to both under its new name", LIMIT, || {
        let there = it.cluster.ok("h2", "attachments");
        if there.matches("second").count() == 2 { Ok(()) } else { Err(there) }
    });
    wait_state(&it, "payment-api", "second", Some("draining"));
    it.docker("h2", "network disconnect extra second");
    it.cluster.ok("h2", "register payment-api --on second");
    wait_state(&it, "payment-api", "second", Some("serving"));
    it.wait_name("h1", "api", "second", &it.address("h2", "second", "payment"));

    // Stopped: no new flows from the signal on, though it takes its time to end.
    it.docker("h2", "stop -t 5 second >/dev/null 2>&1 &");
    wait_state(&it, "payment-api", "second", Some("failing"));
    assert_eq!(it.docker("h2", "inspect --format '{{.State.Running}}' second"), "true");
    wait_until("it has ended", START_LIMIT, || match state(&it, "payment-api", "second") {
        None => Ok(()),
        Some(state) => Err(state),
    });
    it.docker("h2", "start second");
    wait_state(&it, "payment-api", "second", Some("serving"));
    it.docker("h2", "kill second");
    wait_state(&it, "payment-api", "second", None);

    // A label that is wrong is told, and the container is on its network all the same.
    it.docker("h2", "run -d --stop-timeout 1 --network payment --label svc-agent.service=x --label svc-agent.port=no --name bad box busybox sleep 1000");
    wait_until("the label is named", LIMIT, || {
        let events = it.cluster.ok("h2", "events");
        let told =
            events.contains("container bad is not registered: svc-agent.port: \"no\" is no port number");
        if told { Ok(()) } else { Err(events) }
    });
    it.wait_name("h1", "api", "bad", &it.address("h2", "bad", "payment"));
    it.docker("h1", "rm -f api");
    it.docker("h2", "rm -f second shop bad");
}

/// One container is on a network of ours and on one of Docker's: it knows the names of both, ours first.
fn names_of_dockers_own_networks_are_known_beside_ours(sandbox: &Sandbox) {
    let it = Engines::start(sandbox, 1);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    it.docker("h1", "network create -d bridge local");
    let run = "run -d --stop-timeout 1";
    it.docker("h1", &format!("{run} --network payment --name api --hostname api box {SERVE}"));
    it.docker(
        "h1",
        &format!("{run} --network local --name db --network-alias shared --hostname db box {SERVE}"),
    );
    it.docker(
        "h1",
        &format!("{run} --network payment --network-alias shared --name ours box busybox sleep 1000"),
    );
    it.docker("h1", &format!("{run} --network payment --name both box busybox sleep 1000"));
    it.docker("h1", "network connect local both");
    let (api, db) = (it.address("h1", "api", "payment"), it.address("h1", "db", "local"));
    it.wait_name("h1", "both", "db", &db);
    it.wait_name("h1", "both", "db.local", &db);
    it.wait_name("h1", "both", "api", &api);
    it.wait_name("h1", "both", "shared", &it.address("h1", "ours", "payment"));
    it.wait_answer("h1", "both", &db, "db");
    it.wait_answer("h1", "both", &api, "api");
    let unknown = |container: &str, name: &str| {
        let found = it.look_up("h1", container, name);
        assert!(found.exit != 0 && !found.stdout.contains(&db), "{found:?}");
    };
    // Who is not on that network does not know them; nor who was taken off it.
    unknown("ours", "db");
    it.docker("h1", "network disconnect local both");
    wait_until("db is not known any more", START_LIMIT, || {
        let found = it.look_up("h1", "both", "db");
        if found.stdout.contains(&db) { Err(format!("{found:?}")) } else { Ok(()) }
    });
    it.wait_name("h1", "both", "api", &api);
    // The other way round: a container of Docker's that is put on ours while it runs.
    it.docker("h1", "network connect payment db");
    it.wait_answer("h1", "both", &it.address("h1", "db", "payment"), "db");
    it.docker("h1", "rm -f api db ours both");
    it.docker("h1", "network rm local payment");
    it.cluster.wait_well(START_LIMIT);
}
