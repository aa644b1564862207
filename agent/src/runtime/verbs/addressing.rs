//! Gives out addresses: decided by [`crate::addresses::Allocator`], claimed where the decision needs it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addresses::{Allocation, Allocator, Layout, Wanted};
use crate::api::types::Failure;
use crate::catalog::facts::{ClaimKey, Region};
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::{Agent, State, chain, refused};
use crate::runtime::claiming::{self, ClaimError};
use crate::runtime::messages::{Answer, Request};
use crate::runtime::peers;
use crate::store::Writes;

/// Decisions until an address is had or given up: each claims a block or an address, or asks its holder.
const ROUNDS_MAX: usize = 8;
/// Claims tried per decision; each costs a round trip to a majority.
const CLAIMS_MAX: usize = 4;
/// How long the holder of a block may take to grant an address of it.
const GRANT_LIMIT: Duration = Duration::from_secs(1);

/// An endpoint's addresses, one per subnet of the network.
///
/// # Errors
/// When `--ip` cannot be had, or no address is left and no more can be claimed.
pub async fn endpoint(
    agent: &Arc<Agent>,
    network: &Name,
    asked: Option<IpAddr>,
) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses = Vec::new();
    let layouts = layouts(agent, network)?;
    if let Some(ip) = asked
        && !layouts.iter().any(|layout| layout.subnet().is_ipv4() == ip.is_ipv4())
    {
        return Err(refused(format!("network {network} has no subnet of the family of {ip}"), &[]));
    }
    for layout in layouts {
        let wanted = match asked.filter(|ip| ip.is_ipv4() == layout.subnet().is_ipv4()) {
            Some(ip) => Wanted::Exactly(ip),
            None => Wanted::Any,
        };
        addresses.push(allocate(agent, network, layout, Region::Endpoint, wanted).await?);
    }
    Ok(addresses)
}

/// A new service's VIPs, one per subnet of the network.
///
/// # Errors
/// When none is left and no more can be claimed.
pub async fn vips(agent: &Arc<Agent>, network: &Name) -> Result<Vec<IpAddr>, Failure> {
    let mut vips = Vec::new();
    for layout in layouts(agent, network)? {
        vips.push(allocate(agent, network, layout, Region::Vip, Wanted::Any).await?);
    }
    Ok(vips)
}

fn layouts(agent: &Agent, network: &Name) -> Result<Vec<Layout>, Failure> {
    let record = agent.read(|state| state.catalog.network(network));
    let record = record.ok_or_else(|| refused(format!("network {network} does not exist"), &[]))?;
    let layouts = record.definition.subnets.iter().map(|subnet| Layout::new(*subnet));
    layouts.collect::<Result<_, _>>().map_err(|error| refused(chain(&error), &[]))
}

/// What the decision is made from, copied out of the lock.
struct Known {
    number: u32,
    members: BTreeSet<u32>,
    blocks: BTreeSet<(Region, u32)>,
    addresses: BTreeSet<IpAddr>,
    foreign_blocks: BTreeSet<(Region, u32)>,
    foreign_addresses: BTreeSet<IpAddr>,
    in_use: BTreeMap<IpAddr, Name>,
    freed_ms: BTreeMap<IpAddr, u64>,
    now_ms: u64,
}

