//! What the words of the command line mean, and what is said of those that mean nothing.
use super::*;
use crate::catalog::facts::{PortSetting, Probe, Protocol};

#[test]
fn ports() {
    let good = [
        ("80", (80, 80, Protocol::Tcp)),
        ("80:8080", (80, 8080, Protocol::Tcp)),
        ("53/udp", (53, 53, Protocol::Udp)),
        ("1:65535/sctp", (1, 65_535, Protocol::Sctp)),
    ];
    for (text, (public, target, protocol)) in good {
        assert_eq!(port(text), Ok(PortSetting { public, target, protocol }), "{text}");
    }
    let bad = [
        ("70000", "port 70000 is above 65535"),
        ("80:65536", "port 65536 is above 65535"),
        ("99999999999999999999", "port 99999999999999999999 is above 65535"),
        ("0", "port 0 stands for no port"),
        ("http", "\"http\" is no port number"),
        ("-1", "\"-1\" is no port number"),
        ("+80", "\"+80\" is no port number"),
        ("", "\"\" is no port number"),
        ("80:", "\"\" is no port number"),
        ("80:81:82", "\"81:82\" is no port number"),
        ("80/icmp", "protocol \"icmp\" is not one of tcp, udp and sctp"),
        ("80/", "protocol \"\" is not one of tcp, udp and sctp"),
    ];
    for (text, what) in bad {
        assert_eq!(
            port(text),
            Err(format!("{what}; write [PUBLIC:]TARGET[/PROTO], such as 80, 80:8080 or 53/udp"))
        );
    }
}

#[test]
fn probes() {
    let http = |port, path: &str| Probe::Http { port, path: path.to_owned() };
    let good = [
        ("tcp:8080", Probe::Tcp { port: 8080 }),
        ("http://:80", http(80, "/")),
        ("http://:8080/", http(8080, "/")),
        ("http://:8080/healthz?full=1", http(8080, "/healthz?full=1")),
    ];
    for (text, expected) in good {
        assert_eq!(probe(text), Ok(expected), "{text}");
    }
    let bad = [
        ("tcp:70000", "port 70000 is above 65535"),
        ("tcp:", "\"\" is no port number"),
        ("8080", "\"8080\" is no check"),
        ("https://:443/", "\"https://:443/\" is no check"),
        ("http://localhost:80/", "a check is run inside the replica's namespace and names no host"),
        ("http://:/", "\"\" is no port number"),
        ("http://:80/a b", "the path is longer than 1024 bytes or has a character that must be encoded"),
        (
            "http://:80/a\r\nX: y",
            "the path is longer than 1024 bytes or has a character that must be encoded",
        ),
        ("http://:80/ü", "the path is longer than 1024 bytes or has a character that must be encoded"),
    ];
    for (text, what) in bad {
        let form = "write tcp:PORT or http://:PORT/PATH, such as tcp:8080 or http://:8080/healthz";
        assert_eq!(probe(text), Err(format!("{what}; {form}")), "{text}");
    }
    assert!(probe(&format!("http://:80/{}", "a".repeat(1_024))).is_err());
}

#[test]
fn subnets_and_addresses() {
    for text in ["10.128.4.0/22", "fd00:1::/64", "0.0.0.0/0"] {
        assert_eq!(subnet(text).unwrap().to_string(), text);
    }
    let form = "write for example 10.128.4.0/22 or fd00:1::/64";
    let bad = [
        ("10.128.4.0", format!("\"10.128.4.0\" has no prefix length; {form}")),
        ("10.128.4.0/33", format!("\"10.128.4.0/33\" is no subnet; {form}")),
        ("10.128.4.256/24", format!("\"10.128.4.256/24\" is no subnet; {form}")),
        ("", format!("\"\" is no subnet; {form}")),
        (
            "10.128.4.7/24",
            "10.128.4.7/24 has bits set behind its prefix; write 10.128.4.0/24 if that is meant".to_owned(),
        ),
    ];
    for (text, message) in bad {
        assert_eq!(subnet(text), Err(message), "{text}");
    }
    assert_eq!(address("fd00::9").unwrap().to_string(), "fd00::9");
    assert_eq!(
        address("10.0.0.300").unwrap_err(),
        "\"10.0.0.300\" is no IP address; write for example 10.128.4.9"
    );
}

