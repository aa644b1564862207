//! Verbs that change something.
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{routes, types, words};
use crate::catalog::facts::{Check, PortSetting};
use crate::cli::args::{self, SettingArguments};
use crate::cli::console::Ending;
use crate::cli::session::Session;
use crate::cli::{Exit, show};
use crate::model::Name;

pub(super) async fn network_create(create: args::Create, session: &mut Session<'_>) -> Result<Exit, Ending> {
    for (index, subnet) in create.subnets.iter().enumerate() {
        if let Some(other) = create.subnets[..index].iter().find(|other| other.is_ipv4() == subnet.is_ipv4())
        {
            let family = if subnet.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(usage(
                format!("--subnet {other} and --subnet {subnet}: a network has at most one {family} subnet"),
                "leave one of them out, or create two networks",
            ));
        }
    }
    let wait = session.wait(create.waiting, None);
    let body = types::NetworkCreate {
        name: create.name.to_string(),
        subnets: create.subnets,
        six: match (create.ipv6, create.ipv6_only) {
            (_, true) => types::DefaultSix::Only,
            (true, false) => types::DefaultSix::Beside,
            (false, false) => types::DefaultSix::None,
        },
        encrypted: create.encrypted,
        internal: create.internal,
        mtu: create.mtu,
        vni: create.vni,
        wait,
    };
    session.change(routes::NETWORKS, &body, wait, quiet).await
}

pub(super) async fn attach(attach: args::Attach, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let wait = session.wait(attach.waiting, None);
    let body = types::Attach {
        name: attach.name.to_string(),
        network: text(&attach.network),
        place: attach.place.place().unwrap_or(types::Place::Caller),
        ip: attach.ip,
        mac: attach.mac,
        aliases: attach.aliases.iter().map(Name::to_string).collect(),
        default_route: attach.default_route,
        wait,
    };
    session.change(routes::ATTACHMENTS, &body, wait, show::attached).await
}

pub(super) async fn detach(detach: args::Detach, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let wait = session.wait(detach.waiting, None);
    let body = types::Detach { name: detach.name.to_string(), network: text(&detach.network), wait };
    session.change(routes::DETACH, &body, wait, quiet).await
}

pub(super) async fn register(register: args::Register, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let wait = session.wait(register.waiting, None);
    let body = types::Register {
        service: register.service.to_string(),
        network: text(&register.network),
        on: text(&register.on),
        place: register.place.place(),
        weight: register.weight,
        settings: settings(register.settings)?,
        wait,
    };
    session.change(routes::SERVICES, &body, wait, show::registered).await
}

pub(super) async fn deregister(
    deregister: args::Deregister,
    session: &mut Session<'_>,
) -> Result<Exit, Ending> {
    let wait = session.wait(deregister.waiting, None);
    let body = types::Deregister {
        service: deregister.service.to_string(),
        network: text(&deregister.network),
        on: text(&deregister.on),
        wait,
    };
    session.change(routes::DEREGISTER, &body, wait, quiet).await
}

pub(super) async fn service_set(set: args::Set, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let mut settings = settings(set.settings)?;
    if set.no_ports {
        settings.ports = Some(Vec::new());
    }
    if set.no_aliases {
        settings.aliases = Some(Vec::new());
    }
    settings.no_check = set.no_check;
    if settings == types::Settings::default() {
        return Err(usage(
            "no setting was given".to_owned(),
            "see which there are with svc-agent service set --help",
        ));
    }
    let wait = session.wait(set.waiting, None);
    let body =
        types::ServiceSet { service: set.service.to_string(), network: text(&set.network), settings, wait };
    session.change(routes::SERVICE, &body, wait, show::registered).await
}

pub(super) async fn drain(drain: args::Drain, session: &mut Session<'_>) -> Result<Exit, Ending> {
    let wait = session.wait(drain.waiting, drain.wait);
    let body = types::Drain {
        service: drain.service.to_string(),
        network: text(&drain.network),
        on: drain.on.to_string(),
        wait,
    };
    session.change(routes::DRAIN, &body, wait, quiet).await
}

pub(super) async fn leave(session: &mut Session<'_>) -> Result<Exit, Ending> {
    let client = session.client.with_timeout(session.leave_timeout());
    let value: Value = session.progress("removing", client.post(routes::LEAVE, &json!({}))).await?;
    session.print(routes::LEAVE, value, show::left)
}

/// Settings as they were typed.
pub(super) fn settings(typed: SettingArguments) -> Result<types::Settings, Ending> {
    refuse_equal_ports(&typed.ports)?;
    let milliseconds = |time: Option<Duration>, default: u64| {
        time.map_or(default, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    let check = typed.check.map(words::default_check).map(|check| Check {
        interval_ms: milliseconds(typed.check_interval, check.interval_ms),
        timeout_ms: milliseconds(typed.check_timeout, check.timeout_ms),
        failures: typed.check_failures.unwrap_or(check.failures),
        ..check
    });
    Ok(types::Settings {
        ports: Some(typed.ports).filter(|ports| !ports.is_empty()),
        aliases: Some(typed.aliases).filter(|aliases| !aliases.is_empty()),
        mode: typed.mode,
        balance: typed.lb,
        check,
        no_check: false,
    })
}

fn refuse_equal_ports(ports: &[PortSetting]) -> Result<(), Ending> {
    for (index, port) in ports.iter().enumerate() {
        let same = |other: &&PortSetting| other.public == port.public && other.protocol == port.protocol;
        if ports[..index].iter().any(|other| same(&other)) {
            return Err(usage(
                format!("--port: public port {} is given twice for one protocol", port.public),
                "a public port has one target; leave one of them out",
            ));
        }
    }
    Ok(())
}

fn usage(message: String, hint: &str) -> Ending {
    Ending::from(types::Failure { kind: types::FailureKind::Usage, message, hints: vec![hint.to_owned()] })
}

fn text(name: &Option<Name>) -> Option<String> {
    name.as_ref().map(Name::to_string)
}

fn quiet(_: &Value) -> String {
    String::new()
}
