//! From the view to what the leaf crates take: plain values, kept per network and changed only where the view was.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::addresses::{Layout, parse_mac};
use crate::catalog::facts::{Protocol, Region, ServiceMode};
use crate::model::{Name, NodeId};
use crate::runtime::local::{LocalAttachment, StoredPlace};
use crate::view::{AttachmentView, NetworkView, ReplicaState, ReplicaView, ServiceView};

/// One network in the words of the leaf crates.
#[derive(Debug)]
pub struct Derived {
    /// Names; shared with the zones that show the network.
    pub names: Arc<dns::Network>,
    services: BTreeMap<Name, Arc<lb::Service>>,
    /// The services as a list, made when it is asked for.
    list: Option<Arc<[Arc<lb::Service>]>>,
    remotes: BTreeMap<Name, Arc<overlay::Remote>>,
    /// Remotes as a list, made when it is asked for.
    remote_list: Option<Arc<Vec<Arc<overlay::Remote>>>>,
    /// This host's attachments as the overlay builds them, and what they were made of.
    links: Option<(Basis, Arc<BTreeMap<String, overlay::Attachment>>)>,
}

/// What a network's links on this host follow from.
#[derive(Debug, PartialEq, Eq)]
struct Basis {
    revision: u64,
    fenced: BTreeSet<Name>,
    subnets: Vec<IpNetwork>,
    internal: bool,
}

/// The attachments of this host that are on a network.
pub struct Linked<'a, I> {
    /// All of them.
    pub records: I,
    /// Differs where they may differ.
    pub revision: u64,
    /// Those that get no link.
    pub fenced: BTreeSet<&'a Name>,
}

impl Derived {
    /// A network with nothing in it.
    pub fn new(view: &NetworkView) -> Self {
        let names = dns::Network::new(view.name.as_str(), &view.definition.subnets);
        Self {
            names: Arc::new(names),
            services: BTreeMap::new(),
            list: None,
            remotes: BTreeMap::new(),
            remote_list: None,
            links: None,
        }
    }

    /// Takes a service over from the view, or out. Replicas on hosts that are `away` get no new flows.
    pub fn set_service(
        &mut self,
        network: &Name,
        name: &Name,
        view: Option<&ServiceView>,
        away: &BTreeSet<NodeId>,
    ) {
        self.list = None;
        let names = Arc::make_mut(&mut self.names);
        match view {
            Some(view) => {
                names.set_service(Arc::new(named(view, away)));
                self.services.insert(name.clone(), Arc::new(balanced(network, view, away)));
            }
            None => {
                names.remove_service(name.as_str());
                self.services.remove(name);
            }
        }
    }

    /// Takes an attachment over from the view, or out.
    pub fn set_attachment(&mut self, this: NodeId, name: &Name, view: Option<&AttachmentView>) {
        self.remote_list = None;
        self.remotes.remove(name);
        let names = Arc::make_mut(&mut self.names);
        let Some(view) = view else {
            names.remove_attachment(name.as_str());
            return;
        };
        names.set_attachment(Arc::new(dns::Attachment {
            name: name.shared(),
            aliases: view.aliases.iter().map(Name::shared).collect(),
            addresses: view.addresses.iter().copied().collect(),
        }));
        if view.owner != this
            && let (Some(vtep), Ok(mac)) = (view.underlay, parse_mac(&view.mac))
        {
            let remote = overlay::Remote { mac: overlay::Mac(mac), addresses: view.addresses.to_vec(), vtep };
            self.remotes.insert(name.clone(), Arc::new(remote));
        }
    }

    /// Follows a changed definition.
    pub fn set_subnets(&mut self, view: &NetworkView) {
        if self.names.subnets() != view.definition.subnets {
            Arc::make_mut(&mut self.names).set_subnets(&view.definition.subnets);
        }
    }

    /// All services.
    pub fn services(&mut self) -> Arc<[Arc<lb::Service>]> {
        Arc::clone(self.list.get_or_insert_with(|| self.services.values().cloned().collect()))
    }

    fn remotes(&mut self) -> Arc<Vec<Arc<overlay::Remote>>> {
        let list = || Arc::new(self.remotes.values().cloned().collect());
        Arc::clone(self.remote_list.get_or_insert_with(list))
    }

    fn links<'a>(
        &mut self,
        view: &NetworkView,
        layouts: &[Layout],
        linked: Linked<'_, impl Iterator<Item = &'a LocalAttachment>>,
    ) -> Arc<BTreeMap<String, overlay::Attachment>> {
        let Linked { records, revision, fenced } = linked;
        let basis = Basis {
            revision,
            fenced: fenced.into_iter().cloned().collect(),
            subnets: view.definition.subnets.clone(),
            internal: view.definition.internal,
        };
        if let Some((_, links)) = self.links.as_ref().filter(|(of, _)| *of == basis) {
            return Arc::clone(links);
        }
        let standing = records.filter(|record| !basis.fenced.contains(&record.name));
        let links = standing
            .filter_map(|record| Some((record.name.to_string(), overlay_attachment(view, layouts, record)?)));
        let links = Arc::new(links.collect());
        self.links = Some((basis, Arc::clone(&links)));
        links
    }
}

/// What a replica is to clients of this host.
fn state_here(replica: &ReplicaView, away: &BTreeSet<NodeId>) -> ReplicaState {
    if away.contains(&replica.owner) { ReplicaState::Quiescing } else { replica.state }
}