fn known(agent: &Agent, state: &State, network: &Name, region: Region) -> Known {
    let me = agent.identity.node;
    let mut known = Known {
        number: state.books.promises.number().unwrap_or_default(),
        members: state.catalog.hosts().map(|(_, host)| host.number).collect(),
        blocks: BTreeSet::new(),
        addresses: BTreeSet::new(),
        foreign_blocks: BTreeSet::new(),
        foreign_addresses: BTreeSet::new(),
        in_use: BTreeMap::new(),
        freed_ms: BTreeMap::new(),
        now_ms: u64::try_from(agent.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    for (key, holder) in state.catalog.claims() {
        match key {
            ClaimKey::Block { network: of, region, index } if of == network => {
                let set = if holder == me { &mut known.blocks } else { &mut known.foreign_blocks };
                set.insert((*region, *index));
            }
            ClaimKey::Address { network: of, address } if of == network => {
                let set = if holder == me { &mut known.addresses } else { &mut known.foreign_addresses };
                set.insert(*address);
            }
            _ => {}
        }
    }
    // What was promised to others counts before its fact arrives.
    for promised in state.books.promises.entries().filter(|entry| entry.claimant != me) {
        match promised.key {
            ClaimKey::Block { network: of, region, index } if of == *network => {
                known.foreign_blocks.insert((region, index));
            }
            ClaimKey::Address { network: of, address } if of == *network => {
                known.foreign_addresses.insert(address);
            }
            _ => {}
        }
    }
    if region == Region::Endpoint {
        for (name, _, fact) in state.catalog.attachments(network) {
            known.in_use.extend(fact.addresses.iter().map(|address| (*address, name.clone())));
        }
        for record in state.local.values().filter(|record| record.network == *network) {
            known.in_use.extend(record.addresses.iter().map(|address| (*address, record.name.clone())));
        }
    } else {
        for service in state.catalog.services(network) {
            let record = state.catalog.service(network, service);
            let vips = record.map(|record| record.vips()).unwrap_or_default();
            known.in_use.extend(vips.into_iter().map(|vip| (vip, service.clone())));
        }
    }
    for ((of, address), (taker, head)) in &state.granted {
        // Later facts of the taker have arrived, and its attachment, were there one, would be among those above.
        let given_back = state.catalog.is_removed(*taker) || state.catalog.head(*taker) > *head;
        if of == network && *taker != me && !given_back {
            known.in_use.entry(*address).or_insert_with(|| network.clone());
        }
    }
    for ((of, address), freed) in &state.freed {
        if of == network {
            let at = freed.saturating_duration_since(agent.started).as_millis();
            known.freed_ms.insert(*address, u64::try_from(at).unwrap_or(u64::MAX));
        }
    }
    known
}

impl Known {
    fn allocator(&self, layout: Layout, may_claim: bool) -> Allocator<'_> {
        Allocator {
            layout,
            number: self.number,
            members: &self.members,
            blocks: &self.blocks,
            addresses: &self.addresses,
            foreign_blocks: &self.foreign_blocks,
            foreign_addresses: &self.foreign_addresses,
            in_use: &self.in_use,
            freed_ms: &self.freed_ms,
            now_ms: self.now_ms,
            may_claim,
        }
    }
}

async fn allocate(
    agent: &Arc<Agent>,
    network: &Name,
    layout: Layout,
    region: Region,
    wanted: Wanted,
) -> Result<IpAddr, Failure> {
    let mut may_claim = true;
    let mut why_not = String::new();
    for _ in 0..ROUNDS_MAX {
        let known = agent.read(|state| known(agent, state, network, region));
        let decision = known.allocator(layout, may_claim).allocate(region, wanted);
        match decision.map_err(|error| refused(chain(&error), &["leave --ip out, or choose another"]))? {
            Allocation::Address { address, rested_short } => {
                if rested_short {
                    tracing::warn!("{address} of network {network} is given out again before it rested 60 s");
                }
                claim_ahead(agent, network, &known.allocator(layout, true), region);
                return Ok(address);
            }
            Allocation::NeedBlock { candidates } => {
                let keys = candidates.into_iter().map(|index| ClaimKey::Block {
                    network: network.clone(),
                    region,
                    index,
                });
                may_claim = claim_one(agent, keys.collect(), &mut why_not).await?;
            }
            Allocation::NeedAddress { candidates } => {
                let keys = candidates
                    .into_iter()
                    .map(|address| ClaimKey::Address { network: network.clone(), address });
                may_claim = claim_one(agent, keys.collect(), &mut why_not).await?;
            }
            Allocation::RequestOther { region, index } => {
                let Wanted::Exactly(address) = wanted else { break };
                request(agent, network, address, region, index).await?;
                return Ok(address);
            }
            Allocation::Exhausted(reason) => {
                let why = if why_not.is_empty() { String::new() } else { format!(" ({why_not})") };
                let hint = "see what is used: svc-agent network inspect NAME";
                return Err(refused(
                    format!("network {network} has no address left: {}{why}", chain(&reason)),
                    &[hint],
                ));
            }
        }
    }
    Err(refused(format!("no address of network {network} could be settled: {why_not}"), &["try again"]))
}

/// Claims the first of some keys that can be had; false when no majority is there.
async fn claim_one(agent: &Arc<Agent>, keys: Vec<ClaimKey>, why_not: &mut String) -> Result<bool, Failure> {
    for key in keys.into_iter().take(CLAIMS_MAX) {
        match claiming::claim(agent, key.clone()).await {
            Ok(()) => {
                agent.write(vec![claiming::fact(key)], Writes::default())?;
                return Ok(true);
            }
            Err(error @ ClaimError::Lost { .. }) => *why_not = chain(&error),
            Err(error) => {
                *why_not = chain(&error);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Claims another block behind the caller's back while there is room, so that nobody waits for one later.
fn claim_ahead(agent: &Arc<Agent>, network: &Name, allocator: &Allocator<'_>, region: Region) {
    if !allocator.wants_block_ahead(region) {
        return;
    }
    // As if nothing that is held were free: the decision is then what to claim next.
    let number = allocator.number;
    let blocks = allocator.blocks.iter().filter(|(of, _)| *of == region).map(|(_, index)| *index);
    let held = blocks.chain([number]).flat_map(|index| allocator.layout.block_addresses(region, index));
    let in_use = held.map(|address| (address, network.clone())).collect();
    let full = Allocator { in_use: &in_use, ..*allocator };
    let Ok(Allocation::NeedBlock { candidates }) = full.allocate(region, Wanted::Any) else { return };
    let (agent, network) = (Arc::clone(agent), network.clone());
    tokio::spawn(async move {
        let keys =
            candidates.into_iter().map(|index| ClaimKey::Block { network: network.clone(), region, index });
        let mut why_not = String::new();
        match claim_one(&agent, keys.collect(), &mut why_not).await {
            Ok(true) => {}
            Ok(false) => tracing::debug!("no block of network {network} claimed ahead: {why_not}"),
            Err(failure) => {
                tracing::warn!("no block of network {network} claimed ahead: {}", failure.message)
            }
        }
    });
}

/// Asks the holder of a block for an address of it.
async fn request(
    agent: &Arc<Agent>,
    network: &Name,
    address: IpAddr,
    region: Region,
    index: u32,
) -> Result<(), Failure> {
    let holder = agent.read(|state| {
        let key = ClaimKey::Block { network: network.clone(), region, index };
        let by_claim = state.catalog.claimants(&key).next();
        let by_number = || state.catalog.hosts().find(|(_, host)| host.number == index).map(|(node, _)| node);
        let node = by_claim.or_else(by_number)?;
        Some((node, state.catalog.host(node)?.clone(), state.suspended.contains(&node)))
    });
    let Some((node, host, suspended)) = holder else {
        return Err(refused(
            format!("{address} lies in a block whose holder is not known"),
            &["choose another --ip"],
        ));
    };
    let unreachable = |why: String| {
        let gone = format!("or, if {} will not return: svc-agent node rm {}", host.name, host.name);
        let what = format!("{address} lies in the block of host {}, which cannot be asked: {why}", host.name);
        refused(what, &["choose another --ip", &gone])
    };
    if suspended {
        return Err(unreachable("it is suspended".to_owned()));
    }
    debug_assert_ne!(node, agent.identity.node);
    let request = Request::Grant { network: network.clone(), address };
    let to = SocketAddr::new(host.address, host.gossip_port);
    match peers::ask(agent, to, &request, GRANT_LIMIT).await {
        Ok(Answer::Grant(Ok(()))) => Ok(()),
        Ok(Answer::Grant(Err(reason))) => Err(refused(reason, &["choose another --ip"])),
        Ok(other) => Err(unreachable(format!("it answered {other:?}"))),
        Err(error) => Err(unreachable(chain(&error))),
    }
}

/// Grants an address of a block of ours to another host.
///
/// # Errors
/// Why not.
pub fn grant(agent: &Agent, network: &Name, address: IpAddr, to: NodeId) -> Result<(), String> {
    let mut state = crate::runtime::events::lock(&agent.state);
    let granted_key = (network.clone(), address);
    // The taker asks again for what it was granted: its answer was lost, or it gave the address back.
    if state.granted.get(&granted_key).is_some_and(|(taker, _)| *taker == to) {
        state.granted.remove(&granted_key);
    }
    let known = known(agent, &state, network, Region::Endpoint);
    if let Some(holder) = known.in_use.get(&address) {
        return Err(format!("{address} of network {network} is in use by {holder}"));
    }
    let record =
        state.catalog.network(network).ok_or_else(|| format!("network {network} is not known here"))?;
    let layout = record.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    let holds = layout.into_iter().any(|layout| known.allocator(layout, false).holds(address));
    if !holds {
        return Err(format!("{address} of network {network} is in no block of host {}", agent.identity.name));
    }
    let head = state.catalog.head(to);
    state.granted.insert(granted_key.clone(), (to, head));
    let rows: Vec<(Name, IpAddr, NodeId, Head)> = state
        .granted
        .iter()
        .map(|((network, address), (to, head))| (network.clone(), *address, *to, *head))
        .collect();
    let mut writes = Writes::default();
    writes.put_meta("granted", &rows).map_err(|error| chain(&error))?;
    agent.store.commit(&writes, true).map_err(|error| {
        state.granted.remove(&granted_key);
        chain(&error)
    })
}

/// When an address was freed is forgotten after a day: by then the order in which they are given out again is settled.
pub fn forget_freed(state: &mut State, now: Instant) {
    state.freed.retain(|_, freed| now.saturating_duration_since(*freed) < Duration::from_secs(86_400));
}
