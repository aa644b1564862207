//! What is printed for which settings.
use super::{Protocol, needed, text};
use crate::config::Settings;

fn settings() -> Settings {
    Settings { gossip_port: 1000, vxlan_port: 2000, encrypted_vxlan_port: 3000, ..Settings::default() }
}

#[test]
fn every_port_of_the_settings_is_there_once() {
    let openings: Vec<_> =
        needed(&settings()).iter().map(|opening| (opening.protocol, opening.port)).collect();
    let expected = [
        (Protocol::Udp, Some(1000)),
        (Protocol::Tcp, Some(1000)),
        (Protocol::Udp, Some(2000)),
        (Protocol::Udp, Some(3000)),
        (Protocol::Esp, None),
    ];
    assert_eq!(openings, expected);
}

#[test]
fn all_three_forms_are_printed() {
    let text = text(&settings());
    for line in [
        "  TCP 1000        cluster: large messages and claims",
        "  IP protocol 50  encryption of encrypted networks (ESP); only for encrypted networks",
        "  firewall-cmd --permanent --add-port=2000/udp",
        "  firewall-cmd --permanent --add-protocol=esp",
        "  ufw allow proto udp from 192.0.2.0/24 to any port 3000",
        "  ufw allow proto esp from 192.0.2.0/24",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn json_names_protocol_and_number() {
    let json = serde_json::to_value(needed(&settings())).unwrap();
    assert_eq!(json[0]["protocol"], "udp");
    assert_eq!(json[4]["protocol_number"], 50);
    assert_eq!(json[4]["port"], serde_json::Value::Null);
    assert_eq!(json[4]["encrypted_only"], true);
}
