//! One network as this host sees it, kept up to date by what changed.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::attachment::{AttachmentView, Place};
use super::conflict::{Conflict, Subject};
use super::service::{self, ServiceView};
use super::{Liveness, ViewChanges};
use crate::catalog::facts::NetworkDefinition;
use crate::catalog::{Catalog, NetworkRecord};
use crate::model::{Name, NodeId, Stamp};

/// Outer headers of VXLAN over IPv4, in bytes: 14 inner Ethernet, 8 VXLAN, 8 UDP, 20 IPv4 (RFC 7348).
pub const OVERHEAD_V4: u32 = 50;
/// The same over IPv6, with 40 bytes of header.
pub const OVERHEAD_V6: u32 = 70;
/// Assumed where no host has said its underlay's MTU, in bytes.
const UNDERLAY_MTU: u32 = 1500;
/// The least that IPv4 allows (RFC 791), in bytes; what a peer says cannot go below.
const MTU_MIN: u32 = 68;
/// What every link that carries IPv6 must take, in bytes (RFC 8200, section 5).
pub const MTU_SIX_MIN: u32 = 1_280;

/// A network with a definition that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// Creation of the definition that stands.
    pub born: Stamp,
    /// The definition that stands.
    pub definition: Arc<NetworkDefinition>,
    /// MTU of the interfaces in bytes: what fits the underlay of every member and of this host, and at most what
    /// the definition says. ESP's overhead is not taken off.
    pub mtu: u32,
    /// Whether this host is a member.
    pub local: bool,
    /// Hosts that have an attachment which stands and have said their underlay address; suspended ones stay.
    pub members: BTreeMap<NodeId, IpAddr>,
    /// Attachments that stand, by name.
    pub attachments: BTreeMap<Name, Arc<AttachmentView>>,
    /// Services by name.
    pub services: BTreeMap<Name, Arc<ServiceView>>,
    /// How many of the attachments each host has.
    pub(super) standing: BTreeMap<NodeId, usize>,
    pub(super) conflicts: BTreeMap<Subject, Vec<Conflict>>,
}

/// What of a network has to be derived again.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    pub(super) definition: bool,
    pub(super) members: bool,
    pub(super) attachments: BTreeSet<Name>,
    pub(super) services: BTreeSet<Name>,
}

/// What a derivation looks at beside the network.
pub(super) struct Sources<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) liveness: &'a Liveness,
    pub(super) this: NodeId,
}

impl NetworkView {
    /// Attachments that stand on a host.
    pub fn attachments_on(&self, owner: NodeId) -> impl Iterator<Item = (&Name, &Arc<AttachmentView>)> {
        self.attachments.iter().filter(move |(_, attachment)| attachment.owner == owner)
    }

    /// Everything here that was declared and is not heeded.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values().flatten()
    }

    pub(super) fn new(name: Name, record: &NetworkRecord) -> Self {
        Self {
            name,
            born: record.born,
            definition: Arc::clone(&record.definition),
            mtu: 0,
            local: false,
            members: BTreeMap::new(),
            attachments: BTreeMap::new(),
            services: BTreeMap::new(),
            standing: BTreeMap::new(),
            conflicts: BTreeMap::new(),
        }
    }
}

/// Derives what is dirty, in the order definition, attachments, services, members. The view is copied only if
/// somebody else holds it and something really changed.
pub(super) struct Refresh<'a> {
    pub(super) sources: &'a Sources<'a>,
    pub(super) view: &'a mut Arc<NetworkView>,
    pub(super) out: &'a mut ViewChanges,
}

