//! Addresses, routes, neighbours and forwarding entries.
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Open;
use crate::kernel::KernelError;
use crate::world::FLOOD;
use crate::{Mac, Op, Route};

const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

impl Open {
    /// Operations on what links carry.
    pub(super) async fn entry(&self, op: &Op) -> Result<(), KernelError> {
        use RouteNetlinkMessage as Message;
        match op {
            Op::AddAddress { name, address } => {
                let message = address_message(self.index(name).await?, *address);
                self.request(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await
            }
            Op::DeleteAddress { name, address } => {
                let message = address_message(self.index(name).await?, *address);
                self.request(Message::DelAddress(message), 0).await
            }
            Op::SetRoute { route, replace } => {
                // Replacing goes by metric alone and would take a foreign route for ours.
                let flags = if *replace { REPLACE } else { NLM_F_CREATE | NLM_F_EXCL };
                self.request(Message::NewRoute(self.route_message(route).await?), flags).await
            }
            Op::DeleteRoute { route } => {
                self.request(Message::DelRoute(self.route_message(route).await?), 0).await
            }
            Op::SetNeighbour { name, address, mac } => {
                let message = neighbour_message(self.index(name).await?, *address, Some(*mac));
                self.request(Message::NewNeighbour(message), REPLACE).await
            }
            Op::DeleteNeighbour { name, address } => {
                let message = neighbour_message(self.index(name).await?, *address, None);
                self.request(Message::DelNeighbour(message), 0).await
            }
            Op::SetTunnel { name, mac, vtep } => {
                let message = tunnel_message(self.index(name).await?, *mac, *vtep);
                // Of the zero MAC there are several, which the kernel appends only on request.
                let flags = if *mac == FLOOD { NLM_F_CREATE | NLM_F_APPEND } else { REPLACE };
                self.request(Message::NewNeighbour(message), flags).await
            }
            Op::DeleteTunnel { name, mac, vtep } => {
                let message = tunnel_message(self.index(name).await?, *mac, *vtep);
                self.request(Message::DelNeighbour(message), 0).await
            }
            Op::SetForwarding { port, mac } => {
                let message = forwarding_message(self.index(port).await?, *mac);
                self.request(Message::NewNeighbour(message), REPLACE).await
            }
            Op::DeleteForwarding { port, mac } => {
                let message = forwarding_message(self.index(port).await?, *mac);
                self.request(Message::DelNeighbour(message), 0).await
            }
            _ => Err(KernelError::Refused(std::io::Error::from(std::io::ErrorKind::Unsupported))),
        }
    }

    async fn route_message(&self, route: &Route) -> Result<RouteMessage, KernelError> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: if route.six { AddressFamily::Inet6 } else { AddressFamily::Inet },
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::from(route.protocol),
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if let Some(link) = &route.link {
            message.attributes.push(RouteAttribute::Oif(self.index(link).await?));
        }
        if let Some(gateway) = route.gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if route.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(route.metric));
        }
        Ok(message)
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    match address {
        IpNetwork::V4(four) if four.prefix() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(four.broadcast()));
        }
        IpNetwork::V4(_) => {}
        // Duplicate address detection took 1.6 s, and addresses are ours to give out.
        IpNetwork::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

fn neighbour_message(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(destination(address)));
    if let Some(Mac(bytes)) = mac {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
    }
    message
}

/// An entry of the VXLAN device itself.
fn tunnel_message(index: u32, mac: Mac, vtep: SocketAddr) -> NeighbourMessage {
    let mut message = bridge_family(index, mac);
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::Destination(destination(vtep.ip())));
    message.attributes.push(NeighbourAttribute::Port(vtep.port()));
    message
}

/// An entry of the bridge, static: NOARP. A permanent one there is local, and swallows what it should forward.
fn forwarding_message(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = bridge_family(index, mac);
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message
}

fn bridge_family(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(four) => NeighbourAddress::Inet(four),
        IpAddr::V6(six) => NeighbourAddress::Inet6(six),
    }
}
