//! Engines and agents come and go, apart and together, and many containers at once.
use std::time::{Duration, Instant};

use agent::api::routes;
use agent::api::types::AttachmentInfo;
use agent::bed::Sandbox;
use tests::runner::{Scenario, is_nightly};
use tests::wait::wait_until;

use crate::docker::{begin_docker, start_docker};
use crate::engines::{Engines, SERVE, START_LIMIT, wait_state, wait_state_late};

/// Docker by itself would take 15 s for each call that nobody answers; the holder begins to after 5.
const WITHOUT_AGENT: Duration = Duration::from_secs(12);
/// Until many containers run that one agent or engine has to start.
const ALL_LIMIT: Duration = Duration::from_secs(30);
/// Containers that one command starts.
const BATCH: usize = 40;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        docker_and_the_agent_are_restarted_apart_and_together once,
        p63_docker_starts_and_stops_while_no_agent_runs once,
        docker_containers_that_start_at_once_are_all_attached_and_leave_nothing once,
    ]
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
    wait_state_late(&it, "payment-api", "api", Some("serving"));
    answers(&it);
    it.wait_networks("payment");

    // Both, the agent first, as service managers order them.
    drop(it.engines.remove("h1"));
    it.cluster.kill_agent("h1");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    let engine = start_docker(&it.cluster, "h1");
    it.engines.insert("h1".to_owned(), engine);
    wait_state_late(&it, "payment-api", "api", Some("serving"));
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
        let began = Instant::now();
        for first in (1..=count).step_by(BATCH) {
            let last = (first + BATCH - 1).min(count);
            it.shell("h1", &format!("seq {first} {last} | xargs -P 8 -I% docker {command} >/dev/null"));
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

/// It does not wait for the agent, neither to start nor to end a container; what it could not start is started later. An agent that
/// is away for a moment only is waited for.
fn p63_docker_starts_and_stops_while_no_agent_runs(sandbox: &Sandbox) {
    let count = if is_nightly() { 50 } else { 8 };
    let mut it = Engines::start(sandbox, 2);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    it.docker("h2", "run -d --stop-timeout 1 --network payment --name shop box busybox sleep 1000");
    let run = "run -d --restart always --stop-timeout 1 --network payment --name api% --hostname api% box";
    // Four beside each other; a loop, as the command has quotes of its own.
    let one = format!("docker {run} {SERVE} >/dev/null &").replace('%', "$n");
    it.shell("h1", &format!("for n in $(seq {count}); do {one} [ $((n % 4)) != 0 ] || wait; done; wait"));
    it.docker("h1", "run -d --stop-timeout 1 --network payment --name ends box busybox sleep 1000");
    let fixed = it.address("h1", "api1", "payment");
    let fixed = format!("{}.250", fixed.rsplit_once('.').expect("an address").0);
    let run = format!("run -d --restart always --stop-timeout 1 --network payment --ip {fixed} --name fixed");
    it.docker("h1", &format!("{run} --hostname fixed box {SERVE}"));
    let wait_all = |it: &Engines| {
        wait_until("all of them are attached and answer", ALL_LIMIT, || {
            let there: Vec<AttachmentInfo> = it.cluster.get("h2", routes::ATTACHMENTS, &[]);
            let there = there.iter().filter(|it| it.name.as_str().starts_with("api")).count();
            if there == count { Ok(()) } else { Err(there) }
        });
        let last = format!("api{count}");
        it.wait_answer("h2", "shop", &it.address("h1", &last, "payment"), &last);
        it.wait_answer("h2", "shop", &fixed, "fixed");
    };
    wait_all(&it);

    // Away for a moment: a start waits, and goes on.
    it.cluster.kill_agent("h1");
    let start = "run -d --stop-timeout 1 --network payment --name waits box busybox sleep 1000";
    it.docker("h1", &format!("{start} >/dev/null 2>&1 &"));
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    wait_until("what was begun without an agent is attached", START_LIMIT, || {
        let there = it.cluster.ok("h2", "attachments");
        if there.contains("waits") { Ok(()) } else { Err(there) }
    });

    // Away for good: Docker ends a container, ends itself and starts, each within seconds.
    it.cluster.kill_agent("h1");
    let began = Instant::now();
    it.docker("h1", "rm -f ends waits");
    let removed = began.elapsed();
    drop(it.engines.remove("h1"));
    let began = Instant::now();
    let engine = start_docker(&it.cluster, "h1");
    let started = began.elapsed();
    it.engines.insert("h1".to_owned(), engine);
    println!(
        "  without an agent two of {count} containers ended within {removed:?}, Docker started within {started:?}"
    );
    assert!(removed < WITHOUT_AGENT && started < WITHOUT_AGENT);
    it.refused("h1", "run --rm --network payment box busybox true", "");
    let running = |it: &Engines| it.docker("h1", "ps -q --filter name=api | wc -l");
    assert_eq!(running(&it), "0");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    wait_until("what Docker could not start runs", ALL_LIMIT, || {
        let running = running(&it);
        if running == count.to_string() { Ok(()) } else { Err(running) }
    });
    wait_all(&it);

    // An agent that starts after Docker has begun to.
    drop(it.engines.remove("h1"));
    it.cluster.kill_agent("h1");
    let began = Instant::now();
    let mut engine = begin_docker(&it.cluster, "h1");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    engine.wait_ready(&it.cluster, "h1");
    println!("  with an agent that is late Docker started within {:?}", began.elapsed());
    it.engines.insert("h1".to_owned(), engine);
    wait_all(&it);
    it.docker("h1", "ps -aq | xargs docker rm -f >/dev/null");
    it.docker("h2", "rm -f shop");
    it.cluster.wait_well(START_LIMIT);
}
