//! Which attachment stands under a name.
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::Liveness;
use super::conflict::Conflict;
use crate::catalog::Catalog;
use crate::catalog::facts::{AttachmentFact, Taken};
use crate::model::{Name, NodeId, Stamp};

/// An attachment that stands, also while its host is suspended: forwarding entries stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentView {
    /// Its host.
    pub owner: NodeId,
    /// The host's underlay address, once the host has said it.
    pub underlay: Option<IpAddr>,
    /// At least one, at most one per family, all inside the network's subnets.
    pub addresses: Arc<[IpAddr]>,
    /// `02:…`, lower case.
    pub mac: String,
    /// Further names, as declared.
    pub aliases: Vec<Name>,
    /// When it was attached.
    pub since: Stamp,
}

/// The place an attachment has among others that want its name or an address of it: who took it over before others, then
/// the later. Liveness has no part in it, or hosts that judge it differently would forward to different ones.
type Rank<'a> = (bool, Stamp, NodeId, &'a Name);

type Candidate<'a> = (NodeId, &'a Arc<AttachmentFact>);

/// What is the same for all attachments of a network.
pub(super) struct Place<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) liveness: &'a Liveness,
    pub(super) network: &'a Name,
    pub(super) subnets: &'a [IpNetwork],
}

impl Place<'_> {
    /// The attachment that stands under a name, if any, and what does not.
    ///
    /// Of equal names one that took over stands, else the greater `since`; of equal addresses likewise, among those
    /// that won their names.
    pub(super) fn attachment(&self, name: &Name) -> (Option<AttachmentView>, Vec<Conflict>) {
        let mut conflicts = Vec::new();
        let winner = self.winner(name);
        for (owner, fact) in self.catalog.attachment(self.network, name) {
            let (network, attachment) = (self.network.clone(), name.clone());
            if !self.inside(fact) {
                conflicts.push(Conflict::Outside { network, attachment, owner });
            } else if let Some((standing, _)) = winner.filter(|(standing, _)| *standing != owner) {
                conflicts.push(Conflict::Name { network, attachment, owner, standing });
            }
        }
        let Some((owner, fact)) = winner else { return (None, conflicts) };
        if let Some(conflict) = self.address_conflict(name, (owner, fact)) {
            conflicts.push(conflict);
            return (None, conflicts);
        }
        let view = AttachmentView {
            owner,
            underlay: self.catalog.host(owner).map(|host| host.address),
            addresses: fact.addresses.as_slice().into(),
            mac: fact.mac.clone(),
            aliases: fact.aliases.clone(),
            since: fact.since,
        };
        (Some(view), conflicts)
    }

    fn address_conflict(&self, name: &Name, winner: Candidate<'_>) -> Option<Conflict> {
        for address in &winner.1.addresses {
            let object = Taken::Address(*address);
            for (holder, standing) in self.catalog.holders(self.network, *address) {
                if holder == name {
                    continue;
                }
                let rival = self.winner(holder).filter(|(owner, _)| *owner == standing);
                if rival.is_some_and(|rival| rank(&object, holder, rival) > rank(&object, name, winner)) {
                    return Some(Conflict::Address {
                        network: self.network.clone(),
                        attachment: name.clone(),
                        owner: winner.0,
                        address: *address,
                        holder: holder.clone(),
                        standing,
                    });
                }
            }
        }
        None
    }

    /// Who wins a name, addresses of others not looked at.
    fn winner(&self, name: &Name) -> Option<Candidate<'_>> {
        let candidates = self.catalog.attachment(self.network, name).filter(|(_, fact)| self.inside(fact));
        let object = Taken::Name(name.clone());
        candidates.max_by_key(|(owner, fact)| (fact.took(&object), fact.since, *owner))
    }

    fn inside(&self, fact: &AttachmentFact) -> bool {
        let inside = |address: &IpAddr| within(self.subnets, *address);
        !fact.addresses.is_empty() && fact.addresses.iter().all(inside)
    }
}

fn rank<'a>(object: &Taken, name: &'a Name, (owner, fact): Candidate<'_>) -> Rank<'a> {
    (fact.took(object), fact.since, owner, name)
}

pub(super) fn within(subnets: &[IpNetwork], address: IpAddr) -> bool {
    subnets.iter().any(|subnet| subnet.contains(address))
}
