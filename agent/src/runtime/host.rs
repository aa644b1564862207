//! What the agent reads of and writes to this host outside its own objects: routes, addresses, resolv.conf.
use std::fs::Permissions;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::RouteMessageBuilder;
use rustix::fs::{Mode, OFlags};

use crate::config::LinkAddress;
use crate::model::Name;
use crate::netns::Namespace;
use crate::runtime::agent::{Agent, State, chain};
use crate::runtime::local::{LocalAttachment, StoredPlace};

mod mtu;

pub use mtu::underlay_mtu;

/// The resolv.conf that a host's own programs and our forwarder follow.
pub const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// What a resolv.conf of ours begins with; a file without it is never overwritten.
const MARK: &str = "# Written by svc-agent";
/// Bytes of a resolv.conf that are read.
const RESOLV_CONF_BYTES_MAX: u64 = 65_536;
/// A read of routes or addresses failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No socket could be opened.
    #[error("open route netlink")]
    Open(#[source] crate::netns::Error),
    /// The kernel refused the read.
    #[error("read {what}")]
    Read {
        /// What was read.
        what: &'static str,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Destinations of the host's own routes, default routes, the halves that VPNs use instead, and routes by our own links
/// left out. Where the kernel does not tell them, it is logged.
pub async fn routes(agent: &Agent) -> Option<Vec<IpNetwork>> {
    let routes = routes_in(&agent.host_namespace, None).await;
    routes
        .inspect_err(|error| {
            tracing::warn!("this host's routes cannot be read, none is avoided: {}", chain(error));
        })
        .ok()
}

/// Destinations of the routes in a namespace's main table: what a network's subnet must not overlap. Routes by way of
/// our own link of `network` are left out, without one those of all: an attach that a crash cut short leaves one until
/// it is repeated.
///
/// # Errors
/// When the kernel does not tell them.
pub async fn routes_in(namespace: &Namespace, network: Option<&Name>) -> Result<Vec<IpNetwork>, HostError> {
    let read = |what| move |source| HostError::Read { what, source };
    let netlink = namespace.rtnetlink().map_err(HostError::Open)?;
    let links: Vec<LinkMessage> =
        netlink.link().get().execute().try_collect().await.map_err(read("the links"))?;
    let four = netlink.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
    let mut messages: Vec<RouteMessage> = four.execute().try_collect().await.map_err(read("the routes"))?;
    let six = netlink.route().get(RouteMessageBuilder::<std::net::Ipv6Addr>::new().build());
    match six.execute().try_collect::<Vec<RouteMessage>>().await {
        Ok(six) => messages.extend(six),
        // A kernel without IPv6 has none, and says so.
        Err(_) if !Path::new("/proc/sys/net/ipv6").exists() => {}
        Err(source) => return Err(read("the routes")(source)),
    }
    netlink.close().await;
    let tag =
        network.map_or_else(|| overlay::TAG.to_owned(), |network| format!("{}{network}/", overlay::TAG));
    let own: Vec<u32> = links
        .iter()
        .filter(|link| {
            let ours =
                |it: &LinkAttribute| matches!(it, LinkAttribute::IfAlias(text) if text.starts_with(&tag));
            link.attributes.iter().any(ours)
        })
        .map(|link| link.header.index)
        .collect();
    let by_own = |message: &&RouteMessage| {
        let own = |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(index) if own.contains(index));
        !message.attributes.iter().any(own)
    };
    Ok(messages.iter().filter(by_own).filter_map(destination).collect())
}

/// The main table (RT_TABLE_MAIN, include/uapi/linux/rtnetlink.h).
const TABLE_MAIN: u8 = 254;

fn destination(message: &RouteMessage) -> Option<IpNetwork> {
    let prefix = message.header.destination_prefix_length;
    // 0/0 is a default route; VPNs that take all traffic write 0/1 and 128/1, or 2000::/3, instead.
    if message.header.table != TABLE_MAIN || prefix <= 3 {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => {
            IpNetwork::new(IpAddr::V4(*address), prefix).ok()
        }
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
            IpNetwork::new(IpAddr::V6(*address), prefix).ok()
        }
        _ => None,
    })
}

/// Every address of this host with its interface, for settling which one is advertised.
///
/// # Errors
/// When the kernel does not tell them.
pub async fn link_addresses(namespace: &Namespace) -> Result<Vec<LinkAddress>, HostError> {
    let read = |what| move |source| HostError::Read { what, source };
    let netlink = namespace.rtnetlink().map_err(HostError::Open)?;
    let links: Vec<_> = netlink.link().get().execute().try_collect().await.map_err(read("the links"))?;
    let messages: Vec<_> =
        netlink.address().get().execute().try_collect().await.map_err(read("the addresses"))?;
    let routes = netlink.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let routes: Vec<RouteMessage> = routes.try_collect().await.map_err(read("the routes"))?;
    netlink.close().await;
    let defaults: Vec<u32> = routes
        .iter()
        .filter(|route| route.header.destination_prefix_length == 0 && route.header.table == TABLE_MAIN)
        .filter_map(|route| {
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        })
        .collect();
    let name_of = |index: u32| {
        let link = links.iter().find(|link| link.header.index == index)?;
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    };
    let found = messages.iter().filter_map(|message| {
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        // IPv6 addresses without a peer come without a "local" attribute.
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
        let index = message.header.index;
        let unsure = AddressFlags::Tentative | AddressFlags::Dadfailed;
        let tentative = message
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(unsure)));
        let default_route = defaults.contains(&index);
        Some(LinkAddress { interface: name_of(index)?, address, default_route, tentative })
    });
    Ok(found.filter(|link| !link.address.is_loopback()).collect())
}

