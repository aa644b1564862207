//! Hosts that are booted: Debian with systemd as its first process, in namespaces, from a clean root file system that
//! `deps.sh` makes. What a package, a unit or a manual says is tried there as its reader would.
mod docs;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::bed::Process;
use agent::netns::Namespace;

use crate::cluster::{Cluster, Output};
use crate::runner::skip;
use crate::wait::wait_until;

pub use docs::{Step, check, steps};

const BOOT: &str = include_str!("boot.sh");
const IMAGES: &str = include_str!("images.sh");
/// What `deps.sh` makes: a clean Debian with systemd, and what it becomes by Docker and some clients (a layer on top).
const ROOT: &str = "/var/cache/svc-agent-tests/root";
const DOCKER: &str = "/var/cache/svc-agent-tests/engines";
/// Before each script: the first command that fails ends it, and `refuse COMMAND …` is for those that are to fail.
const PREAMBLE: &str = "cd /root; exec 2>&1; set -e
    refuse() { if \"$@\"; then echo \"done, and should not be: $*\"; exit 1; fi; }";
/// Until systemd has started what is enabled.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Longest run of a command.
const LIMIT: Duration = Duration::from_secs(120);

/// Has a host that the package lies on, at /root/svc-agent.deb, install it and found the cluster (h1) or join it (h2).
pub const JOIN: &str = "set -e; apt-get install -y /root/svc-agent.deb >/dev/null
    if [ $(hostname) = h1 ]; then
        (umask 077; svc-agent keygen > /etc/svc-agent/cluster.key); echo 'OPTIONS=\"--init\"' > /etc/default/svc-agent
    else
        scp h1:/etc/svc-agent/cluster.key /etc/svc-agent/
        echo 'OPTIONS=\"--join 192.168.77.1\"' > /etc/default/svc-agent
    fi
    systemctl start svc-agent";

/// Whatever precedence its starter has: two programs that have it and wait for each other by turning round keep all others from
/// two cores.
const ORDINARY: [&str; 3] = ["chrt", "-o", "0"];

/// What a host is booted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// systemd, dpkg and apt, and nothing that needs not be there.
    Clean,
    /// With docker.io, docker-compose, podman, openssh, iproute2, curl and python3.
    Docker,
}

/// A booted host. It ends, with all that runs in it, when this is dropped.
pub struct Booted {
    name: String,
    directory: PathBuf,
    root: Root,
    process: Process,
    group: PathBuf,
}

impl Booted {
    /// Adds a host to a cluster's bed, with a default route (to nobody), and boots it; the package lies there at
    /// /root/svc-agent.deb.
    pub fn with_package(cluster: &mut Cluster, number: usize, root: Root) -> Self {
        let (name, gateway) = (format!("h{number}"), "192.168.77.254".parse().expect("an address"));
        cluster.add_host(number);
        cluster.bed().default_route(&name, gateway).expect("a route");
        let host = Self::boot(cluster, &name, root);
        host.copy(&package(), "/root/svc-agent.deb");
        if root == Root::Docker {
            host.wait("Docker answers", BOOT_LIMIT, "docker version");
        }
        host
    }

    /// Boots a host of a cluster's bed, in its network namespace and with its address, and waits until it is up.
    pub fn boot(cluster: &Cluster, name: &str, root: Root) -> Self {
        let directory = cluster.bed().state_directory(name).with_file_name("booted");
        std::fs::create_dir_all(&directory).expect("a directory");
        let group = group(&cluster.bed().full_name(name));
        let process = spawn(cluster, name, root, &directory, &group);
        let mut booted = Self { name: name.to_owned(), directory, root, process, group };
        booted.wait_up();
        booted
    }

    /// Its power is cut, and it boots again; what was written stays, and its network namespace, which stands for its network
    /// card, is as the bed made it.
    pub fn power_cycle(&mut self, cluster: &Cluster) {
        drop(self.process.kill());
        remove_group(&self.group);
        self.process = spawn(cluster, &self.name, self.root, &self.directory, &self.group);
        self.wait_up();
    }

    fn wait_up(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < BOOT_LIMIT {
            if let Ok(Some(ended)) = self.process.wait(Duration::from_millis(100)) {
                panic!("{} does not boot: {ended}\n{}", self.name, self.process.log());
            }
            if self.first_process().is_none() {
                continue;
            }
            let state = self.try_shell("timeout 30 systemctl is-system-running --wait || true").stdout;
            match state.trim() {
                "running" => return,
                "degraded" => {
                    panic!("{}: {}", self.name, self.try_shell("systemctl --failed --no-pager").stdout)
                }
                _ => {}
            }
        }
        let jobs = self.try_shell("systemctl list-jobs --no-pager; journalctl --no-pager -b -n 40").stdout;
        panic!("{} is not up within {BOOT_LIMIT:?}\n{}{jobs}", self.name, self.process.log());
    }

