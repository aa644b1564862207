//! The steps of claims and removals, on a host's state: each has what must be durable written before anybody is told.
mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::addresses::Layout;
use crate::catalog::facts::{ClaimKey, Key, Value};
use crate::claims::{
    ClaimRecord, ClaimState, Claimant, Entry, Leaving, Member, Outcome, Place, Reply, Request, Step, View,
    answer_check,
};
use crate::model::{Name, NodeId};
use crate::runtime::claiming::ClaimError;
use crate::runtime::state::{Batch, Commit, State};
use crate::runtime::verbs;
use crate::store::{StoreError, Writes};

/// Claims given back in one transaction.
const RELEASED_AT_ONCE: usize = 256;
/// Unknown numbers asked about in one round.
const GAPS_AT_ONCE: usize = 16;
/// A removed number whose node is not known: no node has this id.
pub(crate) const UNKNOWN: NodeId = NodeId(0);

/// Where an address lies, for the rule which keys exclude each other.
pub(crate) fn place_of(state: &State, network: &Name, address: IpAddr) -> Place {
    let Some(record) = state.catalog.network(network) else { return Place::Unknown };
    let layouts = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    let block = layouts.filter_map(|layout| layout.block_of(address)).next();
    block.map_or(Place::Open, |(region, index)| Place::Block(region, index))
}

/// Learns confirmed members from their own facts.
pub(super) fn note_members(state: &mut State) -> bool {
    let members: Vec<Member> =
        state.catalog.hosts().map(|(node, fact)| Member { number: fact.number, node }).collect();
    let mut learned = false;
    for member in members {
        learned |= !state.books.promises.note_member(member).is_empty();
    }
    learned
}

/// Answers a member's request; what was promised is durable before the answer leaves.
///
/// # Errors
/// When the promise cannot be written down: it is then not answered.
pub(crate) fn answer(state: &mut State, request: Request, commit: Commit<'_>) -> Result<Reply, StoreError> {
    let learned = note_members(state);
    if let Request::Check { key, attempt } = &request {
        return Ok(answer_check(state.books.claims.get(key), *attempt));
    }
    if let Request::Promise { key: ClaimKey::Node { number }, .. } = &request {
        state.books.heard = state.books.heard.max(*number);
    }
    if let Request::Promise { key, claimant, attempt, .. } = &request
        && let Some(reply) = verbs::takeover::refusal(state, key, *claimant, *attempt)
    {
        return Ok(reply);
    }
    if let Request::Promise { key, claimant, attempt, .. } = &request
        && let Some(reply) = used::refusal(state, key, *claimant, *attempt)
    {
        return Ok(reply);
    }
    let mut promises = state.books.promises.clone();
    let (reply, changes) =
        promises.handle(request, &|network: &Name, address| place_of(state, network, address));
    if learned || !changes.is_empty() {
        let before = std::mem::replace(&mut state.books.promises, promises);
        if let Err(error) = save(state, commit) {
            state.books.promises = before;
            return Err(error);
        }
    }
    Ok(reply)
}

fn save(state: &State, commit: Commit<'_>) -> Result<(), StoreError> {
    let mut writes = Writes::default();
    state.books.save(&mut writes)?;
    commit(&writes)
}

/// Members as this host counts them: confirmed ones, and for anything but a node number those who were promised one.
pub(crate) fn current_view(state: &mut State, key: &ClaimKey) -> View {
    note_members(state);
    let promises = &state.books.promises;
    let mut members: Vec<Member> = promises.members().collect();
    if !matches!(key, ClaimKey::Node { .. }) {
        members.extend(promises.pending());
    }
    View::new(members, promises.removed().map(|member| member.number))
}

/// What this host counts, with what members have just said of members and removals.
pub(crate) fn corrected(state: &mut State, key: &ClaimKey, newer: &View, pending: Vec<Member>) -> View {
    let known = current_view(state, key);
    let mut members: Vec<Member> = known.members().chain(newer.members()).collect();
    if !matches!(key, ClaimKey::Node { .. }) {
        members.extend(pending);
    }
    View::new(members, known.removed().chain(newer.removed()))
}

/// Makes this host the first of a new cluster.
///
/// # Errors
/// When it cannot be written down.
pub(crate) fn found(state: &mut State, commit: Commit<'_>) -> Result<(), StoreError> {
    state.books.promises.found();
    save(state, commit)
}

