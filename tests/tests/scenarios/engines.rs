//! Hosts with an agent and a real Docker engine each.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::{Cluster, Output};
use tests::wait::wait_until;

use crate::docker::{Docker, begin_docker_with, docker_directory, import_busybox, plugins};

/// Contract: what one host is told is in force on all within this.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);
/// Until a container's first process does what it is there for, beside other work.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(10);
/// A server that says which container it is.
pub(crate) const SERVE: &str = "busybox sh -c 'busybox mkdir /www; echo $HOSTNAME >/www/index.html; exec busybox httpd -f -p 80 -h /www'";

/// Hosts with an agent and an engine each.
pub(crate) struct Engines {
    /// They end first.
    pub(crate) engines: BTreeMap<String, Docker>,
    pub(crate) cluster: Cluster,
}

impl Engines {
    pub(crate) fn start(sandbox: &Sandbox, hosts: usize) -> Self {
        Self::with_flags(sandbox, hosts, &[], &[])
    }

    /// As [`Self::start`], with further flags for the agents and the engines.
    pub(crate) fn with_flags(sandbox: &Sandbox, hosts: usize, flags: &[&str], dockers: &[&str]) -> Self {
        let mut cluster = Cluster::empty(sandbox);
        let mut engines = BTreeMap::new();
        for number in 1..=hosts {
            cluster.add_host(number);
            let host = format!("h{number}");
            let socket = socket(&cluster, &host).display().to_string();
            let plugin = plugins(&cluster, &host).join("svc-agent.sock").display().to_string();
            cluster.set_flags(&host, &[&["--engine", &socket, "--docker-plugin", &plugin], flags].concat());
            let how = if host == "h1" { "--init" } else { "--join 192.168.77.1" };
            cluster.start_agent(&host, how);
            cluster.wait_ready(&host);
        }
        for host in cluster.hosts() {
            let mut docker = begin_docker_with(&cluster, &host, dockers);
            docker.wait_ready(&cluster, &host);
            engines.insert(host.clone(), docker);
            import_busybox(&cluster, &host, &socket(&cluster, &host));
        }
        Self { engines, cluster }
    }

    /// A host loses power, with its engine and all containers, whose data stays.
    pub(crate) fn kill_host(&mut self, host: &str) {
        // Their namespaces are no namespaces of the bed.
        let processes =
            self.docker(host, "ps -q | xargs docker inspect --format '{{.State.Pid}}' | tr '\n' ' '");
        self.cluster.kill_host(host);
        let other = self.cluster.running().into_iter().next().expect("another host");
        self.cluster.shell(&other, &format!("kill -9 {processes}"));
        drop(self.engines.remove(host));
        let directory = docker_directory(&self.cluster, host);
        for gone in [directory.join("exec"), plugins(&self.cluster, host)] {
            std::fs::remove_dir_all(gone).expect("a directory");
        }
    }

    /// Words of a host's `docker`, which must succeed; what it printed.
    pub(crate) fn docker(&self, host: &str, words: &str) -> String {
        self.shell(host, &format!("docker {words}"))
    }

    pub(crate) fn try_docker(&self, host: &str, words: &str) -> Output {
        self.try_shell(host, &format!("docker {words}"))
    }

    /// A script whose `docker` is the host's, which must succeed; what it printed.
    pub(crate) fn shell(&self, host: &str, script: &str) -> String {
        let output = self.try_shell(host, script);
        assert_eq!(output.exit, 0, "{host}$ {script}\n{}{}", output.stdout, output.stderr);
        output.stdout.trim().to_owned()
    }

    pub(crate) fn try_shell(&self, host: &str, script: &str) -> Output {
        let socket = socket(&self.cluster, host);
        self.cluster.try_shell(host, &format!("export DOCKER_HOST=unix://{}; {script}", socket.display()))
    }

    pub(crate) fn refused(&self, host: &str, words: &str, said: &str) {
        let output = self.try_docker(host, words);
        assert!(output.exit != 0 && output.stderr.contains(said), "{host}$ docker {words}: {output:?}");
    }

    /// Docker's networks that stand for the cluster's: what was just made by hand does not yet.
    pub(crate) fn networks(&self, host: &str) -> String {
        let format = "{{if index .Options \"svc-agent.network\"}}{{.Name}}{{end}}";
        let inspect = format!("xargs -r docker network inspect --format '{format}'");
        // One may be removed in between.
        let listed = self.try_docker(host, &format!("network ls -q --filter driver=svc-agent | {inspect}"));
        let mut names: Vec<&str> = listed.stdout.split_whitespace().collect();
        names.sort_unstable();
        names.join(" ")
    }

    pub(crate) fn wait_networks(&self, wanted: &str) {
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
    pub(crate) fn address(&self, host: &str, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.docker(host, &format!("inspect --format '{format}' {container}"))
    }

    /// What a container's resolver says of a name.
    pub(crate) fn look_up(&self, host: &str, container: &str, name: &str) -> Output {
        self.try_docker(host, &format!("exec {container} busybox nslookup -type=a {name} 127.0.0.11"))
    }

    /// Waits until a name has this address in a container.
    pub(crate) fn wait_name(&self, host: &str, container: &str, name: &str, address: &str) {
        wait_until(&format!("{name} is {address} in {container}"), START_LIMIT, || {
            let found = self.look_up(host, container, name);
            let told = found.stdout.split_whitespace().any(|word| word == address);
            if told { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    /// Waits until the server at an address answers a container by this name.
    pub(crate) fn wait_answer(&self, host: &str, container: &str, address: &str, wanted: &str) {
        wait_until(&format!("{wanted} at {address} answers {container}"), START_LIMIT, || {
            let ask = r#"printf "GET / HTTP/1.0\r\n\r\n""#;
            let words = format!("exec {container} busybox sh -c '{ask} | busybox nc -w 2 {address} 80'");
            let got = self.try_docker(host, &words);
            if got.stdout.ends_with(&format!("{wanted}\n")) { Ok(()) } else { Err(format!("{got:?}")) }
        });
    }
}

pub(crate) fn socket(cluster: &Cluster, host: &str) -> PathBuf {
    docker_directory(cluster, host).join("docker.sock")
}

/// How a replica of a service is, as another host sees it.
pub(crate) fn state(it: &Engines, service: &str, on: &str) -> Option<String> {
    let service = it.cluster.service("h2", service)?;
    service.replicas.iter().find(|replica| replica.attachment.as_str() == on).map(|it| it.state.clone())
}

pub(crate) fn wait_state(it: &Engines, service: &str, on: &str, wanted: Option<&str>) {
    wait_state_within(it, service, on, wanted, LIMIT);
}

/// As [`wait_state`], where a container has to start first, or its HEALTHCHECK to run.
pub(crate) fn wait_state_late(it: &Engines, service: &str, on: &str, wanted: Option<&str>) {
    wait_state_within(it, service, on, wanted, START_LIMIT);
}

fn wait_state_within(it: &Engines, service: &str, on: &str, wanted: Option<&str>, limit: Duration) {
    wait_until(&format!("{service} on {on} is {wanted:?}"), limit, || {
        let is = state(it, service, on);
        if is.as_deref() == wanted { Ok(()) } else { Err(format!("{is:?}")) }
    });
}
