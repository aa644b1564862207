//! `network create` and `network rm`.
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::addresses::{self, Layout};
use crate::api::types::{DefaultSix, Done, Failure, NetworkCreate, Wait};
use crate::catalog::facts::{ClaimKey, Key, NetworkDefinition, Value};
use crate::catalog::{Catalog, NetworkRecord};
use crate::model::{Name, NodeId};
use crate::runtime::agent::{Agent, Batch, State, chain, refused, usage};
use crate::runtime::claiming::{self, ClaimError};
use crate::runtime::local::{list, list_some};
use crate::runtime::verbs;
use crate::store::Writes;
use crate::view::MTU_SIX_MIN;

/// VNIs tried before a creation is refused; each costs a round trip to a majority.
const VNI_TRIES: usize = 8;
/// Overlaps with routes that are named.
const OVERLAPS_MAX: usize = 16;
/// Bounds of an MTU that an operator may set, in bytes: RFC 791's minimum, and the largest IPv4 packet.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 576..=65_535;

/// Creates a network, or finds it with equal parameters.
///
/// # Errors
/// When parameters are wrong, disagree with what exists, or no majority confirms the VNI.
pub async fn create(agent: &Arc<Agent>, request: NetworkCreate, origin: &str) -> Result<Done, Failure> {
    let turn = agent.verbs.lock().await;
    let (network, changed) = make(agent, &request, origin).await?;
    drop(turn);
    let head = *agent.own_head.borrow();
    let laggards = verbs::everywhere(agent, None, head, request.wait).await;
    let notes = agent.read(|state| overlap_lines(state, &network));
    let object = verbs::queries::network(agent, &network).and_then(|info| serde_json::to_value(info).ok());
    Ok(Done { changed, notes, laggards, object })
}

/// The creation itself; the caller holds the verbs' lock.
///
/// # Errors
/// As [`create`].
pub async fn make(
    agent: &Arc<Agent>,
    request: &NetworkCreate,
    origin: &str,
) -> Result<(Name, Vec<String>), Failure> {
    let name = verbs::name("network", &request.name)?;
    check(request)?;
    if let Some(record) = agent.read(|state| state.catalog.network(&name)) {
        let differs = differences(&record, request);
        if differs.is_empty() {
            return Ok((name, Vec::new()));
        }
        let what = format!("network {name} exists with other parameters: {}", differs.join("; "));
        let remove = format!("or remove it first: svc-agent network rm {name}");
        return Err(refused(what, &["leave those parameters out to use it as it is", &remove]));
    }
    verbs::unjoined::refuse(agent)?;
    let links = [IpNetwork::V4(agent.settings.load().link_pool), overlay::link_pool_six()];
    for subnet in &request.subnets {
        if let Some(links) = links.iter().find(|links| addresses::overlaps(links, subnet)) {
            let what = format!(
                "{subnet} overlaps {links}, where the links between networks and this host have theirs"
            );
            return Err(refused(
                what,
                &["use another --subnet, or another --link-pool for this host's agent"],
            ));
        }
    }
    let subnets = subnets(agent, &name, request).await?;
    refuse_narrow(agent, &name, &subnets)?;
    let vni = claim_vni(agent, &name, request.vni).await?;
    let stamp = agent.stamp();
    let definition = NetworkDefinition {
        revision: stamp,
        removed: false,
        vni,
        subnets: subnets.clone(),
        internal: request.internal,
        encrypted: false,
        mtu: request.mtu,
    };
    let batch: Batch = vec![
        (Key::Network { name: name.clone(), born: stamp }, Some(Value::Network(definition))),
        claiming::fact(ClaimKey::Vni { vni }),
    ];
    agent.write(batch, Writes::default())?;
    let line = format!("network {name} created: subnet {}, VNI {vni}", list(&subnets));
    agent.events.record("network", &line, origin);
    Ok((name, vec![line]))
}

/// Refuses an IPv6 subnet where the underlay of a host that matters leaves no room for it: its containers would have no
/// address at all. Before there is a network, hosts that are live matter; then those that are on it, and this one.
///
/// # Errors
/// With the host and its room.
pub fn refuse_narrow(agent: &Agent, network: &Name, subnets: &[IpNetwork]) -> Result<(), Failure> {
    if !subnets.iter().any(IpNetwork::is_ipv6) {
        return Ok(());
    }
    let narrow = agent.read(|state| {
        let members = state.view.networks().get(network).map(|view| &view.members);
        let matters = |node: &NodeId| {
            *node == agent.identity.node
                || members.map_or(!state.suspended.contains(node), |members| members.contains_key(node))
        };
        let hosts = state.catalog.hosts().filter(|(node, _)| matters(node)).map(|(node, host)| {
            let mtu = crate::view::inner_mtu(host.underlay_mtu, host.address);
            (mtu, crate::runtime::agent::host_name(&state.catalog, node))
        });
        hosts.min().filter(|(mtu, _)| *mtu < MTU_SIX_MIN)
    });
    let Some((mtu, host)) = narrow else { return Ok(()) };
    let what = format!(
        "network {network} cannot carry IPv6, which needs an MTU of {MTU_SIX_MIN} bytes: the underlay of {host} leaves {mtu}"
    );
    Err(refused(what, &["raise the MTU of the underlay there, or use an IPv4 subnet alone"]))
}

