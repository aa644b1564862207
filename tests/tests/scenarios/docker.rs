//! Beside a real Docker engine.
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::bed::{Process, Sandbox, ask_tcp, connect};
use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::runner::{Scenario, skip};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(2);
/// Until an engine has ended, with its containers.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Until a container's first process does what it is there for, beside other work.
const START_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        egress_works_although_docker_drops_forwarding once,
        containers_are_attached_by_the_names_that_docker_knows once,
    ]
}

fn egress_works_although_docker_drops_forwarding(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    // A machine on the underlay that is no member: where egress goes.
    cluster.add_host(9);
    let _outside = cluster.server("h9", 80);
    let before = cluster.shell("h1", "iptables -P FORWARD; iptables-save -t filter 2>/dev/null; true");
    assert!(!before.contains("svc-agent"));
    let dockerd = start_docker(&cluster, "h1");
    let rules = || cluster.shell("h1", "iptables -S");
    assert!(rules().contains("-P FORWARD DROP"), "{}", rules());
    let clean = rules();
    let outside: SocketAddr = "192.168.77.9:80".parse().expect("an address");
    let mut cluster = cluster;
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let answer = wait_until("egress beside Docker", LIMIT, || {
        ask_tcp(&cluster.namespace("c1a"), outside, Duration::from_millis(500))
    });
    assert_eq!(answer.seen_as.ip().to_string(), "192.168.77.1", "the host's address is the source");
    let with_ours = cluster.shell("h1", "iptables -S DOCKER-USER");
    assert!(with_ours.contains("svc-agent"), "our rule is tagged: {with_ours}");
    // It ends and begins anew: what stands goes on, and what comes passes.
    let mut standing = connect(&cluster.namespace("c1a"), outside, LIMIT).expect("a connection");
    let mut byte = [0; 64];
    let greeting = standing.read(&mut byte).expect("the greeting");
    assert!(greeting > 0);
    drop(dockerd);
    let _dockerd = start_docker(&cluster, "h1");
    wait_until("egress beside Docker that was restarted", LIMIT, || {
        ask_tcp(&cluster.namespace("c1a"), outside, Duration::from_millis(500))
    });
    standing.write_all(b"x").expect("sent");
    standing.read_exact(&mut byte[..1]).expect("the standing connection goes on");
    let again = cluster.shell("h1", "iptables -S DOCKER-USER");
    assert_eq!(again, with_ours, "our rule is there once");
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
    let after = cluster.shell("h1", "iptables -S");
    assert_eq!(after, clean, "leave removes our rule and nothing else");
}

