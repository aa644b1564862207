//! What is made of what was read; and the filters of a namespace of the test's own.
use std::os::unix::fs::PermissionsExt;

use netfilter::{
    Base, Batch, ChainKind, ElementData, Expression, Family, FieldType, Hook, HookPoint, Meta, Register, Set,
    SetData, Socket, Table, TableFlags, Verdict as Fate,
};

use super::super::check::Verdict;
use super::firewall::{Filters, Refusing, forward, input, legacy, ranges};
use super::rules::{TCP, UDP};
use super::sockets::{Holder, gossip, inode_at, tunnel};
use super::{firewall, limits, state};
use crate::netns::Namespace;

const NEEDED: [(u8, u16); 3] = [(UDP, 7946), (TCP, 7946), (UDP, 4789)];
const FIRST: Register = Register::word(0);

fn refusing(place: &str, hook: u32, ports: &[(Option<u8>, u16)]) -> Refusing {
    let ports = ports.iter().map(|(protocol, port)| (*protocol, *port..=*port)).collect();
    Refusing { place: place.to_owned(), hook, ports }
}

#[test]
fn a_chain_that_refuses_is_named_with_the_ports_that_nothing_names() {
    let mut filters = Filters::default();
    assert_eq!(input(&filters, &NEEDED).verdict, Verdict::Ok);
    filters.refusing.push(refusing("ip filter INPUT", 1, &[(Some(UDP), 7946), (None, 4789)]));
    let check = input(&filters, &NEEDED);
    assert_eq!(check.verdict, Verdict::Degraded);
    assert_eq!(check.detail, "refusing by default: ip filter INPUT; no rule there names TCP 7946");
    filters.refusing[0].ports.push((Some(TCP), 1..=65535));
    assert_eq!(input(&filters, &NEEDED).verdict, Verdict::Ok);
    // Every chain must let it pass.
    filters.refusing.push(refusing("inet fw in", 1, &[]));
    assert!(input(&filters, &NEEDED).detail.ends_with("no rule there names UDP 7946, TCP 7946, UDP 4789"));
}

#[test]
fn dockers_drop_of_forwarded_packets_has_an_exception_and_no_other_has() {
    let mut filters = Filters {
        refusing: vec![refusing("ip filter FORWARD", 2, &[])],
        exceptions: vec!["ip filter FORWARD".to_owned()],
    };
    assert_eq!(forward(&filters).verdict, Verdict::Ok);
    filters.refusing.push(refusing("ip6 filter FORWARD", 2, &[]));
    assert_eq!(forward(&filters).verdict, Verdict::Degraded);
    filters.exceptions.push("ip6 filter FORWARD".to_owned());
    assert_eq!(forward(&filters).verdict, Verdict::Ok);
    filters.refusing.push(refusing("inet firewalld filter_FORWARD", 2, &[]));
    let check = forward(&filters);
    assert_eq!(check.verdict, Verdict::Degraded);
    assert!(check.detail.ends_with(": inet firewalld filter_FORWARD"), "{check:?}");
}

#[test]
fn ranges_are_put_together_from_their_ends() {
    assert_eq!(ranges(vec![(0, true), (4790, true), (4789, false)]), vec![4789..=4789]);
    assert_eq!(ranges(vec![(53, false), (80, false)]), vec![53..=53, 80..=80]);
    assert_eq!(ranges(vec![(7940, false), (7951, true), (65000, false)]), vec![7940..=7950, 65000..=65000]);
    assert_eq!(ranges(vec![(5, true), (6, true)]), vec![]);
}

/// A table as a firewall writes it: drop by default, a set of ports, and a reject at the end of FORWARD.
fn firewall_of_another(table: Table<'_>) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(table, TableFlags::PLAIN);
    let hook = |point, drop_by_default| Hook { kind: ChainKind::Filter, point, priority: 0, drop_by_default };
    batch.add_chain(table, "in", Some(&hook(HookPoint::Input, true)));
    batch.add_chain(table, "through", Some(&hook(HookPoint::Forward, false)));
    batch.add_set(
        table,
        &Set { name: "open", key: &[FieldType::PORT], data: SetData::None, interval: false, size_max: None },
    );
    batch.add_elements(table, "open", |list| list.push(&4789_u16.to_be_bytes(), &ElementData::None));
    let about = |protocol: u8| {
        vec![
            Expression::meta(Meta::TransportProtocol, FIRST),
            Expression::equal(FIRST, [protocol]),
            Expression::payload(Base::Transport, 2, 2, FIRST),
        ]
    };
    let mut by_set = about(UDP);
    by_set.extend([Expression::in_set("open", FIRST), Expression::Verdict(Fate::Accept)]);
    let mut by_port = about(TCP);
    by_port.extend([Expression::equal(FIRST, 7946_u16.to_be_bytes()), Expression::Verdict(Fate::Accept)]);
    batch.add_rule(table, "in", &by_set, None);
    batch.add_rule(table, "in", &by_port, None);
    let end = [Expression::Counter, Expression::Reject(netfilter::Answer::Any(3))];
    batch.add_rule(table, "through", &end, None);
    batch
}