/// What is wrong with the parameters alone.
fn check(request: &NetworkCreate) -> Result<(), Failure> {
    if request.encrypted {
        let hint = "create it without --encrypted only where the underlay is trusted";
        return Err(refused(
            "this version cannot encrypt a network yet, and will not carry it in clear",
            &[hint],
        ));
    }
    if let Some(mtu) = request.mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
        let range = format!("use {} to {} bytes", MTU_RANGE.start(), MTU_RANGE.end());
        return Err(refused(format!("an MTU of {mtu} bytes is out of range"), &[&range]));
    }
    if let Some(vni) = request.vni {
        addresses::check_vni(vni).map_err(|error| refused(chain(&error), &[]))?;
    }
    for (index, subnet) in request.subnets.iter().enumerate() {
        if subnet.ip() != subnet.network() {
            let right = format!("write {}/{}", subnet.network(), subnet.prefix());
            return Err(refused(format!("{subnet} has bits set beyond its prefix length"), &[&right]));
        }
        Layout::new(*subnet).map_err(|error| refused(chain(&error), &[]))?;
        if let Some(other) = request.subnets[..index].iter().find(|other| addresses::overlaps(other, subnet))
        {
            return Err(refused(format!("subnets {other} and {subnet} overlap"), &["give one of them"]));
        }
        let same_family = |other: &&IpNetwork| other.is_ipv4() == subnet.is_ipv4();
        if request.subnets[..index].iter().any(|other| same_family(&other)) {
            let family = if subnet.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(refused(
                format!("a network has at most one {family} subnet"),
                &["give a larger one instead"],
            ));
        }
    }
    let given = |six: bool| request.subnets.iter().find(|subnet| subnet.is_ipv6() == six);
    if let (true, Some(subnet)) = (request.six != DefaultSix::None, given(true)) {
        let what = format!("both an IPv6 subnet, {subnet}, and a default one are asked for");
        return Err(usage(what, &["leave one of them out"]));
    }
    if let (DefaultSix::Only, Some(subnet)) = (request.six, given(false)) {
        let what = format!("a network of IPv6 alone cannot have {subnet}");
        return Err(usage(what, &["for both: --ipv6 --subnet CIDR"]));
    }
    if let Some(mtu) = request.mtu.filter(|mtu| *mtu < MTU_SIX_MIN)
        && (request.six != DefaultSix::None || given(true).is_some())
    {
        let hint = format!("use --mtu {MTU_SIX_MIN} or more, or leave the IPv6 subnet out");
        return Err(refused(format!("IPv6 does not work with an MTU of {mtu} bytes (RFC 8200)"), &[&hint]));
    }
    Ok(())
}

/// In what a request differs from what stands; what it leaves open does not differ.
fn differences(record: &NetworkRecord, request: &NetworkCreate) -> Vec<String> {
    let is = &record.definition;
    let mut differs = Vec::new();
    let stands = |subnet: &IpNetwork| is.subnets.contains(subnet);
    let whole = request.six == DefaultSix::Beside || is.subnets.len() == request.subnets.len();
    let fits = whole && request.subnets.iter().all(stands);
    if !request.subnets.is_empty() && !fits {
        differs.push(format!("its subnet is {}, not {}", list(&is.subnets), list(&request.subnets)));
    }
    let families = [false, true].map(|six| is.subnets.iter().any(|subnet| subnet.is_ipv6() == six));
    let families_fit = match request.six {
        DefaultSix::None => true,
        DefaultSix::Beside => families == [true, true],
        DefaultSix::Only => families == [false, true],
    };
    if !families_fit {
        let asked = if request.six == DefaultSix::Only { "IPv6 alone" } else { "both families" };
        differs.push(format!("its subnet is {}, not {asked}", list(&is.subnets)));
    }
    if let Some(vni) = request.vni.filter(|vni| *vni != is.vni) {
        differs.push(format!("its VNI is {}, not {vni}", is.vni));
    }
    if request.internal != is.internal {
        differs.push(format!("internal is {}, not {}", is.internal, request.internal));
    }
    if request.mtu.is_some() && request.mtu != is.mtu {
        let is = is.mtu.map_or_else(|| "the underlay's".to_owned(), |mtu| mtu.to_string());
        differs.push(format!("its MTU is {is}, not {}", request.mtu.unwrap_or_default()));
    }
    differs
}

