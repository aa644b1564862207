//! What of a network's tables a change can touch: with 100,000 remotes and one of them moved, the plan is small.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::name::BRIDGE;
use crate::world::FLOOD;
use crate::{Attachment, Desired, Mac, Network, Observed, Remote};

/// No other is before it.
pub(super) const LOWEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// MACs and addresses whose entries may differ between two states of a network.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) macs: BTreeSet<Mac>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Compares two states of one network. Remotes that did not change are recognised by place and pointer.
pub(super) fn changes(before: &Network, after: &Network) -> Changes {
    let mut changes = Changes::default();
    let (gone, come) = difference(&before.remotes, &after.remotes);
    for remote in gone.iter().chain(come) {
        changes.macs.insert(remote.mac);
        changes.addresses.extend(&remote.addresses);
    }
    for (network, other) in [(before, after), (after, before)] {
        let differs = |(name, attachment): &(&String, &Attachment)| {
            other.attachments.get(*name).is_none_or(|other| other != *attachment)
        };
        for (_, attachment) in network.attachments.iter().filter(differs) {
            changes.macs.insert(attachment.mac);
            changes.addresses.extend(attachment.addresses.iter().map(|address| address.ip()));
        }
    }
    if before.flood != after.flood {
        changes.macs.insert(FLOOD);
    }
    changes
}

/// Whether two states of a host differ in nothing but attachments of other hosts, and in where networks' floods go.
pub(super) fn only_remotes(before: &Desired, after: &Desired) -> bool {
    let same = |(a, b): (&Network, &Network)| {
        (a.vni, &a.subnets, a.mtu, a.internal, a.link_index, &a.attachments)
            == (b.vni, &b.subnets, b.mtu, b.internal, b.link_index, &b.attachments)
    };
    before.host == after.host
        && before.paths == after.paths
        && before.networks.keys().eq(after.networks.keys())
        && before.networks.values().zip(after.networks.values()).all(same)
}

/// Both lists without what they begin and end with in common.
fn difference<'a>(
    before: &'a [Arc<Remote>],
    after: &'a [Arc<Remote>],
) -> (&'a [Arc<Remote>], &'a [Arc<Remote>]) {
    // `Arc`'s comparison of `Eq` types looks at the pointers first.
    let same = |(a, b): &(&Arc<Remote>, &Arc<Remote>)| a == b;
    let head = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
    (&before[..before.len() - tail], &after[..after.len() - tail])
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.macs.is_empty() && self.addresses.is_empty()
    }

    /// Of what was observed, the entries that these changes are about.
    pub(super) fn narrow(&self, observed: &Observed) -> Observed {
        let lowest = LOWEST;
        let mut narrow = Observed::default();
        for mac in &self.macs {
            let tunnels = observed.tunnels.range((*mac, lowest)..).take_while(|(other, _)| other == mac);
            narrow.tunnels.extend(tunnels);
            narrow.forwarding.extend(observed.forwarding.get(mac).map(|port| (*mac, port.clone())));
        }
        for address in &self.addresses {
            let key = (BRIDGE.to_owned(), *address);
            let mac = observed.neighbours.get(&key).copied();
            narrow.neighbours.extend(mac.map(|mac| (key, mac)));
            narrow.former.extend(observed.former.get(address).map(|mac| (*address, *mac)));
        }
        narrow
    }
}
