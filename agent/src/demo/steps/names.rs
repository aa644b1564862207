//! What a container sees.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{PORT, address_of, at};
use crate::bed;
use crate::demo::chart::{columns, time};
use crate::demo::error::Error;
use crate::demo::figures::{Figures, micros};
use crate::demo::lookup::look_up as ask;
use crate::demo::measure;
use crate::demo::printer::Printer;
use crate::demo::stage::{Show, Stage};

const NAMES: [(&str, &str); 6] = [
    ("shop", "payment-api"),
    ("shop", "payment-api.payment.svc.internal"),
    ("shop", "tasks.payment-api"),
    ("shop", "pay3"),
    ("pay4", "shop"),
    ("spy", "payment-api.payment.svc.internal"),
];
const LIMIT: Duration = Duration::from_secs(2);
/// A path that does not exist is known as such after that long.
const SPY_LIMIT: Duration = Duration::from_millis(300);

/// Asks the resolver of several containers, each from inside.
pub(super) fn look_up(stage: &Stage, printer: &mut Printer, vip: Ipv4Addr) -> Result<(), Error> {
    printer.step("Names, asked of 127.0.0.11 inside the containers");
    let mut rows = vec![["CONTAINER", "NAME", "ANSWER"].map(str::to_owned).to_vec()];
    for (container, name) in NAMES {
        let reply = ask(&stage.namespace(container)?, name);
        let reply = reply.map_err(|source| Error::Do {
            what: "look up a name",
            place: container.to_owned(),
            source,
        })?;
        if name == "payment-api" && reply.addresses != [vip] {
            let (what, source) = ("resolve payment-api to its VIP", io::Error::other(reply.show()));
            return Err(Error::Do { what, place: container.to_owned(), source });
        }
        rows.push(vec![container.to_owned(), name.to_owned(), reply.show()]);
    }
    printer.output(&columns(&rows));
    printer.say("The operator can ask the same resolver from outside:");
    stage.type_in(printer, "h3", "resolve payment-api --on shop", Show::All)?;
    Ok(())
}

/// Ping, TCP and UDP through the VIP; and what a container of another network gets.
pub(super) fn greet(
    stage: &Stage,
    printer: &mut Printer,
    figures: &mut Figures,
    vip: Ipv4Addr,
) -> Result<(), Error> {
    printer.step(&format!("From shop on h3 to the virtual IP {vip}"));
    let shop = stage.namespace("shop")?;
    let failed = |what| move |source| Error::Do { what, place: "shop".to_owned(), source };
    let ping = measure::ping(&shop, vip).map_err(failed("ping the VIP"))?;
    figures.ping_us = micros(ping);
    printer.figure("ICMP echo", &format!("answered by {vip} in {}", time(ping)));
    let own = address_of(stage, "shop")?;
    let tcp = bed::ask_tcp(&shop, at(vip, PORT), LIMIT).map_err(failed("connect to the VIP"))?;
    let udp = bed::ask_udp(&shop, at(vip, PORT), LIMIT).map_err(failed("send to the VIP"))?;
    for (protocol, answer) in [("TCP", tcp), ("UDP", udp)] {
        let same = if answer.seen_as.ip() == own { ", shop's own address" } else { "" };
        printer.figure(
            &format!("{protocol} port {PORT}"),
            &format!("answered by {}, which sees the client as {}{same}", answer.name, answer.seen_as.ip()),
        );
    }
    let spy = stage.namespace("spy")?;
    for (what, address) in [("payment-api", vip), ("pay1", address_of(stage, "pay1")?)] {
        let outcome = reach(&spy, at(address, PORT));
        printer.figure(&format!("spy, on network lab, to {what}"), &outcome);
        if outcome.starts_with("answered") {
            let source = io::Error::other(outcome);
            return Err(Error::Do { what: "keep networks apart", place: "spy".to_owned(), source });
        }
    }
    Ok(())
}

fn reach(client: &crate::netns::Namespace, to: SocketAddr) -> String {
    match bed::ask_tcp(client, to, SPY_LIMIT) {
        Ok(answer) => format!("answered by {}", answer.name),
        Err(error) => format!("no way there ({})", error.kind()),
    }
}
