//! The network driver of real Docker engines, one on each host.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent::api::routes;
use agent::api::types::AttachmentInfo;
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

use crate::docker::{Docker, docker_directory, import_busybox, plugins, start_docker};

/// Contract: what one host is told is in force on all within this.
const LIMIT: Duration = Duration::from_secs(2);
/// Until a container's first process does what it is there for, beside other work.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Containers that one command starts.
const BATCH: usize = 40;
/// A server that says which container it is.
const SERVE: &str = "busybox sh -c 'busybox mkdir /www; echo $HOSTNAME >/www/index.html; exec busybox httpd -f -p 80 -h /www'";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        docker_networks_are_the_clusters_and_their_containers_reach_each_other once,
        docker_containers_are_replicas_by_their_labels_and_judged_by_their_health once,
        docker_and_the_agent_are_restarted_apart_and_together once,
        docker_containers_that_start_at_once_are_all_attached_and_leave_nothing once,
    ]
}

/// Hosts with an agent and an engine each.
struct Engines {
    /// They end first.
    engines: BTreeMap<String, Docker>,
    cluster: Cluster,
}

impl Engines {
    fn start(sandbox: &Sandbox, hosts: usize) -> Self {
        let mut cluster = Cluster::empty(sandbox);
        let mut engines = BTreeMap::new();
        for number in 1..=hosts {
            cluster.add_host(number);
            let host = format!("h{number}");
            let socket = socket(&cluster, &host).display().to_string();
            let plugin = plugins(&cluster, &host).join("svc-agent.sock").display().to_string();
            cluster.set_flags(
                &host,
                &["--engine", &socket, "--docker-plugin", &plugin, "--log", "info,agent::docker=debug"],
            );
            let how = if host == "h1" { "--init" } else { "--join 192.168.77.1" };
            cluster.start_agent(&host, how);
            cluster.wait_ready(&host);
        }
        for host in cluster.hosts() {
            engines.insert(host.clone(), start_docker(&cluster, &host));
            import_busybox(&cluster, &host, &socket(&cluster, &host));
        }
        Self { engines, cluster }
    }

    fn docker(&self, host: &str, words: &str) -> String {
        let socket = socket(&self.cluster, host);
        self.cluster.shell(host, &format!("docker -H unix://{} {words}", socket.display())).trim().to_owned()
    }

    fn refused(&self, host: &str, words: &str, said: &str) {
        let socket = socket(&self.cluster, host);
        let output = self.cluster.try_shell(host, &format!("docker -H unix://{} {words}", socket.display()));
        assert!(output.exit != 0 && output.stderr.contains(said), "{host}$ docker {words}: {output:?}");
    }

    fn networks(&self, host: &str) -> String {
        self.docker(host, "network ls --filter driver=svc-agent --format '{{.Name}}'")
    }

    fn wait_networks(&self, wanted: &str) {
        for host in self.cluster.hosts() {
            wait_until(&format!("Docker on {host} has the networks [{wanted}]"), LIMIT, || {
                let there = self.networks(&host);
                if there.split_whitespace().collect::<Vec<_>>().join(" ") == wanted {
                    Ok(())
                } else {
                    Err(there)
                }
            });
        }
    }

    /// The address that Docker says a container has on a network.
    fn address(&self, host: &str, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.docker(host, &format!("inspect --format '{format}' {container}"))
    }

