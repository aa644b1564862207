//! Links: made, deleted, set. Addressed by name, which the kernel resolves under its own lock.
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::Open;
use crate::kernel::KernelError;
use crate::op::Peer;
use crate::{Mac, Op, PortFlags};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The group of links that are about to be deleted: RTM_DELLINK with nothing but a group deletes all of it in one turn
/// (rtnl_group_dellink of net/core/rtnetlink.c). Only used in namespaces where nobody else makes links.
const GOING: u32 = 0x7376_6361;

impl Open {
    /// Sent from the namespace that keeps the UDP socket, with the link's as target: the device is born there
    /// (`net` of rtnl_newlink is the sender's), so there is no instant at which it stands in the wrong one.
    pub(super) async fn add_vxlan(&self, target: &Self, op: &Op) -> Result<(), KernelError> {
        let Op::AddVxlan { name, vni, local, port, mtu, .. } = op else { return Ok(()) };
        let local = match local {
            std::net::IpAddr::V4(four) => InfoVxlan::Local(*four),
            std::net::IpAddr::V6(six) => InfoVxlan::Local6(*six),
        };
        let data = vec![
            InfoVxlan::Id(*vni),
            local,
            InfoVxlan::Port(*port),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(true),
        ];
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Mtu(*mtu));
        message.attributes.push(LinkAttribute::NetNsFd(target.fd()));
        message.attributes.push(info(InfoKind::Vxlan, Some(InfoData::Vxlan(data))));
        target.forget_indexes();
        self.request(RouteNetlinkMessage::NewLink(message), NEW).await
    }

    pub(super) async fn add_veth(
        &self,
        name: &str,
        mtu: u32,
        peer: &Peer,
        target: &Self,
    ) -> Result<(), KernelError> {
        let mut far = named(&peer.name);
        far.attributes.push(LinkAttribute::Mtu(mtu));
        far.attributes.push(LinkAttribute::NetNsFd(target.fd()));
        if let Some(Mac(bytes)) = peer.mac {
            far.attributes.push(LinkAttribute::Address(bytes.to_vec()));
        }
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(info(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(far)))));
        self.forget_indexes();
        target.forget_indexes();
        self.request(RouteNetlinkMessage::NewLink(message), NEW).await
    }

    fn fd(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }

    /// Everything that is one route netlink request.
    pub(super) async fn request_for(&self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::AddBridge { name, mac, mtu } => {
                self.forget_indexes();
                let mut message = named(name);
                message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
                message.attributes.push(LinkAttribute::Mtu(*mtu));
                message.attributes.push(info(InfoKind::Bridge, None));
                self.request(RouteNetlinkMessage::NewLink(message), NEW).await
            }
            Op::DeleteLink { name } => {
                self.forget_indexes();
                self.request(RouteNetlinkMessage::DelLink(named(name)), 0).await
            }
            Op::DeleteLinks { names } => {
                for name in names {
                    match self.set(name, LinkAttribute::Group(GOING)).await {
                        // Its container has just ended.
                        Err(error) if error.errno() == Some(libc::ENODEV) => {}
                        set => set?,
                    }
                }
                self.forget_indexes();
                let mut message = LinkMessage::default();
                message.attributes.push(LinkAttribute::Group(GOING));
                self.request(RouteNetlinkMessage::DelLink(message), 0).await
            }
            Op::SetAlias { name, alias } => self.set(name, LinkAttribute::IfAlias(alias.clone())).await,
            Op::SetMtu { name, mtu } => self.set(name, LinkAttribute::Mtu(*mtu)).await,
            Op::SetMac { name, mac } => self.set(name, LinkAttribute::Address(mac.0.to_vec())).await,
            Op::SetUp { name } => self.set_flags(name, LinkFlags::Up).await,
            Op::SetDown { name } => self.set_flags(name, LinkFlags::empty()).await,
            Op::SetController { name, controller } => {
                let index = self.index(controller).await?;
                self.set(name, LinkAttribute::Controller(index)).await
            }
            Op::StopSnooping { name } => {
                let mut message = named(name);
                let data = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
                message.attributes.push(info(InfoKind::Bridge, Some(data)));
                self.request(RouteNetlinkMessage::NewLink(message), 0).await
            }
            Op::SetPort { name, flags } => {
                // RTM_SETLINK leaves IFLA_INFO_SLAVE_DATA out; RTM_NEWLINK of an existing link takes it.
                let mut message = named(name);
                message.attributes.push(LinkAttribute::LinkInfo(vec![
                    LinkInfo::PortKind(InfoPortKind::Bridge),
                    LinkInfo::PortData(InfoPortData::BridgePort(port_data(*flags))),
                ]));
                self.request(RouteNetlinkMessage::NewLink(message), 0).await
            }
            _ => self.entry(op).await,
        }
    }

    async fn set(&self, name: &str, attribute: LinkAttribute) -> Result<(), KernelError> {
        let mut message = named(name);
        message.attributes.push(attribute);
        self.request(RouteNetlinkMessage::SetLink(message), 0).await
    }

    async fn set_flags(&self, name: &str, flags: LinkFlags) -> Result<(), KernelError> {
        let mut message = named(name);
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0).await
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn info(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    LinkAttribute::LinkInfo(infos)
}

fn port_data(flags: PortFlags) -> Vec<InfoBridgePort> {
    vec![
        InfoBridgePort::Learning(flags.learning),
        InfoBridgePort::UnicastFlood(flags.unicast_flood),
        InfoBridgePort::NeighSupress(flags.neighbour_suppression),
    ]
}
