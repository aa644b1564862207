//! Names and addresses that are taken over from a host that is suspended.
//!
//! Who takes over claims the right to succeed one attachment, told by the stamp of its making. A member promises it only
//! while it holds that attachment's host to be suspended, so a minority takes nothing over, and of two takers one is refused.
//! What a taker had taken over may be taken over from it in turn; then its own promises are no obstacle: the attachment
//! names all successions that it comes from, and only those are passed over.
//!
//! Who took a name or an address over has it before any who did not, whatever is made later on the other side of a
//! partition, and of two that did the later. So who stands follows from the facts alone: liveness decides who may take over, never who
//! stands.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::types::Failure;
use crate::catalog::Catalog;
use crate::catalog::facts::{AttachmentFact, ClaimKey, SUCCEEDS_MAX, Succession, Taken};
use crate::claims::{Entry, Reply};
use crate::model::{Name, NodeId, Stamp};
use crate::runtime::agent::{Agent, chain, host_name, refused};
use crate::runtime::claiming::{self, ClaimError, Hold};
use crate::runtime::state::State;
use crate::runtime::verbs::namesakes;
use crate::view::Conflict;

/// An attachment on a suspended host that is to be succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    /// Its name.
    pub name: Name,
    /// Its host.
    pub owner: NodeId,
    /// What is taken over from it.
    pub object: Taken,
    since: Stamp,
    succeeds: Vec<Succession>,
}

impl Predecessor {
    /// What to claim.
    pub(crate) fn key(&self, network: &Name) -> ClaimKey {
        ClaimKey::Takeover { network: network.clone(), object: self.object.clone(), since: self.since }
    }
}

type Candidate<'a> = (&'a Name, NodeId, &'a AttachmentFact);

/// Whom an attachment on this host succeeds by its name and by the address that is asked for. An address that is in use on
/// a live host is left to the allocator to refuse.
///
/// # Errors
/// The live host that has an attachment of that name.
pub(crate) fn predecessors(
    state: &State,
    me: NodeId,
    network: &Name,
    name: &Name,
    ip: Option<IpAddr>,
) -> Result<Vec<Predecessor>, NodeId> {
    let others = |of: &Name| {
        let facts = state.catalog.attachment(network, of);
        facts
            .filter(|(owner, _)| *owner != me)
            .map(|(owner, fact)| (owner, fact.as_ref()))
            .collect::<Vec<_>>()
    };
    let live = |owner: &NodeId| !state.suspended.contains(owner);
    let named: Vec<Candidate<'_>> =
        others(name).into_iter().map(|(owner, fact)| (name, owner, fact)).collect();
    if let Some((_, owner, _)) = named.iter().find(|(_, owner, _)| live(owner)) {
        return Err(*owner);
    }
    let mut found = unsucceeded(&named, &Taken::Name(name.clone()));
    let Some(ip) = ip else { return Ok(found) };
    let mut holders: Vec<Candidate<'_>> = Vec::new();
    for (holder, owner) in state.catalog.holders(network, ip) {
        if owner == me && holder == name {
            // This host's own copy, which is fenced and attached again.
            continue;
        }
        if owner == me || live(&owner) {
            return Ok(found);
        }
        let fact = state.catalog.attachment(network, holder).find(|(of, _)| *of == owner);
        holders.extend(fact.map(|(_, fact)| (holder, owner, fact.as_ref())));
    }
    found.extend(unsucceeded(&holders, &Taken::Address(ip)));
    Ok(found)
}

fn unsucceeded(candidates: &[Candidate<'_>], object: &Taken) -> Vec<Predecessor> {
    let succeeded: BTreeSet<Stamp> = candidates
        .iter()
        .flat_map(|(_, _, fact)| &fact.succeeds)
        .filter(|it| it.object == *object)
        .map(|it| it.from)
        .collect();
    let last = candidates.iter().filter(|(_, _, fact)| !succeeded.contains(&fact.since));
    let predecessor = |(name, owner, fact): &Candidate<'_>| Predecessor {
        name: (*name).clone(),
        owner: *owner,
        object: object.clone(),
        since: fact.since,
        succeeds: fact.succeeds.clone(),
    };
    last.map(predecessor).collect()
}

/// What an attachment comes from that succeeds these, once that is confirmed.
pub(crate) fn successions(
    state: &State,
    me: NodeId,
    network: &Name,
    predecessors: &[Predecessor],
) -> Vec<Succession> {
    let own = predecessors.iter().filter_map(|it| {
        let record = state.books.claims.get(&it.key(network))?;
        Some(Succession { object: it.object.clone(), from: it.since, by: me, attempt: record.attempt })
    });
    let earlier =
        predecessors.iter().flat_map(|it| it.succeeds.iter().filter(|of| of.object == it.object)).cloned();
    let mut all: Vec<Succession> = Vec::new();
    for succession in own.chain(earlier) {
        if !all.contains(&succession) && all.len() < SUCCEEDS_MAX {
            all.push(succession);
        }
    }
    all
}

