//! Clusters of many hosts: real agents without a kernel, fifty in this process, on all its cores.
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::simulated::{Nature, Simulated};

use super::Options;
use crate::crews::Crews;
use crate::machine;
use crate::report::{Goal, Row};

/// As many as gossip is good for, and the processes that they are in.
const HOSTS_MANY: u32 = 300;
const PARTS: u32 = 12;
/// How long they are watched, at the product's pace.
const IDLE_AT_PACE: Duration = Duration::from_secs(2);

/// How a cluster is measured.
struct Course {
    hosts: usize,
    /// Hosts that join once the others have their facts.
    joins: usize,
    registrations: usize,
    deaths: usize,
    /// Changes a second, one rate after the other, and for how long.
    changes: &'static [u32],
    churn: Duration,
    /// How long nothing happens.
    idle: Duration,
    parted: Duration,
}

/// The size that the contract's bounds are of.
pub(crate) fn fifty(options: &Options) -> Result<Vec<Row>> {
    let course = Course {
        hosts: if options.quick { 12 } else { 50 },
        joins: if options.quick { 1 } else { 5 },
        registrations: if options.quick { 20 } else { 300 },
        deaths: if options.quick { 1 } else { 3 },
        changes: if options.quick { &[60] } else { &[100, 500] },
        churn: Duration::from_secs(if options.quick { 2 } else { 10 }),
        idle: Duration::from_secs(if options.quick { 2 } else { 5 }),
        parted: Duration::from_secs(6),
    };
    measure(&course)
}

/// What each of 300 costs, of as many facts in all as the fifty have. All of them together need ten times what this machine
/// has, since each message of gossip names all hosts: so their periods are slowed, and what they spend is given as at the
/// product's pace.
pub(crate) fn three_hundred() -> Result<Vec<Row>> {
    let nature = Nature { services: 5, slowed: 30 };
    let begun = Instant::now();
    let mut crews = Crews::start(nature, PARTS, HOSTS_MANY / PARTS, |hosts| {
        eprintln!("  {hosts} of {HOSTS_MANY} hosts have joined after {:.0} s", begun.elapsed().as_secs_f64());
    })?;
    let time = nature.slowed * IDLE_AT_PACE;
    let used = crews.used(time)?;
    let seconds = time.as_secs_f64() / f64::from(nature.slowed) * f64::from(HOSTS_MANY);
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
    let (sent, memory) = (used.sent as f64, used.memory as f64);
    let mut rows = Vec::new();
    let mut row = |what: &str, unit, goal, value: f64| {
        rows.extend(Row::new(format!("  {HOSTS_MANY} hosts{what}"), unit, goal, vec![value]));
    };
    row(", idle: sent by each", "kB/s", Goal::None, sent / 1e3 / seconds);
    row(", idle: processor time of each", "ms/s", Goal::None, used.processor.as_secs_f64() * 1e3 / seconds);
    let mebibytes = memory / f64::from(HOSTS_MANY) / f64::from(1 << 20);
    row(": memory of each", "MiB", Goal::AtMost(25.0), mebibytes);
    Ok(rows)
}

fn measure(course: &Course) -> Result<Vec<Row>> {
    let (own, before) = (std::process::id(), machine::resident_bytes(None));
    let mut cluster = Simulated::found(Nature::PLAIN)?;
    machine::prioritise(own, true);
    let mut rows = Vec::new();
    let measured = on(course, &mut cluster, before, &mut rows);
    machine::prioritise(own, false);
    measured?;
    Ok(rows)
}

fn on(course: &Course, cluster: &mut Simulated, before: u64, rows: &mut Vec<Row>) -> Result<()> {
    let mut row = |what: String, unit, goal, samples| rows.extend(Row::new(what, unit, goal, samples));
    let of = course.hosts;
    while cluster.len() < of - course.joins {
        let at = cluster.len();
        cluster.join()?;
        cluster.fill(at..at + 1)?;
    }
    cluster.fill(0..1)?;
    let joins = (0..course.joins).map(|_| cluster.join().map(|took| took.as_secs_f64()));
    let joins: Vec<f64> = joins.collect::<Result<_>>()?;
    row(format!("{of} hosts x 100 facts: one more has joined"), "s", Goal::AtMost(5.0), joins);
    cluster.fill(of - course.joins..of)?;
    let registered = (0..course.registrations)
        .map(|turn| Ok(cluster.register(turn % of, &format!("new-{turn}"))?.as_secs_f64()));
    let registered: Vec<f64> = registered.collect::<Result<_>>()?;
    row(format!("{of} hosts: a registration is taken up by all"), "s", Goal::P99AtMost(1.0), registered);

    cost(cluster, course.idle, before, &mut row)?;
    for changes in course.changes {
        churn(course, cluster, *changes, &mut row)?;
    }
    let healed = heal(cluster, course.parted)?.as_secs_f64();
    row(
        format!("{of} hosts: cut in two halves, all right again after"),
        "s",
        Goal::AtMost(5.0),
        vec![healed],
    );
    let deaths = (0..course.deaths).map(|_| Ok(cluster.kill(cluster.len() / 2)?.as_secs_f64()));
    let deaths: Vec<f64> = deaths.collect::<Result<_>>()?;
    row(format!("{of} hosts: a dead one is out of names and VIPs of all"), "s", Goal::AtMost(5.0), deaths);
    Ok(())
}

