//! What can be asked: networks, attachments, services, nodes, status, names.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::addresses::Layout;
use crate::api::types::{
    AttachmentInfo, Behind, Capacity, Failure, HostStatus, NetworkInfo, NodeInfo, Problem, Resolved, Status,
};
use crate::catalog::facts::{HostFact, Key, Region};
use crate::claims::Member;
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::{Agent, State, chain, host_name, refused};
use crate::runtime::events::lock;
use crate::runtime::local::StoredPlace;
use crate::runtime::messages::{Answer, Request};
use crate::runtime::verbs::conflicts::describe;
use crate::runtime::{host, peers, verbs};
use crate::view::NetworkView;

mod notices;
mod services;

pub use services::{service, services};

/// How long a host may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

/// All networks.
pub fn networks(agent: &Agent) -> Vec<NetworkInfo> {
    let names: Vec<Name> = agent.read(|state| state.catalog.networks().cloned().collect());
    names.iter().filter_map(|name| network(agent, name)).collect()
}

/// One network.
pub fn network(agent: &Agent, name: &Name) -> Option<NetworkInfo> {
    agent.read(|state| {
        let view = state.view.network(name)?;
        let definition = &view.definition;
        let layouts: Vec<Layout> =
            definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok()).collect();
        let capacity = capacity(view).map(|(region, capacity)| (word_of(region).to_owned(), capacity)).into();
        let present = state.local.keys().any(|(network, _)| network == name);
        let holder = agent.holder_pid.load(Ordering::Relaxed);
        Some(NetworkInfo {
            name: name.clone(),
            vni: definition.vni,
            subnets: definition.subnets.clone(),
            gateways: layouts.iter().map(Layout::gateway).collect(),
            internal: definition.internal,
            encrypted: definition.encrypted,
            mtu: view.mtu,
            hosts: view.members.keys().map(|node| host_name(&state.catalog, *node)).collect(),
            attachments: view.attachments.len(),
            services: view.services.len(),
            capacity,
            namespace: present.then(|| {
                format!(
                    "svc-agent hold (pid {holder}) keeps it: lsns -t net; nsenter --net=/proc/{holder}/fd/N"
                )
            }),
            problems: view
                .conflicts()
                .map(|conflict| describe(state, conflict))
                .chain(verbs::network::overlap_lines(state, name))
                .collect(),
        })
    })
}

/// How many addresses of each region of a network are in use.
pub fn capacity(view: &NetworkView) -> [(Region, Capacity); 2] {
    let layouts = view.definition.subnets.iter().filter_map(|subnet| Layout::new(*subnet).ok());
    let layouts: Vec<Layout> = layouts.collect();
    let total = |region| {
        let sum: u128 = layouts.iter().map(|layout| layout.capacity(region)).sum();
        u64::try_from(sum).unwrap_or(u64::MAX)
    };
    let vips: usize = view.services.values().map(|service| service.vips.len()).sum();
    let endpoints: usize = view.attachments.values().map(|it| it.addresses.len()).sum();
    let of = |region, used: usize| (region, Capacity { used: used as u64, total: total(region) });
    [of(Region::Endpoint, endpoints), of(Region::Vip, vips)]
}

/// How full each region of a network is, in percent: where it has two subnets, the fuller one counts, since every
/// attachment and service needs an address of each.
pub fn fill(view: &NetworkView) -> [(Region, u64); 2] {
    let endpoints = || view.attachments.values().flat_map(|it| it.addresses.iter());
    let vips = || view.services.values().flat_map(|service| service.vips.iter());
    let percent = |region, count: &dyn Fn(&IpNetwork) -> usize| {
        let of = |subnet: &IpNetwork| {
            let total = Layout::new(*subnet).ok()?.capacity(region).max(1);
            u64::try_from(count(subnet) as u128 * 100 / total).ok()
        };
        (region, view.definition.subnets.iter().filter_map(of).max().unwrap_or_default())
    };
    [
        percent(Region::Endpoint, &|subnet| endpoints().filter(|it| subnet.contains(**it)).count()),
        percent(Region::Vip, &|subnet| vips().filter(|vip| subnet.contains(**vip)).count()),
    ]
}

/// What a region's addresses are called.
pub fn word_of(region: Region) -> &'static str {
    match region {
        Region::Endpoint => "endpoints",
        Region::Vip => "vips",
    }
}

/// A record's data in presentation form.
fn presentation(data: &dns::Data) -> String {
    match data {
        dns::Data::Address(address @ IpAddr::V4(_)) => format!("A {address}"),
        dns::Data::Address(address @ IpAddr::V6(_)) => format!("AAAA {address}"),
        dns::Data::Name(name) => format!("PTR {name}."),
        dns::Data::Soa(soa) => format!("SOA {}.", soa.domain),
    }
}