/// What it gets: what was given, and default ones where none was. The same choice on every host, so that two that create one
/// name at once choose one subnet: clear of other networks and of the routes of all hosts.
async fn subnets(
    agent: &Arc<Agent>,
    name: &Name,
    request: &NetworkCreate,
) -> Result<Vec<IpNetwork>, Failure> {
    let mut subnets = request.subnets.clone();
    let four = subnets.is_empty() && request.six != DefaultSix::Only;
    if !four && request.six == DefaultSix::None {
        return Ok(subnets);
    }
    let taken = taken(agent).await;
    let none_left = |pool: IpNetwork, option: &str| {
        let hint = format!("name one: svc-agent network create NAME {option}--subnet CIDR");
        refused(
            format!("no subnet of the pool {pool} is free of other networks and the hosts' routes"),
            &[&hint],
        )
    };
    if four {
        let pool = agent.settings.load().pool;
        let chosen = addresses::default_subnet(name.as_str(), pool, &taken);
        let option = if request.six == DefaultSix::Beside { "--ipv6 " } else { "" };
        subnets.push(chosen.ok_or_else(|| none_left(pool.into(), option))?);
    }
    if request.six != DefaultSix::None {
        let pool = addresses::pool_six(&agent.identity.cluster);
        let chosen = addresses::default_subnet_six(name.as_str(), pool, &taken);
        subnets.push(chosen.ok_or_else(|| none_left(pool.into(), ""))?);
    }
    Ok(subnets)
}

/// Subnets of other networks, and what hosts have routes to.
async fn taken(agent: &Arc<Agent>) -> Vec<IpNetwork> {
    // This host's may be newer than what it has told.
    let mut taken: Vec<IpNetwork> = crate::runtime::host::routes(agent).await.unwrap_or_default();
    taken.push(overlay::link_pool_six());
    agent.read(|state| {
        taken.extend(state.catalog.hosts().flat_map(|(_, host)| host.routes.clone()));
        for network in state.catalog.networks() {
            taken.extend(
                state.catalog.network(network).into_iter().flat_map(|it| it.definition.subnets.clone()),
            );
        }
    });
    taken
}

/// The network that has a VNI, by any of its creations: one that is not used may stand later.
pub(crate) fn vni_user(catalog: &Catalog, vni: u32) -> Option<&Name> {
    catalog.networks().find(|network| {
        catalog.network(network).is_some_and(|record| {
            record.definition.vni == vni || record.losers.iter().any(|(_, lost)| lost.vni == vni)
        })
    })
}

/// Where a network's subnets are in use by routes of hosts: from its containers those addresses cannot be reached. Each with
/// the host.
pub fn overlapping_routes(state: &State, name: &Name) -> Vec<(NodeId, String)> {
    let Some(record) = state.catalog.network(name) else { return Vec::new() };
    let subnets = &record.definition.subnets;
    let on = |subnet: &IpNetwork| {
        let hosts = state.catalog.hosts().filter_map(|(node, host)| {
            let route = addresses::first_overlap(subnet, &host.routes)?;
            let overlap = format!(
                "host {} has a route to {route}, which overlaps the subnet {subnet}: containers do not reach what is there",
                host.name
            );
            Some((node, overlap))
        });
        hosts.collect::<Vec<_>>()
    };
    subnets.iter().flat_map(on).collect()
}

/// As [`overlapping_routes`], to be shown: the first ones, and how many more there are.
pub fn overlap_lines(state: &State, name: &Name) -> Vec<String> {
    let overlaps = overlapping_routes(state, name).into_iter().map(|(_, overlap)| overlap).collect();
    verbs::conflicts::cut(overlaps, OVERLAPS_MAX, "routes of hosts that overlap its subnets")
}

