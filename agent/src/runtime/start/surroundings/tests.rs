use super::*;

fn routes(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_host_tells_its_widest_routes() {
    let told =
        published(routes(&["10.1.2.0/24", "10.1.0.0/16", "192.168.1.1/32", "fd00::/8", "fd00:1::/64"]));
    assert_eq!(told, routes(&["fd00::/8", "10.1.0.0/16", "192.168.1.1/32"]));
    let many =
        (0..10_000_u32).map(|n| IpNetwork::new(std::net::Ipv4Addr::from_bits(n << 8).into(), 24).unwrap());
    let mut many: Vec<IpNetwork> = many.collect();
    many.extend(routes(&["172.16.0.0/12"]));
    let told = published(many);
    assert_eq!((told.len(), told[0]), (ROUTES_MAX, routes(&["172.16.0.0/12"])[0]));
}

#[test]
fn a_network_is_full_from_80_percent_until_below_75() {
    let region = ("pay".parse::<Name>().unwrap(), Region::Endpoint);
    let mut before = BTreeSet::new();
    for (percent, expected) in [(79, false), (80, true), (76, true), (75, true), (74, false), (79, false)] {
        before = full(&Fill::from([(region.clone(), percent)]), &before);
        assert_eq!(before.contains(&region), expected, "{percent} %");
    }
}
