//! What the underlay lets through from here.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::RouteMessageBuilder;

use super::{HostError, TABLE_MAIN};
use crate::netns::Namespace;

/// Smallest MTU that is believed of a route, in bytes (RFC 791).
const MTU_MIN: u32 = 576;

/// What the underlay lets through from here, in bytes: the MTU of the link that carries `address`. An address on a link
/// that leads nowhere (loopback, dummy) is reached over others: then the least of those that routes with a next hop take.
/// `None` where nothing tells, as while the address or the routes are made anew.
///
/// # Errors
/// When the kernel does not tell it.
pub async fn underlay_mtu(namespace: &Namespace, address: IpAddr) -> Result<Option<u32>, HostError> {
    let read = |what| move |source| HostError::Read { what, source };
    let netlink = namespace.rtnetlink().map_err(HostError::Open)?;
    let addresses: Vec<AddressMessage> =
        netlink.address().get().execute().try_collect().await.map_err(read("the addresses"))?;
    let links: Vec<LinkMessage> =
        netlink.link().get().execute().try_collect().await.map_err(read("the underlay's link"))?;
    let own = addresses.iter().find(|message| has(message, address)).map(|message| message.header.index);
    let link = own.and_then(|index| links.iter().find(|link| link.header.index == index));
    let mut routes: Vec<RouteMessage> = Vec::new();
    // This is asked often, and there may be a great many routes.
    if link.is_some_and(|link| !leads_somewhere(link)) {
        let four = netlink.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        routes = four.execute().try_collect().await.map_err(read("the routes"))?;
        let six = netlink.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build());
        match six.execute().try_collect::<Vec<RouteMessage>>().await {
            Ok(six) => routes.extend(six),
            Err(_) if !Path::new("/proc/sys/net/ipv6").exists() => {}
            Err(source) => return Err(read("the routes")(source)),
        }
    }
    netlink.close().await;
    Ok(least(own, &links, &routes).map(|mtu| mtu.max(MTU_MIN)))
}

/// Whether a link has this address; those of IPv6 come without "local" where there is no peer.
fn has(message: &AddressMessage, address: IpAddr) -> bool {
    message.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Local(it) | AddressAttribute::Address(it) if *it == address)
    })
}

fn least(own: Option<u32>, links: &[LinkMessage], routes: &[RouteMessage]) -> Option<u32> {
    let link = own.and_then(|index| links.iter().find(|link| link.header.index == index))?;
    if leads_somewhere(link) {
        return mtu(link);
    }
    let main = routes.iter().filter(|route| route.header.table == TABLE_MAIN);
    let taken: Vec<u32> = main.flat_map(by_next_hop).collect();
    links.iter().filter(|link| taken.contains(&link.header.index)).filter_map(mtu).min()
}

fn leads_somewhere(link: &LinkMessage) -> bool {
    let dummy = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Dummy));
    let kinds = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(dummy)));
    !kinds && !link.header.flags.contains(LinkFlags::Loopback)
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// Links over which a route leads to another router.
fn by_next_hop(route: &RouteMessage) -> Vec<u32> {
    let (mut hop, mut links) = (false, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => hop = true,
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => {
                hop = true;
                links.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    if hop { links } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteAddress;

    use super::*;

    fn link(index: u32, bytes: u32, loopback: bool) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = if loopback { LinkFlags::Loopback } else { LinkFlags::empty() };
        link.attributes.push(LinkAttribute::Mtu(bytes));
        link
    }

    fn route(over: u32, hop: bool) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.table = TABLE_MAIN;
        route.attributes.push(RouteAttribute::Oif(over));
        if hop {
            route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::LOCALHOST)));
        }
        route
    }

    #[test]
    fn an_address_on_loopback_is_reached_over_the_uplinks() {
        let links =
            [link(1, 65_536, true), link(2, 9_000, false), link(3, 1_400, false), link(4, 500, false)];
        let routes = [route(2, true), route(3, true), route(4, false)];
        assert_eq!(least(Some(2), &links, &routes), Some(9_000));
        assert_eq!(least(Some(1), &links, &routes), Some(1_400));
        assert_eq!(least(Some(1), &links, &[]), None);
        assert_eq!(least(None, &links, &routes), None);
    }
}
