//! What an earlier agent left: found again, or let go of.
use std::collections::BTreeSet;
use std::os::fd::AsFd;

use lb::{Balancer, Real};

use super::{SpaceError, netfilter_in, target};
use crate::holder;
use crate::model::Name;
use crate::netns::{Namespace, Resolved};
use crate::runtime::local::LocalAttachment;

/// Lets go of what a crash left in the holder: the resolver's sockets of namespaces that nothing is attached through (they
/// would keep them alive), and namespaces of networks that were made just before and not written down.
pub fn drop_strangers(holder: &holder::Client, wanted: &BTreeSet<u64>, networks: &BTreeSet<Name>) {
    for entry in holder.list().unwrap_or_default() {
        let cookie = entry.name.strip_prefix("resolver/").and_then(|text| text.parse().ok());
        let network = entry.name.strip_prefix("network/").and_then(|text| text.parse().ok());
        if cookie.is_some_and(|cookie: u64| !wanted.contains(&cookie))
            || network.is_some_and(|network: Name| !networks.contains(&network))
        {
            drop(holder.drop_name(&entry.name));
        }
    }
}

/// Removes our balancing tables from a namespace that is attached no more.
///
/// # Errors
/// When the namespace cannot be worked in.
pub fn remove_table(namespace: &Namespace) -> Result<(), SpaceError> {
    Balancer::new(Real::new(netfilter_in(namespace)?)).remove().map_err(SpaceError::Table)
}

/// The namespace of an attachment that an earlier agent made, if it lives: by the resolver's sockets that the holder
/// kept, which stay in it whatever its path or first process has become; else by the place it was found at.
pub fn find_again(holder: &holder::Client, record: &LocalAttachment) -> Option<Resolved> {
    let kept = holder.get(&holder::resolver_name(record.cookie)).ok().flatten();
    let namespace = kept.and_then(|files| Namespace::of_socket(files.first()?.as_fd()).ok());
    let resolved = match namespace {
        Some(namespace) => {
            let place = crate::netns::resume(&namespace, &target(&record.place), None)?;
            Resolved { namespace, place }
        }
        None => crate::netns::resolve(&target(&record.place), None).ok()?,
    };
    (resolved.namespace.cookie() == record.cookie).then_some(resolved)
}
