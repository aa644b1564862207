//! Gives out addresses: decided by [`crate::addresses::Allocator`], claimed where the decision needs it.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addresses::{Allocation, IpRefusal, Layout, Wanted};
use crate::api::types::Failure;
use crate::catalog::facts::{ClaimKey, Region};
use crate::model::{Name, NodeId};
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::claiming::{self, ClaimError, Hold};
use crate::runtime::events::lock;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::peers;
use crate::runtime::state::State;
use crate::store::Writes;

mod grants;
mod known;
mod leases;
mod rest;

pub(crate) use grants::CLAIMED_WITHIN;
pub use grants::{Grant, Grants, give, grant};
pub use leases::Leases;
pub use rest::{Vips, follow, forget_old, put_freed, rests, take_up};

use known::Known;

/// Decisions until an address is had or given up: each claims a block or an address, or asks its holder.
pub(crate) const ROUNDS_MAX: usize = 8;
/// Claims tried per decision; each costs a round trip to a majority.
pub(crate) const CLAIMS_MAX: usize = 4;
/// How long the holder of a block may take to grant an address of it.
const GRANT_LIMIT: Duration = Duration::from_secs(1);

/// An endpoint's addresses, one per subnet of the network. The one that is asked for is `taken` over as it is. What is
/// claimed for it alone is in `hold` until it is reserved.
///
/// # Errors
/// When `--ip` cannot be had, or no address is left and no more can be claimed.
pub async fn endpoint(
    agent: &Arc<Agent>,
    network: &Name,
    asked: Option<IpAddr>,
    taken: bool,
    hold: &mut Hold,
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
            Some(ip) if taken => {
                addresses.push(ip);
                continue;
            }
            Some(ip) => Wanted::Exactly(ip),
            None => Wanted::Any,
        };
        addresses.push(allocate(agent, network, layout, (Region::Endpoint, wanted), hold).await?);
    }
    Ok(addresses)
}

/// A new service's VIPs, one per subnet of the network.
///
/// # Errors
/// When none is left and no more can be claimed.
pub async fn vips(agent: &Arc<Agent>, network: &Name) -> Result<Vec<IpAddr>, Failure> {
    let mut vips = Vec::new();
    let mut hold = Hold::new(agent, Vec::new());
    for layout in layouts(agent, network)? {
        vips.push(allocate(agent, network, layout, (Region::Vip, Wanted::Any), &mut hold).await?);
    }
    Ok(vips)
}

fn layouts(agent: &Agent, network: &Name) -> Result<Vec<Layout>, Failure> {
    let record = agent.read(|state| state.catalog.network(network));
    let record = record.ok_or_else(|| refused(format!("network {network} does not exist"), &[]))?;
    let layouts = record.definition.subnets.iter().map(|subnet| Layout::new(*subnet));
    layouts.collect::<Result<_, _>>().map_err(|error| refused(chain(&error), &[]))
}

/// An address that is wanted.
#[derive(Debug)]
pub struct Wish<'a> {
    /// Of which network.
    pub network: &'a Name,
    /// Of which of its subnets.
    pub layout: Layout,
    /// For an endpoint or a VIP.
    pub region: Region,
    /// Which.
    pub wanted: Wanted,
}

/// What to do about a wish, and, where it is fulfilled, which blocks to claim ahead of need. Times are counted from the
/// first of the two; the other is now.
pub fn decide(
    state: &State,
    me: NodeId,
    (began, now): (Instant, Instant),
    wish: &Wish<'_>,
    may_claim: bool,
) -> (Result<Allocation, IpRefusal>, Option<Vec<u32>>) {
    let Wish { network, layout, region, wanted } = *wish;
    let known = Known::new(state, me, began, network, region);
    let decision = known.allocator(layout, now, may_claim).allocate(region, wanted);
    let given = matches!(decision, Ok(Allocation::Address { .. }));
    (decision, given.then(|| known.allocator(layout, now, true).block_ahead(region)).flatten())
}

/// Who holds a block: by claim, else by its node number.
pub fn holder(state: &State, network: &Name, region: Region, index: u32) -> Option<NodeId> {
    let key = ClaimKey::Block { network: network.clone(), region, index };
    let by_claim = state.catalog.claimants(&key).next();
    let by_number = || state.catalog.hosts().find(|(_, host)| host.number == index).map(|(node, _)| node);
    by_claim.or_else(by_number)
}

