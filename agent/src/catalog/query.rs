//! What can be asked of the catalog. Nothing here looks at more than it returns.
use std::net::IpAddr;
use std::sync::Arc;

use super::definitions::{network_record, service_record};
use super::facts::{AttachmentFact, ClaimKey, HostFact, Key, ReplicaFact, Value};
use super::index::{NetworkIndex, ServiceIndex};
use super::{Catalog, NetworkRecord, OwnerState, ServiceRecord};
use crate::addresses::AddressRange;
use crate::model::{Name, NodeId};

impl Catalog {
    /// Every owner and what is known of it, removed ones included.
    pub fn owners(&self) -> impl Iterator<Item = (NodeId, &OwnerState)> {
        self.owners.iter().map(|(owner, state)| (*owner, state))
    }

    /// What is known of one owner.
    pub fn owner(&self, owner: NodeId) -> Option<&OwnerState> {
        self.owners.get(&owner)
    }

    /// What one owner says under a key, removed or not.
    pub fn value(&self, owner: NodeId, key: &Key) -> Option<Value> {
        self.owners.get(&owner)?.get(key)
    }

    /// Whether somebody says that the node has been removed.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.index.removed.contains_key(&node)
    }

    /// Nodes that have been removed.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.index.removed.keys().copied()
    }

    /// Hosts that have not been removed.
    pub fn hosts(&self) -> impl Iterator<Item = (NodeId, &Arc<HostFact>)> {
        self.index.hosts.iter().map(|(node, fact)| (*node, fact))
    }

    /// One host, unless it has been removed.
    pub fn host(&self, node: NodeId) -> Option<&Arc<HostFact>> {
        self.index.hosts.get(&node)
    }

    /// Names of networks with a definition that stands.
    pub fn networks(&self) -> impl Iterator<Item = &Name> {
        self.index.networks.iter().filter(|(_, it)| it.births.live().next().is_some()).map(|(name, _)| name)
    }

    /// The definition of a network that stands, and those that lost to it.
    pub fn network(&self, name: &Name) -> Option<NetworkRecord> {
        network_record(&self.index.networks.get(name)?.births)
    }

    /// Names of a network's services with a definition that stands.
    pub fn services(&self, network: &Name) -> impl Iterator<Item = &Name> {
        let services = self.index.networks.get(network).into_iter().flat_map(|it| &it.services);
        services.filter(|(_, it)| it.births.live().next().is_some()).map(|(name, _)| name)
    }

    /// The definition of a service that stands, and its younger twins.
    pub fn service(&self, network: &Name, name: &Name) -> Option<ServiceRecord> {
        service_record(&self.service_index(network, name)?.births)
    }

    /// A service's replicas by attachment and owner, of any health and whether defined or not.
    pub fn replicas(
        &self,
        network: &Name,
        service: &Name,
    ) -> impl Iterator<Item = (&Name, NodeId, &Arc<ReplicaFact>)> {
        let index = self.service_index(network, service);
        index
            .into_iter()
            .flat_map(|it| &it.replicas)
            .map(|(attachment, owner, fact)| (attachment, *owner, fact))
    }

    /// Services that have a replica on an attachment, and the replica's owner.
    pub fn services_on(&self, network: &Name, attachment: &Name) -> impl Iterator<Item = (&Name, NodeId)> {
        let on = self.index.networks.get(network).and_then(|it| it.on.get(attachment));
        on.into_iter().flatten().map(|(service, owner)| (service, *owner))
    }

    /// All attachments of a network by name and owner.
    pub fn attachments(&self, network: &Name) -> impl Iterator<Item = (&Name, NodeId, &Arc<AttachmentFact>)> {
        let named = self.index.networks.get(network).into_iter().flat_map(|it| &it.attachments);
        named.flat_map(|(name, owners)| owners.iter().map(move |(owner, fact)| (name, *owner, fact)))
    }

    /// Who has an attachment of this name; more than one is a conflict.
    pub fn attachment(
        &self,
        network: &Name,
        name: &Name,
    ) -> impl Iterator<Item = (NodeId, &Arc<AttachmentFact>)> {
        let owners = self.index.networks.get(network).and_then(|it| it.attachments.get(name));
        owners.into_iter().flatten().map(|(owner, fact)| (*owner, fact))
    }

    /// Attachments with this address by name and owner; more than one is a conflict.
    pub fn holders(&self, network: &Name, address: IpAddr) -> impl Iterator<Item = (&Name, NodeId)> {
        let holders = self.index.networks.get(network).and_then(|it| it.addresses.get(&address));
        holders.into_iter().flatten().map(|(name, owner)| (name, *owner))
    }

    /// Attachments' addresses within a range, each with who has one.
    pub fn holders_in(&self, network: &Name, range: AddressRange) -> impl Iterator<Item = (IpAddr, NodeId)> {
        // A range that ends before it begins is no range of a map.
        let range = (range.first <= range.last).then_some(range.first..=range.last);
        let addresses = range.zip(self.index.networks.get(network));
        let held = addresses.into_iter().flat_map(|(range, it)| it.addresses.range(range));
        held.flat_map(|(address, holders)| holders.iter().map(move |(_, owner)| (*address, *owner)))
    }

    /// Hosts that have an attachment on a network, and how many.
    pub fn members(&self, network: &Name) -> impl Iterator<Item = (NodeId, usize)> {
        let members = self.index.networks.get(network).into_iter().flat_map(|it| &it.members);
        members.map(|(node, count)| (*node, *count))
    }

    /// Who holds a claim.
    pub fn claimants(&self, claim: &ClaimKey) -> impl Iterator<Item = NodeId> {
        self.index.claims.get(claim).into_iter().flatten().copied()
    }

    /// All claims held, by key and holder.
    pub fn claims(&self) -> impl Iterator<Item = (&ClaimKey, NodeId)> {
        self.index.claims.iter().flat_map(|(key, owners)| owners.iter().map(move |owner| (key, *owner)))
    }

    /// Who claims an address that was granted, by key and holder.
    pub fn granted(&self, network: &Name, address: IpAddr) -> impl Iterator<Item = (&ClaimKey, NodeId)> {
        let key = |by| ClaimKey::Granted { network: network.clone(), address, by: NodeId(by) };
        let claims = self.index.claims.range(key(0)..=key(u64::MAX));
        claims.flat_map(|(key, owners)| owners.iter().map(move |owner| (key, *owner)))
    }

    /// Claims of a network's blocks and single addresses, by key and holder.
    pub fn claims_of(&self, network: &Name) -> impl Iterator<Item = (&ClaimKey, NodeId)> {
        let claims = ClaimKey::of_network(network).map(|range| self.index.claims.range(range));
        claims.into_iter().flatten().flat_map(|(key, owners)| owners.iter().map(move |owner| (key, *owner)))
    }

    pub(super) fn network_index(&self, name: &Name) -> Option<&NetworkIndex> {
        self.index.networks.get(name)
    }

    pub(super) fn service_index(&self, network: &Name, name: &Name) -> Option<&ServiceIndex> {
        self.index.service(network, name)
    }

    /// Every network's name of which anything is said, defined or not.
    pub(super) fn network_names(&self) -> impl Iterator<Item = &Name> {
        self.index.networks.keys()
    }
}
