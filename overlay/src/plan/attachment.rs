//! One attachment: a veth pair from the network's bridge into the container, fenced before it is up.
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::egress::RouteRule;
use super::forwarding::has_port;
use super::{Planner, ROUTE_PROTOCOL, Wanted};
use crate::name::{BRIDGE, attachment_tag, host_port, network_port};
use crate::op::Peer;
use crate::{
    Attachment, DefaultRoute, Link, LinkKind, Network, Object, Observed, Op, PortFlags, Route, Space,
};

/// Metric that IPv6 default routes begin at: the kernel takes 0 for this one (IP6_RT_PRIO_USER).
pub(super) const METRIC_SIX: u32 = 1024;

impl Planner<'_> {
    pub(super) fn attachment(
        &mut self,
        network_name: &str,
        network: &Network,
        name: &str,
        wanted: &Attachment,
    ) {
        let object = Object::Attachment(network_name.to_owned(), name.to_owned());
        let home = Space::Network(network_name.to_owned());
        let (Some(at_home), Some(there)) = (self.observed.get(&home), self.observed.get(&wanted.space))
        else {
            if let Some(at_home) = self.observed.get(&home) {
                let port = network_port(name);
                if at_home.links.contains_key(&port) {
                    self.fenced((network_name, name), &home, &port, false, wanted);
                    self.local_way(&object, &home, wanted.mac, &port, false);
                }
                self.unseen.insert(attachment_tag(network_name, name));
                self.problem(&object, "look into it", format!("{} is not open", wanted.space));
            }
            return;
        };
        let tag = attachment_tag(network_name, name);
        let port = network_port(name);
        let found = find_tagged(there, &tag).map(str::to_owned);
        let pair = found.as_deref().and_then(|link| self.pair((&home, &port), (&wanted.space, link)));
        let pair = pair.map(|(near, far)| (near.clone(), far.clone()));
        let link = match (&pair, found) {
            (Some(_), Some(link)) => link,
            (_, found) => self.make_pair(&object, network_name, name, network, wanted, found),
        };
        self.want(&home, &port);
        self.want(&wanted.space, &link);
        self.taken.entry(wanted.space.clone()).or_default().insert(link.clone());
        let (near, far) = pair.unzip();
        let outer = Wanted {
            mtu: network.mtu,
            alias: tag.clone(),
            mac: None,
            port_of: Some((BRIDGE, PortFlags::ATTACHMENT)),
        };
        let inner = Wanted { mtu: network.mtu, alias: tag, mac: Some(wanted.mac), port_of: None };
        // The inner alias first: it is what a restarted agent knows the pair by.
        self.settle(&object, &wanted.space, &link, far.as_ref(), &inner);
        self.settle(&object, &home, &port, near.as_ref(), &outer);
        self.own_entries(&object, &home, at_home, near.is_some(), &port, wanted);
        // One that is no port of the bridge was in another namespace meanwhile, which takes its chain before kernel 6.16.
        let is_new = near.as_ref().is_none_or(|near| near.controller.as_deref() != Some(BRIDGE));
        self.fenced((network_name, name), &home, &port, is_new, wanted);
        self.up(&object, &home, &port, near.as_ref());
        self.local_way(&object, &home, wanted.mac, &port, is_new);
        if wanted.addresses.iter().any(IpNetwork::is_ipv6) && far.as_ref().is_none_or(|far| !far.takes_six) {
            self.add(&object, &wanted.space, Op::TakeSix { name: link.clone() });
        }
        let lost = self.addresses(&object, &wanted.space, &link, far.is_some(), &wanted.addresses);
        if let Space::Container(_) = wanted.space {
            self.loopback(&object, &wanted.space, wanted.addresses.iter().any(IpNetwork::is_ipv6));
        }
        self.up(&object, &wanted.space, &link, far.as_ref());
        self.default_routes(&object, network, wanted, &link, lost);
    }

    /// Plans a new pair and answers its name inside the container's namespace.
    fn make_pair(
        &mut self,
        object: &Object,
        network_name: &str,
        name: &str,
        network: &Network,
        wanted: &Attachment,
        found: Option<String>,
    ) -> String {
        let home = Space::Network(network_name.to_owned());
        let port = network_port(name);
        let names =
            |space: &Space, link: &str| self.observed.get(space).is_some_and(|o| o.links.contains_key(link));
        let has_port = names(&home, &port);
        if has_port {
            self.add(object, &home, Op::DeleteLink { name: port.clone() });
        }
        if let Some(found) = &found {
            self.add(object, &wanted.space, Op::DeleteLink { name: found.clone() });
        }
        let link = match &wanted.space {
            Space::Host => host_port(network_name, name),
            // A restarted or repaired pair keeps its name: processes may have bound to it.
            space => found.unwrap_or_else(|| self.free_name(space, if wanted.apart { "svc" } else { "eth" })),
        };
        let peer = Peer { space: wanted.space.clone(), name: link.clone(), mac: Some(wanted.mac) };
        self.add(object, &home, Op::AddVeth { name: port, mtu: network.mtu, peer });
        link
    }

    fn free_name(&self, space: &Space, prefix: &str) -> String {
        let there = self.observed.get(space);
        let taken = self.taken.get(space);
        let is_free = |name: &String| {
            !there.is_some_and(|observed| observed.links.contains_key(name))
                && !taken.is_some_and(|taken| taken.contains(name))
        };
        (0..=u32::MAX).map(|number| format!("{prefix}{number}")).find(is_free).unwrap_or_default()
    }

    /// The bridge's entry and the neighbours of an attachment of this host.
    fn own_entries(
        &mut self,
        object: &Object,
        home: &Space,
        observed: &Observed,
        keeps_port: bool,
        port: &str,
        wanted: &Attachment,
    ) {
        if !keeps_port || !has_port(observed, wanted.mac, port) {
            self.add(object, home, Op::SetForwarding { port: port.to_owned(), mac: wanted.mac });
        }
        for address in &wanted.addresses {
            self.neighbour(object, home, observed, observed, address.ip(), wanted.mac);
        }
    }

    /// With `six` what is sent to an own IPv6 address has to come back, refusals among it.
    fn loopback(&mut self, object: &Object, space: &Space, six: bool) {
        let lo: Option<&Link> = self.observed.get(space).and_then(|observed| observed.links.get("lo"));
        if six && lo.is_some_and(|lo| !lo.takes_six) {
            self.add(object, space, Op::TakeSix { name: "lo".to_owned() });
        }
        let first_here = self.taken.get(space).is_some_and(|taken| taken.len() == 1);
        if first_here && lo.is_some_and(|lo| !lo.up) {
            self.add(object, space, Op::SetUp { name: "lo".to_owned() });
        }
    }

    fn default_routes(
        &mut self,
        object: &Object,
        network: &Network,
        wanted: &Attachment,
        link: &str,
        lost: bool,
    ) {
        for six in [false, true] {
            let route = wanted_route(network, wanted, link, six);
            let unless_foreign = wanted.default_route == DefaultRoute::IfNone;
            match route {
                Some(route) => {
                    self.route(object, &wanted.space, link, &route, RouteRule { unless_foreign, lost });
                }
                None => self.stray_routes(object, &wanted.space, link, six),
            }
        }
    }

    pub(super) fn stray_routes(&mut self, object: &Object, space: &Space, link: &str, six: bool) {
        let Some(observed) = self.observed.get(space) else { return };
        let stray = |route: &&Route| {
            route.protocol == ROUTE_PROTOCOL && route.six == six && route.link.as_deref() == Some(link)
        };
        for route in observed.routes.iter().filter(stray) {
            self.remove(object, space, Op::DeleteRoute { route: route.clone() });
        }
    }
}

fn find_tagged<'a>(observed: &'a Observed, tag: &str) -> Option<&'a str> {
    let is_it = |link: &Link| link.kind == LinkKind::Veth && link.alias.as_deref() == Some(tag);
    observed.links.iter().find(|(_, link)| is_it(link)).map(|(name, _)| name.as_str())
}

fn wanted_route(network: &Network, wanted: &Attachment, link: &str, six: bool) -> Option<Route> {
    if network.internal || wanted.default_route == DefaultRoute::Never {
        return None;
    }
    let of_family = wanted.addresses.iter().map(|address| address.ip()).filter(|ip| ip.is_ipv6() == six);
    let subnet = of_family.filter_map(|ip| network.subnets.iter().find(|s| s.cidr.contains(ip))).next()?;
    let metric = if six { METRIC_SIX.saturating_add(wanted.metric) } else { wanted.metric };
    let gateway: Option<IpAddr> = Some(subnet.gateway);
    Some(Route { link: Some(link.to_owned()), six, metric, gateway, protocol: ROUTE_PROTOCOL })
}