fn named(view: &ServiceView, away: &BTreeSet<NodeId>) -> dns::Service {
    let serving = view.replicas.iter().filter(|replica| state_here(replica, away) == ReplicaState::Serving);
    // A weight of 0 takes a replica out of balancing; it would be wrong to name it where the client balances.
    let named = serving.filter(|replica| replica.weight > 0);
    let mut replicas: Vec<IpAddr> = named.flat_map(|replica| replica.addresses.iter().copied()).collect();
    replicas.shrink_to_fit();
    dns::Service {
        name: view.name.shared(),
        aliases: view.aliases.iter().map(Name::shared).collect(),
        mode: match view.mode {
            ServiceMode::Vip => dns::Mode::Vip,
            ServiceMode::Dnsrr => dns::Mode::RoundRobin,
        },
        vips: view.dns_vips.clone(),
        replicas,
    }
}

fn balanced(network: &Name, view: &ServiceView, away: &BTreeSet<NodeId>) -> lb::Service {
    let protocol = |protocol| match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let mut replicas: Vec<lb::Replica> = view
        .replicas
        .iter()
        .map(|replica| lb::Replica {
            addresses: Arc::clone(&replica.addresses),
            weight: replica.weight,
            state: match state_here(replica, away) {
                ReplicaState::Serving => lb::ReplicaState::Serving,
                ReplicaState::Quiescing => lb::ReplicaState::Quiescing,
            },
        })
        .collect();
    replicas.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let mut name = format!("{network}/{}", view.name);
    name.shrink_to_fit();
    lb::Service {
        name,
        vips: view.vips.clone(),
        ports: view
            .ports
            .iter()
            .map(|port| lb::Port {
                protocol: protocol(port.protocol),
                public: port.public,
                target: port.target,
            })
            .collect(),
        replicas,
    }
}

/// A network as the overlay builds it on this host, with links for these attachments of it.
pub fn overlay_network<'a>(
    derived: &mut Derived,
    view: &NetworkView,
    local: Linked<'_, impl Iterator<Item = &'a LocalAttachment>>,
    this: NodeId,
    link_index: u16,
) -> overlay::Network {
    let layouts = layouts(view);
    overlay::Network {
        vni: view.definition.vni,
        subnets: layouts
            .iter()
            .map(|layout| overlay::Subnet { cidr: layout.subnet(), gateway: layout.gateway() })
            .collect(),
        mtu: view.mtu,
        internal: view.definition.internal,
        link_index,
        flood: view.members.iter().filter(|(node, _)| **node != this).map(|(_, address)| *address).collect(),
        remotes: derived.remotes(),
        attachments: derived.links(view, &layouts, local),
    }
}

fn layouts(view: &NetworkView) -> Vec<Layout> {
    view.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok()).collect()
}

/// `None` if no address of it lies in the network: it was attached to another network of that name.
fn overlay_attachment(
    view: &NetworkView,
    layouts: &[Layout],
    record: &LocalAttachment,
) -> Option<overlay::Attachment> {
    let inside = record.addresses.iter().filter_map(|address| {
        let layout = layouts.iter().find(|layout| layout.subnet().contains(*address))?;
        IpNetwork::new(*address, layout.subnet().prefix()).ok()
    });
    let addresses: Vec<IpNetwork> = inside.collect();
    let host = record.place == StoredPlace::Host;
    let default_route = match (host || view.definition.internal, record.default_route) {
        (true, _) => overlay::DefaultRoute::Never,
        (false, true) => overlay::DefaultRoute::Always,
        (false, false) => overlay::DefaultRoute::IfNone,
    };
    (!addresses.is_empty()).then_some(overlay::Attachment {
        space: if host { overlay::Space::Host } else { overlay::Space::Container(record.cookie) },
        addresses,
        mac: overlay::Mac(parse_mac(&record.mac).ok()?),
        default_route,
        metric: METRIC_FIRST.saturating_add(u32::try_from(record.order).unwrap_or(u32::MAX)),
        apart: record.endpoint.is_some(),
    })
}

/// Metric of the first attachment's default route. Two equal ones would become one multipath route over both networks.
const METRIC_FIRST: u32 = 1_000;

/// Where the endpoints of a network are. Its first address is none of them: what is sent there is a trial of VIPs.
pub fn endpoint_ranges(view: &NetworkView) -> impl Iterator<Item = lb::AddressRange> {
    layouts(view).into_iter().map(|layout| {
        let range = layout.region_range(Region::Endpoint);
        lb::AddressRange { first: layout.gateway(), last: range.last }
    })
}

/// What VIPs are tried with in a namespace that has these addresses on the network: a VIP of each family and where it
/// leads, which is back. It is the network's first address, which nobody is ever given, by whatever version.
pub fn trials(view: &NetworkView, addresses: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let pairs = layouts(view).into_iter().filter_map(|layout| {
        let own = addresses.iter().copied().find(|address| layout.subnet().contains(*address))?;
        Some((layout.subnet().network(), own))
    });
    pairs.collect()
}

/// The same as a service, which passes through the very maps that others do.
pub fn tried_service(view: &NetworkView, addresses: &[IpAddr]) -> Option<lb::Service> {
    let (vips, own): (Vec<IpAddr>, Vec<IpAddr>) = trials(view, addresses).into_iter().unzip();
    let replica = lb::Replica { addresses: own.into(), weight: 1, state: lb::ReplicaState::Serving };
    // No service has such a name, and all of them come after it.
    let name = format!("*/{}", view.name);
    (!vips.is_empty()).then_some(lb::Service { name, vips, ports: Vec::new(), replicas: vec![replica] })
}

/// The VIP ranges that a namespace on these networks sees, with its own address on each.
pub fn vip_ranges(view: &NetworkView, addresses: &[IpAddr]) -> Vec<lb::VipRange> {
    let ranges = layouts(view).into_iter().filter_map(|layout| {
        let own = addresses.iter().copied().find(|address| layout.subnet().contains(*address))?;
        let range = layout.region_range(Region::Vip);
        Some(lb::VipRange { first: range.first, last: range.last, own })
    });
    ranges.collect()
}