/// By name and by id; what does not run, or is not there, is refused with what to do.
fn containers_are_attached_by_the_names_that_docker_knows(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    let socket = docker_directory(&cluster, "h1").join("docker.sock");
    cluster.set_flags("h1", &["--engine", &socket.display().to_string()]);
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.ok("h1", "network create payment");
    cluster.containers("c1x");
    cluster.refused("h1", "attach api --container api", 1, &["no container engine is there", "--pid"]);
    let _dockerd = start_docker(&cluster, "h1");
    let docker = |words: &str| cluster.shell("h1", &format!("docker -H unix://{} {words}", socket.display()));
    import_busybox(&cluster, "h1", &socket);
    let serve = "busybox sh -c 'busybox mkdir /www; echo $HOSTNAME >/www/index.html; exec busybox httpd -f -p 80 -h /www'";
    docker(&format!("run -d --network none --dns 127.0.0.11 --name api --hostname api box {serve}"));
    let id = docker(&format!("run -d --network none --dns 127.0.0.11 --name shop_1 box {serve}"));
    docker("run -d --network host --name beside box busybox sleep 1000");

    let done = cluster.ok("h1", "register payment-api --container api");
    assert!(done.contains("api attached to network payment"), "{done}");
    cluster.ok("h1", &format!("attach shop --container {}", &id.trim()[..12]));
    cluster.attach_again("payment", "c1x");
    // This busybox looks names up by a C library of which it has not all here.
    let vip = cluster.vip("h1", "payment-api");
    let asked = || {
        let found = docker("exec shop_1 busybox nslookup -type=a payment-api 127.0.0.11");
        assert!(found.contains(&vip.to_string()), "{found}");
        let ask = r#"printf "GET / HTTP/1.0\r\n\r\n""#;
        let ask = format!("exec shop_1 busybox sh -c '{ask} | busybox nc -w 5 {vip} 80'");
        // Its server may just be starting.
        wait_until("the service answers in a container", START_LIMIT, || {
            let got = cluster.try_shell("h1", &format!("docker -H unix://{} {ask}", socket.display())).stdout;
            if got.ends_with("api\n") { Ok(()) } else { Err(got) }
        });
    };
    asked();
    let shop = cluster.resolve("c1x", "shop");
    assert!(cluster.ok("h1", "attachments").contains(&shop) && !shop.is_empty(), "{shop}");
    // The same container under its name: nothing changes.
    cluster.ok("h1", "attach shop --container shop_1");

    cluster.refused(
        "h1",
        "attach no --container unknown",
        1,
        &["no container engine knows unknown", "docker ps"],
    );
    cluster.refused(
        "h1",
        "attach no --container beside",
        1,
        &["beside is on the host's own network", "--netns host"],
    );
    cluster.refused("h1", "attach no --container ../images", 1, &["is no name or id of a container"]);
    docker("kill api");
    wait_until("the container that has ended is detached", START_LIMIT, || {
        let attached = cluster.ok("h1", "attachments");
        if attached.contains("api") { Err(attached) } else { Ok(()) }
    });
    cluster.refused(
        "h1",
        "attach api --container api",
        1,
        &["api does not run: it is exited", "docker start api"],
    );
    docker("start api");
    cluster.ok("h1", "register payment-api --container api");
    asked();
    docker("rm -f api shop_1 beside");
}

/// An image "box" of this machine's busybox, since there is no registry to ask.
pub(crate) fn import_busybox(cluster: &Cluster, host: &str, socket: &Path) {
    let make = "set -e; root=$(mktemp -d); cd $root; mkdir bin etc tmp; program=$(command -v busybox); cp $program bin; ln -s busybox bin/sh
                for file in $(ldd $program | grep -o '/[^ ]*'); do mkdir -p .$(dirname $file); cp -L $file .$file; done
                tar -c . | docker -H unix://SOCKET import - box; rm -rf $root";
    cluster.shell(host, &make.replace("SOCKET", &socket.display().to_string()));
}

pub(crate) fn docker_directory(cluster: &Cluster, host: &str) -> PathBuf {
    cluster.bed().state_directory(host).with_file_name("docker")
}

/// Where a host's Docker finds its drivers.
pub(crate) fn plugins(cluster: &Cluster, host: &str) -> PathBuf {
    docker_directory(cluster, host).join("plugins")
}

/// A running engine.
pub(crate) struct Docker {
    /// It ends first.
    engine: Engine,
    arguments: Vec<String>,
    shared: Shared,
}

/// What an engine leaves behind that ends without its containers.
pub(crate) struct Left {
    /// The sockets at which its containers are kept are there alone.
    mounts: File,
    arguments: Vec<String>,
    shared: Shared,
}

impl Docker {
    /// Ends it, as service managers do, without its containers: it was started so that they live on.
    pub(crate) fn leave(mut self) -> Left {
        let mounts = File::open(format!("/proc/{}/ns/mnt", self.engine.0.pid())).expect("its mounts");
        self.engine.0.signal(Signal::TERM).expect("a signal");
        assert!(self.engine.0.wait(END_LIMIT).expect("a wait").is_some(), "dockerd does not end");
        Left { mounts, arguments: self.arguments, shared: self.shared }
    }

    /// Waits until it answers, which it does once it has started its containers.
    pub(crate) fn wait_ready(&mut self, cluster: &Cluster, host: &str) {
        let socket = docker_directory(cluster, host).join("docker.sock");
        for _ in 0..150 {
            // Its log may be one that another began.
            let asked = format!("timeout 5 docker -H unix://{} version", socket.display());
            if cluster.try_shell(host, &asked).exit == 0 {
                return;
            }
            if self.engine.0.wait(Duration::from_millis(200)).expect("a wait").is_some() {
                break;
            }
        }
        let log = self.engine.0.log();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        skip(format!(
            "dockerd does not start here: {}",
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        ))
    }
}