    /// Waits until a name has this address in a container.
    fn wait_name(&self, host: &str, container: &str, name: &str, address: &str) {
        wait_until(&format!("{name} is {address} in {container}"), START_LIMIT, || {
            let words = format!("exec {container} busybox nslookup -type=a {name} 127.0.0.11");
            let socket = socket(&self.cluster, host);
            let found =
                self.cluster.try_shell(host, &format!("docker -H unix://{} {words}", socket.display()));
            let told = found.stdout.split_whitespace().any(|word| word == address);
            if told { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    /// Waits until the server at an address answers a container by this name.
    fn wait_answer(&self, host: &str, container: &str, address: &str, wanted: &str) {
        wait_until(&format!("{wanted} at {address} answers {container}"), START_LIMIT, || {
            let ask = r#"printf "GET / HTTP/1.0\r\n\r\n""#;
            let words = format!("exec {container} busybox sh -c '{ask} | busybox nc -w 2 {address} 80'");
            let socket = socket(&self.cluster, host);
            let got = self.cluster.try_shell(host, &format!("docker -H unix://{} {words}", socket.display()));
            if got.stdout.ends_with(&format!("{wanted}\n")) { Ok(()) } else { Err(format!("{got:?}")) }
        });
    }
}

fn socket(cluster: &Cluster, host: &str) -> PathBuf {
    docker_directory(cluster, host).join("docker.sock")
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
            let socket = socket(&it.cluster, "h2").display().to_string();
            let subnet = it.cluster.try_shell("h2", &format!("docker -H unix://{socket} {subnet} {name}"));
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
    it.docker("h1", "network rm second third-net");
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
}

/// How a replica of a service is, as another host sees it.
fn state(it: &Engines, service: &str, on: &str) -> Option<String> {
    let service = it.cluster.service("h2", service)?;
    service.replicas.iter().find(|replica| replica.attachment.as_str() == on).map(|it| it.state.clone())
}

fn wait_state(it: &Engines, service: &str, on: &str, wanted: Option<&str>) {
    wait_until(&format!("{service} on {on} is {wanted:?}"), LIMIT, || {
        let is = state(it, service, on);
        if is.as_deref() == wanted { Ok(()) } else { Err(format!("{is:?}")) }
    });
}

fn docker_containers_are_replicas_by_their_labels_and_judged_by_their_health(sandbox: &Sandbox) {
    let it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let service =
        "--label svc-agent.service=payment-api --label svc-agent.port=80 --label svc-agent.alias=pay";
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

    // Another name.
    it.docker("h2", "rename other second");
    wait_state(&it, "payment-api", "second", Some("serving"));
    wait_state(&it, "payment-api", "other", None);
    it.wait_name("h1", "api", "second", &it.address("h2", "second", "payment"));

    // Stopped: no new flows from the signal on, though it takes its time to end.
    let socket = socket(&it.cluster, "h2");
    it.cluster
        .shell("h2", &format!("docker -H unix://{} stop -t 5 second >/dev/null 2>&1 &", socket.display()));
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

fn docker_and_the_agent_are_restarted_apart_and_together(sandbox: &Sandbox) {
    let mut it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    it.docker("h2", "run -d --stop-timeout 1 --network payment --name shop box busybox sleep 1000");
    let run =
        "run -d --restart always --stop-timeout 1 --network payment --label svc-agent.service=payment-api";
    it.docker("h1", &format!("{run} --name api --hostname api box {SERVE}"));
    let vip = |it: &Engines| it.cluster.vip("h2", "payment-api").to_string();
    let answers = |it: &Engines| it.wait_answer("h2", "shop", &vip(it), "api");
    wait_state(&it, "payment-api", "api", Some("serving"));
    answers(&it);
    let before = it.address("h1", "api", "payment");

    // The agent: what runs goes on; what it was told of is known again.
    it.cluster.kill_agent("h1");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    answers(&it);
    assert_eq!(it.address("h1", "api", "payment"), before);
    it.docker(
        "h1",
        &format!("run -d --stop-timeout 1 --network payment --name more --hostname more box {SERVE}"),
    );
    let more = it.address("h1", "more", "payment");
    assert_ne!(more, before, "an address that Docker has is given to nobody else");
    it.wait_answer("h2", "shop", &more, "more");
    it.docker("h1", "rm -f more");

    // Docker: its containers end with it and come again, under their names, before it answers anybody.
    let restart_docker = |it: &mut Engines| {
        drop(it.engines.remove("h1"));
        let engine = start_docker(&it.cluster, "h1");
        it.engines.insert("h1".to_owned(), engine);
    };
    restart_docker(&mut it);
    wait_until("api is attached again", START_LIMIT, || match state(&it, "payment-api", "api").as_deref() {
        Some("serving") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    answers(&it);
    it.wait_networks("payment");

    // Both, the agent first, as service managers order them.
    drop(it.engines.remove("h1"));
    it.cluster.kill_agent("h1");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    let engine = start_docker(&it.cluster, "h1");
    it.engines.insert("h1".to_owned(), engine);
    wait_until("api is attached", START_LIMIT, || match state(&it, "payment-api", "api").as_deref() {
        Some("serving") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    answers(&it);
    it.docker("h1", "rm -f api");
    it.docker("h2", "rm -f shop");
    it.cluster.wait_well(START_LIMIT);
}

/// So many at once as the machine has work for; beside Docker's own bridge, in the same run.
fn docker_containers_that_start_at_once_are_all_attached_and_leave_nothing(sandbox: &Sandbox) {
    let count = if is_nightly() { 200 } else { 24 };
    let it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.docker("h1", "network create -d bridge beside");
    it.wait_networks("payment");
    it.docker("h2", "run -d --stop-timeout 1 --network payment --name shop box busybox sleep 1000");
    // A command may take half a minute: some at a time, each with eight beside each other.
    let in_batches = |command: &str| {
        let socket = socket(&it.cluster, "h1").display().to_string();
        let began = Instant::now();
        for first in (1..=count).step_by(BATCH) {
            let last = (first + BATCH - 1).min(count);
            let docker = format!("docker -H unix://{socket} {command}");
            it.cluster.shell("h1", &format!("seq {first} {last} | xargs -P 8 -I% {docker} >/dev/null"));
        }
        began.elapsed()
    };
    let run = |network: &str, prefix: &str| {
        let words =
            format!("run -d --stop-timeout 1 --network {network} --name {prefix}% --hostname {prefix}% box");
        in_batches(&format!("{words} busybox sleep 1000"))
    };
    let beside = run("beside", "b");
    let ours = run("payment", "p");
    println!("  {count} containers in {ours:?}, on Docker's bridge in {beside:?}");
    let attached = || {
        let all: Vec<AttachmentInfo> = it.cluster.get("h2", routes::ATTACHMENTS, &[]);
        all.into_iter().filter(|it| it.name.as_str().starts_with('p')).collect::<Vec<_>>()
    };
    wait_until("all are attached, as h2 knows it", START_LIMIT, || {
        let there = attached();
        if there.len() == count { Ok(()) } else { Err(there.len()) }
    });
    let mut addresses: Vec<_> = attached().into_iter().flat_map(|it| it.addresses).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "each has one of its own");
    let last = it.address("h1", &format!("p{count}"), "payment");
    it.wait_name("h2", "shop", &format!("p{count}"), &last);
    in_batches("rm -f p% b%");
    wait_until("none is attached", START_LIMIT, || {
        let there = attached().len();
        if there == 0 { Ok(()) } else { Err(there) }
    });
    // What is left of a container would keep its network.
    it.docker("h2", "rm -f shop");
    it.docker("h1", "network rm payment");
    it.wait_networks("");
    wait_until("the network's namespace is gone", START_LIMIT, || {
        let there = it.cluster.network_namespaces().len();
        if there == 0 { Ok(()) } else { Err(there) }
    });
    it.cluster.wait_well(START_LIMIT);
}
