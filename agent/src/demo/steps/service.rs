//! Services.
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{DATABASE_PORT, LIMIT, PORT, at, first_v4};
use crate::api::types::ServiceInfo;
use crate::bed;
use crate::demo::chart::time;
use crate::demo::error::Error;
use crate::demo::figures::{Figures, Times, millis};
use crate::demo::measure;
use crate::demo::printer::Printer;
use crate::demo::stage::{REPLICAS, Show, Stage, wait};
use crate::netns::Namespace;

/// Connections to a service that nobody serves.
const REFUSALS: usize = 100;
/// How long one try of a connection may take.
const TRY_LIMIT: Duration = Duration::from_millis(500);

pub(super) fn payment_api(
    stage: &mut Stage,
    printer: &mut Printer,
    figures: &mut Figures,
) -> Result<(), Error> {
    printer.step("Four replicas behind one name and one virtual IP");
    printer.say(
        "In pay1 to pay4 runs a program that answers everybody with its container's name. Each container registers\n\
         itself; any host could do it for them with --on.",
    );
    let mut slowest = Duration::ZERO;
    for container in REPLICAS {
        stage.start_program(container, PORT)?;
        slowest = slowest.max(stage.type_in(printer, container, "register payment-api", Show::First)?);
    }
    figures.register_slowest_ms = millis(slowest);
    stage.type_in(printer, "h3", "service inspect payment-api", Show::All)?;
    stage.type_in(printer, "h3", "status --wait 5s", Show::All)?;
    printer.figure("slowest register, usable everywhere", &time(slowest));
    Ok(())
}

pub(super) fn database(stage: &mut Stage, printer: &mut Printer, figures: &mut Figures) -> Result<(), Error> {
    printer.step("A service with a health check: refused at once until a replica serves");
    let register =
        format!("register database --on db --check tcp:{DATABASE_PORT} --check-interval 200ms --no-wait");
    stage.type_in(printer, "h1", &register, Show::All)?;
    let service: ServiceInfo = stage.ask("h3", "service inspect database")?;
    let vip = at(first_v4(&service.vips, "database")?, DATABASE_PORT);
    let shop = stage.namespace("shop")?;
    printer
        .say(&format!("The program in db does not run yet. shop connects to database ({vip}) all the same:"));
    let refused = measure::refusals(&shop, vip, REFUSALS).map_err(|source| Error::Do {
        what: "be refused by the VIP of database",
        place: "shop".to_owned(),
        source,
    })?;
    figures.refusal = Times::of(refused);
    let Times { samples, median_us, p99_us } = figures.refusal;
    let [median, p99] = [median_us, p99_us].map(|micros| time(Duration::from_micros(micros)));
    printer.figure("connection refused", &format!("{samples} of {samples}, median {median}, p99 {p99}"));
    let started = Instant::now();
    stage.start_program("db", DATABASE_PORT)?;
    until_answered(&shop, vip)?;
    let took = started.elapsed();
    figures.first_check_ms = millis(took);
    printer.figure("program started: first answer after", &time(took));
    stage.type_in(printer, "h3", "service ls", Show::All)?;
    Ok(())
}

fn until_answered(client: &Namespace, vip: SocketAddr) -> Result<(), Error> {
    wait("an answer from database", LIMIT, || {
        Ok(bed::ask_tcp(client, vip, TRY_LIMIT).map(drop).map_err(|error: io::Error| error.to_string()))
    })
}