impl Left {
    /// Starts an engine that takes up the containers, and waits until it has.
    pub(crate) fn resume(self, cluster: &Cluster, host: &str) -> Docker {
        let mounts = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.mounts.as_raw_fd());
        let mut command = Command::new("nsenter");
        command.args([mounts.as_str(), "dockerd"]).args(&self.arguments);
        let engine = Engine(cluster.bed().spawn(host, command, "docker").expect("dockerd"));
        let mut docker = Docker { engine, arguments: self.arguments, shared: self.shared };
        docker.wait_ready(cluster, host);
        docker
    }
}

/// An engine's process.
struct Engine(Process);

impl Drop for Engine {
    /// As service managers end it; killed, it leaves its containers' engine behind.
    fn drop(&mut self) {
        drop(self.0.signal(Signal::TERM));
        drop(self.0.wait(END_LIMIT));
    }
}

/// A directory in which mounts are seen by all; gone when it is dropped, with them.
struct Shared(PathBuf);

impl Shared {
    fn new(directory: PathBuf) -> Self {
        let mut bind = Command::new("mount");
        let bound = bind.args(["-n", "--bind"]).args([&directory, &directory]).status().expect("mount");
        assert!(bound.success(), "{} is bound", directory.display());
        Self(directory)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let gone = Command::new("umount").args(["-n", "-R", "-l"]).arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(gone.is_ok_and(|gone| gone.success()), "{} is unmounted", self.0.display());
        }
    }
}

/// Starts dockerd in a host's namespace with directories of its own; without it there, the scenario is skipped.
pub(crate) fn start_docker(cluster: &Cluster, host: &str) -> Docker {
    let mut docker = begin_docker(cluster, host);
    docker.wait_ready(cluster, host);
    docker
}

/// As [`start_docker`], without waiting until it answers.
pub(crate) fn begin_docker(cluster: &Cluster, host: &str) -> Docker {
    begin_docker_with(cluster, host, &[])
}

/// As [`begin_docker`], with further flags.
pub(crate) fn begin_docker_with(cluster: &Cluster, host: &str, flags: &[&str]) -> Docker {
    let directory = docker_directory(cluster, host);
    let (exec, plugins) = (directory.join("exec"), plugins(cluster, host));
    for made in [&exec, &plugins] {
        std::fs::create_dir_all(made).expect("a directory");
    }
    // Where it looks for drivers is the same for all; so each has that place for itself. Its containers' namespaces are mounted
    // below its exec root, and seen by the agents: that alone is shared.
    let shared = Shared::new(exec.clone());
    let mut command = Command::new("nsenter");
    command.args(["--mount=/proc/1/ns/mnt", "unshare", "-m", "--propagation", "unchanged", "sh", "-c"]);
    command.arg(
        "set -e; mount -n --make-private /; mount -n --make-private /run || true
         mount -n -t tmpfs tmpfs /mnt; mkdir -p /mnt/docker/plugins /mnt/svc-agent-bed
         mount -n --rbind /run/svc-agent-bed /mnt/svc-agent-bed; mount -n --bind \"$0\" /mnt/docker/plugins
         mount -n --move /mnt /run; exec dockerd \"$@\"",
    );
    command.arg(&plugins);
    let path = |name: &str| directory.join(name).display().to_string();
    let own = [
        ("--data-root", path("data")),
        ("--exec-root", path("exec")),
        ("--pidfile", path("pid")),
        ("-H", format!("unix://{}", path("docker.sock"))),
        ("--storage-driver", "vfs".to_owned()),
        ("--shutdown-timeout", "2".to_owned()),
    ];
    let own = own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let arguments: Vec<String> = own.chain(flags.iter().map(|&flag| flag.to_owned())).collect();
    command.args(&arguments);
    match cluster.bed().spawn(host, command, "docker") {
        Ok(process) => Docker { engine: Engine(process), arguments, shared },
        Err(error) => skip(format!("dockerd cannot be started: {error:?}")),
    }
}
