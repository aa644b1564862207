//! The Debian package, on a Debian that has nothing else, with systemd as its first process.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::booted::{Booted, Root, package};
use tests::cluster::Cluster;
use tests::runner::{Scenario, is_nightly};

const LIMIT: Duration = Duration::from_secs(10);
/// Until Docker has started its containers, beside other work.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Contract: a restart is not noticed. Look-ups wait for the next agent, and a client for 5 s.
const LOOKUPS: &str = "/root/lookups";
/// What svc-agent puts into a cluster that one types by hand.
const FOUND: &str = "(umask 077; svc-agent keygen > /etc/svc-agent/cluster.key)
    echo 'OPTIONS=\"--init\"' > /etc/default/svc-agent; systemctl start svc-agent";
/// A host that has left its cluster: containers' namespaces are as they were.
const CLEAN: &str = "refuse grep ' /run/svc-agent' /proc/mounts; refuse ls /run/svc-agent; refuse ls /run/docker/plugins/svc-agent.sock
    refuse grep eth0 /proc/$(systemctl show -P MainPID box)/net/dev; refuse grep -l svc-agent /proc/[0-9]*/comm";
/// Everything below the root, but for what dpkg and systemd write down and what tests bring.
const FILES: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /var/log -o -path /var/cache \
    -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/lib/apt \\) -prune -o -print | sort";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        the_package_is_installed_upgraded_removed_and_purged once,
        units_keep_what_containers_have_whatever_is_killed once,
        containers_come_back_after_a_power_cut_whoever_starts_first once,
    ]
}

