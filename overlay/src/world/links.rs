//! Links of one namespace, and what goes or changes with them.
use super::{DEFAULT_MTU, Inside, MTU_SIX_MIN, Outcome};
use crate::name::is_tunnel;
use crate::{Link, LinkKind, Op, PortFlags};

impl Inside<'_> {
    pub(super) fn link(&mut self, name: &str) -> Result<&mut Link, i32> {
        self.seen.links.get_mut(name).ok_or(libc::ENODEV)
    }

    /// Settings of links.
    pub(super) fn apply_to_link(&mut self, op: &Op) -> Outcome {
        match op {
            Op::SetAlias { name, alias } => self.link(name)?.alias = Some(alias.clone()),
            Op::SetMtu { name, mtu } => return self.set_mtu(name, *mtu),
            Op::SetMac { name, mac } => {
                self.link(name)?.mac = Some(*mac);
                // Permanent ones, too (net/core/neighbour.c, neigh_changeaddr).
                self.seen.neighbours.retain(|(on, _), _| on != name);
            }
            Op::SetOffload { name, on } => self.link(name)?.offload = *on,
            Op::SetUp { name } => self.set_up(name)?,
            Op::TakeSix { name } => {
                let link = self.link(name)?;
                // Without a place for the settings there is nothing to write.
                if link.mtu < MTU_SIX_MIN {
                    return Err(libc::ENOENT);
                }
                link.takes_six = true;
            }
            Op::SetDown { name } => self.set_down(name)?,
            Op::SetController { name, controller } => return self.set_controller(name, controller),
            Op::StopSnooping { name } => self.link(name)?.kind = LinkKind::Bridge { snooping: false },
            Op::SetPort { name, flags } => *self.link(name)?.port.as_mut().ok_or(libc::EOPNOTSUPP)? = *flags,
            Op::Announce { name, .. } => {
                self.link(name)?.up.then_some(()).ok_or(libc::ENETDOWN)?;
            }
            _ => return Err(libc::EOPNOTSUPP),
        }
        Ok(())
    }

    pub(super) fn remove_link(&mut self, name: &str) -> Result<Link, i32> {
        let link = self.seen.links.remove(name).ok_or(libc::ENODEV)?;
        self.seen.addresses.retain(|(on, _)| on != name);
        self.hidden.secondary.retain(|(on, _)| on != name);
        self.hidden.fixed_mtu.remove(name);
        self.hidden.other_ends.remove(name);
        self.forget_routes(name, |_| true);
        self.seen.neighbours.retain(|(on, _), _| on != name);
        self.seen.forwarding.retain(|_, (port, _)| port != name);
        self.seen.ways.values_mut().filter(|port| *port == name).for_each(String::clear);
        match link.kind {
            LinkKind::Vxlan(_) if is_tunnel(name) => self.seen.tunnels.clear(),
            LinkKind::Bridge { .. } => self.release_ports(name),
            _ => {}
        }
        if let Some(bridge) = &link.controller {
            self.follow_ports(bridge);
        }
        Ok(link)
    }

    fn release_ports(&mut self, bridge: &str) {
        let ports: Vec<String> = self.ports(bridge).map(|(name, _)| name.clone()).collect();
        self.seen.forwarding.retain(|_, (port, _)| !ports.contains(port));
        for link in self.seen.links.values_mut().filter(|link| link.controller.as_deref() == Some(bridge)) {
            link.controller = None;
            link.port = None;
        }
    }

    fn ports(&self, bridge: &str) -> impl Iterator<Item = (&String, &Link)> {
        self.seen.links.iter().filter(move |(_, link)| link.controller.as_deref() == Some(bridge))
    }

    fn set_controller(&mut self, name: &str, controller: &str) -> Outcome {
        self.link(controller)?;
        let link = self.link(name)?;
        if link.controller.as_deref() == Some(controller) {
            return Ok(());
        }
        let before = link.controller.replace(controller.to_owned());
        link.port = Some(PortFlags::FRESH);
        self.seen.forwarding.retain(|_, (port, _)| port != name);
        before.into_iter().for_each(|bridge| self.follow_ports(&bridge));
        self.follow_ports(controller);
        Ok(())
    }

    fn set_mtu(&mut self, name: &str, mtu: u32) -> Outcome {
        let link = self.link(name)?;
        // The kernel answers at once, and the bridge's own handler, which notes a choice, is not called.
        if link.mtu == mtu {
            return Ok(());
        }
        link.mtu = mtu;
        let (kind, controller) = (link.kind.clone(), link.controller.clone());
        if matches!(kind, LinkKind::Bridge { .. }) {
            self.hidden.fixed_mtu.insert(name.to_owned());
        }
        if mtu < MTU_SIX_MIN {
            self.forget_six(name);
        }
        controller.into_iter().for_each(|bridge| self.follow_ports(&bridge));
        Ok(())
    }

    /// net/bridge/br_if.c, br_mtu_auto_adjust: the smallest of the ports' unless somebody chose another.
    fn follow_ports(&mut self, bridge: &str) {
        let smallest = self.ports(bridge).map(|(_, link)| link.mtu).min().unwrap_or(DEFAULT_MTU);
        if !self.hidden.fixed_mtu.contains(bridge)
            && let Some(link) = self.seen.links.get_mut(bridge)
        {
            link.mtu = smallest;
            if smallest < MTU_SIX_MIN {
                self.forget_six(bridge);
            }
        }
    }

    fn set_up(&mut self, name: &str) -> Outcome {
        self.link(name)?.up = true;
        if name == "lo" {
            let own = ["127.0.0.1/8", "::1/128"].into_iter().filter_map(|text| text.parse().ok());
            self.seen.addresses.extend(own.map(|address| (name.to_owned(), address)));
        }
        Ok(())
    }

    /// IPv4 addresses stay (net/ipv6/addrconf.c, addrconf_ifdown, unless keep_addr_on_down is set).
    fn set_down(&mut self, name: &str) -> Outcome {
        let link = self.link(name)?;
        if std::mem::replace(&mut link.up, false) {
            self.forget_routes(name, |_| true);
            self.seen.neighbours.retain(|(on, _), _| on != name);
            self.forget_six(name);
        }
        Ok(())
    }

    fn forget_six(&mut self, name: &str) {
        if let Some(link) = self.seen.links.get_mut(name)
            && link.mtu < MTU_SIX_MIN
        {
            link.takes_six = false;
        }
        self.seen.addresses.retain(|(on, address)| on != name || address.is_ipv4());
        self.forget_routes(name, |route| route.six);
        self.seen.neighbours.retain(|(on, address), _| on != name || address.is_ipv4());
    }
}
