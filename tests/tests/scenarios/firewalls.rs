//! Beside tools that keep a host's firewall.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use agent::bed::{Process, Sandbox, Server, ask_tcp, connect};
use tests::cluster::Cluster;
use tests::load::Load;
use tests::runner::{Scenario, skip};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(5);
/// How long ufw may take to write its rules, on a busy machine, and TCP to find out.
const CLOSED_MAX: Duration = Duration::from_secs(15);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![ufw_reloads_and_nothing_breaks once, firewalld_reloads_and_nothing_breaks once]
}

/// The first is behind the firewall, the last no member: where egress goes.
fn three_hosts(sandbox: &Sandbox) -> Cluster {
    let mut cluster = Cluster::empty(sandbox);
    for number in [1, 2, 9] {
        cluster.add_host(number);
    }
    cluster
}

/// Agents on two of them, and a service with a replica on each; its VIP.
fn two_members(cluster: &mut Cluster) -> ([Server; 3], SocketAddr) {
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_ready("h2");
    cluster.wait_members(2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x c2a c2x");
    let servers = ["c1a", "c2a", "h9"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    (servers, SocketAddr::new(cluster.vip("h1", "payment-api"), 80))
}

/// What went on while a firewall wrote its rules anew was late at most.
fn went_on(loads: impl IntoIterator<Item = Load>, mut standing: TcpStream) {
    for load in loads {
        // What waits for a packet to be sent again takes a second, in which a quick machine has loaded all rules anew.
        wait_until("connections", CLOSED_MAX, || if load.good() > 20 { Ok(()) } else { Err(load.good()) });
        let tally = load.stop();
        println!("  {} connections, longest gap {:?}, {:?}", tally.good, tally.longest_gap, tally.failures);
        // It drops all that comes to the host until its rules are whole again: what is sent meanwhile is sent again.
        assert!(tally.failures.keys().all(|it| it.contains("timed out")), "{tally:?}");
        assert!(tally.longest_gap < CLOSED_MAX, "{tally:?}");
    }
    standing.set_read_timeout(Some(LIMIT)).expect("a time-out");
    let greeting = standing.read(&mut [0; 64]).expect("the greeting");
    assert!(greeting > 0);
    standing.write_all(b"x").expect("sent");
    standing.read_exact(&mut [0]).expect("the standing connection goes on");
}

/// As `svc-agent ports` says, and nothing else, is open; it reloads, ends and begins anew under traffic.
fn ufw_reloads_and_nothing_breaks(sandbox: &Sandbox) {
    let mut cluster = three_hosts(sandbox);
    // Its files as the package brings them, where what it writes is nobody else's.
    let files = cluster.bed().state_directory("h1").with_file_name("ufw").display().to_string();
    cluster.shell("h1", &format!("cp -a /etc/ufw {files}"));
    let ufw = |cluster: &Cluster, words: &str| {
        cluster.shell("h1", &format!("mount --bind {files} /etc/ufw && ufw {words} && umount /etc/ufw"));
    };
    let ports = cluster.ok("h1", "ports");
    let allowed: Vec<&str> =
        ports.lines().map(str::trim).filter(|line| line.starts_with("ufw allow")).collect();
    assert!(allowed.len() >= 3, "{ports}");
    for line in &allowed {
        ufw(&cluster, &line.replace("192.0.2.0/24", "192.168.77.0/24").replace("ufw ", ""));
    }
    ufw(&cluster, "--force enable");
    let rules = cluster.shell("h1", "iptables -S");
    assert!(rules.contains("-P INPUT DROP") && rules.contains("-P FORWARD DROP"), "{rules}");
    let (_servers, vip) = two_members(&mut cluster);
    let standing = connect(&cluster.namespace("c2x"), vip, LIMIT).expect("a connection");
    let loads = ["c1x", "c2x"]
        .map(|client| Load::connections(cluster.namespace(client), vip, Duration::from_millis(10)));
    // What leaves is forwarded, which ufw drops: that is said, and what would let it pass.
    let outside: SocketAddr = "192.168.77.9:80".parse().expect("an address");
    let egress = || ask_tcp(&cluster.namespace("c1x"), outside, Duration::from_millis(500));
    assert!(egress().is_err(), "ufw drops what is forwarded");
    let status = cluster.cli("h1", "status");
    assert!(
        status.exit == 4 && status.stdout.contains("FORWARD") && status.stdout.contains("svc-link"),
        "{status:?}"
    );
    for words in ["reload", "disable", "--force enable"] {
        ufw(&cluster, words);
    }
    went_on(loads, standing);
    // With the words of `status` it passes.
    ufw(&cluster, "route allow in on svc-link0");
    wait_until("egress", LIMIT, egress);
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
    let rules = cluster.shell("h1", "nft list tables");
    assert!(!rules.contains("svc-agent"), "{rules}");
}

/// A bus and a firewalld of one host, with files of their own; dropped, they end.
struct Firewalld {
    _bus: Process,
    daemon: Process,
    address: String,
}

/// No services that it could start: they would be the machine's.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>ADDRESS</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow own="*"/><allow eavesdrop="true"/></policy></busconfig>
"#;

impl Firewalld {
    /// Its configuration as the package brings it.
    fn start(cluster: &Cluster, host: &str) -> Self {
        let directory = cluster.bed().state_directory(host).with_file_name(format!("{host}-firewalld"));
        cluster.shell(host, &format!("mkdir -p {0} && cp -a /etc/firewalld {0}/etc", directory.display()));
        let address = format!("unix:path={}/bus", directory.display());
        let configuration = directory.join("bus.conf");
        std::fs::write(&configuration, BUS.replace("ADDRESS", &address)).expect("the bus's configuration");
        let mut bus = Command::new("dbus-daemon");
        bus.arg("--config-file").arg(&configuration).args(["--nofork", "--nopidfile"]);
        let mut daemon = Command::new("firewalld");
        daemon.args(["--nofork", "--nopid", "--system-config"]).arg(directory.join("etc"));
        daemon.env("DBUS_SYSTEM_BUS_ADDRESS", &address);
        let start = |what: &str, command: Command| {
            let started = cluster.bed().spawn(host, command, what);
            started.unwrap_or_else(|error| skip(format!("{what} cannot be started: {error:?}")))
        };
        let bus = start("dbus-daemon", bus);
        wait_until("the bus", CLOSED_MAX, || {
            if directory.join("bus").exists() { Ok(()) } else { Err(bus.log()) }
        });
        let daemon = start("firewalld", daemon);
        let firewalld = Self { _bus: bus, daemon, address };
        wait_until("firewalld", CLOSED_MAX, || {
            let said = cluster.shell(host, &firewalld.line("firewall-cmd --state 2>&1; true"));
            if said.trim() == "running" { Ok(()) } else { Err(format!("{said}{}", firewalld.daemon.log())) }
        });
        firewalld
    }

    fn line(&self, line: &str) -> String {
        format!("DBUS_SYSTEM_BUS_ADDRESS={} {line}", self.address)
    }
}

/// Row P62: what `svc-agent ports` says is open, and nothing else; it reloads, with and without its state, under traffic.
fn firewalld_reloads_and_nothing_breaks(sandbox: &Sandbox) {
    let mut cluster = three_hosts(sandbox);
    let firewalld = Firewalld::start(&cluster, "h1");
    let run = |cluster: &Cluster, line: &str| cluster.shell("h1", &firewalld.line(line));
    let ports = cluster.ok("h1", "ports");
    let wanted: Vec<&str> =
        ports.lines().map(str::trim).filter(|line| line.starts_with("firewall-cmd")).collect();
    assert!(wanted.len() >= 4 && wanted.last() == Some(&"firewall-cmd --reload"), "{ports}");
    // The ports in one, for the sake of time: each call takes a second.
    let ports: Vec<&str> = wanted.iter().copied().filter(|line| line.contains("--add-port")).collect();
    let permanent: String =
        ports.iter().filter_map(|line| line.strip_prefix("firewall-cmd --permanent")).collect();
    run(&cluster, &format!("firewall-cmd --permanent{permanent}"));
    run(&cluster, "firewall-cmd --reload");
    let (_servers, vip) = two_members(&mut cluster);
    let standing = connect(&cluster.namespace("c2x"), vip, LIMIT).expect("a connection");
    // What leaves is forwarded, which its last rule rejects: that is said, and what would let it pass.
    let outside: SocketAddr = "192.168.77.9:80".parse().expect("an address");
    let egress = || ask_tcp(&cluster.namespace("c1x"), outside, Duration::from_millis(500));
    assert!(egress().is_err(), "firewalld rejects what is forwarded");
    let status = cluster.cli("h1", "status");
    assert!(
        status.exit == 4 && status.stdout.contains("firewalld") && status.stdout.contains("svc-link"),
        "{status:?}"
    );
    run(&cluster, "firewall-cmd --permanent --zone=trusted --add-interface=svc-link0");
    run(&cluster, "firewall-cmd --reload");
    wait_until("egress", LIMIT, egress);
    cluster.wait_well(LIMIT);
    let loads = ["c1x", "c2x"]
        .map(|client| Load::connections(cluster.namespace(client), vip, Duration::from_millis(10)));
    let leaving = Load::connections(cluster.namespace("c1x"), outside, Duration::from_millis(10));
    for line in ["--reload", "--complete-reload"] {
        run(&cluster, &format!("firewall-cmd {line}"));
    }
    went_on(loads.into_iter().chain([leaving]), standing);
    cluster.wait_well(LIMIT);
    let before = cluster.shell("h1", "nft list table inet firewalld | sha256sum");
    cluster.ok("h1", "leave");
    cluster.wait_agent_end("h1");
    let tables = cluster.shell("h1", "nft list tables");
    assert!(!tables.contains("svc-agent"), "{tables}");
    assert_eq!(cluster.shell("h1", "nft list table inet firewalld | sha256sum"), before);
}
