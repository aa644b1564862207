//! What a kernel holds, without what its own whim decides, and as lines of text.
use std::collections::{BTreeMap, BTreeSet};

use overlay::{Kernel, Link, LinkKind, Look, Observed, PortFlags, ROUTE_PROTOCOL, Space, TAG};

/// All namespaces as they are now.
pub(crate) async fn all<K: Kernel>(kernel: &K) -> BTreeMap<Space, Observed> {
    let mut all = BTreeMap::new();
    for space in kernel.spaces() {
        let observed = kernel.observe(&space, Look::All).await.unwrap();
        all.insert(space, observed);
    }
    all
}

/// Without indexes, MACs that nobody chose, counters, devices that a module makes in each namespace, and whether the
/// host's other links take router advertisements: the kernel in memory has no settings that come and go with links.
pub(crate) fn normal(mut all: BTreeMap<Space, Observed>) -> BTreeMap<Space, Observed> {
    for (space, observed) in &mut all {
        observed.drops.clear();
        observed.former.clear();
        if *space == Space::Host {
            observed.sysctls.retain(|key, _| !key.ends_with("/accept_ra"));
        }
        observed.links.retain(|name, link| link.kind != LinkKind::Other || name == "lo");
        for (name, link) in &mut observed.links {
            (link.index, link.peer_index) = (0, link.peer_index.map(|_| 0));
            if !has_chosen_mac(space, name, link) {
                link.mac = None;
            }
        }
    }
    all
}

/// Bridges, and the inner ends of attachments.
fn has_chosen_mac(space: &Space, name: &str, link: &Link) -> bool {
    let is_inner = !matches!(space, Space::Network(_)) && !name.starts_with("svc-link");
    matches!(link.kind, LinkKind::Bridge { .. }) || (link.kind == LinkKind::Veth && is_inner)
}

/// Everything in the scenarios' words, one line each: first its kind, then the namespace.
pub(crate) fn lines(all: &BTreeMap<Space, Observed>) -> BTreeSet<String> {
    all.iter().flat_map(|(space, observed)| lines_of(&name(space), observed)).collect()
}

/// A namespace in the scenarios' words: `host`, the network's name, `c1`.
fn name(space: &Space) -> String {
    match space {
        Space::Host => "host".to_owned(),
        Space::Network(name) => name.clone(),
        Space::Paths => "paths".to_owned(),
        Space::Container(cookie) => format!("c{cookie}"),
    }
}

fn lines_of(at: &str, seen: &Observed) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (name, link) in &seen.links {
        lines.push(match link.kind {
            LinkKind::Other => format!("loopback {at} {}", up(link.up)),
            _ => format!("link {at} {name} {}", settings(link)),
        });
    }
    let addresses = seen.addresses.iter().filter(|(name, _)| name != "lo");
    lines.extend(addresses.map(|(name, address)| format!("address {at} {name} {address}")));
    for route in &seen.routes {
        let link = route.link.as_deref().unwrap_or("none");
        let gateway = route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
        let whose = if route.protocol == ROUTE_PROTOCOL { "ours" } else { "foreign" };
        lines.push(format!("route {at} {link} via {gateway} metric {} {whose}", route.metric));
    }
    let neighbours = seen.neighbours.iter();
    lines.extend(neighbours.map(|((name, address), mac)| format!("neighbour {at} {name} {address} {mac}")));
    for (mac, vtep) in &seen.tunnels {
        let port = if vtep.port() == 4789 { String::new() } else { format!(" port {}", vtep.port()) };
        lines.push(format!("tunnel {at} {mac} {}{port}", vtep.ip()));
    }
    for (mac, (port, fixed)) in &seen.forwarding {
        lines.push(format!("forwarding {at} {mac} {port}{}", if *fixed { "" } else { " learned" }));
    }
    lines.extend(seen.ways.iter().map(|(mac, port)| format!("way {at} {mac} {port}")));
    lines.extend(seen.sysctls.iter().map(|(key, value)| format!("sysctl {at} {key} {value}")));
    for (family, table) in &seen.tables {
        let family = format!("{family:?}").to_lowercase();
        lines.push(format!("nft {at} {family}"));
        let devices = table.chains.values().filter_map(|chain| chain.device.as_ref());
        lines.extend(devices.map(|device| format!("fence {at} {device}")));
        let sets = table.sets.iter().filter(|(_, elements)| !elements.is_empty());
        lines.extend(sets.map(|(set, elements)| format!("set {at} {family} {set} {}", elements.len())));
    }
    lines
}

fn up(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn settings(link: &Link) -> String {
    let mut words = match &link.kind {
        LinkKind::Vxlan(settings) => {
            let local = settings.local.map(|local| local.to_string()).unwrap_or_default();
            let learning = if settings.learning { " learning" } else { "" };
            format!("vxlan {} {local}:{}{learning}", settings.vni, settings.port)
        }
        LinkKind::Bridge { snooping } => format!("bridge{}", if *snooping { " snooping" } else { "" }),
        LinkKind::Veth | LinkKind::Other => "veth".to_owned(),
    };
    words += &format!(" mtu {} {}", link.mtu, up(link.up));
    words += if link.offload { "" } else { " computing" };
    words.extend(link.mac.map(|mac| format!(" mac {mac}")));
    words.extend(link.controller.as_ref().map(|bridge| format!(" on {bridge}")));
    words.extend(link.port.map(flags));
    let alias = link.alias.as_deref().map(|alias| match alias.strip_prefix(TAG) {
        Some(object) => format!(" for {object}"),
        None => format!(" alias {alias}"),
    });
    words.extend(alias);
    words
}

fn flags(flags: PortFlags) -> String {
    let named = [
        (flags.learning, " learning"),
        (flags.unicast_flood, " flooding"),
        (flags.neighbour_suppression, " suppressing"),
    ];
    named.into_iter().filter_map(|(is, name)| is.then_some(name)).collect()
}
