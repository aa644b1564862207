//! The state directory fails: full, not writable, damaged, of a later version. The agent says so and what to do, forwarding
//! goes on, and nothing half-done is left.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agent::api::routes;
use agent::api::types::Problem;
use agent::bed::{Sandbox, Server};
use agent::store::{Store, Writes};
use tests::cluster::Cluster;
use tests::load::Load;
use tests::runner::Scenario;
use tests::strike::{Call, Kind, Strike, Verdict, require_refusals};
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(15);
/// From a failure until every host says so.
const SEEN: Duration = Duration::from_secs(5);
/// Verbs until one needs room that there is none of: the database reuses some of its own.
const VERBS_MAX: usize = 200;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        a_full_disk_refuses_verbs_and_stops_nothing once,
        a_disk_that_fails_refuses_verbs_until_it_works_again once,
        what_was_refused_for_a_failed_sync_stays_refused_after_a_start once,
        a_state_that_cannot_be_used_is_refused_and_forwarding_goes_on once,
    ]
}

/// A host's state directory on a small file system of its own. Dropped, it is unmounted.
struct Disk(PathBuf);

impl Disk {
    fn mount(cluster: &Cluster, host: &str) -> Self {
        let directory = cluster.bed().state_directory(host);
        std::fs::create_dir_all(&directory).expect("a directory");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "state"]).arg(&directory));
        Self(directory)
    }

    fn fill(&self) {
        let path = self.0.join("fill");
        // It ends with the error that is wanted.
        let filled =
            Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", path.display())).output();
        assert!(!filled.expect("dd").status.success(), "there is room left");
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("fill")).expect("what filled it");
    }

    fn remount(&self, how: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What stays is told by the look for leaks.
        let _left = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a command");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Two hosts, the second with a disk of its own, and new connections to it all the while.
struct Scene {
    cluster: Cluster,
    disk: Disk,
    flow: Load,
    _server: Server,
}

fn scene(sandbox: &Sandbox) -> Scene {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    cluster.add_host(2);
    let disk = Disk::mount(&cluster, "h2");
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_ready("h2");
    cluster.wait_members(2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    cluster.containers("c2b");
    cluster.shell("c2b", "ip link set lo up");
    let server = cluster.server("c2a", 80);
    cluster.ok("h2", "register payment-api --on c2a");
    let to = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let flow = Load::connections(cluster.namespace("c1a"), to, Duration::from_millis(20));
    Scene { cluster, disk, flow, _server: server }
}

fn has_gone_on(flow: Load) {
    let tally = flow.stop();
    assert!(tally.failures.is_empty() && tally.good > 20, "{tally:?}");
}

/// Every host says that the second one cannot write, and why.
fn is_named(cluster: &Cluster, reason: &str) {
    for host in ["h1", "h2"] {
        wait_until(&format!("{host} says that h2 cannot write"), SEEN, || {
            let hosts = cluster.status(host).hosts;
            let mut problems = hosts.into_iter().filter(|it| it.name == "h2").flat_map(|it| it.problems);
            let named = |it: &Problem| it.object == "host/state" && it.error.contains(reason);
            if problems.any(|it| named(&it)) { Ok(()) } else { Err("no such problem") }
        });
    }
}

/// A verb on the second host that needs the disk; it is refused, and nothing of it is left.
fn is_refused(cluster: &Cluster, reason: &str) {
    let before = cluster.kernel_state("c2b");
    let refused = (0..VERBS_MAX).find_map(|_| {
        let verbs = ["attach c2b --network payment --netns c2b", "detach c2b"];
        verbs.iter().map(|words| cluster.cli("h2", words)).find(|output| output.exit == 1)
    });
    let refused = refused.expect("a verb that needs room");
    for said in [reason, "check space and permissions of ", "/state"] {
        assert!(refused.stderr.contains(said), "{said:?}: {refused:?}");
    }
    is_named(cluster, reason);
    if cluster.ok("h2", "attachments").contains("c2b") {
        return;
    }
    wait_until("nothing is left in it", LIMIT, || {
        let now = cluster.kernel_state("c2b");
        if now == before { Ok(()) } else { Err(now) }
    });
}

/// Once its cause is gone the failure is, and so is what was refused, once it is asked for.
fn works_again(cluster: &Cluster) {
    cluster.wait_well(LIMIT);
    cluster.ok("h2", "attach c2b --network payment --netns c2b");
    cluster.ok("h2", "detach c2b");
}

fn a_full_disk_refuses_verbs_and_stops_nothing(sandbox: &Sandbox) {
    let Scene { mut cluster, disk, flow, _server } = scene(sandbox);
    disk.fill();
    is_refused(&cluster, "No space left on device");
    // What others do arrives all the same.
    cluster.ok("h1", "register other --on c1a");
    wait_until("what others registered is known", LIMIT, || {
        let found = cluster.service("h2", "other").is_some_and(|it| it.replicas.len() == 1);
        if found { Ok(()) } else { Err("not known") }
    });
    assert!(cluster.ok("h2", "resolve other --on c2a").contains(&cluster.vip("h1", "other").to_string()));
    disk.make_room();
    works_again(&cluster);
    // One that starts needs to write its number of starts, or says that it cannot.
    cluster.kill_agent("h2");
    disk.fill();
    let before = cluster.log("h2").len();
    cluster.start_agent("h2", "");
    let ended = wait_until("it is ready or says why not", LIMIT, || {
        let ready = cluster.client("h2").fetch(routes::READY).is_ok_and(|reply| reply.status == 200);
        let said = cluster.log("h2")[before..].lines().any(|line| line.starts_with("error: "));
        if ready || said { Ok(said) } else { Err(cluster.log("h2")) }
    });
    if ended {
        let log = cluster.log("h2");
        assert!(
            log.contains("No space left on device") && log.contains("check space and permissions"),
            "{log}"
        );
        cluster.wait_agent_end("h2");
        disk.make_room();
        cluster.restart_agent("h2");
    } else {
        disk.make_room();
    }
    cluster.wait_members(2);
    works_again(&cluster);
    has_gone_on(flow);
}

fn a_disk_that_fails_refuses_verbs_until_it_works_again(sandbox: &Sandbox) {
    require_refusals();
    let Scene { cluster, flow, disk: _disk, _server } = scene(sandbox);
    for (errno, said) in [(libc::EIO, "Input/output error"), (libc::EROFS, "Read-only file system")] {
        let fail = move |call: &Call| match call.kind {
            Kind::Store => Verdict::Fail(errno),
            _ => Verdict::Pass,
        };
        let strike = Strike::attach(cluster.agent_pid("h2"), fail).expect("a watch");
        is_refused(&cluster, said);
        strike.end().expect("a watch");
        works_again(&cluster);
    }
    has_gone_on(flow);
}

/// All of it is in the file when its sync fails, and would be read as true by the next start.
fn what_was_refused_for_a_failed_sync_stays_refused_after_a_start(sandbox: &Sandbox) {
    let Scene { mut cluster, flow, disk: _disk, _server } = scene(sandbox);
    let before = cluster.kernel_state("c2b");
    for verb in
        ["attach c2b --network payment --netns c2b", "register other --on c2a", "drain payment-api --on c2a"]
    {
        let fail = |call: &Call| match call.kind {
            Kind::Store if call.name.starts_with("sync") => Verdict::Fail(libc::EIO),
            _ => Verdict::Pass,
        };
        let strike = Strike::attach(cluster.agent_pid("h2"), fail).expect("a watch");
        let refused = cluster.cli("h2", verb);
        assert!(refused.exit == 1 && refused.stderr.contains("Input/output error"), "{verb}: {refused:?}");
        is_named(&cluster, "Input/output error");
        strike.end().expect("a watch");
        cluster.wait_well(LIMIT);
    }
    cluster.kill_agent("h2");
    cluster.restart_agent("h2");
    cluster.wait_members(2);
    cluster.wait_well(LIMIT);
    for host in ["h1", "h2"] {
        let attached = cluster.ok(host, "attachments");
        assert!(!attached.contains("c2b"), "{host}: {attached}");
        assert!(cluster.service(host, "other").is_none(), "{host} knows a service that was refused");
        let replicas = cluster.service(host, "payment-api").expect("the service").replicas;
        assert!(replicas.iter().all(|it| it.state == "serving"), "{host}: {replicas:?}");
    }
    assert_eq!(cluster.kernel_state("c2b"), before);
    works_again(&cluster);
    has_gone_on(flow);
}

/// Not writable, damaged in three ways, and of a later version: each is refused with what is wrong and what to do, at each
/// start; the file is left as it is, and it is a member again once it is as it was.
fn a_state_that_cannot_be_used_is_refused_and_forwarding_goes_on(sandbox: &Sandbox) {
    let Scene { mut cluster, disk, flow, _server } = scene(sandbox);
    cluster.stop_agent("h2");
    let path = disk.0.join("state.redb");
    let whole = std::fs::read(&path).expect("the database");
    disk.remount("ro");
    refuses_to_start(&mut cluster, &["Read-only file system", "state.redb", "check space and permissions"]);
    disk.remount("rw");
    let damaged = ["state.redb is damaged", "node rm", "join as a new host", "goes on forwarding"];
    let flipped: Vec<u8> = whole.iter().map(|byte| !byte).collect();
    for bytes in [&whole[..0], &whole[..whole.len() / 3], &flipped[..]] {
        std::fs::write(&path, bytes).expect("a damaged database");
        refuses_to_start(&mut cluster, &damaged);
        refuses_to_start(&mut cluster, &damaged);
        assert!(std::fs::read(&path).expect("the database") == bytes, "it is left as it is");
    }
    std::fs::write(&path, &whole).expect("the database");
    {
        let store = Store::open(&disk.0).expect("the store");
        let mut writes = Writes::default();
        writes.put_meta("layout", &99).expect("JSON");
        store.commit(&writes, true).expect("a write");
    }
    refuses_to_start(&mut cluster, &["layout 99", "start the later version again"]);
    std::fs::write(&path, &whole).expect("the database");
    cluster.restart_agent("h2");
    cluster.wait_members(2);
    works_again(&cluster);
    has_gone_on(flow);
}

/// It ends by itself, and says so.
fn refuses_to_start(cluster: &mut Cluster, said: &[&str]) {
    let before = cluster.log("h2").len();
    // As a unit file does that has joined long ago: it is not to join anew.
    cluster.start_agent("h2", "--join 192.168.77.1");
    cluster.wait_agent_end("h2");
    let log = cluster.log("h2").split_off(before);
    for said in said {
        assert!(log.contains(said), "{said:?} is not said: {log}");
    }
}
