//! What a service is to its clients.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::attachment::{AttachmentView, Place, within};
use super::conflict::Conflict;
use crate::catalog::ServiceRecord;
use crate::catalog::facts::{Balance, Check, Health, PortSetting, ServiceMode};
use crate::model::NodeId;
use crate::model::{Name, Stamp};

/// The greatest weight of a replica.
pub const WEIGHT_MAX: u16 = 256;

/// A service with a definition that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name within the network.
    pub name: Name,
    /// Creation of the definition that stands.
    pub born: Stamp,
    /// How its name is answered.
    pub mode: ServiceMode,
    /// Declared ports; none means all.
    pub ports: Vec<PortSetting>,
    /// Further names.
    pub aliases: Vec<Name>,
    /// How new flows are spread.
    pub balance: Balance,
    /// To be run by the hosts of its replicas.
    pub check: Option<Check>,
    /// VIPs of all live births, the older birth's first: each is served.
    pub vips: Vec<IpAddr>,
    /// VIPs that DNS answers: the oldest live birth's.
    pub dns_vips: Vec<IpAddr>,
    /// By attachment. Those that have not served yet are left out, and those whose attachment does not stand.
    pub replicas: Vec<ReplicaView>,
}

/// Whether a replica gets new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplicaState {
    /// Gets new flows and is in names.
    Serving,
    /// Gets none and is in no name; established flows go on.
    Quiescing,
}

/// A replica that may have flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// The attachment it is on; unique within the service.
    pub attachment: Name,
    /// The attachment's host.
    pub owner: NodeId,
    /// The attachment's addresses that the replica serves, at least one.
    pub addresses: Arc<[IpAddr]>,
    /// Share of new flows, 0 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// Whether it gets new flows.
    pub state: ReplicaState,
    /// Its host does not answer, so it is [`ReplicaState::Quiescing`] whatever it last said. Its TCP flows stay:
    /// if the host is only cut off they go on when it returns. Its UDP flows are to be dropped, since nothing
    /// would tell their clients to begin another.
    pub suspended: bool,
}

/// Derives a service from its definition and the attachments that stand.
pub(super) fn derive(
    place: &Place<'_>,
    attachments: &BTreeMap<Name, Arc<AttachmentView>>,
    name: &Name,
) -> (Option<ServiceView>, Vec<Conflict>) {
    let Some(record) = place.catalog.service(place.network, name) else { return (None, Vec::new()) };
    let (vips, dns_vips, conflicts) = vips(place, name, &record);
    let settings = &record.definition.settings;
    let view = ServiceView {
        name: name.clone(),
        born: record.born,
        mode: settings.mode,
        ports: settings.ports.clone(),
        aliases: settings.aliases.clone(),
        balance: settings.balance,
        check: settings.check.clone(),
        vips,
        dns_vips,
        replicas: replicas(place, attachments, name),
    };
    (Some(view), conflicts)
}

fn vips(place: &Place<'_>, name: &Name, record: &ServiceRecord) -> (Vec<IpAddr>, Vec<IpAddr>, Vec<Conflict>) {
    let (mut vips, mut dns_vips, mut conflicts) = (Vec::new(), Vec::new(), Vec::new());
    for (born, definition) in record.births() {
        let own = vips.len();
        for vip in definition.vips.iter().copied() {
            if !within(place.subnets, vip) {
                let (network, service) = (place.network.clone(), name.clone());
                conflicts.push(Conflict::Vip { network, service, born, vip });
            } else if !vips.contains(&vip) {
                vips.push(vip);
            }
        }
        if dns_vips.is_empty() {
            dns_vips.extend_from_slice(&vips[own..]);
        }
    }
    // Mostly one each, in room for four.
    vips.shrink_to_fit();
    dns_vips.shrink_to_fit();
    conflicts.extend(record.conflicts().map(|(born, _)| {
        let (network, service) = (place.network.clone(), name.clone());
        Conflict::Settings { network, service, born }
    }));
    (vips, dns_vips, conflicts)
}

fn replicas(
    place: &Place<'_>,
    attachments: &BTreeMap<Name, Arc<AttachmentView>>,
    name: &Name,
) -> Vec<ReplicaView> {
    let replicas = place.catalog.replicas(place.network, name).filter_map(|(attachment, owner, fact)| {
        let (attachment, standing) = attachments.get_key_value(attachment)?;
        if standing.owner != owner {
            return None;
        }
        let suspended = place.liveness.contains(&owner);
        let state = match fact.health {
            Health::Starting => return None,
            Health::Serving if !suspended => ReplicaState::Serving,
            Health::Serving | Health::Failing | Health::Draining => ReplicaState::Quiescing,
        };
        let addresses = served(standing, &fact.addresses)?;
        let (attachment, weight) = (attachment.clone(), fact.weight.min(WEIGHT_MAX));
        Some(ReplicaView { attachment, owner, addresses, weight, state, suspended })
    });
    let mut replicas: Vec<ReplicaView> = replicas.collect();
    replicas.shrink_to_fit();
    replicas
}

/// The replica's addresses that its attachment has: nothing else is fenced and forwarded for it. Mostly all of
/// them, and then shared with the attachment.
fn served(standing: &AttachmentView, addresses: &[IpAddr]) -> Option<Arc<[IpAddr]>> {
    if *standing.addresses == *addresses {
        return Some(Arc::clone(&standing.addresses));
    }
    let served = standing.addresses.iter().copied().filter(|address| addresses.contains(address));
    let served: Arc<[IpAddr]> = served.collect();
    (!served.is_empty()).then_some(served)
}
