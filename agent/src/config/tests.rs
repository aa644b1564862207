//! Precedence, mistakes, and the sample.
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::load::misspelt_variables;
use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The mistakes of a file, its path replaced by FILE.
fn mistakes(text: &str) -> Vec<String> {
    let file = file(text);
    let errors = Settings::load(Some(file.path()), &nothing, &Flags::default()).unwrap_err();
    let path = file.path().to_str().unwrap();
    errors.to_string().lines().map(|line| line.replace(path, "FILE")).collect()
}

#[test]
fn file_is_weaker_than_environment_is_weaker_than_flag() {
    let file = file(
        "gossip-port = 1001\nvxlan-port = 1002\nlog = \"warn\"\nupstream = [\"192.0.2.1\", \"[2001:db8::1]:54\"]\n",
    );
    let environment: BTreeMap<&str, &str> =
        [("SVC_AGENT_VXLAN_PORT", "2002"), ("SVC_AGENT_LOG", "debug")].into_iter().collect();
    let mut flags = Flags::default();
    flags.set("log", "trace");
    let read = |name: &str| environment.get(name).map(|text| (*text).to_owned());
    let loaded = load(Some(file.path()), &read, &flags).unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.gossip_port, settings.vxlan_port, settings.log.as_str()), (1001, 2002, "trace"));
    assert_eq!(settings.upstream, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:54".parse().unwrap()]);
    let origins: BTreeMap<&str, String> =
        loaded.origins.iter().map(|(key, origin)| (*key, origin.to_string())).collect();
    assert_eq!(origins["gossip-port"], format!("{}: gossip-port", file.path().display()));
    assert_eq!(origins["vxlan-port"], "environment variable SVC_AGENT_VXLAN_PORT");
    assert_eq!(origins["log"], "flag --log");
    assert_eq!(origins["domain"], "default");
}

#[test]
fn defaults_are_those_of_the_design() {
    let settings = Settings::load(None, &nothing, &Flags::default()).unwrap();
    assert_eq!(settings, Settings::default());
    assert!(!settings.node.is_empty());
    let table: BTreeMap<&str, String> = settings.table().into_iter().collect();
    let expected = [
        ("key-file", "\"/etc/svc-agent/cluster.key\""),
        ("state-dir", "\"/var/lib/svc-agent\""),
        ("socket", "\"/run/svc-agent/agent.sock\""),
        ("holder-socket", "\"/run/svc-agent/hold.sock\""),
        ("metrics", "\"127.0.0.1:9472\""),
        ("gossip-port", "7946"),
        ("vxlan-port", "4789"),
        ("encrypted-vxlan-port", "14789"),
        ("store", "\"gossip\""),
        ("engine", "[\"/run/docker.sock\", \"/run/podman/podman.sock\"]"),
        ("upstream", "[]"),
        ("forward-limit", "1024"),
        ("serve-stale", "\"0s\""),
        ("domain", "\"svc.internal\""),
        ("pool", "\"10.128.0.0/9\""),
        ("link-pool", "\"169.254.240.0/20\""),
        ("ttl-vip", "\"60s\""),
        ("ttl-movable", "\"2s\""),
        ("ttl-negative", "\"2s\""),
        ("track", "\"balanced\""),
        ("probes", "\"on\""),
        ("log", "\"info\""),
        ("log-format", "\"text\""),
        ("failure-after", "\"3.5s\""),
    ];
    for (key, value) in expected {
        assert_eq!(table[key], value, "{key}");
    }
}

#[test]
fn the_sample_is_the_defaults() {
    let sample = sample();
    let set: String = sample
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(set.lines().count(), SETTINGS.len());
    let file_of_defaults = file(&set);
    let loaded = Settings::load(Some(file_of_defaults.path()), &nothing, &Flags::default()).unwrap();
    assert_eq!(loaded, Settings::default());
    let untouched = file(&sample);
    assert_eq!(
        Settings::load(Some(untouched.path()), &nothing, &Flags::default()).unwrap(),
        Settings::default()
    );
    for setting in SETTINGS {
        assert!(sample.contains(&format!("\n#{} = ", setting.key)), "{}", setting.key);
        assert!(sample.contains(setting.doc[0].trim()), "{}", setting.key);
    }
}

