//! The link between the host's namespace and a network's, and the route over it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::attachment::METRIC_SIX;
use super::{Planner, ROUTE_PROTOCOL, Wanted};
use crate::name::{LINK, host_link, link_addresses, link_addresses_six, network_tag};
use crate::op::Peer;
use crate::{Network, Object, Op, Route, Space};

impl Planner<'_> {
    pub(super) fn egress(&mut self, object: &Object, space: &Space, name: &str, network: &Network) {
        let pool = self.desired.host.link_pool;
        let Some((host_address, own_address)) = link_addresses(pool, network.link_index) else {
            let error = format!("link pool {pool} has no pair with index {}", network.link_index);
            return self.problem(object, "give it egress", error);
        };
        let host_end = host_link(network.link_index);
        self.want(&Space::Host, &host_end);
        self.want(space, LINK);
        let pair = self.pair((&Space::Host, &host_end), (space, LINK));
        let pair = pair.map(|(near, far)| (near.clone(), far.clone()));
        if pair.is_none() && self.make_link(object, space, &host_end, network.mtu).is_none() {
            return;
        }
        let (near, far) = pair.unzip();
        let wanted = || Wanted { mtu: network.mtu, alias: network_tag(name), mac: None, port_of: None };
        self.settle(object, &Space::Host, &host_end, near.as_ref(), &wanted());
        self.settle(object, space, LINK, far.as_ref(), &wanted());
        let (host_six, own_six) = link_addresses_six(network.link_index);
        let has_six = network.has_six();
        let both = |four: Ipv4Addr, six: Ipv6Addr| {
            let six = has_six.then(|| pair_address(six.into()));
            [pair_address(four.into())].into_iter().chain(six).collect::<Vec<_>>()
        };
        if has_six && near.as_ref().is_none_or(|near| !near.takes_six) {
            self.add(object, &Space::Host, Op::TakeSix { name: host_end.clone() });
        }
        self.addresses(object, &Space::Host, &host_end, near.is_some(), &both(host_address, host_six));
        let replaced = self.addresses(object, space, LINK, far.is_some(), &both(own_address, own_six));
        self.up(object, &Space::Host, &host_end, near.as_ref());
        self.up(object, space, LINK, far.as_ref());
        let gateways = [(0, host_address.into()), (METRIC_SIX, host_six.into())];
        for (metric, gateway) in
            gateways.into_iter().filter(|(_, gateway): &(_, IpAddr)| gateway.is_ipv4() || has_six)
        {
            let route = Route {
                link: Some(LINK.to_owned()),
                six: gateway.is_ipv6(),
                metric,
                gateway: Some(gateway),
                protocol: ROUTE_PROTOCOL,
            };
            self.route(object, space, LINK, &route, RouteRule { unless_foreign: false, lost: replaced });
        }
        if !has_six {
            self.stray_routes(object, space, LINK, true);
        }
    }

    /// Makes the pair, away with what is left of an earlier one. `None` if somebody else has the name.
    fn make_link(&mut self, object: &Object, space: &Space, host_end: &str, mtu: u32) -> Option<()> {
        let near = self.observed.get(&Space::Host)?.links.get(host_end);
        if near.is_some_and(|near| !near.is_ours() && !near.is_new_pair()) {
            let error = format!("a link named {host_end} exists in the host's namespace and is not ours");
            self.problem(object, "give it egress", error);
            return None;
        }
        if near.is_some() {
            self.add(object, &Space::Host, Op::DeleteLink { name: host_end.to_owned() });
        }
        if self.observed.get(space)?.links.contains_key(LINK) {
            self.add(object, space, Op::DeleteLink { name: LINK.to_owned() });
        }
        let peer = Peer { space: space.clone(), name: LINK.to_owned(), mac: None };
        self.add(object, &Space::Host, Op::AddVeth { name: host_end.to_owned(), mtu, peer });
        Some(())
    }

    /// This one default route of ours on a link, of its family.
    pub(super) fn route(
        &mut self,
        object: &Object,
        space: &Space,
        name: &str,
        wanted: &Route,
        rule: RouteRule,
    ) {
        let Some(observed) = self.observed.get(space) else { return };
        let ours = |route: &&Route| {
            route.protocol == ROUTE_PROTOCOL && route.link.as_deref() == Some(name) && route.six == wanted.six
        };
        let now: Vec<&Route> = observed.routes.iter().filter(ours).collect();
        // One with the wanted metric is replaced, not deleted.
        for route in now.iter().filter(|route| route.metric != wanted.metric) {
            self.remove(object, space, Op::DeleteRoute { route: (*route).clone() });
        }
        if now.contains(&wanted) && !rule.lost {
            return;
        }
        let foreign = |route: &Route| route.six == wanted.six && route.protocol != ROUTE_PROTOCOL;
        if rule.unless_foreign && now.is_empty() && observed.routes.iter().any(foreign) {
            return;
        }
        let replace = now.iter().any(|route| route.metric == wanted.metric);
        self.add(object, space, Op::SetRoute { route: wanted.clone(), replace });
    }
}

/// When a default route is written.
#[derive(Clone, Copy)]
pub(super) struct RouteRule {
    /// Not added beside another's.
    pub(super) unless_foreign: bool,
    /// Written even if it is there: an earlier step of this plan takes it away.
    pub(super) lost: bool,
}

fn pair_address(address: IpAddr) -> IpNetwork {
    // RFC 3021, RFC 6164: both addresses of a pair are usable. Both are valid lengths.
    let bits = if address.is_ipv4() { 31 } else { 127 };
    IpNetwork::new(address, bits).unwrap_or_else(|_| address.into())
}