/// All attachments, everywhere.
pub fn attachments(agent: &Arc<Agent>) -> Vec<AttachmentInfo> {
    let mut all: Vec<AttachmentInfo> = agent.read(|state| {
        let views = state.view.networks().values();
        views
            .flat_map(|network| network.attachments.iter().map(move |(name, view)| (network, name, view)))
            .map(|(network, name, view)| AttachmentInfo {
                name: name.clone(),
                network: network.name.clone(),
                host: host_name(&state.catalog, view.owner),
                local: view.owner == agent.identity.node,
                addresses: view.addresses.to_vec(),
                mac: view.mac.clone(),
                aliases: view.aliases.clone(),
                interface: None,
                resolv_conf: None,
                suspended: state.suspended.contains(&view.owner),
            })
            .collect()
    });
    for info in all.iter_mut().filter(|info| info.local) {
        let key = (info.network.clone(), info.name.clone());
        let Some(record) = agent.read(|state| state.local.get(&key).cloned()) else { continue };
        info.interface = lock(&agent.interfaces).get(&key).cloned();
        if record.resolv_conf.is_none() && record.place != StoredPlace::Host {
            info.resolv_conf = Some(host::resolv_conf(agent, record.cookie));
        }
    }
    all
}

/// All hosts, those included that count without being members: they join, or a removal is not settled yet.
pub fn nodes(agent: &Agent) -> Vec<NodeInfo> {
    let seen = agent.cluster.get().map(|cluster| cluster.members().borrow().clone()).unwrap_or_default();
    agent.read(|state| {
        let hosts = state.catalog.hosts();
        let unsettled = verbs::node::candidates(state).into_iter().filter_map(|candidate| {
            let state_word = match candidate.stage {
                verbs::node::Stage::Member => return None,
                verbs::node::Stage::Joining => "joining",
                verbs::node::Stage::Leaving => "leaving",
            };
            let Member { number, node } = candidate.member;
            Some(NodeInfo {
                id: node,
                name: seen.get(&node).map_or(candidate.name, |seen| seen.name.clone()),
                number,
                address: seen.get(&node).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |seen| seen.address.ip()),
                state: state_word.to_owned(),
                agent_version: String::new(),
                head: state.catalog.head(node).to_string(),
                attachments: 0,
                replicas: 0,
            })
        });
        hosts
            .map(|(node, fact)| {
                let owner = state.catalog.owner(node);
                let count = |wanted: fn(&Key) -> bool| {
                    owner.map_or(0, |owner| owner.keys().filter(|key| wanted(key)).count())
                };
                NodeInfo {
                    id: node,
                    name: fact.name.clone(),
                    number: fact.number,
                    address: fact.address,
                    state: word(agent, state, node).to_owned(),
                    agent_version: fact.agent_version.clone(),
                    head: state.catalog.head(node).to_string(),
                    attachments: count(|key| matches!(key, Key::Attachment { .. })),
                    replicas: count(|key| matches!(key, Key::Replica { .. })),
                }
            })
            .chain(unsettled)
            .collect()
    })
}

fn word(agent: &Agent, state: &State, node: NodeId) -> &'static str {
    match (node == agent.identity.node, state.suspended.contains(&node)) {
        (true, _) => "this host",
        (false, true) => "suspended",
        (false, false) => "live",
    }
}

/// How every host is: asked now, not remembered.
pub async fn status(agent: &Arc<Agent>) -> Status {
    let hosts: Vec<(NodeId, HostFact, bool)> = agent.read(|state| {
        let hosts = state.catalog.hosts();
        hosts.map(|(node, fact)| (node, HostFact::clone(fact), state.suspended.contains(&node))).collect()
    });
    let known: BTreeMap<NodeId, Head> = agent.read(|state| state.catalog.heads());
    let asked = hosts.into_iter().map(|(node, host, suspended)| {
        let known = &known;
        async move { host_status(agent, node, &host, suspended, known).await }
    });
    let hosts = futures::future::join_all(asked).await;
    let (notices, wrong) = notices::of(agent);
    let well = |host: &HostStatus| host.state == "live" && host.behind.is_empty() && host.problems.is_empty();
    Status {
        node: agent.identity.name.clone(),
        id: agent.identity.node,
        agent_version: crate::version().to_owned(),
        cluster: agent.identity.cluster.clone(),
        ok: hosts.iter().all(well) && !wrong,
        hosts,
        notices,
    }
}