#[test]
fn mac_addresses() {
    assert_eq!(mac("02:42:0A:80:04:09").unwrap(), "02:42:0a:80:04:09");
    let form = "write six octets such as 02:42:0a:80:04:09";
    for text in [
        "02:42:0a:80:04",
        "02:42:0a:80:04:09:01",
        "2:42:0a:80:04:09",
        "02-42-0a-80-04-09",
        "+2:42:0a:80:04:09",
        "",
    ] {
        assert_eq!(mac(text), Err(format!("\"{text}\" is no MAC address; {form}")));
    }
    assert!(mac("ff:ff:ff:ff:ff:ff").unwrap_err().contains("is a group's MAC address"));
    assert!(mac("00:00:00:00:00:00").unwrap_err().contains("stands for no address"));
}

#[test]
fn numbers_with_bounds() {
    assert_eq!((vni("1"), vni("16777215")), (Ok(1), Ok(16_777_215)));
    for text in ["0", "16777216", "-1", "x", "99999999999"] {
        let message = format!("\"{text}\" is no VXLAN network identifier; use a number from 1 to 16777215");
        assert_eq!(vni(text), Err(message));
    }
    assert_eq!((mtu("576"), mtu("65535")), (Ok(576), Ok(65_535)));
    for text in ["575", "65536", ""] {
        let message =
            format!("\"{text}\" is no MTU; use a number from 576 to 65535, and 1280 or more for IPv6");
        assert_eq!(mtu(text), Err(message));
    }
}

#[test]
fn namespaces() {
    assert_eq!(netns("host").unwrap(), "host");
    assert_eq!(netns("web").unwrap(), "web");
    assert_eq!(netns("/proc/1/ns/net").unwrap(), "/proc/1/ns/net");
    let here = std::env::current_dir().unwrap();
    assert_eq!(netns("./ns/web").unwrap(), here.join("ns/web").to_str().unwrap());
    for text in ["", ".", ".."] {
        assert!(netns(text).unwrap_err().starts_with("it is no namespace; write a path"), "{text}");
    }
}

#[test]
fn names_and_types_to_look_up() {
    for text in
        ["payment-api", "tasks.payment-api.payment.svc.internal.", "_http._tcp.payment-api", "xn--bcher-kva"]
    {
        assert_eq!(query_name(text).unwrap(), text);
    }
    for text in ["", ".", "a..b", "a b", "bücher", &"a".repeat(64), &"abc.".repeat(64)] {
        assert!(query_name(text).unwrap_err().contains("is no name"), "{text}");
    }
    assert_eq!(record_type("aaaa").unwrap(), "AAAA");
    assert!(record_type("A B").is_err());
    assert!(record_type("").is_err());
}

#[test]
fn times() {
    let message = |result: Result<Duration, Wrong>| result.map_err(|wrong| wrong.to_string());
    assert_eq!(message(check_interval("500ms")), Ok(Duration::from_millis(500)));
    assert_eq!(message(check_interval("1.5s")), Ok(Duration::from_millis(1_500)));
    let form = "write a time from 100ms to 3600s with its unit, such as 500ms, 2s or 1m";
    assert_eq!(message(check_interval("99ms")), Err(format!("99ms is too short; {form}")));
    assert_eq!(message(check_interval("2h")), Err(format!("2h is too long; {form}")));
    assert_eq!(message(check_interval("5")), Err(format!("\"5\" is no time; {form}")));
    assert_eq!(message(check_interval("-5s")), Err(format!("\"-5s\" is no time; {form}")));
    assert!(check_timeout("9ms").is_err());
    assert!(timeout("99999999999999999999s").is_err());
}