/// Begins an attempt; it is written down before anybody is asked.
///
/// # Errors
/// When it cannot be started or written down.
pub(crate) fn begin(
    state: &mut State,
    me: NodeId,
    key: ClaimKey,
    view: View,
    commit: Commit<'_>,
) -> Result<(Claimant, Step), ClaimError> {
    let attempt = state.books.attempt + 1;
    let before = state.books.claims.get(&key).cloned();
    let (claimant, step) = Claimant::start(me, key, attempt, view).map_err(ClaimError::Start)?;
    state.books.attempt = attempt;
    state.books.record(step.persist.clone());
    if let Err(error) = save(state, commit) {
        // Nobody was asked, so nobody would ever take the record up.
        state.books.claims.remove(&claimant.record().key);
        state.books.claims.extend(before.map(|record| (record.key.clone(), record)));
        return Err(ClaimError::Store(error));
    }
    Ok((claimant, Step { persist: Vec::new(), ..step }))
}

/// Writes what a step asks for, with the confirmation's adopted tables in the same transaction.
///
/// # Errors
/// When it cannot be written down. What was confirmed is given up then, as the next start would: nothing of it is used.
pub(crate) fn write(
    state: &mut State,
    claimant: &Claimant,
    step: &Step,
    commit: Commit<'_>,
) -> Result<(), StoreError> {
    if step.persist.is_empty() {
        return Ok(());
    }
    let before = state.books.promises.clone();
    state.books.record(step.persist.clone());
    if let (Some(Outcome::Confirmed { adopted }), ClaimKey::Node { number }) =
        (&step.outcome, &claimant.record().key)
    {
        let members = claimant.record().members.clone();
        // Numbers that were removed before: they are in nobody's tables, and without them the count has gaps.
        for gone in claimant.record().removed.clone() {
            let node = removed_node(state, gone);
            state.books.promises.remove(Member { number: gone, node }, &[]);
        }
        state.books.promises.join(*number, members, adopted);
    }
    save(state, commit).inspect_err(|_| {
        // A number that counts in memory only would be left behind by the next claim, promised for ever to one who does
        // not have it; and a confirmed key would be used, and be given up by the next start.
        state.books.promises = before;
        let record = state.books.claims.get_mut(&claimant.record().key);
        if let Some(record) = record.filter(|record| record.state == ClaimState::Confirmed) {
            record.state = ClaimState::Withdrawing;
        }
    })
}

/// Who had a number that was removed, as far as what it said of itself is still there.
pub(super) fn removed_node(state: &State, number: u32) -> NodeId {
    let had = |node: &NodeId| match state.catalog.value(*node, &Key::Host) {
        Some(Value::Host(host)) => host.number == number,
        _ => false,
    };
    state.catalog.removed().find(had).unwrap_or(UNKNOWN)
}

/// Asks the claimant that stands in the way whether it still does; and what is said to every member in its name if not.
pub(crate) fn abandoned(holder: &Entry) -> (Request, Request) {
    let Entry { key, claimant, attempt } = holder.clone();
    let check = Request::Check { key: key.clone(), attempt };
    (check, Request::Withdraw { key, claimant, attempt })
}

/// Gives back what nothing uses any more: blocks and addresses of networks that are gone, their VNIs, grants and takeovers. Members let
/// go of their promises then, and the keys can be had again. `before` gets the records as they were.
///
/// # Errors
/// When the books cannot be written as JSON.
pub(crate) fn release_unused(
    state: &mut State,
    (me, now): (NodeId, Instant),
    before: &mut Vec<ClaimRecord>,
) -> Result<(Batch, Writes), StoreError> {
    let mut batch = Batch::new();
    *before = unused(state, me, now);
    for record in before.iter().cloned() {
        if !matches!(record.key, ClaimKey::Takeover { .. }) {
            batch.push((Key::Claim(record.key.clone()), None));
        }
        let (_, step) = Claimant::release(me, record, state.books.promises.members().collect::<Vec<_>>());
        state.books.record(step.persist);
    }
    let mut writes = Writes::default();
    state.books.save(&mut writes)?;
    Ok((batch, writes))
}

