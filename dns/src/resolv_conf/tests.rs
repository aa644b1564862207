use proptest::prelude::*;

use super::*;

/// On a host with one interface.
fn parse(text: &str) -> Upstreams {
    parse_resolv_conf(text, &|link| (link == "eth0").then_some(2))
}

fn servers(text: &str) -> Vec<String> {
    parse(text).servers.iter().map(ToString::to_string).collect()
}

#[test]
fn a_usual_file() {
    let text = "# by hand\n; also\nnameserver 127.0.0.53\nnameserver 2001:db8::1 # second\n\
                search Corp.Example.com. example.com\noptions edns0 trust-ad timeout:2\n";
    let upstreams = parse(text);
    assert_eq!(servers(text), ["127.0.0.53:53", "[2001:db8::1]:53"]);
    assert_eq!(upstreams.search, ["corp.example.com", "example.com"]);
    assert_eq!(upstreams.options, ["edns0", "trust-ad", "timeout:2"]);
    assert!(upstreams.ignored.is_empty());
}

#[test]
fn odd_lines() {
    let rows: [(&str, &[&str]); 12] = [
        ("", &[]),
        ("\n\n", &[]),
        ("nameserver\n", &[]),
        ("nameserver 192.0.2.1\r\nnameserver 192.0.2.2\r\n", &["192.0.2.1:53", "192.0.2.2:53"]),
        ("nameserver fe80::1%eth0\nnameserver 192.0.2.1", &["[fe80::1%2]:53", "192.0.2.1:53"]),
        ("nameserver fe80::1%wg0\nnameserver fe80::2%3\nnameserver fe80::3", &["[fe80::2%3]:53"]),
        ("nameserver 0.0.0.0\nnameserver ::", &["127.0.0.1:53", "[::1]:53"]),
        ("nameserver 127.0.0.11\nnameserver ::ffff:127.0.0.11", &[]),
        ("nameserver one.example\nnameserver 1.2.3\nnameserver 0x7f.1", &[]),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1", &["192.0.2.1:53"]),
        ("\tnameserver\t192.0.2.1 192.0.2.2", &["192.0.2.1:53"]),
        ("#nameserver 192.0.2.1\nNAMESERVER 192.0.2.1\n\u{0}\u{feff}garbage \u{7}", &[]),
    ];
    for (text, expected) in rows {
        assert_eq!(servers(text), expected, "{text:?}");
    }
    assert_eq!(
        parse("nameserver fe80::1%wg0\nnameserver ff02::1%eth0").ignored,
        ["fe80::1%wg0", "ff02::1%eth0"]
    );
    assert_eq!(parse("nameserver 127.0.0.11").ignored, ["127.0.0.11"]);
    assert_eq!(parse("search a b\ndomain c d\n").search, ["c"]);
    assert!(parse("search .\n").search.is_empty());
}

#[test]
fn what_a_namespace_gets() {
    let host = parse("nameserver 127.0.0.53\nsearch corp.example\noptions edns0 trust-ad\n");
    assert_eq!(
        render_resolv_conf(&["blue", "green"], "svc.internal", &host),
        "# Written by svc-agent.\nnameserver 127.0.0.11\n\
         search blue.svc.internal green.svc.internal svc.internal corp.example\noptions ndots:1 edns0\n"
    );
    let own = parse("options ndots:5");
    assert!(render_resolv_conf(&["blue"], "svc.internal", &own).ends_with("\noptions ndots:5\n"));
    let bare = render_resolv_conf(&[], "svc.internal", &Upstreams::default());
    assert!(bare.contains("\nsearch svc.internal\n"));
}

#[test]
fn search_lists_stay_within_what_libraries_read() {
    let networks: Vec<String> = (0..20).map(|n| format!("network-{n}")).collect();
    let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    let host = Upstreams { search: vec!["x".repeat(200)], ..Upstreams::default() };
    for count in [1, 2, 5, 20] {
        let text = render_resolv_conf(&networks[..count], "svc.internal", &host);
        let line = text.lines().find(|line| line.starts_with("search ")).unwrap();
        assert!(line.len() <= 255 + "search ".len() && line.split(' ').count() <= 7, "{line}");
        assert!(line.split(' ').any(|name| name == "svc.internal"), "{line}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_and_what_is_rendered_reads_back(text in "\\PC*|(nameserver|search|options|domain|[ \t\r\n.:%#;a-f0-9])*") {
        let host = parse(&text);
        let rendered = render_resolv_conf(&["blue"], "svc.internal", &host);
        let again = parse(&rendered);
        prop_assert!(again.servers.is_empty() && again.ignored == ["127.0.0.11"]);
        prop_assert_eq!(&again.search[..2], &["blue.svc.internal".to_owned(), "svc.internal".to_owned()]);
    }
}
