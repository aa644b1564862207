//! Hosts, agents, networks.
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::LIMIT;
use crate::api::types::{NetworkInfo, NodeInfo};
use crate::demo::chart::{columns, time};
use crate::demo::error::Error;
use crate::demo::figures::{Figures, millis};
use crate::demo::printer::Printer;
use crate::demo::stage::{HOSTS, Show, Stage, wait};

pub(super) fn hosts(stage: &mut Stage, printer: &mut Printer, figures: &mut Figures) -> Result<(), Error> {
    printer.step("Three hosts, seven containers");
    for (host, ..) in HOSTS {
        stage.add_host(host)?;
    }
    (figures.hosts, figures.containers) =
        (HOSTS.len(), HOSTS.iter().map(|(.., containers)| containers.len()).sum());
    let row = |(host, address, containers): &(&str, [u8; 4], &[&str])| {
        vec![(*host).to_owned(), IpAddr::from(*address).to_string(), containers.join("  ")]
    };
    let head = ["HOST", "ADDRESS", "CONTAINERS"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(HOSTS.iter().map(row)).collect();
    printer.output(&columns(&rows));
    printer.say("The hosts share a switch. The containers have no network at all yet.");
    Ok(())
}

pub(super) fn agents(stage: &mut Stage, printer: &mut Printer, figures: &mut Figures) -> Result<(), Error> {
    printer.step("An agent on each host: one founds the cluster, two join");
    stage.make_key(printer)?;
    let started = Instant::now();
    stage.start_agent(printer, "h1", "--init")?;
    for host in ["h2", "h3"] {
        stage.start_agent(printer, host, "--join 192.0.2.1")?;
    }
    for (host, ..) in HOSTS {
        all_live(stage, host)?;
    }
    figures.cluster_ms = millis(started.elapsed());
    stage.look_at(printer, "h3", "node ls")?;
    printer.figure("until every host knew of all three", &time(started.elapsed()));
    Ok(())
}

/// Waits until a host's agent answers and knows of three live hosts.
pub(super) fn all_live(stage: &Stage, host: &str) -> Result<(), Error> {
    wait(&format!("three live hosts, seen from {host}"), LIMIT, || {
        // Until its agent listens, the command is refused.
        let nodes: Result<Vec<NodeInfo>, Error> = stage.ask(host, "node ls");
        Ok(match nodes {
            Ok(nodes) if nodes.len() == 3 && nodes.iter().all(|node| node.state != "suspended") => Ok(()),
            Ok(nodes) => Err(nodes
                .iter()
                .map(|node| format!("{} {}", node.name, node.state))
                .collect::<Vec<_>>()
                .join(", ")),
            Err(error) => Err(error.to_string()),
        })
    })
}

pub(super) fn networks(stage: &Stage, printer: &mut Printer, figures: &mut Figures) -> Result<(), Error> {
    printer.step("Two networks that know nothing of each other, and the containers on them");
    let took = stage.type_in(printer, "h1", "network create payment", Show::All)?;
    figures.network_create_ms = millis(took);
    let payment: NetworkInfo = stage.ask("h1", "network inspect payment")?;
    let same = payment.subnets.iter().map(|subnet| format!(" --subnet {subnet}")).collect::<String>();
    stage.type_in(printer, "h3", &format!("network create lab --internal{same}"), Show::All)?;
    printer.aside("the same addresses on purpose: networks are apart, whatever their ranges");
    let mut slowest = Duration::ZERO;
    for (host, _, containers) in HOSTS {
        for container in containers {
            let show = if *container == "pay1" { Show::All } else { Show::First };
            slowest = slowest.max(attach(stage, printer, host, container, show)?);
        }
    }
    figures.attach_slowest_ms = millis(slowest);
    stage.type_in(printer, "h2", "network ls", Show::All)?;
    stage.type_in(printer, "h3", "attachments", Show::All)?;
    printer.figure("network create, on all hosts", &time(took));
    printer.figure("slowest attach, known to all hosts", &time(slowest));
    Ok(())
}

/// Attaches a container to its network.
pub(super) fn attach(
    stage: &Stage,
    printer: &mut Printer,
    host: &str,
    container: &str,
    show: Show,
) -> Result<Duration, Error> {
    let network = if container == "spy" { "lab" } else { "payment" };
    let arguments = format!("attach {container} --network {network} --netns {container}");
    stage.type_in(printer, host, &arguments, show)
}