/// Confirmed claims of this host that nothing uses, at most [`RELEASED_AT_ONCE`]. Before the catalog is complete a
/// network may only seem to be gone; and a VNI is claimed before its network is written, so its fact, which is written
/// together with the network, must be there.
pub(crate) fn unused(state: &State, me: NodeId, now: Instant) -> Vec<ClaimRecord> {
    if !state.synced {
        return Vec::new();
    }
    let vnis: BTreeSet<u32> = state
        .catalog
        .networks()
        .filter_map(|network| state.catalog.network(network))
        .flat_map(|record| {
            let losers = record.losers.into_iter().map(|(_, definition)| definition.vni);
            losers.chain([record.definition.vni]).collect::<Vec<_>>()
        })
        .collect();
    let told = |key: &ClaimKey| state.catalog.claimants(key).any(|holder| holder == me);
    let unused = |record: &&ClaimRecord| {
        record.state == ClaimState::Confirmed
            && match &record.key {
                ClaimKey::Vni { vni } => !vnis.contains(vni) && told(&record.key),
                ClaimKey::Block { network, .. } | ClaimKey::Address { network, .. } => {
                    state.catalog.network(network).is_none()
                }
                ClaimKey::Granted { network, address, .. } => {
                    let used = state
                        .local
                        .values()
                        .any(|it| it.network == *network && it.addresses.contains(address));
                    let leased = state.leases.get(network, *address).is_some();
                    let kept = used || leased || state.books.taking.contains(&record.key);
                    !kept && !verbs::addressing::rests(state, now, network, *address)
                }
                ClaimKey::Takeover { .. } => !verbs::takeover::is_used(state, &record.key),
                ClaimKey::Node { .. } => false,
            }
    };
    state.books.claims.values().filter(unused).take(RELEASED_AT_ONCE).cloned().collect()
}

/// Removals of which this host knows the fact but missed the telling, and numbers of which nothing is known here: the
/// promises that go with one are to be asked of a member that has applied it.
pub(crate) fn missed_removals(state: &State, me: NodeId) -> Vec<Member> {
    let promises = &state.books.promises;
    let counted: BTreeSet<Member> = promises.members().chain(promises.pending()).collect();
    let missed = |member: &Member| state.catalog.is_removed(member.node);
    let gaps = gaps(&counted, &promises.removed().collect(), state.books.heard);
    // What this host itself was removed by is for the others to settle.
    counted.into_iter().filter(|member| missed(member) && member.node != me).chain(gaps).collect()
}

/// Numbers below a known one, or one that was heard of, of which nothing is known here: they were promised and removed
/// while this host was away, or their facts have not arrived yet; others know which.
pub(super) fn gaps(counted: &BTreeSet<Member>, removed: &BTreeSet<Member>, heard: u32) -> Vec<Member> {
    let known: BTreeSet<u32> = counted.iter().chain(removed).map(|member| member.number).collect();
    let last = known.last().copied().unwrap_or_default().max(heard);
    let gaps = (1..last).filter(|number| !known.contains(number));
    gaps.take(GAPS_AT_ONCE).map(|number| Member { number, node: UNKNOWN }).collect()
}

/// Applies a removal of [`missed_removals`] with the table that a member has told.
///
/// # Errors
/// When it cannot be written down; nothing has changed then.
pub(crate) fn apply_missed(
    state: &mut State,
    member: Member,
    table: Vec<Entry>,
    commit: Commit<'_>,
) -> Result<(), StoreError> {
    let node = if member.node == UNKNOWN { removed_node(state, member.number) } else { member.node };
    change(state, |state| drop(state.books.promises.remove(Member { node, ..member }, &table)), commit)
}

/// What this host adopted with a removal that it has applied; `None` if it has not.
pub(crate) fn removal_table(state: &State, member: Member) -> Option<Vec<Entry>> {
    let promises = &state.books.promises;
    let applied = promises.removed().any(|removed| removed.number == member.number);
    applied.then(|| promises.entries().collect())
}

/// Who was removed here and is not said to be: a crash may have come between the two, on this host or on the one that
/// removed it.
pub(crate) fn unsaid_removals(state: &State) -> Vec<NodeId> {
    let removed = state.books.promises.removed().map(|member| member.node);
    removed.filter(|node| *node != UNKNOWN && !state.catalog.is_removed(*node)).collect()
}