/// An explicit VNI must be free; else the first of the name's own sequence that a majority confirms.
async fn claim_vni(agent: &Arc<Agent>, name: &Name, asked: Option<u32>) -> Result<u32, Failure> {
    let used_by = |vni: u32| agent.read(|state| vni_user(&state.catalog, vni).cloned());
    let mine = |vni: u32| {
        agent.read(|state| {
            state.catalog.claimants(&ClaimKey::Vni { vni }).any(|node| node == agent.identity.node)
        })
    };
    if let Some(vni) = asked {
        if let Some(other) = used_by(vni) {
            let hint = "choose another, or leave --vni out";
            return Err(refused(format!("VNI {vni} is in use by network {other}"), &[hint]));
        }
        if !mine(vni) {
            claiming::claim(agent, ClaimKey::Vni { vni }).await.map_err(|error| {
                refused(
                    format!("VNI {vni} cannot be had: {}", chain(&error)),
                    &["choose another, or leave --vni out"],
                )
            })?;
        }
        return Ok(vni);
    }
    let mut last = None;
    let candidates = addresses::vni_candidates(name.as_str()).filter(|vni| used_by(*vni).is_none());
    for vni in candidates.take(VNI_TRIES) {
        if mine(vni) {
            return Ok(vni);
        }
        match claiming::claim(agent, ClaimKey::Vni { vni }).await {
            Ok(()) => return Ok(vni),
            Err(error @ ClaimError::Lost { .. }) => last = Some(error),
            Err(error) => {
                let hint = "see which hosts are away: svc-agent node ls; remove one that will not return: svc-agent node rm NAME";
                return Err(refused(format!("network {name} cannot be created: {}", chain(&error)), &[hint]));
            }
        }
    }
    let why = last.map_or_else(|| "every VNI of its sequence is in use".to_owned(), |error| chain(&error));
    Err(refused(format!("no VNI could be had for network {name}: {why}"), &["name one: --vni N"]))
}

/// Removes a network that nothing uses any more.
///
/// # Errors
/// When it does not exist or is in use.
pub async fn remove(agent: &Arc<Agent>, text: &str, wait: Wait, origin: &str) -> Result<Done, Failure> {
    let turn = agent.verbs.lock().await;
    let name = verbs::choose_network(agent, Some(text))?;
    refuse_if_used(agent, &name)?;
    let mut batch: Batch = Vec::new();
    let stamp = agent.stamp();
    agent.read(|state| {
        let Some(record) = state.catalog.network(&name) else { return };
        let births = std::iter::once((record.born, record.definition)).chain(record.losers);
        for (born, definition) in births {
            let removed = NetworkDefinition { revision: stamp, removed: true, ..(*definition).clone() };
            batch.push((Key::Network { name: name.clone(), born }, Some(Value::Network(removed))));
        }
        for service in state.catalog.services(&name) {
            batch.extend(verbs::services::removal(state, &name, service, stamp));
        }
        let own_claims = state.catalog.claims().filter(|(_, holder)| *holder == agent.identity.node);
        for (key, _) in own_claims {
            let of_network = match key {
                ClaimKey::Block { network, .. }
                | ClaimKey::Address { network, .. }
                | ClaimKey::Granted { network, .. } => *network == name,
                ClaimKey::Vni { .. } | ClaimKey::Node { .. } | ClaimKey::Takeover { .. } => false,
            };
            if of_network {
                batch.push((Key::Claim(key.clone()), None));
            }
        }
    });
    let head = agent.write(batch, Writes::default())?;
    drop(turn);
    let line = format!("network {name} removed");
    agent.events.record("network", &line, origin);
    let laggards = verbs::everywhere(agent, None, head, wait).await;
    Ok(Done { changed: vec![line], laggards, ..Done::default() })
}

/// Docker has given a container an address, and it is not attached yet.
fn refuse_if_starting(agent: &Agent, name: &Name) -> Result<(), Failure> {
    let used = |state: &State| state.docker.endpoints().any(|(_, endpoint)| endpoint.network == *name);
    if agent.read(used) {
        let hint = format!("see which: docker network inspect {name}");
        return Err(refused(
            format!("network {name} is in use by containers of Docker on this host"),
            &[&hint],
        ));
    }
    Ok(())
}

fn refuse_if_used(agent: &Agent, name: &Name) -> Result<(), Failure> {
    let users: Vec<String> = agent.read(|state| {
        let local = state.local.keys().filter(|(network, _)| network == name);
        let local = local.map(|(_, attachment)| format!("{attachment} on {}", agent.identity.name));
        let known = state.catalog.attachments(name).filter(|(_, owner, _)| *owner != agent.identity.node);
        let known = known.map(|(attachment, owner, _)| {
            format!("{attachment} on {}", crate::runtime::agent::host_name(&state.catalog, owner))
        });
        local.chain(known).collect()
    });
    if users.is_empty() {
        return refuse_if_starting(agent, name);
    }
    let (count, shown) = (users.len(), list_some(&users));
    let hint = format!("detach them first: svc-agent detach NAME --network {name}");
    let gone = "attachments of a host that will not return end with: svc-agent node rm HOST";
    Err(refused(format!("network {name} is in use by {count} attachments: {shown}"), &[&hint, gone]))
}
