use super::settings::{changes, check, differences, merged};
use super::{Said, registered_health, remaining};
use crate::api::types::{Settings, Wait};
use crate::catalog::facts::{Check, Health, PortSetting, Probe, Protocol, ServiceMode, ServiceSettings};
use std::time::Duration;

fn port(public: u16, target: u16, protocol: Protocol) -> PortSetting {
    PortSetting { public, target, protocol }
}

fn tcp(port: u16) -> Option<Check> {
    Some(Check { probe: Probe::Tcp { port }, interval_ms: 1_000, timeout_ms: 1_000, failures: 2 })
}

fn standing() -> ServiceSettings {
    ServiceSettings {
        ports: vec![port(80, 8080, Protocol::Tcp)],
        aliases: vec!["pay".parse().unwrap()],
        check: tcp(8080),
        ..ServiceSettings::default()
    }
}

#[test]
fn what_is_not_named_stays() {
    assert_eq!(merged(&standing(), &Settings::default()), standing());
    let typed = Settings { mode: Some(ServiceMode::Dnsrr), ..Settings::default() };
    assert_eq!(merged(&standing(), &typed), ServiceSettings { mode: ServiceMode::Dnsrr, ..standing() });
}

#[test]
fn lists_are_replaced_whole_and_in_order() {
    let ports = vec![port(443, 1, Protocol::Tcp), port(53, 53, Protocol::Udp), port(443, 1, Protocol::Tcp)];
    let typed = Settings { ports: Some(ports), aliases: Some(Vec::new()), ..Settings::default() };
    let merged = merged(&standing(), &typed);
    assert_eq!(merged.ports, [port(53, 53, Protocol::Udp), port(443, 1, Protocol::Tcp)]);
    assert_eq!(merged.aliases, []);
}

#[test]
fn a_check_is_replaced_or_dropped() {
    let typed = Settings { check: tcp(9), ..Settings::default() };
    assert_eq!(merged(&standing(), &typed).check, tcp(9));
    let typed = Settings { no_check: true, ..Settings::default() };
    assert_eq!(merged(&standing(), &typed).check, None);
}

#[test]
fn a_public_port_stands_once_per_protocol() {
    let with =
        |ports: &[PortSetting]| ServiceSettings { ports: ports.to_vec(), ..ServiceSettings::default() };
    let (tcp, udp) = (port(80, 8080, Protocol::Tcp), port(80, 8080, Protocol::Udp));
    assert!(check(&with(&[tcp, udp])).is_ok());
    // In order of (public, target, protocol) the two of TCP are not beside each other.
    let twice = [tcp, udp, port(80, 9090, Protocol::Tcp)];
    assert!(check(&with(&twice)).unwrap_err().message.contains("port 80 is declared twice"));
}

#[test]
fn port_0_is_refused() {
    for ports in [vec![port(0, 80, Protocol::Tcp)], vec![port(80, 0, Protocol::Tcp)]] {
        assert!(check(&ServiceSettings { ports, ..ServiceSettings::default() }).is_err());
    }
    assert!(check(&ServiceSettings { check: tcp(0), ..ServiceSettings::default() }).is_err());
}

#[test]
fn differences_say_what_is_and_what_was_asked() {
    assert_eq!(differences(&standing(), &standing()), Vec::<String>::new());
    let asked = ServiceSettings { mode: ServiceMode::Dnsrr, check: None, ..standing() };
    let differs = differences(&standing(), &asked);
    let check = "check is tcp:8080 every 1s, time-out 1s, 2 failures, asked was none";
    assert_eq!(differs, ["mode is vip, asked was dnsrr", check]);
}

#[test]
fn changes_say_what_was_and_what_is() {
    let ports = vec![port(53, 53, Protocol::Udp), port(80, 8080, Protocol::Tcp)];
    let is = ServiceSettings { ports, aliases: Vec::new(), ..standing() };
    assert_eq!(
        changes(&ServiceSettings { check: None, ..standing() }, &is),
        [
            "ports changed from 80:8080/tcp to 53/udp, 80:8080/tcp",
            "aliases changed from pay to none",
            "check changed from none to tcp:8080 every 1s, time-out 1s, 2 failures",
        ]
    );
    assert_eq!(changes(&is, &is), Vec::<String>::new());
}

#[test]
fn only_a_replica_that_has_not_served_starts_anew() {
    use Health::{Draining, Failing, Serving, Starting};
    let with_check = |before| registered_health(true, before, Said::Nothing);
    assert_eq!(with_check(None), Starting);
    assert_eq!(with_check(Some(Starting)), Starting);
    assert_eq!(with_check(Some(Serving)), Serving);
    // It may have established flows.
    assert_eq!(with_check(Some(Failing)), Failing);
    assert_eq!(with_check(Some(Draining)), Failing);
    for before in [None, Some(Starting), Some(Failing), Some(Draining)] {
        assert_eq!(registered_health(false, before, Said::Nothing), Serving);
    }
    // An engine may have something against it.
    let said = |before, said| registered_health(false, before, Said::Health(said));
    assert_eq!(said(None, Serving), Serving);
    assert_eq!(said(None, Starting), Starting);
    assert_eq!(said(Some(Starting), Failing), Failing);
    assert_eq!(said(Some(Serving), Starting), Failing);
}

#[test]
fn the_rest_of_the_wait_is_at_least_a_look_unless_none_was_asked_for() {
    let wait = Wait { milliseconds: 2_000 };
    assert_eq!(remaining(wait, Duration::from_millis(500)).milliseconds, 1_500);
    assert_eq!(remaining(wait, Duration::from_secs(3)).milliseconds, 1);
    assert_eq!(remaining(Wait { milliseconds: 0 }, Duration::ZERO).milliseconds, 0);
}