fn the_package_is_installed_upgraded_removed_and_purged(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    let host = Booted::with_package(&mut cluster, 1, Root::Clean);
    let before = files(&host);

    // Installed, it does nothing but to say what comes next.
    let said = host.shell("apt-get install -y ./svc-agent.deb");
    assert!(said.contains("starts once this host has the cluster's key"), "{said}");
    host.shell("dpkg --audit; systemd-analyze verify --man=no svc-agent.service svc-agent-hold.service");
    host.shell(
        "systemctl is-enabled svc-agent svc-agent-hold
         refuse systemctl is-active svc-agent; refuse systemctl is-failed svc-agent",
    );
    let linked = Command::new("dpkg-deb").args(["-I"]).arg(package()).output().expect("dpkg-deb");
    assert!(!String::from_utf8_lossy(&linked.stdout).contains("libc6"), "the program needs nothing");
    assert!(host.try_shell("ldd /usr/bin/svc-agent").stdout.contains("statically linked"));
    host.shell(". /usr/share/bash-completion/completions/svc-agent; complete -p svc-agent");
    for page in ["svc-agent", "svc-agent-network-create"] {
        assert!(
            host.shell(&format!("zcat /usr/share/man/man8/{page}.8.gz")).contains(".SH EXAMPLES"),
            "{page}"
        );
    }
    host.shell("svc-agent config check /etc/svc-agent/config.toml | grep /run/docker/plugins/svc-agent.sock");
    // A key alone does not tell which cluster: said once, not tried again and again.
    host.shell("(umask 077; svc-agent keygen > /etc/svc-agent/cluster.key)");
    let refused = host.try_shell("systemctl start svc-agent");
    assert_ne!(refused.exit, 0);
    host.shell("systemctl is-failed svc-agent; [ $(systemctl show -P NRestarts svc-agent) = 0 ]");
    assert!(host.shell("journalctl -u svc-agent").contains("belongs to no cluster yet"));

    host.shell(
        "echo 'OPTIONS=\"--init\"' > /etc/default/svc-agent; systemctl start svc-agent; svc-agent status",
    );
    host.shell(
        "pid=$(systemctl show -P MainPID svc-agent); grep -q 'NoNewPrivs:.1' /proc/$pid/status
         [ \"$(stat -c %a /run/svc-agent/agent.sock)\" = 600 ] && [ \"$(stat -c %a /var/lib/svc-agent)\" = 700 ]",
    );
    container(&host);
    host.shell("svc-agent register payment-api --on box --port 80:8080");

    // Upgraded while look-ups go on: none fails, the holder stays, what the operator changed stays.
    host.shell("echo '# ours' >> /etc/svc-agent/config.toml");
    let newer = newer_package(&cluster);
    host.copy(&newer, "/root/newer.deb");
    let holder = host.shell("systemctl show -P MainPID svc-agent-hold");
    let agent = host.shell("systemctl show -P MainPID svc-agent");
    follow_lookups(&host);
    host.shell("apt-get install -y ./newer.deb; dpkg -s svc-agent | grep '^Version: 0.1.0-2'");
    assert_ne!(host.shell("systemctl show -P MainPID svc-agent"), agent, "the new program runs");
    assert_eq!(host.shell("systemctl show -P MainPID svc-agent-hold"), holder, "what it holds stays");
    end_lookups(&host);
    host.shell("svc-agent status --wait 10s; svc-agent attachments | grep box; grep '# ours' /etc/svc-agent/config.toml");
    // A version that does not take the settings is not started in place of the one that does.
    let agent = host.shell("systemctl show -P MainPID svc-agent");
    let refused = host.try_shell(
        "echo 'nonsense = 1' >> /etc/svc-agent/config.toml; apt-get install --reinstall -y ./newer.deb",
    );
    assert!(refused.exit != 0 && refused.stdout.contains("there is no such setting"), "{refused:?}");
    assert_eq!(host.shell("systemctl show -P MainPID svc-agent"), agent, "the old one goes on");
    host.shell(
        "sed -i /nonsense/d /etc/svc-agent/config.toml; dpkg --configure -a; svc-agent status --wait 10s",
    );

    // Removed, it has left its cluster, and containers' namespaces are as they were.
    let removed = host.shell("apt-get remove -y svc-agent");
    assert!(removed.contains("box"), "what was taken away is said: {removed}");
    host.shell(CLEAN);
    host.shell("ls /etc/svc-agent/config.toml /etc/svc-agent/cluster.key");
    // What it was told to do it does again: it founds a cluster, which knows nothing of the one before.
    host.shell("apt-get install -y ./newer.deb; svc-agent status --wait 10s; svc-agent attachments");
    host.shell("refuse grep box <(svc-agent attachments)");
    // An agent that is stopped is started to leave.
    host.shell("svc-agent attach box --pid $(systemctl show -P MainPID box); systemctl stop svc-agent");
    let purged = host.shell("apt-get purge -y svc-agent");
    assert!(purged.contains("attachment default/box"), "it has left: {purged}");
    host.shell(CLEAN);
    host.shell("systemctl stop box; systemctl reset-failed");
    let after = files(&host);
    let changed: Vec<&String> = after.symmetric_difference(&before).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

fn units_keep_what_containers_have_whatever_is_killed(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    let mut host = Booted::with_package(&mut cluster, 1, Root::Clean);
    host.shell(&format!("apt-get install -y ./svc-agent.deb >/dev/null; {FOUND}"));
    container(&host);
    host.shell("svc-agent register payment-api --on box --port 80:8080");
    // A link that was made anew has another index.
    let links = "grep -o '^[0-9]*.eth0' /proc/$(systemctl show -P MainPID box)/net/igmp
                 svc-agent attachments -o json | grep -A 2 addresses";
    let before = host.shell(links);
    for victims in ["svc-agent", "svc-agent-hold", "svc-agent svc-agent-hold"] {
        follow_lookups(&host);
        let pids = format!("for unit in {victims}; do systemctl show -P MainPID $unit; done");
        let killed = host.shell(&pids);
        host.shell(&format!("systemctl kill --kill-whom=main -s KILL {victims}"));
        let others = format!(
            "for pid in $({pids}); do [ $pid != 0 ]; refuse grep -qx $pid <<<'{killed}'; done
             systemctl is-active svc-agent svc-agent-hold; svc-agent status"
        );
        host.wait(&format!("{victims} is another process"), LIMIT, &others);
        assert_eq!(host.shell(links), before, "after {victims} was killed");
        end_lookups(&host);
    }
    // There is one holder, and it is the unit's: what it holds is kept for the next one.
    let one = "holder=/proc/$(systemctl show -P MainPID svc-agent-hold)/cmdline
               [ \"$(grep -lz '^hold$' /proc/[0-9]*/cmdline)\" = $holder ]";
    host.shell(one);
    // The watchdog ends one that hangs; containers notice nothing of it.
    follow_lookups(&host);
    let agent = host.shell("systemctl show -P MainPID svc-agent");
    host.shell("systemctl kill --kill-whom=main -s STOP svc-agent");
    host.wait(
        "an agent that hangs is replaced",
        Duration::from_secs(30),
        &format!("[ \"$(systemctl show -P MainPID svc-agent)\" != {} ] && svc-agent status", agent.trim()),
    );
    assert_eq!(host.shell(links), before);
    drop(host.shell("rm -f /root/lookups/go"));

    // After a power cut it is there by itself, without its containers.
    host.power_cycle(&cluster);
    host.shell("svc-agent status --wait 10s; svc-agent service ls | grep payment-api; svc-agent attachments");
    host.shell("refuse grep box <(svc-agent attachments)");
}

/// The agent before Docker, as the units have it; and Docker alone, when the agent was not to be started.
fn containers_come_back_after_a_power_cut_whoever_starts_first(sandbox: &Sandbox) {
    let containers = if is_nightly() { 50 } else { 8 };
    let mut cluster = Cluster::empty(sandbox);
    let mut host = Booted::with_package(&mut cluster, 1, Root::Docker);
    host.import_images();
    host.shell(&format!(
        "apt-get install -y ./svc-agent.deb >/dev/null; {FOUND}; svc-agent network create payment"
    ));
    host.wait("Docker has the network", LIMIT, "docker network inspect payment");
    host.shell(&format!(
        "for n in $(seq {containers}); do
             docker run -d --restart always --name c$n --network payment --label svc-agent.service=payment-api \
                 python:3-slim python -m http.server 80 >/dev/null &
         done; wait"
    ));
    let serving = format!(
        "svc-agent service ls | grep -q 'payment-api .* {containers} of {containers}' && svc-agent status"
    );
    host.wait("all serve", LIMIT, &serving);
    let all_answer = format!(
        "[ $(docker ps -q | wc -l) = {containers} ]
         vip=$(docker exec c1 getent hosts payment-api | cut -d' ' -f1)
         for n in $(seq {containers}); do docker exec c$n curl -sf -m 5 http://$vip/ >/dev/null || exit 1; done
         [ $(svc-agent attachments | grep -c ' payment ') = {containers} ]"
    );
    host.wait("all answer", LIMIT, &all_answer);
    for agent_first in [true, false] {
        if !agent_first {
            host.shell("systemctl disable svc-agent");
        }
        host.power_cycle(&cluster);
        if !agent_first {
            host.shell(
                "refuse docker exec c1 true; refuse svc-agent status; systemctl enable --now svc-agent",
            );
        }
        host.wait("all serve again", START_LIMIT, &serving);
        host.wait("all answer again", LIMIT, &all_answer);
    }
}

/// A process with a network namespace of its own, attached as "box", whose resolver is ours.
fn container(host: &Booted) {
    host.shell(
        "systemd-run -q --unit=box -p PrivateNetwork=yes sleep infinity
         echo 'nameserver 127.0.0.11' > /etc/resolv.conf
         svc-agent attach box --pid $(systemctl show -P MainPID box)",
    );
}

/// Looks a service up in the container, again and again.
fn follow_lookups(host: &Booted) {
    host.shell(&format!(
        "mkdir -p {LOOKUPS}; cd {LOOKUPS}; rm -f failed done; touch go
         systemd-run -q --collect --unit=lookups bash -c 'cd {LOOKUPS}; while [ -e go ]; do
             nsenter -t '$(systemctl show -P MainPID box)' -n getent hosts payment-api >>done || date +%T.%N >>failed; done'"
    ));
    host.wait("look-ups succeed", LIMIT, &format!("[ -s {LOOKUPS}/done ]"));
}

fn end_lookups(host: &Booted) {
    host.shell(&format!("rm {LOOKUPS}/go"));
    host.wait("look-ups end", LIMIT, "refuse systemctl is-active lookups");
    host.shell(&format!(
        "cd {LOOKUPS}; [ $(wc -l <done) -gt 3 ]; if [ -e failed ]; then cat failed; exit 1; fi"
    ));
}

fn files(host: &Booted) -> BTreeSet<String> {
    host.shell(FILES).lines().map(str::to_owned).collect()
}

/// The same package with another number.
fn newer_package(cluster: &Cluster) -> PathBuf {
    let directory = cluster.bed().log_directory().join("newer");
    let newer = directory.with_extension("deb");
    let run = |command: &mut Command| assert!(command.status().expect("dpkg-deb").success(), "{command:?}");
    run(Command::new("dpkg-deb").arg("-R").arg(package()).arg(&directory));
    let control = directory.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a control file");
    std::fs::write(&control, text.replace("Version: 0.1.0-1", "Version: 0.1.0-2")).expect("written");
    run(Command::new("dpkg-deb").args(["-Znone", "-b"]).args([Path::new(&directory), &newer]));
    newer
}
