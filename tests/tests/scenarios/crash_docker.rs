//! Row P45: agents that are killed before and after each of their operations on the kernel, writes of the store and messages
//! while Docker starts a container and removes it.
use std::time::{Duration, Instant};

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::strike::{Aim, Kind, Shot, Watch};
use tests::wait::wait_until;

use crate::crash::chosen;
use crate::engines::{Engines, socket};
use crate::reboot::used_on;

/// Docker waits 15 s for a driver that does not answer; nobody promised a time for what comes after a crash.
const LIMIT: Duration = Duration::from_secs(30);
/// What is done after Docker's command has ended is done by then.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// Kills of one run in CI.
const SAMPLE: usize = 20;
/// What is done in one life.
const LIFE: [&str; 2] = [
    "run -d --network payment --name box --label svc-agent.service=payment-api box busybox sleep 1000",
    "rm -f box",
];

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![killed_at_any_operation_of_dockers_it_leaves_nothing_behind once]
}

/// Whatever Docker was told of it, once the container is removed nothing is attached, no address is in use, and the next one
/// starts.
fn killed_at_any_operation_of_dockers_it_leaves_nothing_behind(sandbox: &Sandbox) {
    let mut it = Engines::start(sandbox, 1);
    it.cluster.ok("h1", "network create payment --subnet 10.60.0.0/16");
    it.wait_networks("payment");
    // A service of its own: the one that its label makes stays, with its VIP.
    it.docker("h1", LIFE[0]);
    wait_whole(&it);
    it.docker("h1", LIFE[1]);
    wait_clean(&it, None, "an undisturbed life");
    let clean = (links(&it.cluster), used_on(&it.cluster, "h1"));

    let mut points = Vec::new();
    for (step, words) in LIFE.iter().enumerate() {
        let watch = Watch::begin(it.cluster.agent_pid("h1")).expect("a watch");
        it.docker("h1", words);
        if step == 0 {
            wait_whole(&it);
        } else {
            wait_clean(&it, None, "an undisturbed life");
        }
        points.extend(watch.end().expect("a watch").into_iter().map(|aim| (step, aim)));
    }
    let of = |kind| points.iter().filter(|(_, aim)| aim.call.kind == kind).count();
    println!(
        "  {} places, {} of the kernel's, {} of the store's",
        points.len(),
        of(Kind::Kernel),
        of(Kind::Store)
    );
    let chosen = chosen(points, SAMPLE);
    let mut struck = 0;
    for (step, aim) in &chosen {
        println!("  docker {}: {aim}", LIFE[*step].split(' ').next().unwrap_or_default());
        struck += usize::from(live_and_die(&mut it, *step, aim));
        it.try_docker("h1", LIFE[1]);
        wait_clean(&it, Some(&clean), &format!("{aim}"));
    }
    println!("  {struck} of {} were reached again", chosen.len());
    assert!(struck * 4 >= chosen.len() * 3, "{struck} of {} points were reached", chosen.len());
    it.docker("h1", LIFE[0]);
    wait_whole(&it);
}

/// One life with one death in it, after which another agent is started; whether it came at the chosen point.
fn live_and_die(it: &mut Engines, step: usize, aim: &Aim) -> bool {
    if step > 0 {
        it.docker("h1", LIFE[0]);
        wait_whole(it);
    }
    let shot = Shot::at(it.cluster.agent_pid("h1"), aim).expect("a watch");
    // Docker goes on while the next agent is started.
    let socket = socket(&it.cluster, "h1").display().to_string();
    let docker = format!("docker -H unix://{socket} {} >/dev/null 2>&1 & echo $!", LIFE[step]);
    let docker = it.cluster.shell("h1", &docker);
    let goes_on = format!("grep -q '^State:.[^Z]' /proc/{}/status", docker.trim());
    let begun = Instant::now();
    wait_until("it is killed, or Docker has long done it", LIMIT, || {
        // Some of it is done once Docker has its answers.
        let over = begun.elapsed() > AFTERWARDS && it.cluster.try_shell("h1", &goes_on).exit != 0;
        if shot.has_struck() || over { Ok(()) } else { Err("neither") }
    });
    let struck = shot.end().expect("a watch");
    it.cluster.kill_agent("h1");
    it.cluster.restart_agent("h1");
    it.cluster.wait_ready("h1");
    wait_until("Docker has an answer", LIMIT, || match it.cluster.try_shell("h1", &goes_on).exit {
        0 => Err("not yet"),
        _ => Ok(()),
    });
    struck
}

/// The container serves.
fn wait_whole(it: &Engines) {
    wait_until("the container is a replica", LIMIT, || {
        let service = it.cluster.service("h1", "payment-api").ok_or("no service")?;
        let serving = service.replicas.iter().filter(|replica| replica.state == "serving").count();
        if serving == 1 { Ok(()) } else { Err(format!("{:?}", service.replicas)) }
    });
}

/// Nothing is attached, and all is as it was.
fn wait_clean(it: &Engines, clean: Option<&(String, String)>, after: &str) {
    wait_until(&format!("nothing is left after {after}"), LIMIT * 4, || {
        let there: Vec<types::AttachmentInfo> = it.cluster.get("h1", routes::ATTACHMENTS, &[]);
        let now = (links(&it.cluster), used_on(&it.cluster, "h1"));
        let status = it.cluster.status("h1");
        let same = clean.is_none_or(|clean| *clean == now);
        if there.is_empty() && same && status.ok {
            Ok(())
        } else {
            Err(format!("{there:?} {now:?} {status:?}"))
        }
    });
}

fn links(cluster: &Cluster) -> String {
    cluster.shell("h1", "ip -o link | cut -d: -f2 | sort")
}
