//! Who has which VIP, and when it is free.
use super::*;
use crate::catalog::facts::{ServiceDefinition, Value};
use crate::catalog::tests::world::{address, name, network, network_key, node, service, service_key, stamp};

fn put(catalog: &mut Catalog, vips: &mut Vips, text: &str, vip: &str, removed: bool) -> Vec<(Name, IpAddr)> {
    let born = stamp(2, 1);
    let revision = stamp(if removed { 4 } else { 3 }, 1);
    let definition = ServiceDefinition { removed, ..service(revision, vip) };
    let key = service_key("alpha", text, born);
    let (_, changes) = catalog.write(node(1), vec![(key, Some(Value::Service(definition)))]).unwrap();
    vips.follow(catalog, &changes)
}

#[test]
fn a_vip_is_free_when_its_last_service_is_gone() {
    let (mut catalog, mut vips) = (Catalog::default(), Vips::default());
    catalog.restart(node(1), 1);
    let born = stamp(1, 1);
    let definition = Value::Network(network(born, "10.0.0.0/16"));
    catalog.write(node(1), vec![(network_key("alpha", born), Some(definition))]).unwrap();
    let (net, vip) = (name("alpha"), address("10.0.224.16"));
    assert!(put(&mut catalog, &mut vips, "pay", "10.0.224.16", false).is_empty());
    assert_eq!(vips.holder(&net, vip), Some(&name("pay")));
    // Two sides of a cut may have given out one VIP twice.
    assert!(put(&mut catalog, &mut vips, "mail", "10.0.224.16", false).is_empty());
    assert!(put(&mut catalog, &mut vips, "pay", "10.0.224.16", true).is_empty());
    assert_eq!(vips.holder(&net, vip), Some(&name("mail")));
    assert_eq!(Vips::of(&catalog).holder(&net, vip), Some(&name("mail")));
    assert_eq!(put(&mut catalog, &mut vips, "mail", "10.0.224.16", true), [(net.clone(), vip)]);
    assert_eq!(vips.holder(&net, vip), None);
    assert!(vips.services.is_empty() && vips.holders.is_empty());
}