#[test]
fn the_filters_of_a_namespace_are_read_from_the_kernel() {
    let space = match Namespace::create() {
        Ok(space) => space,
        Err(error) if std::env::var_os("CI").is_none() => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let checks = space.run(|| {
        let mut socket = Socket::open().unwrap();
        let batch = firewall_of_another(Table { family: Family::Inet, name: "fw" });
        socket.commit(&batch).unwrap();
        // Ours drops strangers' frames and is no obstacle.
        socket.commit(&firewall_of_another(Table { family: Family::Inet, name: "svc-agent" })).unwrap();
        firewall::checks(&crate::config::Settings::default())
    });
    let checks = checks.unwrap();
    let detail = |name: &str| checks.iter().find(|check| check.name == name).unwrap().detail.as_str();
    assert_eq!(detail("input-filter"), "refusing by default: inet fw in; no rule there names UDP 7946");
    assert_eq!(
        detail("forward-filter"),
        "refusing by default, with no exception for svc-agent: inet fw through"
    );
}

#[test]
fn older_iptables_is_told_of() {
    assert_eq!(legacy("\n"), None);
    assert!(legacy("filter\nnat\n").unwrap().detail.ends_with("filter, nat"));
}

#[test]
fn a_port_is_found_in_the_kernels_table() {
    let udp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               1: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n";
    assert_eq!(inode_at(udp, 4789, false), Some(4711));
    assert_eq!(inode_at(udp, 4790, false), None);
    let tcp = "head\n 0: 0100007F:1F0A 00000000:0000 0A 0:0 0:0 0 0 0 12 1\n 1: 0100007F:1F0B 00000000:0000 01 0:0 0:0 0 0 0 13 1\n";
    assert_eq!(inode_at(tcp, 7946, true), Some(12));
    assert_eq!(inode_at(tcp, 7947, true), None, "a connection is no listener");
    assert_eq!(inode_at("head\ngarbage\n: : :\n", 4789, false), None);
}

#[test]
fn a_process_at_the_tunnel_port_is_in_the_way_and_the_kernel_is_not() {
    assert_eq!(tunnel("vxlan-port", 4789, None).verdict, Verdict::Ok);
    assert_eq!(tunnel("vxlan-port", 4789, Some(Holder::Kernel)).verdict, Verdict::Info);
    let process = Holder::Process { pid: 7, name: "swarm".to_owned() };
    let check = tunnel("vxlan-port", 4789, Some(process.clone()));
    assert_eq!(
        (check.verdict, check.detail.as_str()),
        (Verdict::Missing, "UDP 4789 is held by process 7 (swarm)")
    );
    assert_eq!(gossip(7946, Some(process), "tcp").verdict, Verdict::Missing);
    assert_eq!(gossip(7946, Some(Holder::Kernel), "udp").verdict, Verdict::Missing);
}

#[test]
fn a_key_file_is_absent_open_broken_or_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.key");
    assert_eq!(state::key(&path).verdict, Verdict::Info);
    std::fs::write(&path, "svc-agent-key-1.nonsense\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let open = state::key(&path);
    assert_eq!(open.verdict, Verdict::Missing);
    assert!(open.detail.contains("mode 644"), "{open:?}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let broken = state::key(&path);
    assert_eq!(broken.verdict, Verdict::Missing);
    assert!(broken.detail.contains("line 1 is bad: no cluster key"), "{broken:?}");
    std::fs::write(&path, crate::cluster::key::ClusterKey::found([7; 44]).to_text()).unwrap();
    assert_eq!(state::key(&path).verdict, Verdict::Ok);
}

#[test]
fn a_state_directory_is_there_or_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    assert!(state::directory(directory.path()).detail.ends_with("can be written"));
    assert!(state::directory(&directory.path().join("a/b")).detail.ends_with("can be made"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(state::directory(&file.join("below")).verdict, Verdict::Missing);
}

#[test]
fn limits_warn_before_they_are_reached() {
    let neighbours = |limit, refused| {
        limits::neighbours(Ok(crate::neighbours::Table { limit, entries: 820, refused })).verdict
    };
    assert_eq!(limits::neighbours(Err(std::io::ErrorKind::PermissionDenied.into())).verdict, Verdict::Info);
    assert_eq!([neighbours(1024, 0), neighbours(65536, 0)], [Verdict::Info, Verdict::Ok]);
    assert_eq!([neighbours(512, 0), neighbours(1024, 1)], [Verdict::Degraded; 2]);
    assert_eq!(neighbours(65536, 1), Verdict::Ok, "it was raised since");
    assert_eq!(limits::conntrack(None, Some(5)).verdict, Verdict::Info);
    assert_eq!(limits::conntrack(Some(79), Some(100)).verdict, Verdict::Ok);
    assert_eq!(limits::conntrack(Some(80), Some(100)).verdict, Verdict::Degraded);
    assert_eq!(limits::return_path(Some(1)).verdict, Verdict::Info);
    assert_eq!(limits::forwarding(Some(0)).verdict, Verdict::Info);
}

#[test]
fn an_agents_status_is_summed_up() {
    use super::agent::Running;
    let status = serde_json::json!({
        "node": "h1", "id": "0000000000000001", "agent_version": "0.1.0", "cluster": "c", "ok": false,
        "hosts": [
            { "id": "0000000000000001", "name": "h1", "state": "live", "behind": [], "problems": [
                { "object": "network/a/vxlan", "error": "add link: EEXIST", "seconds": 3, "attempts": 2 }] },
            { "id": "0000000000000002", "name": "h2", "state": "suspended", "problems": [],
              "behind": [{ "owner": "h1", "applied": "1.1", "known": "1.2" }] },
        ],
    });
    let checks = Running::Yes(Box::new(serde_json::from_value(status).unwrap())).checks();
    let details: Vec<&str> = checks.iter().map(|check| check.detail.as_str()).collect();
    let expected = [
        "h1 (version 0.1.0) in cluster c",
        "1 live; h2 suspended",
        "h1: network/a/vxlan: add link: EEXIST (and 1 more)",
    ];
    assert_eq!(details, expected);
    assert!(checks.iter().all(|check| check.verdict != Verdict::Missing));
}
