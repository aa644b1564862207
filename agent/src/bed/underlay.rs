//! Links, addresses and faults of a bed, by route netlink.
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::Error;
use crate::netns::{self, Namespace};

/// The switch's bridge.
pub(super) const BRIDGE: &str = "br-u";
/// A host's interface on the switch.
pub(super) const UPLINK: &str = "eth0";
/// What a host's end is called before it is moved.
const UNMOVED: &str = "unmoved";
/// How long a switch port may take until it forwards.
const FORWARDING_TIMEOUT: Duration = Duration::from_secs(5);
const FORWARDING_LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A link-layer address that nobody has.
const NOBODY: [u8; 6] = [0x02, 0xde, 0xad, 0, 0, 1];

/// Names in this namespace are the switch's alone, so the kernel may begin anew with them.
pub(super) fn switch() -> Result<Namespace, netns::Error> {
    let switch = Namespace::create()?;
    for table in ["iptables", "ip6tables", "arptables"] {
        // 1 in new namespaces of kernels with br_netfilter; without it the file is missing.
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{table}");
        let _missing = switch.run(|| std::fs::write(path, "0"))?;
    }
    Ok(switch)
}

pub(super) fn build_switch(switch: &Namespace) -> Result<(), Error> {
    netlink(switch, "build the bridge", "the switch", async |handle| {
        handle.link().add(LinkBridge::new(BRIDGE).mcast_snooping(false).up().build()).execute().await?;
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await
    })
}

pub(super) fn port_name(host: &str) -> String {
    format!("to-{host}")
}

/// A veth from the switch into the host; returns the link-layer address of the host's end.
pub(super) fn join_switch(
    switch: &Namespace,
    host: &Namespace,
    name: &str,
    address: IpNetwork,
) -> Result<Vec<u8>, Error> {
    let port = port_name(name);
    netlink(switch, "lay the cable", name, async |handle| {
        handle.link().add(LinkVeth::new(&port, UNMOVED).build()).execute().await?;
        // By index: a name here would be the new one.
        let moved = LinkUnspec::new_with_index(index(handle, UNMOVED).await?);
        let moved = moved.name(UPLINK.to_owned()).setns_by_fd(host.as_fd().as_raw_fd());
        handle.link().set(moved.build()).execute().await?;
        let bridge = index(handle, BRIDGE).await?;
        handle.link().set(LinkUnspec::new_with_name(&port).controller(bridge).up().build()).execute().await
    })?;
    loopback_up(host, name)?;
    let mac = netlink(host, "set the address", name, async |handle| {
        let link = link(handle, UPLINK).await?;
        let mut add = handle.address().add(link.header.index, address.ip(), address.prefix());
        if address.is_ipv6() {
            // Nobody else has it, and nobody could use it before that was found out.
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        add.execute().await?;
        handle.link().set(LinkUnspec::new_with_name(UPLINK).up().build()).execute().await?;
        let mac = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac),
            _ => None,
        });
        Ok(mac.unwrap_or_default())
    })?;
    netlink(switch, "wait for the switch port", name, async |handle| {
        wait_for_forwarding(handle, &port).await
    })?;
    Ok(mac)
}

pub(super) fn loopback_up(namespace: &Namespace, name: &str) -> Result<(), Error> {
    netlink(namespace, "bring up lo", name, async |handle| {
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await
    })
}

pub(super) fn set_port(switch: &Namespace, host: &str, joined: bool) -> Result<(), Error> {
    let name = port_name(host);
    netlink(switch, "change the switch port", host, async |handle| {
        let port = LinkUnspec::new_with_name(&name);
        if !joined {
            return handle.link().set(port.nocontroller().build()).execute().await;
        }
        handle.link().set(port.controller(index(handle, BRIDGE).await?).build()).execute().await?;
        wait_for_forwarding(handle, &name).await
    })
}

/// Takes the cable out for good; both ends go.
pub(super) fn remove_port(switch: &Namespace, host: &str) -> Result<(), Error> {
    netlink(switch, "remove the switch port", host, async |handle| {
        let port = index(handle, &port_name(host)).await?;
        handle.link().del(port).execute().await
    })
}

pub(super) fn set_mtu(namespace: &Namespace, link: &str, name: &str, mtu: u32) -> Result<(), Error> {
    netlink(namespace, "set the MTU", name, async |handle| {
        handle.link().set(LinkUnspec::new_with_name(link).mtu(mtu).build()).execute().await
    })
}

/// Everything for `to` goes to a link-layer address that nobody has: lost without a word, in one direction.
pub(super) fn mislead(from: &Namespace, name: &str, to: IpAddr) -> Result<(), Error> {
    neighbour(from, name, to, &NOBODY, NeighbourState::Permanent)
}

/// Ends [`mislead`]: the right address, and from then on as the kernel finds it.
pub(super) fn lead(from: &Namespace, name: &str, to: IpAddr, mac: &[u8]) -> Result<(), Error> {
    neighbour(from, name, to, mac, NeighbourState::Reachable)
}

pub(super) fn default_route(host: &Namespace, name: &str, gateway: IpAddr) -> Result<(), Error> {
    netlink(host, "set the default route", name, async |handle| {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).build(),
        };
        handle.route().add(route).execute().await
    })
}

fn neighbour(
    namespace: &Namespace,
    name: &str,
    to: IpAddr,
    mac: &[u8],
    state: NeighbourState,
) -> Result<(), Error> {
    netlink(namespace, "set a neighbour", name, async |handle| {
        let link = index(handle, UPLINK).await?;
        handle.neighbours().add(link, to).link_layer_address(mac).state(state).replace().execute().await
    })
}

/// The kernel tells a bridge of a carrier from a work queue: until then frames are dropped.
async fn wait_for_forwarding(handle: &Handle, port: &str) -> Result<(), rtnetlink::Error> {
    let wait = async {
        while !is_forwarding(&link(handle, port).await?) {
            tokio::time::sleep(FORWARDING_LOOK_INTERVAL).await;
        }
        Ok(())
    };
    tokio::time::timeout(FORWARDING_TIMEOUT, wait).await.unwrap_or(Err(rtnetlink::Error::RequestFailed))
}

fn is_forwarding(port: &LinkMessage) -> bool {
    let infos = port.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let ports = infos.flatten().filter_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => Some(port),
        _ => None,
    });
    ports.flatten().any(|setting| *setting == InfoBridgePort::State(BridgePortState::Forwarding))
}

async fn link(handle: &Handle, name: &str) -> Result<LinkMessage, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)
}

async fn index(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    Ok(link(handle, name).await?.header.index)
}

/// Does a few requests on a thread inside, with a runtime of their own.
fn netlink<T: Send>(
    namespace: &Namespace,
    what: &'static str,
    name: &str,
    work: impl AsyncFnOnce(&Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, Error> {
    let done = namespace.run(|| -> io::Result<_> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            Ok(work(&handle).await)
        })
    });
    done.map_err(|source| Error::Namespace { name: name.to_owned(), source })?
        .map_err(|source| Error::Do { what: "open route netlink", name: name.to_owned(), source })?
        .map_err(|source| Error::Netlink { what, name: name.to_owned(), source })
}