/// Why a member does not promise a takeover, beside what speaks against any claim.
pub(crate) fn refusal(state: &State, key: &ClaimKey, claimant: NodeId, attempt: u64) -> Option<Reply> {
    let ClaimKey::Takeover { network, object, since } = key else { return None };
    let fact = attachment_of(&state.catalog, network, object, *since);
    let Some(fact) = fact.filter(|_| state.suspended.contains(&since.node)) else {
        return Some(Reply::NotReady { key: key.clone(), attempt });
    };
    let promised = state.books.promises.takeovers_of(network);
    let rivals = promised.filter(|(of, holder, _)| {
        let same = matches!(of, ClaimKey::Takeover { object: other, .. } if other == object);
        same && *holder != claimant
    });
    for (of, holder, earlier) in rivals {
        let ClaimKey::Takeover { since: from, .. } = of else { continue };
        // A claimant's attempts only grow: an earlier one has failed, and the word of it may not have come here.
        let passed = fact
            .succeeds
            .iter()
            .any(|it| (&it.object, it.from, it.by) == (object, *from, holder) && earlier <= it.attempt);
        if !passed {
            let holder = Entry { key: of.clone(), claimant: holder, attempt: earlier };
            return Some(Reply::Taken { key: key.clone(), attempt, holder });
        }
    }
    None
}

fn attachment_of<'a>(
    catalog: &'a Catalog,
    network: &Name,
    object: &Taken,
    since: Stamp,
) -> Option<&'a Arc<AttachmentFact>> {
    let of = |name: &Name| {
        let mut facts = catalog.attachment(network, name);
        facts.find(|(owner, fact)| *owner == since.node && fact.since == since).map(|(_, fact)| fact)
    };
    match object {
        Taken::Name(name) => of(name),
        Taken::Address(address) => catalog.holders(network, *address).find_map(|(name, _)| of(name)),
    }
}

/// Whether one of this host's attachments relies on a takeover, or one is being made that will.
pub(crate) fn is_used(state: &State, key: &ClaimKey) -> bool {
    let ClaimKey::Takeover { network, object, since } = key else { return false };
    let local = state.local.values().filter(|it| it.network == *network);
    let mut taken = local.flat_map(|record| &record.succeeds);
    state.books.taking.contains(key) || taken.any(|it| (&it.object, it.from) == (object, *since))
}

/// This host's attachments that do not stand, and why: their copies are fenced.
pub(crate) fn fenced(state: &State, me: NodeId) -> impl Iterator<Item = (&Name, &Name, &Conflict)> {
    state.view.conflicts().filter_map(move |conflict| match conflict {
        Conflict::Name { network, attachment, owner, .. }
        | Conflict::Address { network, attachment, owner, .. }
            if *owner == me =>
        {
            Some((network, attachment, conflict))
        }
        _ => None,
    })
}

/// Why a copy is fenced, and what its operator can do.
pub(crate) fn fence_text(state: &State, conflict: &Conflict) -> Option<String> {
    let (what, again, network, name, standing) = match conflict {
        Conflict::Name { network, attachment, standing, .. } => {
            (format!("the name {attachment} stands"), String::new(), network, attachment, standing)
        }
        Conflict::Address { network, attachment, address, holder, standing, .. } => {
            let (what, again) =
                (format!("its address {address} is held by {holder}"), format!(" with --ip {address}"));
            (what, again, network, attachment, standing)
        }
        _ => return None,
    };
    let host = host_name(&state.catalog, *standing);
    if state.suspended.contains(standing) {
        let handle = namesakes::handle(state, *standing, &host);
        return Some(format!(
            "fenced: {what} on host {host}, which is suspended, so this copy has no link; attach it here \
             again{again}, and it is taken back; or, if {host} will not return: svc-agent node rm {handle}; or \
             detach it here: svc-agent detach {name} --network {network}"
        ));
    }
    Some(format!(
        "fenced: {what} on host {host}, so this copy has no link; detach it here: svc-agent detach {name} --network \
         {network}; or detach the one on {host}, and this one stands again; or attach it again under another name"
    ))
}

/// Claims the right to succeed these.
///
/// # Errors
/// When no majority holds the other host to be suspended, or somebody else takes over; what was had is given back.
pub(crate) async fn claim(
    agent: &Arc<Agent>,
    network: &Name,
    predecessors: &[Predecessor],
) -> Result<Hold, Failure> {
    let keys: Vec<ClaimKey> = predecessors.iter().map(|it| it.key(network)).collect();
    let hold = Hold::new(agent, keys);
    for predecessor in predecessors {
        if let Err(error) = claiming::claim(agent, predecessor.key(network)).await {
            let host = agent.host_name(predecessor.owner);
            let (what, other) = match &predecessor.object {
                Taken::Name(name) => (format!("{name} is attached to {network}"), "another name"),
                Taken::Address(ip) => (
                    format!("{ip} of network {network} is in use by \"{}\"", predecessor.name),
                    "another --ip",
                ),
            };
            let why = refusal_text(&error, &host);
            let handle = agent.read(|state| namesakes::handle(state, predecessor.owner, &host));
            let gone = format!("or, if {host} will not return: svc-agent node rm {handle}");
            return Err(refused(
                format!("{what} on host {host}, which is suspended here, and it cannot be taken over: {why}"),
                &[&format!("choose {other}"), &gone],
            ));
        }
    }
    Ok(hold)
}

/// Why no majority promised to take something over from a host; a member that holds that host to be live says so at once.
fn refusal_text(error: &ClaimError, host: &str) -> String {
    match error {
        ClaimError::NoMajority { answered, needed, here, refused, silent } if !refused.is_empty() => {
            let doubting = format!("does not hold {host} to be suspended");
            let tally =
                claiming::tally(*answered, *needed, *here, &[(&doubting, refused), ("silent", silent)]);
            format!("no majority of the cluster's hosts agreed: {tally}; try again")
        }
        _ => chain(error),
    }
}

#[cfg(test)]
mod tests;
