//! Links: a pair of scratch namespaces stands for a host and one of its networks.
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::super::check::Lack;
use super::{Outcome, scratch};
use crate::netns::{Namespace, Netlink};

/// A port that is free in a scratch namespace, whatever it is.
const PORT: u16 = 4789;
const VNI: u32 = 4096;

/// A scratch namespace with route netlink into it.
struct Place {
    namespace: Namespace,
    netlink: Netlink,
}

impl Place {
    fn make() -> Result<Self, Lack> {
        let namespace = scratch()?;
        let netlink = namespace.rtnetlink().map_err(|error| Lack::chain(&error))?;
        Ok(Self { namespace, netlink })
    }

    async fn add(&self, what: &str, message: LinkMessage) -> Result<(), Lack> {
        self.netlink.link().add(message).execute().await.map_err(|error| lack(what, &error))
    }

    async fn set(&self, what: &str, message: LinkMessage) -> Result<(), Lack> {
        self.netlink.link().set(message).execute().await.map_err(|error| lack(what, &error))
    }

    async fn index(&self, name: &str) -> Result<u32, Lack> {
        let mut found = self.netlink.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(|error| lack(&format!("find link {name}"), &error))?;
        link.map(|link| link.header.index)
            .ok_or_else(|| Lack::because(format!("link {name} was made and is not there")))
    }

    /// A veth pair, one end here as `name`, the other in `far` as `peer`.
    async fn pair(&self, name: &str, far: &Self, peer: &str) -> Result<(), Lack> {
        let mut other = named(peer);
        other.attributes.push(LinkAttribute::NetNsFd(far.namespace.as_fd().as_raw_fd()));
        let mut message = named(name);
        message.attributes.push(info(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(other)))));
        self.add("add a veth pair across two namespaces", message).await
    }
}

pub(super) async fn veth() -> Outcome {
    let (container, network) = (Place::make()?, Place::make()?);
    network.pair("port", &container, "eth0").await?;
    network.index("port").await?;
    container.index("eth0").await?;
    Ok("made a pair across two namespaces".to_owned())
}

pub(super) async fn bridge() -> Outcome {
    let (container, network) = (Place::make()?, Place::make()?);
    network.add("add a bridge", named_with("bridge", info(InfoKind::Bridge, None))).await?;
    network.pair("port", &container, "eth0").await?;
    let bridge = network.index("bridge").await?;
    let port = network.index("port").await?;
    let mut message = LinkMessage::default();
    message.header.index = port;
    message.attributes.push(LinkAttribute::Controller(bridge));
    network.set("make a link a port of the bridge", message).await?;
    let mut message = LinkMessage::default();
    message.header.index = port;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Learning(false),
            InfoBridgePort::NeighSupress(true),
        ])),
    ]));
    let request = network.netlink.link().set_port(message).execute().await;
    request.map_err(|error| lack("switch on neighbour suppression of a bridge port", &error))?;
    Ok("made one with a port that suppresses neighbour discovery".to_owned())
}

/// The device is made from the host's side, so that its UDP socket stays there, and stands in the network's.
pub(super) async fn vxlan() -> Outcome {
    let (host, network) = (Place::make()?, Place::make()?);
    let data =
        vec![InfoVxlan::Id(VNI), InfoVxlan::Port(PORT), InfoVxlan::Learning(false), InfoVxlan::UDPCsum(true)];
    let mut message = named("vxlan");
    message.attributes.push(LinkAttribute::NetNsFd(network.namespace.as_fd().as_raw_fd()));
    message.attributes.push(info(InfoKind::Vxlan, Some(InfoData::Vxlan(data))));
    host.add("add a VXLAN device and move it to another namespace", message).await?;
    let mut message = LinkMessage::default();
    message.header.index = network.index("vxlan").await?;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    network.set("open the UDP socket of a VXLAN device", message).await?;
    Ok("made a device, moved it and opened its socket".to_owned())
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn named_with(name: &str, attribute: LinkAttribute) -> LinkMessage {
    let mut message = named(name);
    message.attributes.push(attribute);
    message
}

fn info(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    LinkAttribute::LinkInfo(infos)
}

fn lack(what: &str, error: &rtnetlink::Error) -> Lack {
    match error {
        rtnetlink::Error::NetlinkError(message) => Lack::of(what, &message.to_io()),
        other => Lack::because(format!("{what}: {other}")),
    }
}
