use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::Mode;

fn service(name: &str, aliases: &[&str], vip: u8) -> Arc<Service> {
    let aliases = aliases.iter().map(|alias| (*alias).into()).collect();
    let vips = vec![IpAddr::from([10, 0, 255, vip])];
    Arc::new(Service { name: name.into(), aliases, mode: Mode::Vip, vips, replicas: Vec::new() })
}

fn attachment(name: &str, aliases: &[&str], address: u8) -> Arc<Attachment> {
    let aliases = aliases.iter().map(|alias| (*alias).into()).collect();
    Arc::new(Attachment { name: name.into(), aliases, addresses: [IpAddr::from([10, 0, 0, address])].into() })
}

fn holder(network: &Network, name: &str) -> String {
    match network.holder(name) {
        None => "nobody".to_owned(),
        Some(Claim::Service(service)) => format!("service {}", service.name),
        Some(Claim::ServiceAlias(service)) => format!("alias of {}", service.name),
        Some(Claim::Attachment(attachment)) => format!("attachment {}", attachment.name),
        Some(Claim::AttachmentAlias(attachment)) => format!("alias of attachment {}", attachment.name),
    }
}

#[test]
fn precedence_and_what_comes_back() {
    let mut network = Network::new("blue", &[]);
    network.set_attachment(attachment("other", &["x"], 1));
    assert_eq!(holder(&network, "x"), "alias of attachment other");
    network.set_attachment(attachment("x", &[], 2));
    assert_eq!(holder(&network, "x"), "attachment x");
    network.set_service(service("b", &["x"], 1));
    assert_eq!(holder(&network, "x"), "alias of b");
    network.set_service(service("a", &["x"], 2));
    assert_eq!(holder(&network, "x"), "alias of a");
    network.set_service(service("x", &[], 3));
    assert_eq!(holder(&network, "x"), "service x");

    assert!(network.remove_service("x"));
    assert_eq!(holder(&network, "x"), "alias of a");
    network.set_service(service("a", &[], 2));
    assert_eq!(holder(&network, "x"), "alias of b");
    network.remove_service("b");
    assert_eq!(holder(&network, "x"), "attachment x");
    network.remove_attachment("x");
    assert_eq!(holder(&network, "x"), "alias of attachment other");
    network.remove_attachment("other");
    assert_eq!(holder(&network, "x"), "nobody");
    assert!(!network.remove_service("x") && !network.remove_attachment("x"));
}

#[test]
fn setting_the_same_again_changes_nothing() {
    let mut network = Network::new("Blue", &[]);
    assert_eq!(&**network.name(), "blue");
    assert!(network.set_service(service("a", &["b", "b", "a"], 1)));
    assert!(!network.set_service(service("a", &["b", "b", "a"], 1)));
    assert!(network.set_service(service("a", &["b"], 1)));
    assert!(network.set_attachment(attachment("c", &[], 1)));
    assert!(!network.set_attachment(attachment("c", &[], 1)));
    assert_eq!((network.services().count(), network.attachments().count(), network.names()), (1, 1, 3));
}

#[test]
fn an_address_belongs_to_the_service_then_to_the_smaller_name() {
    let mut network = Network::new("blue", &[]);
    let address = IpAddr::from([10, 0, 0, 1]);
    network.set_attachment(attachment("b", &[], 1));
    network.set_attachment(attachment("a", &[], 1));
    assert_eq!(&**network.holder_of_address(address).unwrap().canonical(), "a");
    network.remove_attachment("a");
    assert_eq!(&**network.holder_of_address(address).unwrap().canonical(), "b");
    network.remove_attachment("b");
    assert!(network.holder_of_address(address).is_none());
}

#[test]
fn a_published_clone_does_not_change() {
    let mut network = Network::new("blue", &[]);
    network.set_service(service("a", &[], 1));
    let published = network.clone();
    network.remove_service("a");
    network.set_service(service("b", &[], 1));
    assert_eq!((holder(&published, "a"), holder(&published, "b")), ("service a".into(), "nobody".into()));
}

/// One change; the fields choose among few names, so that they collide.
#[derive(Clone, Debug)]
enum Change {
    Service(u8, Vec<u8>, u8),
    NoService(u8),
    Attachment(u8, Vec<u8>, u8),
    NoAttachment(u8),
    Publish,
}

