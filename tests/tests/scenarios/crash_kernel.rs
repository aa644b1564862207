//! Rows P17 and P52: a kernel that refuses what an agent asks of it.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::api::types::Problem;
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::{Scenario, is_nightly};
use tests::strike::{Call, Kind, Strike, Verdict, require_refusals};
use tests::wait::wait_until;

use crate::crash::{LIFE, Left, Scene, Stage, build, has_gone_on, is_whole, scene, take_back, verb};

/// From a failure, or its end, until every host says so.
const SEEN: Duration = Duration::from_secs(5);
/// What a kernel refuses with for a while: busy, no memory, somebody was quicker, interrupted.
const ERRORS: [i32; 6] = [libc::EBUSY, libc::ENOBUFS, libc::EEXIST, libc::ENODEV, libc::EINTR, libc::ENOMEM];

/// How many are asked for each that is refused, by seed.
const ONE_IN: [usize; 5] = [40, 3, 6, 12, 20];

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        refused_at_random_it_converges_once_that_ends,
        p52_a_refused_operation_is_named_on_every_host_and_clears_by_itself once,
    ]
}

/// Of all operations on the kernel and messages to the holder some are refused, by a seed, while a life is lived. Verbs
/// may fail meanwhile. Then they work, and nothing is left.
fn refused_at_random_it_converges_once_that_ends(sandbox: &Sandbox) {
    require_refusals();
    let Scene { cluster, flow, _servers } = scene(sandbox);
    let before = Left::now(&cluster);
    for seed in 1..=if is_nightly() { 60 } else { 5 } {
        let after = format!("refusals of seed {seed}");
        refused(&cluster, seed, Stage::Building);
        build(&cluster);
        is_whole(&cluster, &after);
        refused(&cluster, seed, Stage::Taking);
        take_back(&cluster, 0, 0..=LIFE.len(), &after);
        before.wait_for_return(&cluster, &after);
    }
    has_gone_on(flow);
}

/// One stage of a life under refusals.
fn refused(cluster: &Cluster, seed: u64, stage: Stage) {
    let refusals = Arc::new(AtomicUsize::new(0));
    let (count, mut state) = (Arc::clone(&refusals), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let one_in = ONE_IN[usize::try_from(seed).unwrap_or_default() % ONE_IN.len()];
    let strike = Strike::attach(cluster.agent_pid("h1"), move |call: &Call| {
        let holder = call.name == "a message to the holder";
        if call.kind != Kind::Kernel && !holder {
            return Verdict::Pass;
        }
        // An LCG (Knuth, MMIX), of whose numbers the upper bits are good.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = usize::try_from(state >> 40).unwrap_or_default();
        if drawn % one_in > 0 {
            return Verdict::Pass;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Verdict::Fail(ERRORS[drawn / one_in % ERRORS.len()])
    });
    let strike = strike.expect("a watch");
    for (words, _) in LIFE.iter().filter(|(_, of)| *of == stage) {
        let output = verb(cluster, words);
        if output.exit != 0 {
            println!("  {words}: exit {}: {}", output.exit, output.stderr.lines().next().unwrap_or_default());
        }
    }
    strike.end().expect("a watch");
    println!("  seed {seed}: {} refusals", refusals.load(Ordering::Relaxed));
}

/// Every change of the balancing is refused on one host: each host says so, with the object, the host, the reason and
/// since when; once nothing is refused any more it works, and says so.
fn p52_a_refused_operation_is_named_on_every_host_and_clears_by_itself(sandbox: &Sandbox) {
    require_refusals();
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a");
    let _server = cluster.server("c1a", 80);
    let refuse = |call: &Call| match call.name.as_str() {
        "a batch of nf_tables" => Verdict::Fail(libc::ENOBUFS),
        _ => Verdict::Pass,
    };
    let strike = Strike::attach(cluster.agent_pid("h2"), refuse).expect("a watch");
    // One container of another host is no reason for the verb to fail.
    cluster.ok("h1", "register payment-api --on c1a");
    for host in ["h1", "h2", "h3"] {
        let problem = wait_until(&format!("{host} sees it"), SEEN, || {
            let seen = problems(&cluster, host);
            let named = |it: &&Problem| it.object.contains("payment") && it.object.contains("c2a");
            seen.iter().find(named).cloned().ok_or(format!("{seen:?}"))
        });
        assert!(problem.error.contains("No buffer space available (os error 105)"), "{problem:?}");
        assert!(problem.seconds < 15, "{problem:?}");
        assert_eq!(cluster.cli(host, "status").exit, 4);
    }
    strike.end().expect("a watch");
    cluster.wait_well(SEEN);
    let vip = cluster.vip("h2", "payment-api");
    assert_eq!(cluster.tcp("c2a", vip, 80).expect("an answer").name, "c1a");
    let events = cluster.ok("h2", "events");
    assert!(events.contains("No buffer space available") && events.contains("works again"), "{events}");
}

/// What fails on the second host, as another one says.
fn problems(cluster: &Cluster, host: &str) -> Vec<Problem> {
    let status = cluster.status(host);
    status.hosts.into_iter().filter(|it| it.name == "h2").flat_map(|it| it.problems).collect()
}