#[test]
fn settings_in_force_can_be_written_back() {
    let text = "advertise = \"eth1\"\nupstream = [\"192.0.2.1\", \"192.0.2.2:54\"]\nmetrics = \"\"\nfailure-after = \"1m 30s\"\n";
    let first = Settings::load(Some(file(text).path()), &nothing, &Flags::default()).unwrap();
    let written: String =
        first.table().into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let second = Settings::load(Some(file(&written).path()), &nothing, &Flags::default()).unwrap();
    assert_eq!(first, second);
    assert_eq!((first.metrics, first.failure_after), (None, Duration::from_secs(90)));
}

#[test]
fn all_mistakes_are_named_at_once() {
    let found = mistakes(
        "gosip-port = 7946\nvxlan-port = 70000\nstore = \"etcd://10.0.0.1:2379\"\nlog = \"inof\"\n\
         ttl-vip = \"1.5s\"\npool = \"10.1.2.3/9\"\ninit = true\nmetrics = true\nstate-dir = \"lib\"\n",
    );
    let expected = [
        "FILE: gosip-port: there is no such setting; did you mean gossip-port?",
        "FILE: init: there is no such setting; use the flag --init of `svc-agent run`: it matters only until this host has joined",
        "FILE: metrics: it has the wrong type, boolean; write for example metrics = \"127.0.0.1:9472\"",
        "FILE: state-dir: \"lib\" is no absolute path; write a path that begins with /",
        "FILE: vxlan-port: port 70000 is above 65535; use a port from 1 to 65535",
        "FILE: store: this version keeps no state in etcd: its only store is gossip between the hosts; write gossip, or leave it out",
        "FILE: pool: 10.1.2.3/9 has bits set behind its prefix; write 10.0.0.0/9 if that is meant",
        "FILE: ttl-vip: 1.5s is no whole number of seconds; write for example 2s",
        "FILE: log: \"inof\" is no level; did you mean info?",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_mistake_that_a_stronger_source_hides_is_named() {
    let file = file("gossip-port = 0\n");
    let mut flags = Flags::default();
    flags.set("gossip-port", "7947");
    flags.set("domain", "a_b");
    let read = |name: &str| (name == "SVC_AGENT_TTL_VIP").then(|| "2 days".to_owned());
    let ConfigErrors(errors) = Settings::load(Some(file.path()), &read, &flags).unwrap_err();
    let origins: Vec<String> = errors.iter().map(|error| error.origin.to_string()).collect();
    let gossip_port = format!("{}: gossip-port", file.path().display());
    assert_eq!(origins, [gossip_port.as_str(), "flag --domain", "environment variable SVC_AGENT_TTL_VIP"]);
}

#[test]
fn settings_that_clash() {
    let cases = [
        (
            "vxlan-port = 14789",
            "FILE: vxlan-port: vxlan-port and encrypted-vxlan-port are both 14789; give each its own UDP port",
        ),
        (
            "pool = \"169.254.0.0/16\"",
            "FILE: pool: link-pool 169.254.240.0/20 overlaps pool 169.254.0.0/16; choose ranges that do not overlap",
        ),
        (
            "socket = \"/run/x\"\nholder-socket = \"/run/x\"",
            "FILE: holder-socket: socket and holder-socket are both /run/x; give each its own path",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(text), [expected]);
    }
}

#[test]
fn bad_values_one_by_one() {
    let cases = [
        ("node = \"a b\"", "\"a b\" is no host name"),
        (
            "advertise = \"127.0.0.1\"",
            "127.0.0.1 is a loopback address, where no other host reaches this one",
        ),
        ("advertise = \"an-interface-too-long\"", "is neither an address nor an interface's name"),
        ("metrics = \"9472\"", "\"9472\" is no address with a port"),
        ("metrics = \"127.0.0.1:0\"", "is no address with a port"),
        ("gossip-port = 0", "port 0 stands for no port"),
        ("gossip-port = -1", "\"-1\" is no port number"),
        ("gossip-port = [1]", "it has the wrong type, array"),
        ("store = \"consul\"", "\"consul\" is no store"),
        ("engine = [\"docker.sock\"]", "\"docker.sock\" is no absolute path"),
        ("upstream = [\"dns.example\"]", "\"dns.example\" is no address of a name server"),
        ("upstream = [\"0.0.0.0\"]", "\"0.0.0.0\" is no address of a name server"),
        ("upstream = [53]", "it has the wrong type, array"),
        ("forward-limit = 0", "\"0\" is no count of look-ups"),
        ("serve-stale = \"1.5s\"", "1.5s is no whole number of seconds"),
        ("domain = \"\"", "\"\" is no domain"),
        ("domain = \"a..b\"", "\"a..b\" is no domain"),
        ("pool = \"fd00::/64\"", "\"fd00::/64\" is no IPv4 range"),
        ("pool = \"10.0.0.0\"", "\"10.0.0.0\" is no IPv4 range"),
        ("pool = \"10.0.0.0/30\"", "10.0.0.0/30 is too small"),
        ("pool = \"127.0.0.0/8\"", "127.0.0.0/8 holds no addresses that hosts may have"),
        ("ttl-vip = \"2 days\"", "2 days is too long"),
        ("ttl-vip = 60", "\"60\" is no time"),
        ("failure-after = \"10ms\"", "10ms is too short"),
        ("log = \"info,agent=loud\"", "\"info,agent=loud\" is no filter"),
        ("track = \"none\"", "\"none\" does not say which flows to track"),
        ("probes = \"yes\"", "\"yes\" is neither on nor off"),
        ("log-format = \"xml\"", "\"xml\" is no log format"),
        ("[gossip]\nport = 1", "there is no such setting"),
    ];
    for (text, expected) in cases {
        let found = mistakes(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
}

#[test]
fn a_file_that_is_none() {
    let found = mistakes("# comment\ngossip-port 7946\n");
    assert!(found[0].starts_with("FILE: line 2 is no TOML: "), "{found:?}");
    let found = mistakes("log = \"info\"\nlog = \"warn\"\n");
    assert!(found[0].contains("line 2 is no TOML: duplicate key"), "{found:?}");
    let missing = Settings::load(Some(&PathBuf::from("/nowhere/config.toml")), &nothing, &Flags::default());
    let message = missing.unwrap_err().to_string();
    assert!(message.starts_with("/nowhere/config.toml: it cannot be read: No such file"), "{message}");
    let directory = Settings::load(Some(&PathBuf::from("/")), &nothing, &Flags::default()).unwrap_err();
    assert!(directory.to_string().contains("it is no file"), "{directory}");
}

#[test]
fn misspelt_variables_are_named_and_foreign_ones_left_alone() {
    let names = ["SVC_AGENT_GOSIP_PORT", "SVC_AGENT_LOG", "SVC_AGENT_CONFIG", "SVC_AGENT_DEMO_STEP", "PATH"];
    let found = misspelt_variables(names.into_iter().map(str::to_owned));
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "environment variable SVC_AGENT_GOSIP_PORT: there is no such setting; did you mean SVC_AGENT_GOSSIP_PORT?"
    );
}

#[test]
fn what_a_reread_changes() {
    let old = Settings::default();
    let mut flags = Flags::default();
    for (key, text) in
        [("log", "debug"), ("upstream", "192.0.2.1"), ("ttl-vip", "5s"), ("gossip-port", "7947")]
    {
        flags.set(key, text);
    }
    let new = Settings::load(None, &nothing, &flags).unwrap();
    let changed = changes(&old, &new);
    assert_eq!(changed.reloadable, ["upstream"]);
    assert_eq!(changed.needs_restart, ["gossip-port", "ttl-vip", "log"]);
    let in_force = old.reloaded(&new);
    assert_eq!((in_force.upstream.len(), in_force.gossip_port), (1, 7946));
    assert_eq!(changes(&in_force, &new).reloadable, Vec::<&str>::new());
    assert_eq!(changes(&old, &old), Changes::default());
    let reloadable: Vec<&str> =
        SETTINGS.iter().filter(|setting| setting.reloadable).map(|setting| setting.key).collect();
    assert_eq!(reloadable, ["engine", "upstream"]);
}

#[test]
fn join_addresses() {
    let cases = [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:7946", "192.0.2.1", Some(7946)),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]:7946", "2001:db8::1", Some(7946)),
        ("host1.example:7946", "host1.example", Some(7946)),
    ];
    for (text, host, port) in cases {
        let address: JoinAddress = text.parse().unwrap();
        assert_eq!((address.host.as_str(), address.port, address.to_string().as_str()), (host, port, text));
    }
    for text in [
        "",
        ":7946",
        "192.0.2.256",
        "192.0.2.1:0",
        "192.0.2.1:70000",
        "host:port",
        "a b",
        "[::1",
        "192.0.2.1:",
    ] {
        text.parse::<JoinAddress>().unwrap_err();
    }
    let resolved = "192.0.2.1".parse::<JoinAddress>().unwrap().resolve(7946).unwrap();
    assert_eq!(resolved, ["192.0.2.1:7946".parse().unwrap()]);
}

#[test]
fn the_advertised_address() {
    let link = |interface: &str, address: &str, default_route| LinkAddress {
        tentative: false,
        interface: interface.to_owned(),
        address: address.parse().unwrap(),
        default_route,
    };
    let host = vec![
        link("lo", "127.0.0.1", false),
        link("eth0", "fe80::1", true),
        link("eth0", "2001:db8::5", true),
        link("eth0", "192.0.2.5", true),
        link("eth1", "198.51.100.5", false),
    ];
    let settle = |setting: Option<&str>, links: &[LinkAddress]| {
        let setting = setting.map(|text| text.parse::<Advertise>().unwrap());
        resolve_advertise(setting.as_ref(), &|| Ok(links.to_vec())).map_err(|error| error.to_string())
    };
    let address = |text: &str| Ok(text.parse::<IpAddr>().unwrap());
    assert_eq!(settle(None, &host), address("192.0.2.5"));
    assert_eq!(settle(Some("eth1"), &host), address("198.51.100.5"));
    assert_eq!(settle(Some("2001:db8::5"), &host), address("2001:db8::5"));
    assert_eq!(settle(None, &host[4..]), address("198.51.100.5"));
    let all = "192.0.2.5 (eth0), 198.51.100.5 (eth1), 2001:db8::5 (eth0)";
    assert_eq!(
        settle(Some("192.0.2.6"), &host),
        Err(format!("advertise: 192.0.2.6 is no address of this host; use one of {all}"))
    );
    let missing = settle(Some("eth9"), &host).unwrap_err();
    assert_eq!(
        missing,
        format!(
            "advertise: interface eth9 is not there or has no address that other hosts reach; use one of {all}"
        )
    );
    assert!(settle(None, &host[..1]).unwrap_err().contains("no address that other hosts reach"));
    let without_default: Vec<LinkAddress> =
        host.iter().map(|link| LinkAddress { default_route: false, ..link.clone() }).collect();
    assert!(settle(None, &without_default).unwrap_err().contains("set --advertise ADDR"));
}

#[test]
fn suggestions_are_near() {
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    let cases = [
        ("gossip_port", Some("gossip-port")),
        ("vxlan-prot", Some("vxlan-port")),
        ("nod", Some("node")),
        ("completely-else", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(closest(text, keys()), expected, "{text}");
    }
    assert_eq!(closest(&"x".repeat(10_000), keys()), None);
}

#[test]
fn keys_are_their_fields_names() {
    let debug = format!("{:?}", Settings::default());
    for setting in SETTINGS {
        assert!(debug.contains(&format!("{}: ", setting.key.replace('-', "_"))), "{}", setting.key);
    }
}