fn change() -> impl Strategy<Value = Change> {
    let aliases = || prop::collection::vec(0_u8..6, 0..3);
    prop_oneof![
        (0_u8..6, aliases(), 0_u8..4).prop_map(|(name, aliases, vip)| Change::Service(name, aliases, vip)),
        (0_u8..6).prop_map(Change::NoService),
        (0_u8..6, aliases(), 0_u8..4).prop_map(|(name, aliases, ip)| Change::Attachment(name, aliases, ip)),
        (0_u8..6).prop_map(Change::NoAttachment),
        Just(Change::Publish),
    ]
}

fn snapshot(network: &Network) -> Vec<String> {
    let names = (0..6).map(|name| holder(network, &format!("n{name}")));
    let addresses = (0..4_u8).flat_map(|last| [[10, 0, 0, last], [10, 0, 255, last]]);
    let owners = addresses.map(|address| {
        network.holder_of_address(address.into()).map_or(String::new(), |claim| claim.canonical().to_string())
    });
    names.chain(owners).chain([network.names().to_string()]).collect()
}

proptest! {
    /// Whatever the order of changes, the result is that of a network built from what is there at the end, in any order.
    #[test]
    fn incremental_is_rebuilt(changes in prop::collection::vec(change(), 0..40), backwards: bool) {
        let mut network = Network::new("blue", &[]);
        let mut services = std::collections::BTreeMap::new();
        let mut attachments = std::collections::BTreeMap::new();
        let mut published = Vec::new();
        let name = |n: u8| format!("n{n}");
        for change in changes {
            match change {
                Change::Service(n, aliases, vip) => {
                    let aliases: Vec<String> = aliases.into_iter().map(name).collect();
                    let service = service(&name(n), &aliases.iter().map(String::as_str).collect::<Vec<_>>(), vip);
                    network.set_service(Arc::clone(&service));
                    services.insert(n, service);
                }
                Change::NoService(n) => {
                    prop_assert_eq!(network.remove_service(&name(n)), services.remove(&n).is_some());
                }
                Change::Attachment(n, aliases, ip) => {
                    let aliases: Vec<String> = aliases.into_iter().map(name).collect();
                    let attachment = attachment(&name(n), &aliases.iter().map(String::as_str).collect::<Vec<_>>(), ip);
                    network.set_attachment(Arc::clone(&attachment));
                    attachments.insert(n, attachment);
                }
                Change::NoAttachment(n) => {
                    prop_assert_eq!(network.remove_attachment(&name(n)), attachments.remove(&n).is_some());
                }
                Change::Publish => published.push((network.clone(), snapshot(&network))),
            }
        }
        let mut rebuilt = Network::new("blue", &[]);
        let mut all: Vec<_> = services.into_values().collect();
        let mut others: Vec<_> = attachments.into_values().collect();
        if backwards {
            all.reverse();
            others.reverse();
        }
        for attachment in others { rebuilt.set_attachment(attachment); }
        for service in all { rebuilt.set_service(service); }
        prop_assert_eq!(snapshot(&network), snapshot(&rebuilt));
        for (network, then) in published {
            prop_assert_eq!(snapshot(&network), then);
        }
    }
}

/// 10,000 services of 10 replicas and 100,000 attachments: one change with the zone published costs well under 1 ms (here in
/// a debug build, so the bound is wide), and the whole stays compact.
#[test]
fn one_change_among_many_is_cheap() {
    let mut network = Network::new("blue", &["10.0.0.0/8".parse().unwrap()]);
    let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    for n in 0..100_000_u32 {
        let name = format!("container-{n}").into();
        network.set_attachment(Arc::new(Attachment {
            name,
            aliases: [].into(),
            addresses: [address(n)].into(),
        }));
    }
    let service = |n: u32, shift: u32| {
        let replicas = (0..10).map(|replica| address(n * 10 + replica + shift)).collect();
        let name = format!("service-{n}").into();
        Arc::new(Service {
            name,
            aliases: Vec::new(),
            mode: Mode::Vip,
            vips: vec![address(200_000 + n)],
            replicas,
        })
    };
    for n in 0..10_000 {
        network.set_service(service(n, 0));
    }
    let mut published = Arc::new(network.clone());
    let mut times: Vec<Duration> = (0..200)
        .map(|n| {
            let changed = service(n * 37, 1);
            let begin = Instant::now();
            network.set_service(changed);
            published = Arc::new(network.clone());
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("one change published: median {:?}, worst {:?}", times[100], times[199]);
    assert!(times[100] < Duration::from_millis(1), "{times:?}");
    assert_eq!((published.services().count(), published.attachments().count()), (10_000, 100_000));
}
