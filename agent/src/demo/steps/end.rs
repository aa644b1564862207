//! Looking around, and the end.
use std::time::Instant;

use crate::demo::chart::time;
use crate::demo::error::Error;
use crate::demo::printer::Printer;
use crate::demo::stage::{HOSTS, Show, Stage};

/// Prints how to look around while it stands.
pub(in crate::demo) fn keep(stage: &Stage, printer: &mut Printer, pid_outside: Option<u32>) {
    let pid = pid_outside.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    let enter = format!("nsenter -t {pid} -m -p -n");
    printer.step("It stands: look around");
    printer.say("In another terminal, as root:");
    printer.output(&format!(
        "{enter} svc-agent status --socket {socket}\n\
         {enter} ip netns\n\
         {enter} ip netns exec h1 ip -br address                 # a host\n\
         {enter} ip netns exec shop ping payment-api             # a container\n\
         {enter} ip netns exec shop nft list table ip svc-agent  # its balancing\n\
         {enter} ls {logs}\n\
         svc-agent status --socket /proc/{pid}/root{socket}",
        socket = stage.socket("h3"),
        logs = stage.log_directory(),
    ));
    printer.say("Ctrl-C here ends it and removes everything.");
}

/// The hosts leave, then the rest is removed.
pub(in crate::demo) fn end(stage: Stage, printer: &mut Printer, started: Instant) -> Result<(), Error> {
    printer.step("Every host leaves, and removes what it made");
    for (host, ..) in HOSTS {
        stage.type_in(printer, host, "leave", Show::All)?;
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
    let found =
        if left.is_empty() { "none, on any host or in any container".to_owned() } else { left.join("; ") };
    printer.figure("links that are left", &found);
    drop(stage);
    printer
        .say(&format!("\nDone in {}; namespaces, processes and files are removed.", time(started.elapsed())));
    Ok(())
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