/// What says so.
pub(crate) fn removals_said(state: &State) -> Batch {
    unsaid_removals(state).into_iter().flat_map(|node| verbs::node::removal(state, node)).collect()
}

/// Everybody who counts as this host knows it, those included who were promised a number, and who is to be removed.
pub(crate) fn counted(state: &mut State, member: Member) -> View {
    note_members(state);
    let promises = &state.books.promises;
    let members = promises.members().chain(promises.pending()).chain([member]);
    View::new(members.collect::<Vec<_>>(), promises.removed().map(|member| member.number))
}

/// Begins to remove a member; it is written down before anybody is asked.
///
/// # Errors
/// When it cannot be written down; nothing has changed then.
pub(crate) fn begin_removal(
    state: &mut State,
    me: NodeId,
    member: Member,
    commit: Commit<'_>,
) -> Result<Leaving, StoreError> {
    let attempt = state.books.attempt + 1;
    let leaving = Leaving { member, remover: me, attempt };
    state.books.attempt = attempt;
    state.books.removals.push(leaving);
    if let Err(error) = save(state, commit) {
        state.books.removals.pop();
        return Err(error);
    }
    state.books.removing.insert(attempt);
    Ok(leaving)
}

/// Writes down that a removal is agreed: it is applied here, and its earlier attempts need not be taken back.
///
/// # Errors
/// When it cannot be written down; nothing has changed then.
pub(crate) fn agreed(
    state: &mut State,
    me: NodeId,
    leaving: Leaving,
    table: &[Entry],
    commit: Commit<'_>,
) -> Result<(), StoreError> {
    let agree = |state: &mut State| {
        state.books.removals.retain(|other| other.member != leaving.member);
        if leaving.member.node != me {
            state.books.promises.remove(leaving.member, table);
        }
    };
    change(state, agree, commit)
}

/// Removals that did not come to their end, and who has to hear of it: who is removed need not.
pub(crate) fn open_removals(state: &State) -> impl Iterator<Item = (Leaving, Vec<NodeId>)> + '_ {
    let books = &state.books;
    let open = books.removals.iter().filter(|leaving| !books.removing.contains(&leaving.attempt));
    open.map(|leaving| {
        let members = books.promises.members().map(|member| member.node);
        (*leaving, members.filter(|node| *node != leaving.member.node).collect())
    })
}

/// Who has heard which removal's end.
pub type Heard = BTreeMap<Leaving, BTreeSet<NodeId>>;

/// Whom to tell that a removal is over, and what; what is open no more is forgotten.
pub(crate) fn to_be_told(
    open: &[(Leaving, Vec<NodeId>)],
    heard: &mut Heard,
) -> Vec<(Leaving, NodeId, Request)> {
    heard.retain(|leaving, _| open.iter().any(|(other, _)| other == leaving));
    let mut told = Vec::new();
    for (leaving, members) in open {
        let Leaving { member, remover, attempt } = *leaving;
        let knows = heard.entry(*leaving).or_default();
        let unaware = members.iter().filter(|node| !knows.contains(node));
        told.extend(unaware.map(|node| (*leaving, *node, Request::Keep { member, remover, attempt })));
    }
    told
}

/// The removals that every member knows to be over.
pub(crate) fn known_to_all(open: &[(Leaving, Vec<NodeId>)], heard: &Heard) -> BTreeSet<Leaving> {
    let all = |(leaving, members): &&(Leaving, Vec<NodeId>)| {
        heard.get(leaving).is_some_and(|knows| members.iter().all(|node| knows.contains(node)))
    };
    open.iter().filter(all).map(|(leaving, _)| *leaving).collect()
}

/// Forgets removals that every member knows to be over.
///
/// # Errors
/// When it cannot be written down; nothing has changed then.
pub(crate) fn close_removals(
    state: &mut State,
    over: &BTreeSet<Leaving>,
    commit: Commit<'_>,
) -> Result<(), StoreError> {
    change(state, |state| state.books.removals.retain(|it| !over.contains(it)), commit)
}

fn change(state: &mut State, change: impl FnOnce(&mut State), commit: Commit<'_>) -> Result<(), StoreError> {
    let before = (state.books.promises.clone(), state.books.removals.clone());
    change(state);
    save(state, commit).inspect_err(|_| {
        (state.books.promises, state.books.removals) = before;
    })
}

#[cfg(test)]
mod tests;
