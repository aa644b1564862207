use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::Attachment;

const MX: Kind = Kind(15);
/// A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR, HTTPS, ANY.
const TWELVE: [u16; 12] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 65, 255];

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn service(name: &str, aliases: &[&str], mode: Mode, vips: &[&str], replicas: &[&str]) -> Arc<Service> {
    let aliases = aliases.iter().map(|alias| (*alias).into()).collect();
    Arc::new(Service { name: name.into(), aliases, mode, vips: ips(vips), replicas: ips(replicas) })
}

fn attachment(name: &str, aliases: &[&str], addresses: &[&str]) -> Arc<Attachment> {
    let aliases = aliases.iter().map(|alias| (*alias).into()).collect();
    Arc::new(Attachment { name: name.into(), aliases, addresses: ips(addresses).into() })
}

fn blue() -> Network {
    let mut blue = Network::new("blue", &["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()]);
    blue.set_service(service(
        "payment-api",
        &["pay"],
        Mode::Vip,
        &["10.1.255.1", "fd00:1::ff01"],
        &["10.1.0.1", "fd00:1::1"],
    ));
    blue.set_service(service("v4", &[], Mode::Vip, &["10.1.255.2"], &["10.1.0.1"]));
    blue.set_service(service("v6", &[], Mode::Vip, &["fd00:1::ff02"], &["fd00:1::1"]));
    blue.set_service(service("empty", &[], Mode::RoundRobin, &[], &[]));
    blue.set_service(service(
        "headless",
        &["hl"],
        Mode::RoundRobin,
        &[],
        &["10.1.0.1", "10.1.0.2", "fd00:1::1"],
    ));
    blue.set_attachment(attachment("web-1", &["web"], &["10.1.0.1", "fd00:1::1"]));
    blue
}

fn green() -> Network {
    let mut green = Network::new("green", &["10.2.0.0/16".parse().unwrap()]);
    green.set_service(service("payment-api", &[], Mode::Vip, &["10.2.255.1"], &["10.2.0.1"]));
    green.set_attachment(attachment("only-green", &[], &["10.2.0.1"]));
    green.set_attachment(attachment("tasks", &[], &["10.2.0.9"]));
    green.set_attachment(attachment("green", &[], &["10.2.0.7"]));
    green
}

fn zone(networks: &[Network]) -> Zone {
    let networks = networks.iter().cloned().map(Arc::new).collect();
    Zone { domain: "svc.internal".into(), networks, forward: true, synced: true, beside: None }
}

fn ask(zone: &Zone, name: &str, kind: Kind) -> Answer {
    let question = Question::from_text(name, kind).unwrap();
    answer(zone, &question, &Ttls::default(), &mut StdRng::seed_from_u64(1))
}

/// TTL and data of an answer in one sorted line, or what else it is.
fn told(answer: Answer) -> String {
    match answer {
        Answer::Records { ttl, data } => {
            let mut texts: Vec<String> = data.into_iter().map(text).collect();
            texts.sort();
            format!("{ttl} {}", texts.join(" "))
        }
        Answer::NoData(soa) => format!("nodata {:?}", soa.owner),
        Answer::NxDomain(soa) => format!("nxdomain {:?}", soa.owner),
        Answer::Forward => "forward".to_owned(),
        Answer::NotYet => "not yet".to_owned(),
    }
}

fn text(data: Data) -> String {
    match data {
        Data::Address(address) => address.to_string(),
        Data::Name(name) => name,
        Data::Soa(soa) => format!("soa {}", soa.domain),
    }
}

#[test]
fn every_row_of_the_contract() {
    let zone = zone(&[blue(), green()]);
    let rows = [
        // A service's plain name, its aliases, its tasks.
        ("payment-api", Kind::A, "60 10.1.255.1"),
        ("payment-api", Kind::AAAA, "60 fd00:1::ff01"),
        ("payment-api", Kind::ANY, "60 10.1.255.1 fd00:1::ff01"),
        ("payment-api", MX, "nodata Question"),
        ("PAYMENT-api.", Kind::A, "60 10.1.255.1"),
        ("pay", Kind::A, "60 10.1.255.1"),
        ("tasks.payment-api", Kind::A, "2 10.1.0.1"),
        ("Tasks.Pay", Kind::AAAA, "2 fd00:1::1"),
        ("headless", Kind::A, "2 10.1.0.1 10.1.0.2"),
        ("hl", Kind::AAAA, "2 fd00:1::1"),
        ("tasks.headless", Kind::ANY, "2 10.1.0.1 10.1.0.2 fd00:1::1"),
        ("empty", Kind::A, "nodata Question"),
        ("tasks.empty", Kind::A, "nodata Question"),
        // Containers.
        ("web-1", Kind::A, "2 10.1.0.1"),
        ("web", Kind::AAAA, "2 fd00:1::1"),
        ("web-1", Kind::SRV, "nodata Question"),
        ("tasks.web-1", Kind::A, "forward"),
        ("only-green", Kind::A, "2 10.2.0.1"),
        ("only-green", Kind::AAAA, "nodata Question"),
        // Said explicitly.
        ("payment-api.green", Kind::A, "60 10.2.255.1"),
        ("payment-api.GREEN.svc.INTERNAL", Kind::A, "60 10.2.255.1"),
        ("payment-api.blue.svc.internal", Kind::A, "60 10.1.255.1"),
        ("tasks.payment-api.green", Kind::A, "2 10.2.0.1"),
        ("tasks.pay.blue.svc.internal", Kind::A, "2 10.1.0.1"),
        ("web.blue.svc.internal", Kind::A, "2 10.1.0.1"),
        ("payment-api.green.svc.internal", Kind::AAAA, "nodata Domain"),
        // `tasks.<service>` before a container called "tasks" on a network called as the service.
        ("tasks.green", Kind::A, "2 10.2.0.9"),
        ("green", Kind::A, "2 10.2.0.7"),
        // Denied: only under our domain.
        ("web-1.green.svc.internal", Kind::A, "nxdomain Domain"),
        ("nobody.blue.svc.internal", Kind::A, "nxdomain Domain"),
        ("payment-api.svc.internal", Kind::A, "nxdomain Domain"),
        ("payment-api.red.svc.internal", Kind::A, "nxdomain Domain"),
        ("a.b.c.blue.svc.internal", Kind::A, "nxdomain Domain"),
        ("tasks.web-1.blue.svc.internal", Kind::A, "nxdomain Domain"),
        ("svc.internal", Kind::A, "nodata Domain"),
        ("svc.internal", Kind::SOA, "2 soa svc.internal"),
        ("blue.svc.internal", Kind::A, "nodata Domain"),
        // Not ours.
        ("nobody", Kind::A, "forward"),
        ("nobody.blue", Kind::A, "forward"),
        ("example.com", Kind::A, "forward"),
        ("notsvc.internal", Kind::A, "forward"),
        ("internal", Kind::A, "forward"),
        ("", Kind(2), "forward"),
        // SRV comes later; its names are ours already.
        ("payment-api", Kind::SRV, "nodata Question"),
        ("_http._tcp.payment-api", Kind::SRV, "nodata Question"),
        ("_http._tcp.payment-api.green.svc.internal", Kind::SRV, "nodata Domain"),
        ("_http._tcp.nobody", Kind::SRV, "forward"),
        ("_http._tcp.tasks.payment-api", Kind::SRV, "nodata Question"),
    ];
    for (name, kind, expected) in rows {
        assert_eq!(told(ask(&zone, name, kind)), expected, "{name} {kind:?}");
    }
}

#[test]
fn addresses_have_names() {
    let zone = zone(&[blue(), green()]);
    let rows = [
        ("1.0.1.10.in-addr.arpa", Kind::PTR, "2 web-1.blue.svc.internal"),
        ("1.255.1.10.IN-ADDR.arpa", Kind::PTR, "60 payment-api.blue.svc.internal"),
        ("1.255.2.10.in-addr.arpa", Kind::PTR, "60 payment-api.green.svc.internal"),
        ("1.255.2.10.in-addr.arpa", Kind::A, "nodata Question"),
        (
            "1.0.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
            Kind::PTR,
            "60 payment-api.blue.svc.internal",
        ),
        // Ours, but nobody's; above and below whole addresses.
        ("77.0.1.10.in-addr.arpa", Kind::PTR, "nxdomain Root"),
        ("0.1.10.in-addr.arpa", Kind::PTR, "nodata Question"),
        ("1.10.in-addr.arpa", Kind(2), "nodata Question"),
        ("x.1.0.1.10.in-addr.arpa", Kind::PTR, "nxdomain Root"),
        ("x.1.10.in-addr.arpa", Kind::PTR, "nxdomain Root"),
        // Not ours.
        ("10.in-addr.arpa", Kind::PTR, "forward"),
        ("1.0.3.10.in-addr.arpa", Kind::PTR, "forward"),
        ("8.8.8.8.in-addr.arpa", Kind::PTR, "forward"),
        ("in-addr.arpa", Kind::PTR, "forward"),
        ("01.0.1.10.in-addr.arpa", Kind::PTR, "nxdomain Root"),
        ("256.0.1.10.in-addr.arpa", Kind::PTR, "nxdomain Root"),
        ("a.ip6.arpa", Kind::PTR, "forward"),
    ];
    for (name, kind, expected) in rows {
        assert_eq!(told(ask(&zone, name, kind)), expected, "{name} {kind:?}");
    }
}

/// P33: twelve types for names with IPv4, with IPv6, with both, with none, and for one that is unknown.
#[test]
fn a_name_of_ours_is_answered_for_every_type() {
    let zone = zone(&[blue()]);
    for number in TWELVE {
        let kind = Kind(number);
        for (name, four, six) in
            [("v4", true, false), ("v6", false, true), ("payment-api", true, true), ("empty", false, false)]
        {
            let expected = (four && kind.wants(Kind::A)) || (six && kind.wants(Kind::AAAA));
            match ask(&zone, name, kind) {
                Answer::Records { data, .. } => assert!(expected && !data.is_empty(), "{name} {number}"),
                Answer::NoData(_) => assert!(!expected, "{name} {number}"),
                other => panic!("{name} {number}: {other:?}"),
            }
        }
        assert_eq!(ask(&zone, "unknown", kind), Answer::Forward);
        assert!(matches!(ask(&zone, "unknown.blue.svc.internal", kind), Answer::NxDomain(_)));
    }
}

/// P08: the same name on two networks, the container on one, the other, both in either order, and none.
#[test]
fn only_attached_networks_answer_and_their_order_decides() {
    let cases = [
        (vec![blue()], "60 10.1.255.1"),
        (vec![green()], "60 10.2.255.1"),
        (vec![blue(), green()], "60 10.1.255.1"),
        (vec![green(), blue()], "60 10.2.255.1"),
        (vec![], "forward"),
    ];
    for (networks, expected) in cases {
        assert_eq!(told(ask(&zone(&networks), "payment-api", Kind::A)), expected);
    }
    let alone = zone(&[blue()]);
    assert_eq!(told(ask(&alone, "payment-api.green", Kind::A)), "forward");
    assert_eq!(told(ask(&alone, "payment-api.green.svc.internal", Kind::A)), "nxdomain Domain");
    assert_eq!(told(ask(&alone, "1.255.2.10.in-addr.arpa", Kind::PTR)), "forward");
}

#[test]
fn a_namespace_of_internal_networks_never_forwards() {
    let mut zone = zone(&[blue()]);
    zone.forward = false;
    for name in ["nobody", "nobody.blue", "example.com", "8.8.8.8.in-addr.arpa"] {
        assert_eq!(told(ask(&zone, name, Kind::A)), "nxdomain Root", "{name}");
    }
    assert_eq!(told(ask(&zone, "payment-api", Kind::A)), "60 10.1.255.1");
}

/// P66.
#[test]
fn before_the_first_sync_nothing_that_may_be_ours_is_denied() {
    let mut zone = zone(&[blue()]);
    zone.synced = false;
    let rows = [
        ("payment-api", "60 10.1.255.1"),
        ("nobody", "not yet"),
        ("tasks.nobody", "not yet"),
        ("_http._tcp.nobody", "not yet"),
        ("nobody.blue", "not yet"),
        ("nobody.blue.svc.internal", "not yet"),
        ("nobody.red.svc.internal", "not yet"),
        ("77.0.1.10.in-addr.arpa", "not yet"),
        ("example.com", "forward"),
        ("8.8.8.8.in-addr.arpa", "forward"),
    ];
    for forward in [true, false] {
        zone.forward = forward;
        for (name, expected) in rows {
            let expected = if expected == "forward" && !forward { "nxdomain Root" } else { expected };
            assert_eq!(told(ask(&zone, name, Kind::A)), expected, "{name}");
        }
    }
}

/// P07: over 1,000 look-ups each of five replicas comes first equally often (chi-square, four degrees, p = 0.001).
#[test]
fn replicas_come_in_uniform_order() {
    let mut network = Network::new("blue", &[]);
    let replicas = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"];
    network.set_service(service("s", &[], Mode::RoundRobin, &[], &replicas));
    let zone = zone(&[network]);
    let mut random = StdRng::seed_from_u64(7);
    for name in ["s", "tasks.s"] {
        let question = Question::from_text(name, Kind::A).unwrap();
        for position in 0..replicas.len() {
            let mut counts = [0_u32; 5];
            for _ in 0..1_000 {
                let Answer::Records { ttl, data } = answer(&zone, &question, &Ttls::default(), &mut random)
                else {
                    panic!("no data")
                };
                assert_eq!((ttl, data.len()), (2, replicas.len()));
                let at = text(data[position].clone());
                counts[replicas.iter().position(|replica| *replica == at).unwrap()] += 1;
            }
            let chi: f64 = counts.iter().map(|count| (f64::from(*count) - 200.0).powi(2) / 200.0).sum();
            assert!(chi < 18.47, "{name}, place {position}: {counts:?}");
        }
    }
}

#[test]
fn more_replicas_than_a_message_holds_are_a_random_part() {
    let replicas = (0..5_000_u32).map(|n| IpAddr::from((0x0a01_0000 + n).to_be_bytes())).collect();
    let service =
        Service { name: "s".into(), aliases: Vec::new(), mode: Mode::RoundRobin, vips: Vec::new(), replicas };
    let mut network = Network::new("blue", &[]);
    network.set_service(Arc::new(service));
    let Answer::Records { data, .. } = ask(&zone(&[network]), "s", Kind::A) else { panic!("no data") };
    assert_eq!(data.len(), ANSWERS_MAX);
}

proptest! {
    /// Any labels at all: never a panic, and nothing but NXDOMAIN is said of what is under our domain and not there.
    #[test]
    fn any_labels(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..8), kind: u16) {
        let zone = zone(&[blue(), green()]);
        let labels = labels.iter().map(Vec::as_slice);
        if let Ok(question) = Question::from_labels(labels, Kind(kind)) {
            answer(&zone, &question, &Ttls::default(), &mut StdRng::seed_from_u64(1));
        }
    }

    /// Case never matters.
    #[test]
    fn any_case(pick in 0_usize..6, mask: u64) {
        let names = ["payment-api", "tasks.pay", "web.blue", "v4.blue.svc.internal", "nobody.svc.internal", "1.0.1.10.in-addr.arpa"];
        let mixed: String = names[pick].chars().enumerate()
            .map(|(index, letter)| if mask >> (index % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter })
            .collect();
        let zone = zone(&[blue()]);
        prop_assert_eq!(ask(&zone, &mixed, Kind::ANY), ask(&zone, names[pick], Kind::ANY));
    }

    /// Reverse names of any address come back as that address.
    #[test]
    fn any_address(octets: [u8; 4], bytes: [u8; 16]) {
        let [a, b, c, d] = octets;
        let four = reverse::parse(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"));
        prop_assert_eq!(four, Some(Reverse::Address(octets.into())));
        let nibbles: Vec<String> =
            bytes.iter().rev().map(|byte| format!("{:x}.{:x}", byte & 15, byte >> 4)).collect();
        let six = reverse::parse(&format!("{}.ip6.arpa", nibbles.join(".")));
        prop_assert_eq!(six, Some(Reverse::Address(bytes.into())));
    }
}
