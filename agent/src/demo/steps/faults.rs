//! A replica dies; a host dies, and returns.
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{LIMIT, PORT, at, build};
use crate::demo::chart::{bars, time};
use crate::demo::error::Error;
use crate::demo::figures::{Connections, Figures, millis};
use crate::demo::flows::{self, Flows};
use crate::demo::gap::{self, Gap, SLICE};
use crate::demo::measure;
use crate::demo::printer::Printer;
use crate::demo::stage::{Show, Stage, wait};

/// So many connections are answered before anything is broken, and again before it counts as over.
const LEAD: usize = 100;
/// So long without a failed connection, and the failure is over.
const QUIET: Duration = Duration::from_millis(1_250);
/// Connections that show where everything goes afterwards.
const CONNECTIONS: usize = 200;
const BAR: u64 = 48;

pub(super) fn replica(
    stage: &mut Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
) -> Result<(), Error> {
    printer
        .step("A replica dies: pay2 on h1, its program and its namespace, while shop connects all the time");
    printer.aside("as its process ends and `ip netns delete pay2` follows; no command tells the agents");
    figures.replica_killed = watch(stage, vip, |stage| stage.kill_container("pay2"))?;
    tell(printer, &figures.replica_killed);
    afterwards(stage, printer, vip, &["pay2"])
}

pub(super) fn host(
    stage: &mut Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
) -> Result<(), Error> {
    printer.step("A host dies: h2 loses power, with its agent, pay3 and pay4");
    figures.host_killed = watch(stage, vip, |stage| stage.kill_host("h2"))?;
    tell(printer, &figures.host_killed);
    afterwards(stage, printer, vip, &["pay2", "pay3", "pay4"])?;
    stage.look_at(printer, "h3", "node ls")?;
    stage.look_at(printer, "h3", "service inspect payment-api")
}

pub(super) fn host_returns(
    stage: &mut Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
) -> Result<(), Error> {
    printer.step("The host returns, with new containers of the old names");
    stage.add_host("h2")?;
    for container in ["pay3", "pay4"] {
        stage.start_program(container, PORT)?;
    }
    let started = Instant::now();
    stage.start_agent(printer, "h2", "")?;
    build::all_live(stage, "h2")?;
    for container in ["pay3", "pay4"] {
        build::attach(stage, printer, "h2", container, Show::First)?;
        stage.type_in(printer, container, "register payment-api", Show::First)?;
    }
    let shop = stage.namespace("shop")?;
    wait("an answer from h2", LIMIT, || {
        let answered = measure::connections(&shop, at(vip, PORT), 1).map(|found| found.answered_by);
        let from_h2 = answered.as_ref().is_ok_and(|by| by.contains_key("pay3") || by.contains_key("pay4"));
        Ok(if from_h2 { Ok(()) } else { Err(format!("{answered:?}")) })
    })?;
    let took = started.elapsed();
    figures.host_returned_ms = millis(took);
    printer.figure("agent started: h2 answers after", &time(took));
    afterwards(stage, printer, vip, &["pay2"])?;
    stage.type_in(printer, "h3", "status --wait 5s", Show::All)?;
    Ok(())
}

/// Lets shop connect all the time, breaks something, and waits until no connection fails any more.
fn watch(
    stage: &mut Stage,
    vip: Ipv4Addr,
    fail: impl FnOnce(&mut Stage) -> Result<(), Error>,
) -> Result<Gap, Error> {
    let flows = Flows::start("shop", &stage.namespace("shop")?, at(vip, PORT))?;
    wait("connections before the failure", LIMIT, || {
        let answered = flows.so_far().attempts.iter().filter(|attempt| attempt.answer.is_some()).count();
        Ok(if answered >= LEAD { Ok(()) } else { Err(format!("{answered} of {LEAD} answered")) })
    })?;
    let killed = flows.now();
    fail(stage)?;
    let broken = flows.now();
    wait("the end of failed connections", LIMIT, || {
        let record = flows.so_far();
        Ok(if gap::is_over(&record.attempts, broken, record.settled(), QUIET, LEAD) {
            Ok(())
        } else {
            let gap = gap::gap(&record.attempts, killed);
            Err(format!("{} of {} failed, the last after {} ms", gap.failed, gap.connections, gap.gap_ms))
        })
    })?;
    Ok(gap::gap(&flows.finish(), killed))
}

fn tell(printer: &mut Printer, gap: &Gap) {
    let failed = if gap.failed == 0 {
        format!("none of {}", gap.connections)
    } else {
        format!(
            "{} of {}, begun in the first {}",
            gap.failed,
            gap.connections,
            time(Duration::from_millis(gap.gap_ms))
        )
    };
    printer.figure("connections that failed", &failed);
    printer.aside(&format!(
        "at most one was begun every {}; failed: refused, or no answer within {}",
        time(flows::INTERVAL),
        time(flows::LIMIT)
    ));
    let timeline = gap::timeline(gap);
    if timeline.len() < 2 {
        return;
    }
    printer.say(&format!("Failed connections in each {} after the failure:", time(SLICE)));
    for (start, failed, begun) in timeline {
        let [whole, part] = [start.as_secs(), u64::from(start.subsec_millis())];
        printer.output(&format!("{whole:>2}.{part:03} s  {failed:>3} of {begun:<3} {}", "#".repeat(failed)));
    }
}

/// Where connections go now; none may go to who is gone.
fn afterwards(stage: &Stage, printer: &mut Printer, vip: Ipv4Addr, gone: &[&str]) -> Result<(), Error> {
    let shop = stage.namespace("shop")?;
    let failed = |source| Error::Do { what: "connect", place: "shop".to_owned(), source };
    let now: Connections = measure::connections(&shop, at(vip, PORT), CONNECTIONS).map_err(failed)?;
    if now.failed > 0 || gone.iter().any(|name| now.answered_by.contains_key(*name)) {
        return Err(failed(std::io::Error::other(format!("{} of {} failed", now.failed, now.tried))));
    }
    printer.say(&format!("{CONNECTIONS} connections now:"));
    printer.output(&bars(&now.answered_by, BAR));
    Ok(())
}
