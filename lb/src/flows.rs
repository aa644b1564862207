//! Which flows must go: those to replicas that no longer are, or no longer should be, spoken to.
use std::net::IpAddr;

use netfilter::conntrack::{Flow, STATUS_DESTINATION_NAT, STATUS_SEEN_REPLY, Transport};

use crate::{ReplicaState, Service, VipRange, Vips};

/// TCP and SCTP flows outlive the end of new ones.
const CONNECTED: [u8; 2] = [6, 132];

/// Decides which flows are stale.
#[derive(Debug)]
pub struct Stale<'a> {
    /// The service of each VIP.
    pub services: &'a Vips,
    /// In which any other address is a VIP that is served no more.
    pub ranges: &'a [VipRange],
    /// VIPs, perhaps outside the ranges, that were ours until lately.
    pub removed: &'a [IpAddr],
}

impl Stale<'_> {
    /// Whether the flow goes to a VIP of ours, and to somebody that it must not go to any more:
    ///
    /// - a replica that is not listed any more, whatever the protocol;
    /// - a replica that is listed but gets no new flows, unless the protocol has connections: a UDP flow lasts as
    ///   long as its client keeps sending, and would never move. A connection that was never answered is none: it would
    ///   take in the next one from the same source port for two minutes;
    /// - refusal (port 0) though the VIP has replicas by now: the same client would be refused for ever;
    /// - anybody, if the VIP is served no more.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.status & STATUS_DESTINATION_NAT == 0 {
            return false;
        }
        let vip = flow.original.destination;
        let refused = matches!(flow.reply.transport, Transport::Ports { source: 0, .. });
        let Some(service) = self.services.get(vip) else {
            return !refused && self.was_ours(vip);
        };
        if refused {
            return serves(service, vip);
        }
        let replica = service.replicas.iter().find(|replica| replica.addresses.contains(&flow.reply.source));
        match replica {
            None => true,
            Some(replica) if replica.state == ReplicaState::Serving && replica.weight > 0 => false,
            Some(_) => !CONNECTED.contains(&flow.original.protocol) || flow.status & STATUS_SEEN_REPLY == 0,
        }
    }

    fn was_ours(&self, address: IpAddr) -> bool {
        let within = |range: &VipRange| {
            range.first.is_ipv4() == address.is_ipv4() && range.first <= address && address <= range.last
        };
        self.removed.contains(&address) || self.ranges.iter().any(within)
    }
}

/// Whether the service has a replica that new flows to the VIP may go to.
pub(crate) fn serves(service: &Service, vip: IpAddr) -> bool {
    service.replicas.iter().any(|replica| {
        replica.state == ReplicaState::Serving
            && replica.weight > 0
            && replica.addresses.iter().any(|address| address.is_ipv4() == vip.is_ipv4())
    })
}

/// Whether going from one declaration of a service to the next can make flows stale.
pub(crate) fn may_strand(old: &Service, new: &Service) -> bool {
    let gets_new_flows = |service: &Service, addresses: &[IpAddr]| {
        let found = service.replicas.iter().find(|replica| *replica.addresses == *addresses);
        found.is_some_and(|replica| replica.state == ReplicaState::Serving && replica.weight > 0)
    };
    let lost = old.replicas.iter().any(|replica| !gets_new_flows(new, &replica.addresses));
    let revived = new.vips.iter().any(|vip| serves(new, *vip) && !serves(old, *vip));
    lost || revived || old.vips.iter().any(|vip| !new.vips.contains(vip))
}

#[cfg(test)]
mod tests;
