//! How connections are spread, and what they cost.
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{PORT, at, first_v4};
use crate::api::types::ServiceInfo;
use crate::demo::chart::{bars, columns, time};
use crate::demo::error::Error;
use crate::demo::figures::{Connections, Figures, Latency, Times};
use crate::demo::measure;
use crate::demo::printer::Printer;
use crate::demo::stage::Stage;

const CONNECTIONS: usize = 1_000;
const DATAGRAMS: u64 = 200;
const ROUNDS: usize = 1_000;
/// Characters of the longest bar.
const BAR: u64 = 48;

pub(super) fn split(
    stage: &Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
) -> Result<(), Error> {
    let shop = stage.namespace("shop")?;
    printer.step(&format!("{CONNECTIONS} connections from shop to payment-api, by who answered"));
    let connections = measure::connections(&shop, at(vip, PORT), CONNECTIONS);
    figures.connections =
        connections.map_err(|source| Error::Do { what: "connect", place: "shop".to_owned(), source })?;
    show(printer, &figures.connections);
    figures.datagrams = measure::datagrams(&shop, at(vip, PORT), DATAGRAMS);
    printer.say(&format!("{DATAGRAMS} UDP datagrams, each from a port of its own:"));
    show(printer, &figures.datagrams);
    Ok(())
}

fn show(printer: &mut Printer, connections: &Connections) {
    printer.output(&bars(&connections.answered_by, BAR));
    printer.output(&format!("failed: {}", connections.failed));
}

pub(super) fn latency(
    stage: &Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
    service: &ServiceInfo,
) -> Result<(), Error> {
    printer.step("What the virtual IP costs");
    let addresses =
        service.replicas.iter().map(|replica| first_v4(&replica.addresses, replica.attachment.as_str()));
    let direct: Vec<SocketAddr> =
        addresses.map(|address| Ok(at(address?, PORT))).collect::<Result<_, Error>>()?;
    let measured = measure::latency(&stage.namespace("shop")?, at(vip, PORT), &direct, ROUNDS);
    let (vip, direct) =
        measured.map_err(|source| Error::Do { what: "connect", place: "shop".to_owned(), source })?;
    figures.latency = Latency { vip: Times::of(vip), direct: Times::of(direct) };
    let row = |name: &str, times: Times| {
        let [median, p99] = [times.median_us, times.p99_us].map(|micros| time(Duration::from_micros(micros)));
        vec![name.to_owned(), median, p99]
    };
    let head = ["CONNECT TO", "MEDIAN", "P99"].map(str::to_owned).to_vec();
    let (vip, direct) = (figures.latency.vip, figures.latency.direct);
    let rows = [head, row("the virtual IP", vip), row("the replicas themselves", direct)];
    printer.output(&columns(&rows));
    printer.aside(&format!("{ROUNDS} connections each, by turns, across the overlay"));
    Ok(())
}
