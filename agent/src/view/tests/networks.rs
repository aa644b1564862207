//! Members, MTU, and which definition stands.
use super::Bed;
use crate::catalog::facts::{HostFact, Key, NetworkDefinition, Value};
use crate::catalog::tests::world::{attachment_key, host, name, network, network_key, node, stamp};
use crate::view::{Conflict, NetworkView};

fn alpha(bed: &Bed) -> &NetworkView {
    bed.view.network(&name("alpha")).unwrap()
}

#[test]
fn members_are_the_hosts_with_an_attachment() {
    let mut bed = Bed::new();
    assert!(alpha(&bed).members.is_empty() && !alpha(&bed).local);
    let out = bed.attach(2, "web", &["10.0.0.2"], 5);
    assert_eq!(out.networks, [name("alpha")].into());
    bed.attach(1, "db", &["10.0.0.3"], 5);
    assert!(alpha(&bed).local);
    assert_eq!(alpha(&bed).members.keys().copied().collect::<Vec<_>>(), vec![node(1), node(2)]);
    bed.suspend(&[2]);
    assert_eq!(alpha(&bed).members.len(), 2, "a suspended host stays");
    let out = bed.attach(2, "cache", &["10.0.0.4"], 6);
    assert!(out.networks.is_empty(), "a second attachment does not change the network");
    assert_eq!(alpha(&bed).attachments_on(node(2)).count(), 2);
    for box_name in ["web", "cache"] {
        bed.say(2, attachment_key("alpha", box_name), None);
    }
    assert_eq!(alpha(&bed).members.len(), 1);
}

#[test]
fn the_mtu_fits_every_member_this_host_and_the_definition() {
    let mut bed = Bed::new();
    assert_eq!(alpha(&bed).mtu, 1450);
    bed.say(2, Key::Host, Some(host("192.0.2.2", 1400)));
    assert_eq!(alpha(&bed).mtu, 1450, "not a member yet");
    bed.attach(2, "web", &["10.0.0.2"], 5);
    assert_eq!(alpha(&bed).mtu, 1350);
    bed.say(2, Key::Host, Some(host("2001:db8::2", 1400)));
    assert_eq!(alpha(&bed).mtu, 1330, "an IPv6 underlay takes 20 bytes more");
    bed.say(1, Key::Host, Some(host("192.0.2.1", 1370)));
    assert_eq!(alpha(&bed).mtu, 1320, "this host, which is not a member, counts");
    let bounded = NetworkDefinition { mtu: Some(1280), ..network(stamp(7, 1), "10.0.0.0/16") };
    bed.say(1, network_key("alpha", stamp(1, 1)), Some(Value::Network(bounded)));
    assert_eq!(alpha(&bed).mtu, 1280);
    bed.say(2, Key::Host, Some(host("192.0.2.2", 3)));
    assert_eq!(alpha(&bed).mtu, 68, "whatever a peer says, IPv4 works");
}

#[test]
fn p11_a_narrow_path_counts_where_both_its_ends_are() {
    let mut bed = Bed::new();
    let narrow = |own: u64, to: &[(u64, u32)]| {
        let Value::Host(fact) = host(&format!("192.0.2.{own}"), 1500) else { unreachable!() };
        let narrow = to.iter().map(|(other, mtu)| (node(*other), *mtu)).collect();
        Some(Value::Host(HostFact { narrow, ..fact }))
    };
    bed.attach(2, "web", &["10.0.0.2"], 5);
    bed.say(2, Key::Host, narrow(2, &[(3, 1300)]));
    assert_eq!(alpha(&bed).mtu, 1450, "host 3 is not on the network");
    bed.attach(3, "db", &["10.0.0.3"], 5);
    assert_eq!(alpha(&bed).mtu, 1300);
    bed.say(3, Key::Host, narrow(3, &[(2, 1290), (1, 1400)]));
    assert_eq!(alpha(&bed).mtu, 1290, "what either end says");
    bed.say(2, Key::Host, narrow(2, &[]));
    bed.say(3, Key::Host, narrow(3, &[(1, 1400)]));
    assert_eq!(alpha(&bed).mtu, 1400, "this host counts, as its own does");
    bed.say(3, Key::Host, narrow(3, &[]));
    assert_eq!(alpha(&bed).mtu, 1450);
}

#[test]
fn the_older_network_stands_and_the_younger_is_a_conflict() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let born = stamp(1, 0);
    let out = bed.say(3, network_key("alpha", born), Some(Value::Network(network(born, "10.7.0.0/16"))));
    assert!(out.networks.contains(&name("alpha")) && out.conflicts);
    assert_eq!(alpha(&bed).born, born);
    let lost = Conflict::Network { network: name("alpha"), born: stamp(1, 1) };
    assert!(bed.view.conflicts().any(|conflict| *conflict == lost));
    assert!(alpha(&bed).attachments.is_empty(), "its addresses are not this network's");
}

#[test]
fn a_removed_network_takes_everything_with_it_and_a_new_one_brings_it_back() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let removed = NetworkDefinition { removed: true, ..network(stamp(7, 1), "10.0.0.0/16") };
    let out = bed.say(1, network_key("alpha", stamp(1, 1)), Some(Value::Network(removed)));
    assert_eq!(out.attachments, [(name("alpha"), name("web"))].into());
    assert!(bed.view.networks().is_empty());
    let born = stamp(8, 1);
    let out = bed.say(1, network_key("alpha", born), Some(Value::Network(network(born, "10.0.0.0/16"))));
    assert_eq!(out.attachments, [(name("alpha"), name("web"))].into());
    assert_eq!(bed.owner_of("web"), Some(2));
}

#[test]
fn a_removed_host_is_gone_at_once() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let out = bed.say(1, Key::Removed { node: node(2) }, Some(Value::Removed));
    assert_eq!(out.attachments, [(name("alpha"), name("web"))].into());
    assert!(alpha(&bed).members.is_empty());
}