    /// systemd, as seen from outside, once it is there.
    fn first_process(&self) -> Option<u32> {
        let pid = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let child: u32 = children.split_whitespace().next()?.parse().ok()?;
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "systemd").then_some(child)
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A bash script in it, at /root; what it prints to both streams is in the order of printing, as standard output.
    pub fn try_shell(&self, script: &str) -> Output {
        let Some(pid) = self.first_process() else { panic!("{} has no first process", self.name) };
        let started = Instant::now();
        let mut command = Command::new("timeout");
        command.arg(LIMIT.as_secs().to_string()).args(ORDINARY).args([
            "nsenter",
            "-t",
            &pid.to_string(),
            "-a",
            "--",
        ]);
        command.args([
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        let script = format!("{PREAMBLE}\n{script}");
        let output = command.args(["bash", "-c", &script]).stdin(Stdio::null()).output().expect("nsenter");
        Output {
            exit: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        }
    }

    /// As [`Self::try_shell`]; it must succeed. Returns what it printed.
    pub fn shell(&self, script: &str) -> String {
        let output = self.try_shell(script);
        assert_eq!(output.exit, 0, "{}# {script}\n{}{}", self.name, output.stdout, output.stderr);
        output.stdout
    }

    /// Puts a file of this machine there.
    pub fn copy(&self, from: &Path, to: &str) {
        let Some(pid) = self.first_process() else { panic!("{} has no first process", self.name) };
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-a", "--", "dd", "status=none", &format!("of={to}")]);
        let file = File::open(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        let copied = command.stdin(file).status().expect("nsenter");
        assert!(copied.success(), "{} is copied to {}:{to}", from.display(), self.name);
    }

    /// The network namespace of a container of Docker there, while it runs.
    pub fn container(&self, name: &str) -> Option<Namespace> {
        let id = self.try_shell(&format!("docker inspect --format '{{{{.Id}}}}' {name}")).stdout;
        let in_it = |process: &Path| {
            std::fs::read_to_string(process.join("cgroup")).is_ok_and(|group| group.contains(id.trim()))
        };
        let processes = std::fs::read_dir("/proc").ok()?.flatten().map(|process| process.path());
        let process = processes.filter(|_| !id.trim().is_empty()).find(|process| in_it(process))?;
        Namespace::open(&process.join("ns/net")).ok()
    }

    /// Docker there gets the images python:3-slim and curlimages/curl.
    pub fn import_images(&self) {
        self.shell(IMAGES);
    }

    /// Waits until a script in it succeeds.
    pub fn wait(&self, what: &str, limit: Duration, script: &str) {
        wait_until(&format!("{what} on {}", self.name), limit, || {
            let output = self.try_shell(script);
            if output.exit == 0 { Ok(()) } else { Err(output.stdout) }
        });
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        drop(self.process.kill());
        remove_group(&self.group);
    }
}

/// What stands in the way of booting hosts with Docker, and of the package.
pub fn missing() -> Option<String> {
    let layers = [ROOT, DOCKER].into_iter().find(|layer| !Path::new(layer).join("etc").exists());
    let layers = layers.map(|layer| format!("no root file system at {layer}: make deps"));
    layers.or_else(|| newest_package().err())
}

/// The newest package that `make quick-package` made, which must not be older than the program.
pub fn package() -> PathBuf {
    newest_package().unwrap_or_else(|missing| skip(missing))
}

fn newest_package() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let made = std::fs::read_dir(target.join("package/quick")).into_iter().flatten().flatten();
    let written = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    let debs = made.map(|it| it.path()).filter(|path| path.extension().is_some_and(|it| it == "deb"));
    let Some(package) = debs.max_by_key(|path| written(path)) else {
        return Err("no package: make quick-package".to_owned());
    };
    if written(&package) < written(&target.join("debug/svc-agent")) {
        return Err("the package is older than the program: make quick-package".to_owned());
    }
    Ok(package)
}

fn spawn(cluster: &Cluster, name: &str, root: Root, directory: &Path, group: &Path) -> Process {
    let layers = match root {
        Root::Clean => ROOT.to_owned(),
        Root::Docker => format!("{DOCKER}:{ROOT}"),
    };
    if let Some(layer) = layers.split(':').find(|layer| !Path::new(layer).join("etc").exists()) {
        skip(format!("a root file system at {layer}: make deps"));
    }
    if std::fs::create_dir_all(group).is_err() {
        skip(format!("a control group at {} (cgroup2)", group.display()));
    }
    let mut command = Command::new("sh");
    let enter =
        "echo $$ >\"$0/cgroup.procs\"; exec chrt -o 0 unshare -m -p -u -i -C -f --kill-child sh -c \"$@\"";
    command.args(["-c", enter]).arg(group).args([BOOT, "sh"]).arg(directory).args([&layers, name]);
    cluster
        .bed()
        .spawn(name, command, "boot")
        .unwrap_or_else(|error| panic!("{name} is not booted: {error:?}"))
}

/// A control group of its own for what runs in a host.
fn group(name: &str) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let at = unified
        .filter(|words| words.get(2) == Some(&"cgroup2"))
        .find_map(|words| words.get(1).map(PathBuf::from));
    match at {
        Some(at) => at.join(format!("svc-agent-tests-{}-{name}", std::process::id())),
        None => skip("a cgroup2 hierarchy"),
    }
}

/// From the leaves on; the processes in it are just ending.
fn remove_group(group: &Path) {
    let remove = || {
        let left = Command::new("find")
            .arg(group)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
            .output();
        drop(left);
        if group.exists() { Err(format!("{} is there", group.display())) } else { Ok(()) }
    };
    if std::thread::panicking() {
        drop(remove());
    } else {
        wait_until("the control group of a host is gone", BOOT_LIMIT, remove);
    }
}