impl Refresh<'_> {
    pub(super) fn run(&mut self, record: Option<&NetworkRecord>, mut dirty: Dirty) {
        if let Some(record) = record {
            self.definition(record, &mut dirty);
        }
        let before = self.view.standing.clone();
        for name in &dirty.attachments {
            self.attachment(name, &mut dirty.services);
        }
        for name in &dirty.services {
            self.service(name);
        }
        if dirty.members || !before.keys().eq(self.view.standing.keys()) {
            self.members();
        }
    }

    fn definition(&mut self, record: &NetworkRecord, dirty: &mut Dirty) {
        let losers = record.losers.iter();
        let conflicts =
            losers.map(|(born, _)| Conflict::Network { network: self.view.name.clone(), born: *born });
        self.conflicts(Subject::Network, conflicts.collect());
        if self.view.born == record.born && self.view.definition == record.definition {
            return;
        }
        if self.view.definition.subnets != record.definition.subnets {
            dirty.everything_of(self.sources.catalog, self.view);
        }
        dirty.members |= self.view.definition.mtu != record.definition.mtu;
        let view = Arc::make_mut(self.view);
        view.born = record.born;
        view.definition = Arc::clone(&record.definition);
        self.out.networks.insert(view.name.clone());
    }

    fn attachment(&mut self, name: &Name, services: &mut BTreeSet<Name>) {
        self.out.work.attachments += 1;
        let definition = Arc::clone(&self.view.definition);
        let (new, conflicts) = self.place(&definition).attachment(name);
        self.conflicts(Subject::Attachment(name.clone()), conflicts);
        let old = self.view.attachments.get(name);
        if old.map(Arc::as_ref) == new.as_ref() {
            return;
        }
        let serves = |it: &AttachmentView| (it.owner, Arc::clone(&it.addresses));
        if old.map(|it| serves(it)) != new.as_ref().map(serves) {
            let on = self.sources.catalog.services_on(&self.view.name, name);
            services.extend(on.map(|(service, _)| service.clone()));
        }
        let view = Arc::make_mut(self.view);
        if let Some(new) = &new {
            *view.standing.entry(new.owner).or_default() += 1;
        }
        let old = match new {
            Some(new) => view.attachments.insert(name.clone(), Arc::new(new)),
            None => view.attachments.remove(name),
        };
        if let Some(old) = old {
            let count = view.standing.entry(old.owner).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                view.standing.remove(&old.owner);
            }
        }
        self.out.attachments.insert((view.name.clone(), name.clone()));
    }

    fn service(&mut self, name: &Name) {
        self.out.work.services += 1;
        let definition = Arc::clone(&self.view.definition);
        let (new, conflicts) = service::derive(&self.place(&definition), &self.view.attachments, name);
        self.conflicts(Subject::Service(name.clone()), conflicts);
        if self.view.services.get(name).map(Arc::as_ref) == new.as_ref() {
            return;
        }
        let view = Arc::make_mut(self.view);
        match new {
            Some(new) => view.services.insert(name.clone(), Arc::new(new)),
            None => view.services.remove(name),
        };
        self.out.services.insert((view.name.clone(), name.clone()));
    }

    fn members(&mut self) {
        let catalog = self.sources.catalog;
        let hosts = self.view.standing.keys().filter_map(|node| Some((*node, catalog.host(*node)?)));
        let hosts: BTreeMap<_, _> = hosts.collect();
        let members: BTreeMap<NodeId, IpAddr> =
            hosts.iter().map(|(node, host)| (*node, host.address)).collect();
        let this = catalog.host(self.sources.this).map(|host| (self.sources.this, host));
        let counted: BTreeMap<_, _> = hosts.iter().map(|(node, host)| (*node, *host)).chain(this).collect();
        let fits = counted.values().map(|host| inner_mtu(host.underlay_mtu, host.address));
        let narrow = counted.values().flat_map(|host| &host.narrow);
        let narrow = narrow.filter(|(to, _)| counted.contains_key(to)).map(|(_, mtu)| *mtu);
        let fits = fits.chain(narrow).min();
        let mtu = network_mtu(fits, &self.view.definition);
        let local = self.view.standing.contains_key(&self.sources.this);
        if (mtu, local) == (self.view.mtu, self.view.local) && members == self.view.members {
            return;
        }
        let view = Arc::make_mut(self.view);
        (view.mtu, view.local, view.members) = (mtu, local, members);
        self.out.networks.insert(view.name.clone());
    }

    fn conflicts(&mut self, subject: Subject, conflicts: Vec<Conflict>) {
        let old = self.view.conflicts.get(&subject).map(Vec::as_slice).unwrap_or_default();
        if old == conflicts.as_slice() {
            return;
        }
        let view = Arc::make_mut(self.view);
        if conflicts.is_empty() {
            view.conflicts.remove(&subject);
        } else {
            view.conflicts.insert(subject, conflicts);
        }
        self.out.conflicts = true;
    }

    fn place<'a>(&'a self, definition: &'a NetworkDefinition) -> Place<'a> {
        Place {
            catalog: self.sources.catalog,
            liveness: self.sources.liveness,
            network: &self.view.name,
            subnets: &definition.subnets,
        }
    }
}

impl Dirty {
    /// Marks all that the catalog or the view knows of a network.
    pub(super) fn everything_of(&mut self, catalog: &Catalog, view: &NetworkView) {
        self.members = true;
        self.attachments.extend(catalog.attachments(&view.name).map(|(name, _, _)| name.clone()));
        self.attachments.extend(view.attachments.keys().cloned());
        self.services.extend(catalog.services(&view.name).cloned());
        self.services.extend(view.services.keys().cloned());
    }
}

/// What a packet inside may measure, in bytes, by the MTU of the underlay and its family.
pub fn inner_mtu(underlay: u32, address: IpAddr) -> u32 {
    underlay.saturating_sub(if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 })
}

/// The definition's MTU bounds the interfaces, as `ip link` shows them, not the underlay.
fn network_mtu(fits: Option<u32>, definition: &NetworkDefinition) -> u32 {
    let fits = fits.unwrap_or(UNDERLAY_MTU - OVERHEAD_V4);
    // Below it the kernel takes IPv6 away from every link (RFC 8200, section 5): then rather the largest packets are lost,
    // on the ways of the host that has no room for them.
    let least = if definition.subnets.iter().any(IpNetwork::is_ipv6) { MTU_SIX_MIN } else { MTU_MIN };
    fits.min(definition.mtu.unwrap_or(u32::MAX)).max(least)
}
