//! Row P17: agents that are killed before and after each of their operations on the kernel, writes of the store and
//! messages, at every verb and at their start.
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::{Sandbox, Server, connect};
use tests::cluster::{Cluster, Output};
use tests::family::Family;
use tests::load::Load;
use tests::runner::{Scenario, is_nightly};
use tests::strike::{Aim, Kind, Shot, Watch};
use tests::wait::wait_until;

/// Nobody promised a time for any of it; a busy machine takes its own.
const LIMIT: Duration = Duration::from_secs(15);
/// Kills of one run in CI.
const SAMPLE: usize = 14;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![killed_at_any_operation_it_leaves_nothing_behind]
}

/// Large enough that what is given out in a minute, in which nothing is given out again, is a small part.
const SUBNETS: [(&str, Family); 2] = [("172.16.0.0/12", Family::Four), ("fd50::/64", Family::Six)];

/// What is done on h1 in one life, and whether it builds. The agent's own start comes between.
pub(crate) const LIFE: [(&str, Stage); 7] = [
    ("network create payment", Stage::Building),
    ("attach c1a --network payment --netns c1a", Stage::Building),
    ("register payment-api --on c1a", Stage::Building),
    ("(start)", Stage::Start),
    ("deregister payment-api", Stage::Taking),
    ("detach c1a", Stage::Taking),
    ("network rm payment", Stage::Taking),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Building,
    Start,
    Taking,
}

/// Where the agent is killed during a step of its life.
#[derive(Clone, Debug)]
struct Point {
    step: usize,
    aim: Aim,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", LIFE[self.step].0, self.aim)
    }
}

/// Kills at every chosen point, each in a life of its own: what is asked for again works, and nothing is left once all
/// is taken back. A flow between two others on the same hosts goes on all the while.
fn killed_at_any_operation_it_leaves_nothing_behind(sandbox: &Sandbox) {
    let Scene { mut cluster, flow, _servers } = scene(sandbox);
    let before = Left::now(&cluster);
    let all = record(&mut cluster);
    let of = |kind| all.iter().filter(|it| it.aim.call.kind == kind).count();
    let (kernel, store) = (of(Kind::Kernel), of(Kind::Store));
    println!("  {} places to be killed at, {kernel} of the kernel's, {store} of the store's", all.len());
    let points = chosen(all, SAMPLE);
    before.wait_for_return(&cluster, "an undisturbed life");
    let mut missed = 0;
    for (number, point) in points.iter().enumerate() {
        println!("  {}/{}: {point}", number + 1, points.len());
        // Every second pair is not asked for again: what was half done goes all the same.
        let mut point = point.clone();
        while !live_and_die(&mut cluster, &point, number / 2 % 2 == 0) {
            before.wait_for_return(&cluster, &point.to_string());
            // How often hosts talk and save differs from one life to the next: an earlier call of the kind is surer.
            if point.aim.nth == 1 {
                missed += 1;
                break;
            }
            point.aim.nth /= 2;
            println!("    not reached, so {point}");
        }
        before.wait_for_return(&cluster, &point.to_string());
    }
    println!("  {missed} of {} were not reached again, and it was killed when idle", points.len());
    assert!(missed * 4 <= points.len(), "{missed} of {} points were not reached", points.len());
    has_gone_on(flow);
}

/// Two hosts with a flow between two containers, and one more on each that nothing is attached to.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) flow: Load,
    pub(crate) _servers: [Server; 2],
}

pub(crate) fn scene(sandbox: &Sandbox) -> Scene {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create first");
    cluster.attach("first", "c1z c2z");
    cluster.containers("c1a c2a");
    let _servers = ["c1a", "c2z"].map(|name| cluster.server(name, 80));
    cluster.ok("h2", "register steady --on c2z");
    let steady = SocketAddr::new(cluster.vip("h1", "steady"), 80);
    let mut stream = connect(&cluster.namespace("c1z"), steady, LIMIT).expect("a connection");
    stream.read_exact(&mut [0; 4]).expect("the greeting");
    let flow = Load::start(Duration::from_millis(10), move || {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    });
    // What an agent leaves so: processes may have come to use `lo`.
    for place in ["c1a", "c2a"] {
        cluster.shell(place, "ip link set lo up");
    }
    Scene { cluster, flow, _servers }
}