/// Name of an attachment's link inside its namespace, found by its alias.
pub async fn interface(namespace: &Namespace, network: &str, attachment: &str) -> Option<String> {
    let netlink = namespace.rtnetlink().ok()?;
    let links: Vec<_> = netlink.link().get().execute().try_collect().await.ok()?;
    netlink.close().await;
    let alias = format!("{}{network}/{attachment}", overlay::TAG);
    let link = links.into_iter().find(|link| {
        let ours =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfAlias(text) if *text == alias);
        link.attributes.iter().any(ours)
    })?;
    link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

/// The upstreams that are in force: configured ones, else what the host's resolv.conf says.
pub fn upstreams(agent: &Agent) -> Vec<SocketAddr> {
    let configured = agent.settings.load().upstream.clone();
    if !configured.is_empty() {
        return configured;
    }
    host_resolv_conf().servers
}

fn host_resolv_conf() -> dns::Upstreams {
    read_resolv_conf(Path::new(HOST_RESOLV_CONF))
}

/// What a resolv.conf says; nothing where there is none. Whatever stands there does not hold us up: not a pipe, not a file
/// without end, not bytes that are no text.
pub fn read_resolv_conf(path: &Path) -> dns::Upstreams {
    let read = || -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(RESOLV_CONF_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    dns::parse_resolv_conf(&String::from_utf8_lossy(&bytes), &interface_index)
}

/// The number of an interface of this host by its name.
fn interface_index(name: &str) -> Option<u32> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    rustix::net::netdevice::name_to_index(socket, name).ok()
}

/// The resolv.conf for a namespace on these networks.
pub fn resolv_conf(agent: &Agent, cookie: u64) -> String {
    let mut records: Vec<LocalAttachment> =
        agent.read(|state| state.local.values().filter(|it| it.cookie == cookie).cloned().collect());
    records.sort_by_key(|record| record.order);
    let networks: Vec<&str> = records.iter().map(|record| record.network.as_str()).collect();
    let domain = agent.settings.load().domain.clone();
    dns::render_resolv_conf(&networks, &domain, &host_resolv_conf())
}

/// Writes /etc/netns/NAME/resolv.conf for a named namespace, which `ip netns exec NAME` shows as /etc/resolv.conf.
/// A file of somebody else's is left alone. Returns the path if it is ours now.
pub fn write_resolv_conf(agent: &Agent, record: &LocalAttachment) -> Option<String> {
    let path = resolv_conf_path(record).or_else(|| shared_resolv_conf(agent, record.cookie))?;
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.starts_with(MARK)
    {
        tracing::warn!("{} is not ours and is left as it is", path.display());
        return None;
    }
    let text = resolv_conf(agent, record.cookie);
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| replace(&path, &text));
    match written {
        Ok(()) => Some(path.display().to_string()),
        Err(error) => {
            tracing::warn!("{} cannot be written: {error}", path.display());
            None
        }
    }
}

/// The file that another attachment of this namespace has: it may have been named differently then.
fn shared_resolv_conf(agent: &Agent, cookie: u64) -> Option<PathBuf> {
    let of = |state: &State| {
        let here = state.local.values().filter(|record| record.cookie == cookie);
        here.filter_map(|record| record.resolv_conf.clone()).next()
    };
    agent.read(of).map(PathBuf::from)
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("conf.new")
}

/// A reader sees the old file or the new one, never half of one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = unfinished(path);
    std::fs::write(&new, text)?;
    // For all users of the namespace, whatever this process's umask is.
    std::fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    std::fs::rename(&new, path)
}

fn resolv_conf_path(record: &LocalAttachment) -> Option<PathBuf> {
    let StoredPlace::Path(path) = &record.place else { return None };
    let path = Path::new(path);
    let parent = path.parent()?;
    let named = parent == Path::new("/run/netns") || parent == Path::new("/var/run/netns");
    let name = path.file_name()?;
    named.then(|| Path::new("/etc/netns").join(name).join("resolv.conf"))
}

/// Removes a resolv.conf of ours, and its directory if nothing else is in it; while the namespace is on another
/// network, it is written anew instead. A record that was never announced may have one that it does not know of.
pub fn remove_resolv_conf(agent: &Agent, record: &LocalAttachment) {
    let known = record.resolv_conf.as_deref().map(PathBuf::from);
    let Some(path) = known.or_else(|| resolv_conf_path(record)) else { return };
    let ours = std::fs::read_to_string(&path).is_ok_and(|text| text.starts_with(MARK));
    let still_used = agent.read(|state| state.local.values().any(|it| it.cookie == record.cookie));
    if ours && still_used {
        if let Err(error) = replace(&path, &resolv_conf(agent, record.cookie)) {
            tracing::warn!("{} cannot be written: {error}", path.display());
        }
        return;
    }
    let others = |it: &LocalAttachment| it.resolv_conf.as_deref().is_some_and(|of| path == Path::new(of));
    if agent.read(|state| state.local.values().any(others)) {
        // Of another namespace that has the name by now.
        return;
    }
    if ours && let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!("{} cannot be removed: {error}", path.display());
    }
    // Half of one, if an agent died as it wrote it.
    drop(std::fs::remove_file(unfinished(&path)));
    if let Some(directory) = path.parent() {
        // It stays where somebody else has a file in it.
        drop(std::fs::remove_dir(directory));
    }
}