/// What hosts spend while nothing happens.
fn cost(
    cluster: &Simulated,
    time: Duration,
    before: u64,
    row: &mut impl FnMut(String, &'static str, Goal, Vec<f64>),
) -> Result<()> {
    let of = cluster.len();
    let idle = Load::over(cluster, time, || {
        // A parked thread may be woken early.
        cluster.runtime().block_on(async { tokio::time::sleep(time).await });
        Ok(())
    })?;
    row(format!("  {of} hosts, idle: sent by each"), "kB/s", Goal::None, vec![idle.kilobytes]);
    row(format!("  {of} hosts, idle: processor time of each"), "ms/s", Goal::None, vec![idle.processor]);
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
    let each = machine::resident_bytes(None).saturating_sub(before) as f64 / of as f64 / f64::from(1 << 20);
    row(format!("  {of} hosts: memory of each"), "MiB", Goal::AtMost(25.0), vec![each]);
    Ok(())
}

fn churn(
    course: &Course,
    cluster: &Simulated,
    changes: u32,
    row: &mut impl FnMut(String, &'static str, Goal, Vec<f64>),
) -> Result<()> {
    let (of, mut took) = (course.hosts, Vec::new());
    // What grows with the first changes only (buffers, rows of the store) is no growth.
    cluster.churn(changes, course.churn / 2)?;
    let low = machine::resident_bytes(None);
    let busy = Load::over(cluster, course.churn, || {
        took = cluster.churn(changes, course.churn)?;
        Ok(())
    })?;
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
    let growth = machine::resident_bytes(None) as f64 / low as f64;
    let what = format!("{of} hosts, {changes} changes/s");
    let took = took.iter().map(Duration::as_secs_f64).collect();
    row(format!("{what}: each is taken up by all"), "s", Goal::P99AtMost(1.0), took);
    row(format!("  {what}: sent by each"), "kB/s", Goal::None, vec![busy.kilobytes]);
    row(format!("  {what}: processor time of each"), "ms/s", Goal::None, vec![busy.processor]);
    row(format!("  {what}: memory after ÷ before"), "x", Goal::AtMost(1.1), vec![growth]);
    Ok(())
}

/// What the hosts used, each in a second.
struct Load {
    kilobytes: f64,
    /// Milliseconds.
    processor: f64,
}

impl Load {
    fn over(cluster: &Simulated, at_least: Duration, during: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (bytes, processor, begun) = (cluster.bytes_sent(), machine::processor_time(), Instant::now());
        during()?;
        let seconds = begun.elapsed().max(at_least).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // Hosts and bytes are far below 2^52.
        let (hosts, bytes) = (cluster.len() as f64, (cluster.bytes_sent() - bytes) as f64);
        let processor = (machine::processor_time() - processor).as_secs_f64() * 1e3;
        Ok(Self { kilobytes: bytes / 1e3 / hosts / seconds, processor: processor / hosts / seconds })
    }
}

/// Cuts the hosts in two halves for so long, lets each half change, and returns how long it takes from the end of the cut
/// until all is as if it had not been.
fn heal(cluster: &Simulated, time: Duration) -> Result<Duration> {
    let half = cluster.len() / 2;
    let range = |from: IpAddr, to: IpAddr| format!("{from}-{to}");
    let first = range(cluster.address(0), cluster.address(half - 1));
    let second = range(cluster.address(half), cluster.address(cluster.len() - 1));
    let rules = format!(
        "table ip parted {{ chain output {{ type filter hook output priority 0;
         ip saddr {first} ip daddr {second} drop; ip saddr {second} ip daddr {first} drop; }}; }}"
    );
    let begun = Instant::now();
    nft(&rules)?;
    cluster.parted(0..half)?;
    // Each half goes on.
    cluster.stir(20, time.saturating_sub(begun.elapsed()).max(Duration::from_secs(1)))?;
    nft("delete table ip parted")?;
    let healing = Instant::now();
    cluster.agree()?;
    Ok(healing.elapsed())
}

fn nft(rules: &str) -> Result<()> {
    let status = Command::new("nft").arg(rules).status().context("nft")?;
    ensure!(status.success(), "nft refuses {rules}");
    Ok(())
}