/// It has gone on all the while.
pub(crate) fn has_gone_on(flow: Load) {
    let tally = flow.stop();
    assert!(tally.failures.is_empty() && tally.good > 100, "the flow between the others: {tally:?}");
    println!("  the flow between the others: {} exchanges, longest gap {:?}", tally.good, tally.longest_gap);
}

/// All places of one life at which it can be killed.
fn record(cluster: &mut Cluster) -> Vec<Point> {
    let mut points = Vec::new();
    for step in 0..LIFE.len() {
        begin(cluster, step);
        let watch = Watch::begin(cluster.agent_pid("h1")).expect("a watch");
        go_on(cluster, step, || false);
        points.extend(watch.end().expect("a watch").into_iter().map(|aim| Point { step, aim }));
    }
    cluster.wait_members(2);
    points
}

/// In CI some of them, evenly spread: SEED says which. All of them at night, or with PLACES=FROM-TO those, the first of
/// which is 1: what was broken off is gone on with, and a run is divided between machines.
pub(crate) fn chosen<T>(all: Vec<T>, sample: usize) -> Vec<T> {
    if is_nightly() {
        let Some((from, to)) = places() else { return all };
        println!("  places {from} to {to} of {}", all.len());
        return all.into_iter().take(to).skip(from - 1).collect();
    }
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    let family = Family::ALL.iter().position(|it| *it == Family::now()).unwrap_or(0);
    // Odd, or it would be before all calls or after all.
    let stride = (all.len() / sample).max(1) | 1;
    let first = (seed * 17 + family * stride / Family::ALL.len()) % stride;
    println!("  every {stride}th from the {first}th on; SEED={} for the next ones", seed + 1);
    all.into_iter().skip(first).step_by(stride).collect()
}

/// As PLACES says; a panic where that is not two numbers.
fn places() -> Option<(usize, usize)> {
    let text = std::env::var("PLACES").ok()?;
    let parsed = text.split_once('-').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let (from, to) = parsed.unwrap_or_else(|| panic!("PLACES={text} is no range; an example: 300-672"));
    assert!((1..=to).contains(&from), "PLACES={text} is empty");
    Some((from, to))
}

/// Before a step.
fn begin(cluster: &mut Cluster, step: usize) {
    if LIFE[step].1 == Stage::Start {
        cluster.kill_agent("h1");
        cluster.start_agent("h1", "");
    }
}

/// To the end of a step, or of the agent.
fn go_on(cluster: &Cluster, step: usize, killed: impl Fn() -> bool) {
    if LIFE[step].1 == Stage::Start {
        return ready_or_killed(cluster, "h1", killed);
    }
    // Lost or done: both are right.
    let _either = verb(cluster, LIFE[step].0);
}

/// Waits until an agent that was started does its work, or has been killed.
pub(crate) fn ready_or_killed(cluster: &Cluster, host: &str, killed: impl Fn() -> bool) {
    wait_until("it is ready, or killed", LIMIT, || match cluster.client(host).fetch(routes::READY) {
        _ if killed() => Ok(()),
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(reply.text()),
        Err(error) => Err(error.to_string()),
    });
}

/// One life with one death in it; whether it came at the chosen point.
fn live_and_die(cluster: &mut Cluster, point: &Point, again: bool) -> bool {
    for (verb, stage) in &LIFE[..point.step] {
        if *stage != Stage::Start {
            ok(cluster, verb);
        }
    }
    begin(cluster, point.step);
    let shot = Shot::at(cluster.agent_pid("h1"), &point.aim).expect("a watch");
    go_on(cluster, point.step, || shot.has_struck());
    let struck = shot.end().expect("a watch");
    cluster.kill_agent("h1");
    cluster.restart_agent("h1");
    cluster.wait_members(2);
    match LIFE[point.step].1 {
        Stage::Building if again => build(cluster),
        Stage::Building => {
            take_back(cluster, 0, 0..=LIFE.len(), &point.to_string());
            return struck;
        }
        Stage::Start | Stage::Taking => {}
    }
    if LIFE[point.step].1 != Stage::Taking {
        is_whole(cluster, &point.to_string());
    }
    take_back(cluster, point.step, point.step..=point.step, &point.to_string());
    struck
}

/// What was asked for is asked for again.
pub(crate) fn build(cluster: &Cluster) {
    LIFE.iter().filter(|(_, stage)| *stage == Stage::Building).for_each(|(words, _)| ok(cluster, words));
}

