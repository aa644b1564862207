//! The network driver of real Docker engines, one on each host.
use std::path::PathBuf;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

use crate::docker::{Docker, docker_directory, import_busybox, plugins, start_docker};

/// Contract: what one host is told is in force on all within this.
const LIMIT: Duration = Duration::from_secs(2);
/// Until a container's first process does what it is there for, beside other work.
const START_LIMIT: Duration = Duration::from_secs(10);
/// A server that says which container it is.
const SERVE: &str = "busybox sh -c 'busybox mkdir /www; echo $HOSTNAME >/www/index.html; exec busybox httpd -f -p 80 -h /www'";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![docker_networks_are_the_clusters_and_their_containers_reach_each_other once]
}

/// Hosts with an agent and an engine each.
struct Engines {
    cluster: Cluster,
    _engines: Vec<Docker>,
}

impl Engines {
    fn start(sandbox: &Sandbox, hosts: usize) -> Self {
        let mut cluster = Cluster::empty(sandbox);
        let mut engines = Vec::new();
        for number in 1..=hosts {
            cluster.add_host(number);
            let host = format!("h{number}");
            let socket = socket(&cluster, &host).display().to_string();
            let plugin = plugins(&cluster, &host).join("svc-agent.sock").display().to_string();
            cluster.set_flags(&host, &["--engine", &socket, "--docker-plugin", &plugin]);
            let how = if host == "h1" { "--init" } else { "--join 192.168.77.1" };
            cluster.start_agent(&host, how);
            cluster.wait_ready(&host);
        }
        for host in cluster.hosts() {
            engines.push(start_docker(&cluster, &host));
            import_busybox(&cluster, &host, &socket(&cluster, &host));
        }
        Self { cluster, _engines: engines }
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
            if found.stdout.contains(address) { Ok(()) } else { Err(format!("{found:?}")) }
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

    // A name of Docker's, an address of ours, the way between the hosts, both ways.
    it.docker("h1", &format!("run -d --network payment --name api --hostname api box {SERVE}"));
    it.docker("h2", &format!("run -d --network payment --name shop_1 --hostname shop box {SERVE}"));
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
        "run -d --network payment --ip {wanted} --network-alias cash --name till --hostname till box {SERVE}"
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
    it.docker("h2", "network rm payment");
    it.wait_networks("");
    assert!(!it.cluster.ok("h1", "network ls").contains("payment"));
    it.cluster.wait_well(START_LIMIT);
}