async fn host_status(
    agent: &Arc<Agent>,
    node: NodeId,
    host: &HostFact,
    suspended: bool,
    known: &BTreeMap<NodeId, Head>,
) -> HostStatus {
    let mut status = HostStatus {
        id: node,
        name: host.name.clone(),
        state: if suspended { "suspended" } else { "live" }.to_owned(),
        agent_version: host.agent_version.clone(),
        behind: Vec::new(),
        problems: Vec::new(),
    };
    let applied = if node == agent.identity.node {
        status.problems = lock(&agent.problems).list(|_| true, Instant::now());
        agent.applied.borrow().as_ref().clone()
    } else if suspended {
        status.problems.push(silent(agent, node, &host.name));
        return status;
    } else {
        let to = SocketAddr::new(host.address, host.gossip_port);
        match peers::ask(agent, to, &Request::Status, STATUS_LIMIT).await {
            Ok(Answer::Status { applied, problems }) => {
                status.problems = problems;
                applied
            }
            other => {
                let why = other.err().map_or_else(|| "it did not understand".to_owned(), |e| chain(&e));
                let (object, error) = (format!("host/{}", host.name), format!("unreachable: {why}"));
                status.state = "unreachable".to_owned();
                status.problems.push(Problem { object, error, seconds: 0, attempts: 1 });
                return status;
            }
        }
    };
    for (owner, head) in known {
        let at = applied.get(owner).copied().unwrap_or_default();
        if at < *head && !agent.read(|state| state.catalog.is_removed(*owner)) {
            status.behind.push(Behind {
                owner: agent.host_name(*owner),
                applied: at.to_string(),
                known: head.to_string(),
            });
        }
    }
    status
}

/// What a name is answered with inside an attachment's namespace.
///
/// # Errors
/// When there is no such attachment on this host, or the name or type is none.
pub fn resolve(agent: &Arc<Agent>, name: &str, on: &str, kind: Option<&str>) -> Result<Resolved, Failure> {
    let on = verbs::name("attachment", on)?;
    let cookie = agent.read(|state| state.local.values().find(|it| it.name == on).map(|it| it.cookie));
    let cookie = cookie.ok_or_else(|| {
        let all: Vec<Name> = agent.read(|state| state.local.values().map(|it| it.name.clone()).collect());
        verbs::nearby::no_attachment(&on, &all, "ask on its own host: svc-agent attachments")
    })?;
    let zone = lock(&agent.zones).get(&cookie).map(dns::ZoneHandle::load);
    let zone =
        zone.ok_or_else(|| refused(format!("{on} has no resolver: it is the host's own namespace"), &[]))?;
    let kind = match kind.unwrap_or("A").to_ascii_uppercase().as_str() {
        "A" => dns::Kind::A,
        "AAAA" => dns::Kind::AAAA,
        "PTR" => dns::Kind::PTR,
        "SRV" => dns::Kind::SRV,
        "SOA" => dns::Kind::SOA,
        "ANY" => dns::Kind::ANY,
        other => {
            return Err(refused(
                format!("{other} is no record type that is served"),
                &["use A, AAAA, PTR, SRV, SOA or ANY"],
            ));
        }
    };
    let question = dns::Question::from_text(name, kind).map_err(|error| refused(chain(&error), &[]))?;
    let ttls = crate::runtime::converge::ttls(agent);
    let answer = dns::answer(&zone, &question, &ttls, &mut rand::rng());
    let (code, source, records) = match answer {
        dns::Answer::Records { ttl, data } => {
            let lines =
                data.iter().map(|data| format!("{} {ttl} IN {}", question.name(), presentation(data)));
            ("NOERROR", "svc-agent", lines.collect())
        }
        dns::Answer::NoData(_) => ("NOERROR", "svc-agent", Vec::new()),
        dns::Answer::NxDomain(_) => ("NXDOMAIN", "svc-agent", Vec::new()),
        dns::Answer::NotYet => ("SERVFAIL", "svc-agent (not synced yet)", Vec::new()),
        dns::Answer::Forward => return Ok(not_ours(question.name(), host::upstreams(agent))),
    };
    Ok(Resolved {
        name: question.name().to_owned(),
        code: code.to_owned(),
        source: source.to_owned(),
        records,
        upstreams: Vec::new(),
    })
}

fn not_ours(name: &str, upstreams: Vec<SocketAddr>) -> Resolved {
    let named: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
    let source = match named.is_empty() {
        true => "not ours, and this host has no upstream to forward it to".to_owned(),
        false => format!("not ours: would be forwarded to {}", named.join(", ")),
    };
    Resolved {
        name: name.to_owned(),
        code: Resolved::FORWARDED.to_owned(),
        source,
        records: Vec::new(),
        upstreams,
    }
}

/// A host that has to do with nothing until it is heard again, or removed.
fn silent(agent: &Agent, node: NodeId, name: &str) -> Problem {
    let member = agent.cluster.get().and_then(|cluster| cluster.members().borrow().get(&node).cloned());
    let member = member.filter(|member| !member.live);
    // One that was suspended when this agent started has not been seen by it.
    let since = member.as_ref().map_or(agent.started, |member| member.since);
    let why = match member.is_some_and(|member| member.left) {
        true => "its agent was stopped",
        false => "nothing heard of it",
    };
    let handle = agent.read(|state| verbs::namesakes::handle(state, node, name));
    Problem {
        object: format!("host/{name}"),
        error: format!("suspended: {why}; if it will not return: svc-agent node rm {handle}"),
        seconds: since.elapsed().as_secs(),
        attempts: 0,
    }
}