/// What was asked for works, from the other host, too.
pub(crate) fn is_whole(cluster: &Cluster, after: &str) {
    cluster.ok("h2", "attach c2a --network payment --netns c2a");
    wait_until(&format!("c2a reaches c1a after {after}"), LIMIT, || {
        let service = cluster.service("h2", "payment-api").ok_or("no service")?;
        let vip = Family::now().choose(&service.vips).ok_or("no VIP")?;
        let answer = cluster.tcp("c2a", vip, 80).map_err(|error| error.to_string())?;
        if answer.name == "c1a" { Ok(()) } else { Err(answer.name) }
    });
    cluster.wait_well(LIMIT);
    cluster.ok("h2", "detach c2a");
}

/// A verb on h1, with this run's subnets.
pub(crate) fn verb(cluster: &Cluster, words: &str) -> Output {
    let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    if words.starts_with(&["network".to_owned(), "create".to_owned()]) {
        let wanted = |(_, family): &&(&str, Family)| [*family, Family::Both].contains(&Family::now());
        words.extend(SUBNETS.iter().filter(wanted).map(|(subnet, _)| format!("--subnet={subnet}")));
    }
    cluster.cli_words("h1", &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn ok(cluster: &Cluster, words: &str) {
    let output = verb(cluster, words);
    assert!(is_done(&output), "{words}: {output:?}");
}

/// 4 is done here and on its way, which is all that a busy machine promises.
fn is_done(output: &Output) -> bool {
    [0, 4].contains(&output.exit)
}

/// All is taken back from that step on. Of what may have been done before it is no surprise if it was.
pub(crate) fn take_back(cluster: &Cluster, from: usize, doubtful: RangeInclusive<usize>, after: &str) {
    for (step, (words, _)) in LIFE.iter().enumerate().filter(|(_, (_, stage))| *stage == Stage::Taking) {
        if step < from {
            continue;
        }
        let output = verb(cluster, words);
        let none = ["does not exist", "is not attached", "there is no "];
        let done_before = doubtful.contains(&step) && none.iter().any(|it| output.stderr.contains(it));
        assert!(is_done(&output) || output.exit == 1 && done_before, "{after}: {words}: {output:?}");
    }
}

/// What there is on the hosts and in the containers that a life could leave something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left(Vec<String>);

impl Left {
    pub(crate) fn now(cluster: &Cluster) -> Self {
        let mut all: Vec<String> =
            ["h1", "h2", "c1a", "c2a"].iter().map(|place| cluster.kernel_state(place)).collect();
        all.push(format!("{} namespaces of networks", cluster.network_namespaces().len()));
        // The agent opens what it needs: the holders are those who would keep something for ever.
        for host in ["h1", "h2"] {
            let holders = "for pid in $(ip netns pids HOST); do tr '\\0' ' ' </proc/$pid/cmdline | \
                           grep -q '^[^ ]*svc-agent[^ ]* hold ' && readlink /proc/$pid/fd/* | cut -d: -f1; done | sort";
            all.push(cluster.shell("h1", &holders.replace("HOST", host)));
            all.push(cluster.shell(host, "ls /etc/netns /etc/netns/*"));
            let networks: Vec<types::NetworkInfo> = cluster.get(host, routes::NETWORKS, &[]);
            all.push(format!("{:?}", networks.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()));
            let attached: Vec<types::AttachmentInfo> = cluster.get(host, routes::ATTACHMENTS, &[]);
            all.push(format!("{:?}", attached.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()));
            let services: Vec<types::ServiceInfo> = cluster.get(host, routes::SERVICES, &[]);
            all.push(format!("{:?}", services.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()));
            let status = cluster.status(host);
            all.push(if status.ok { "well".to_owned() } else { format!("{:?}", status.hosts) });
        }
        Self(all)
    }

    pub(crate) fn wait_for_return(&self, cluster: &Cluster, after: &str) {
        wait_until(&format!("nothing is left of {after}"), LIMIT, || {
            let now = Self::now(cluster);
            let said: Vec<String> = self.0.iter().zip(&now.0).filter_map(|(a, b)| difference(a, b)).collect();
            if said.is_empty() { Ok(()) } else { Err(said.join("\n")) }
        });
    }
}

/// Lines that only one of two texts has.
pub(crate) fn difference(before: &str, now: &str) -> Option<String> {
    let only = |sign: char, of: &str, other: &str| {
        let lines = of.lines().filter(|line| !other.lines().any(|it| it == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    (before != now).then(|| only('-', before, now) + &only('+', now, before))
}
