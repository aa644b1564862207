//! Looking around, and the end.
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::demo::chart::time;
use crate::demo::error::Error;
use crate::demo::figures::Figures;
use crate::demo::gap::Gap;
use crate::demo::printer::Printer;
use crate::demo::stage::{HOSTS, Show, Stage};

/// Prints how to look around while it stands.
pub(in crate::demo) fn keep(stage: &Stage, printer: &mut Printer, pid_outside: Option<u32>) {
    let pid = pid_outside.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    let (user, who) =
        if is_own_user_namespace() { (" -U --preserve-credentials", "you") } else { ("", "root") };
    let enter = format!("nsenter -t {pid}{user} -m -p -n");
    printer.step("It stands: look around");
    printer.say(&format!("In another terminal, as {who}:"));
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("svc-agent"));
    printer.output(&format!(
        "{enter} {program} status --socket {socket}\n\
         {enter} ip netns\n\
         {enter} ip netns exec h1 ip -br address                 # a host\n\
         {enter} ip netns exec shop getent hosts payment-api     # a container\n\
         {enter} ip netns exec shop nft list table ip svc-agent  # its balancing\n\
         {enter} ls {logs}\n\
         {program} status --socket /proc/{pid}/root{socket}",
        socket = stage.socket("h3"),
        program = program.display(),
        logs = stage.log_directory(),
    ));
    printer.say("Ctrl-C here ends it and removes everything.");
}

/// Whether the sandbox, for want of root, has a user namespace: it maps one user then, root all.
fn is_own_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().nth(2) == Some("1")
}

/// The hosts leave, then the rest is removed.
pub(in crate::demo) fn end(
    stage: Stage,
    printer: &mut Printer,
    figures: &Figures,
    started: Instant,
) -> Result<(), Error> {
    printer.step("Every host leaves, and removes what it made");
    for (host, ..) in HOSTS {
        let show = if host == "h1" { Show::All } else { Show::First };
        stage.type_in(printer, host, "leave", show)?;
    }
    let mut left = Vec::new();
    for (host, _, containers) in HOSTS {
        // pay2 was deleted.
        for place in std::iter::once(&host).chain(containers).filter(|place| **place != "pay2") {
            let links = links(&stage, place)?;
            if links.iter().any(|link| link != "lo" && !(link == "eth0" && *place == host)) {
                left.push(format!("{place}: {}", links.join(" ")));
            }
        }
    }
    if !left.is_empty() {
        return Err(Error::Left { links: left.join("; ") });
    }
    printer.figure("links that are left", "none, on any host or in any container");
    drop(stage);
    summarise(printer, figures);
    printer
        .say(&format!("\nDone in {}; namespaces, processes and files are removed.", time(started.elapsed())));
    Ok(())
}

fn summarise(printer: &mut Printer, figures: &Figures) {
    printer.step("In short");
    let (millis, micros) = (Duration::from_millis, Duration::from_micros);
    let (vip, direct) = (figures.latency.vip.median_us, figures.latency.direct.median_us);
    let gap = |gap: &Gap| match gap.failed {
        0 => format!("no connection failed, of {}", gap.connections),
        _ => format!("connections failed for {}", time(millis(gap.gap_ms))),
    };
    for (label, value) in [
        (
            "a new replica is used everywhere",
            format!("after {} at most", time(millis(figures.register_slowest_ms))),
        ),
        ("a connect, median", format!("{} by VIP, {} directly", time(micros(vip)), time(micros(direct)))),
        ("nobody serves", format!("refused in {}, median", time(micros(figures.refusal.median_us)))),
        ("a replica died", gap(&figures.replica_killed)),
        ("a host died", gap(&figures.host_killed)),
        (
            "a host returned",
            format!("its replicas answered after {}", time(millis(figures.host_returned_ms))),
        ),
    ] {
        printer.figure(label, &value);
    }
}

/// Names of the links in a namespace.
fn links(stage: &Stage, place: &str) -> Result<Vec<String>, Error> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
    let text = stage
        .namespace(place)?
        .run(read)
        .map_err(|source| Error::Enter { place: place.to_owned(), source })?;
    let text =
        text.map_err(|source| Error::Do { what: "list the links", place: place.to_owned(), source })?;
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    Ok(text.lines().filter_map(name).collect())
}
