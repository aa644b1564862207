//! What links of one namespace carry: addresses, routes, neighbours, forwarding entries.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{FLOOD, Inside, MTU_SIX_MIN, Outcome};
use crate::name::is_tunnel;
use crate::{Mac, Op, Route};

impl Inside<'_> {
    pub(super) fn apply_to_entries(&mut self, op: &Op) -> Outcome {
        match op {
            Op::AddAddress { name, address } => self.add_address(name, *address),
            Op::DeleteAddress { name, address } => self.delete_address(name, *address),
            Op::SetRoute { route, replace } => self.set_route(route, *replace),
            Op::DeleteRoute { route } => {
                self.link(route.link.as_deref().ok_or(libc::ENODEV)?)?;
                self.seen.routes.remove(route).then_some(()).ok_or(libc::ESRCH)
            }
            Op::SetNeighbour { name, address, mac } => {
                self.refuse_family(name, *address)?;
                self.seen.neighbours.insert((name.clone(), *address), *mac);
                Ok(())
            }
            Op::DeleteNeighbour { name, address } => {
                self.link(name)?;
                self.seen.neighbours.remove(&(name.clone(), *address)).map(drop).ok_or(libc::ENOENT)
            }
            Op::SetTunnel { name, mac, vtep } => self.set_tunnel(name, *mac, *vtep),
            Op::DeleteTunnel { name, mac, vtep } => {
                self.link(name)?;
                self.seen.tunnels.remove(&(*mac, *vtep)).then_some(()).ok_or(libc::ENOENT)
            }
            Op::SetForwarding { port, mac } => {
                self.link(port)?.port.ok_or(libc::EOPNOTSUPP)?;
                self.seen.forwarding.insert(*mac, (port.clone(), true));
                Ok(())
            }
            Op::DeleteForwarding { port, mac } => {
                self.link(port)?.port.ok_or(libc::EOPNOTSUPP)?;
                let on_port = self.seen.forwarding.get(mac).is_some_and(|(on, _)| on == port);
                on_port.then_some(()).ok_or(libc::ENOENT)?;
                self.seen.forwarding.remove(mac);
                Ok(())
            }
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    fn refuse_family(&mut self, name: &str, address: IpAddr) -> Outcome {
        let mtu = self.link(name)?.mtu;
        if address.is_ipv6() && mtu < MTU_SIX_MIN { Err(libc::EINVAL) } else { Ok(()) }
    }

    fn add_address(&mut self, name: &str, address: IpNetwork) -> Outcome {
        self.refuse_family(name, address.ip())?;
        let on_link = |this: &Self, found: &dyn Fn(&IpNetwork) -> bool| {
            this.seen.addresses.iter().any(|(on, other)| on == name && found(other))
        };
        let taken = match address {
            IpNetwork::V4(_) => on_link(self, &|other| *other == address),
            IpNetwork::V6(_) => on_link(self, &|other| other.ip() == address.ip()),
        };
        if taken {
            return Err(libc::EEXIST);
        }
        let key = (name.to_owned(), address);
        if address.is_ipv4() && on_link(self, &|other| same_subnet(other, &address)) {
            self.hidden.secondary.insert(key.clone());
        }
        self.seen.addresses.insert(key);
        Ok(())
    }

    fn delete_address(&mut self, name: &str, address: IpNetwork) -> Outcome {
        self.link(name)?;
        let key = (name.to_owned(), address);
        self.seen.addresses.remove(&key).then_some(()).ok_or(libc::EADDRNOTAVAIL)?;
        if address.is_ipv6() {
            return Ok(());
        }
        if !self.hidden.secondary.remove(&key) {
            let goes = |(on, other): &(String, IpNetwork)| on == name && same_subnet(other, &address);
            let with_it: Vec<_> = self.hidden.secondary.extract_if(.., |key| goes(key)).collect();
            self.seen.addresses.retain(|key| !with_it.contains(key));
        }
        // net/ipv4/fib_frontend.c, fib_inetaddr_event: with the last address go the routes (not with the one whose
        // subnet their next hop is in) and the neighbours, permanent ones too.
        if !self.seen.addresses.iter().any(|(on, other)| on == name && other.is_ipv4()) {
            self.forget_routes(name, |route| !route.six);
            self.seen.neighbours.retain(|(on, address), _| on != name || address.is_ipv6());
        }
        Ok(())
    }

    pub(super) fn forget_routes(&mut self, name: &str, which: impl Fn(&Route) -> bool) {
        self.seen.routes.retain(|route| route.link.as_deref() != Some(name) || !which(route));
    }

    fn set_route(&mut self, route: &Route, replace: bool) -> Outcome {
        let name = route.link.as_deref().ok_or(libc::ENODEV)?;
        let up = self.link(name)?.up;
        let reached = |gateway: IpAddr| {
            self.seen.addresses.iter().any(|(on, address)| on == name && address.contains(gateway))
        };
        if route.gateway.is_some_and(|gateway| !(up && reached(gateway))) {
            return Err(if route.six { libc::EHOSTUNREACH } else { libc::ENETUNREACH });
        }
        if !up {
            return Err(libc::ENETDOWN);
        }
        let same = |other: &Route| other.six == route.six && other.metric == route.metric;
        if self.seen.routes.iter().any(same) && !replace {
            return Err(libc::EEXIST);
        }
        self.seen.routes.retain(|other| !same(other));
        self.seen.routes.insert(route.clone());
        Ok(())
    }

    fn set_tunnel(&mut self, name: &str, mac: Mac, vtep: SocketAddr) -> Outcome {
        self.link(name)?;
        if !is_tunnel(name) {
            return Ok(());
        }
        if mac != FLOOD {
            let lowest = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            let before = self.seen.tunnels.range((mac, lowest)..).take_while(|(other, _)| *other == mac);
            let before: Vec<_> = before.copied().collect();
            for entry in &before {
                self.seen.tunnels.remove(entry);
            }
        }
        self.seen.tunnels.insert((mac, vtep));
        Ok(())
    }
}

fn same_subnet(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && a.prefix() == b.prefix() && a.network() == b.network()
}
