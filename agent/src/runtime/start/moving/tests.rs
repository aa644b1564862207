use super::*;

fn links(all: &[(&str, &str, bool)]) -> Vec<LinkAddress> {
    let link = |(interface, address, default_route): &(&str, &str, bool)| LinkAddress {
        interface: (*interface).to_owned(),
        address: address.parse().unwrap(),
        default_route: *default_route,
        tentative: false,
    };
    all.iter().map(link).collect()
}

#[test]
fn an_address_is_followed_only_once_it_is_gone_and_only_to_its_like() {
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    let eth0 = Advertise::Interface("eth0".to_owned());
    let both = links(&[("eth0", "192.0.2.9", true), ("eth0", "192.0.2.1", true)]);
    assert_eq!(place(Some(&eth0), own, &both), Place::Here);
    let other = links(&[("eth1", "192.0.2.8", false), ("eth0", "192.0.2.9", true)]);
    let moved = Place::Moved("192.0.2.9".parse().unwrap());
    assert_eq!(place(Some(&eth0), own, &other), moved);
    assert_eq!(place(None, own, &other), moved);
    // A setting that names an address is not followed to another.
    let fixed = Advertise::Address(own);
    assert!(matches!(place(Some(&fixed), own, &other), Place::Gone(why) if why.contains("put it back")));
}

#[test]
fn nothing_in_its_place_is_said() {
    let own: IpAddr = "192.0.2.1".parse().unwrap();
    let eth0 = Advertise::Interface("eth0".to_owned());
    // Of the other family, link-local, or not certain yet.
    let mut rest = links(&[
        ("eth0", "2001:db8::1", true),
        ("eth0", "169.254.7.7", true),
        ("docker0", "172.17.0.1", false),
    ]);
    assert!(matches!(place(Some(&eth0), own, &rest), Place::Gone(why) if why.contains("give eth0 one")));
    assert!(matches!(place(None, own, &rest), Place::Gone(_)), "not the engine's bridge");
    rest.extend(
        links(&[("eth0", "192.0.2.9", true)]).into_iter().map(|it| LinkAddress { tentative: true, ..it }),
    );
    assert!(matches!(place(Some(&eth0), own, &rest), Place::Gone(_)));
}