/// One address of a network that nobody has; it is in `hold` until it is reserved.
///
/// # Errors
/// As [`endpoint`].
pub(crate) async fn allocate(
    agent: &Arc<Agent>,
    network: &Name,
    layout: Layout,
    (region, wanted): (Region, Wanted),
    hold: &mut Hold,
) -> Result<IpAddr, Failure> {
    let mut may_claim = true;
    let mut why_not = String::new();
    for _ in 0..ROUNDS_MAX {
        let wish = Wish { network, layout, region, wanted };
        let (decision, ahead) = {
            let mut state = lock(&agent.state);
            let times = (agent.started, Instant::now());
            let decided = decide(&state, agent.identity.node, times, &wish, may_claim);
            // Two here who ask for one that another host grants would both be granted it.
            match (&decided.0, wanted) {
                (Ok(Allocation::Address { address, .. }), _) => hold.lease(&mut state, network, *address),
                (Ok(Allocation::RequestOther { .. }), Wanted::Exactly(address)) => {
                    hold.lease(&mut state, network, address);
                }
                _ => {}
            }
            decided
        };
        match decision.map_err(|error| refused(chain(&error), &["leave --ip out, or choose another"]))? {
            Allocation::Address { address, rested_short } => {
                if rested_short {
                    tracing::warn!("{address} of network {network} is given out again before it rested 60 s");
                }
                if let Some(candidates) = ahead {
                    claim_ahead(agent, network, region, candidates);
                }
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
                request(agent, network, address, (region, index), hold).await?;
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
    if why_not.is_empty() {
        // Blocks of a network that was removed and made again, as an example.
        why_not = "what was claimed for it was in use within the last 60 s".to_owned();
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

/// Claims another block behind the caller's back while there is room, so that nobody waits for one later; one at a
/// time in each region.
fn claim_ahead(agent: &Arc<Agent>, network: &Name, region: Region, candidates: Vec<u32>) {
    let place = (network.clone(), region);
    if !lock(&agent.state).books.ahead.insert(place.clone()) {
        return;
    }
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let network = &place.0;
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
        lock(&agent.state).books.ahead.remove(&place);
    });
}

/// Asks the holder of a block for an address of it, and has a majority promise it: when the holder is removed its block is
/// nobody's any more, and who claims it then must meet somebody who knows.
async fn request(
    agent: &Arc<Agent>,
    network: &Name,
    address: IpAddr,
    (region, index): (Region, u32),
    hold: &mut Hold,
) -> Result<(), Failure> {
    let held = agent.read(|state| {
        let node = holder(state, network, region, index)?;
        Some((node, state.catalog.host(node)?.clone(), state.suspended.contains(&node)))
    });
    let Some((node, host, suspended)) = held else {
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
    let asked = Instant::now();
    let key = ClaimKey::Granted { network: network.clone(), address, by: node };
    // Before it is asked for: what is left of an earlier use must not be given back in between.
    hold.add(key.clone());
    let request = Request::Grant { network: network.clone(), address };
    let to = SocketAddr::new(host.address, host.gossip_port);
    match peers::ask(agent, to, &request, GRANT_LIMIT).await {
        Ok(Answer::Grant(Ok(()))) => {}
        Ok(Answer::Grant(Err(reason))) => return Err(refused(reason, &["choose another --ip"])),
        Ok(other) => return Err(unreachable(format!("it answered {}", other.word()))),
        Err(error) => return Err(unreachable(chain(&error))),
    }
    let promised = claiming::claim(agent, key.clone()).await.map_err(|error| chain(&error));
    let promised = promised.and_then(|()| {
        let late = asked.elapsed() > CLAIMED_WITHIN;
        if late { Err("this host was stopped in the midst of it".to_owned()) } else { Ok(()) }
    });
    promised.map_err(|why| {
        let what = format!("{address} lies in the block of host {}, which granted it, but {why}", host.name);
        refused(what, &["try again", "choose another --ip"])
    })?;
    agent.write(vec![claiming::fact(key)], Writes::default()).map(drop)
}
