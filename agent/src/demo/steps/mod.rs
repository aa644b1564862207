//! The acts, in order.
mod build;
mod end;
mod faults;
mod names;
mod service;
mod traffic;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

pub(super) use end::{end, keep};

use super::error::Error;
use super::figures::{Figures, millis};
use super::printer::Printer;
use super::stage::Stage;
use crate::api::types::{AttachmentInfo, ServiceInfo};

/// The port of `payment-api`; no port is declared, so any would do.
const PORT: u16 = 8080;
/// The port of `database`, with a health check.
const DATABASE_PORT: u16 = 5432;
/// How long anything that is awaited may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Plays all but the end, and returns what was measured.
pub(super) fn play(stage: &mut Stage, printer: &mut Printer, started: Instant) -> Result<Figures, Error> {
    let mut figures = Figures::default();
    printer.say(
        "svc-agent demo: three hosts and seven containers as namespaces on this machine, in a sandbox with a network\n\
         of its own. Commands are typed for real, on the host or in the container before the $; indented is what they\n\
         printed. Ctrl-C removes everything.",
    );
    build::hosts(stage, printer, &mut figures)?;
    build::agents(stage, printer, &mut figures)?;
    build::networks(stage, printer, &mut figures)?;
    service::payment_api(stage, printer, &mut figures)?;
    let service: ServiceInfo = stage.ask("h3", "service inspect payment-api")?;
    let vip = first_v4(&service.vips, "payment-api")?;
    names::look_up(stage, printer, vip)?;
    names::greet(stage, printer, &mut figures, vip)?;
    traffic::split(stage, printer, &mut figures, vip)?;
    traffic::latency(stage, printer, &mut figures, vip, &service)?;
    service::database(stage, printer, &mut figures)?;
    faults::replica(stage, printer, &mut figures, vip)?;
    faults::host(stage, printer, &mut figures, vip)?;
    faults::host_returns(stage, printer, &mut figures, vip)?;
    figures.total_ms = millis(started.elapsed());
    Ok(figures)
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address, port))
}

/// The IPv4 address of an object that has one.
fn first_v4(addresses: &[IpAddr], of: &str) -> Result<Ipv4Addr, Error> {
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.ok_or_else(|| Error::Answer {
        place: "h3".to_owned(),
        command: format!("the address of {of}"),
        said: format!("{addresses:?}"),
    })
}

/// The address of an attachment, as any host knows it.
fn address_of(stage: &Stage, name: &str) -> Result<Ipv4Addr, Error> {
    let all: Vec<AttachmentInfo> = stage.ask("h3", "attachments")?;
    let found = all.iter().find(|attachment| attachment.name.as_str() == name);
    first_v4(found.map_or(&[], |attachment| &attachment.addresses), name)
}
