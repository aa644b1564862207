//! `node rm`: ends a host that will not return.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::api::types::{Done, Failure, Wait};
use crate::catalog::facts::{Key, Value};
use crate::claims::Member;
use crate::model::NodeId;
use crate::runtime::agent::{Agent, Batch, State, chain, refused, usage};
use crate::runtime::claiming::removing::{self, Ended};
use crate::runtime::claiming::tally;
use crate::runtime::verbs;
use crate::store::Writes;

/// Removes a suspended host for good: its attachments, replicas, promises and addresses.
///
/// # Errors
/// When there is no such host, it is live, or no majority of the others agrees.
pub async fn remove(agent: &Arc<Agent>, text: &str, wait: Wait, origin: &str) -> Result<Done, Failure> {
    let turn = agent.verbs.lock().await;
    let Candidate { member, name, .. } = find(agent, text)?;
    let node = member.node;
    match removing::agree(agent, member).await.map_err(|error| refused(chain(&error), &[]))? {
        Ended::Agreed => {}
        Ended::NoMajority { answered, needed, silent } => {
            let here = !silent.contains(&agent.identity.node);
            let silent: Vec<String> = silent.iter().map(|node| agent.host_name(*node)).collect();
            let what = not_removed(&name, answered, needed, here, &silent);
            return Err(refused(what, &["bring more hosts back first: svc-agent node ls"]));
        }
    }
    let head = agent.update(|state| Ok((removal(state, node), Writes::default())))?;
    if let Some(cluster) = agent.cluster.get() {
        cluster.remove(node);
    }
    drop(turn);
    let line = format!("host {name} ({node}) removed");
    agent.events.record("host", &line, origin);
    let laggards = verbs::everywhere(agent, None, head, wait).await;
    let notes =
        vec!["if it does return it must join as a new host: move its state directory away first".to_owned()];
    Ok(Done { changed: vec![line], notes, laggards, object: None })
}

/// Why a host stays. It is not asked itself, so it is not among those named, and that is said.
fn not_removed(name: &str, answered: usize, needed: usize, here: bool, silent: &[String]) -> String {
    let tally = tally(answered, needed, here, &[("no agreement from", silent)]);
    format!("{name} is not removed: without {name}, which is not asked, {tally}")
}

/// What says that a node is removed, with what only it asserts: that must not die with it.
pub fn removal(state: &State, node: NodeId) -> Batch {
    let kept = state.catalog.sole_assertions(node).into_iter();
    let kept = kept.filter(|(key, _)| matches!(key, Key::Network { .. } | Key::Service { .. }));
    kept.map(|(key, value)| (key, Some(value)))
        .chain(std::iter::once((Key::Removed { node }, Some(Value::Removed))))
        .collect()
}

/// Who could be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number and id.
    pub member: Member,
    /// Its name, or its id while it has not said one.
    pub name: String,
    /// Where it is between its first promise and its end.
    pub stage: Stage,
}

/// Where a node is between its first promise and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was promised a number and has not said that it has it.
    Joining,
    /// It has said who it is.
    Member,
    /// It is said to be removed and still counts: no majority has agreed yet.
    Leaving,
}

/// Everybody who counts, or has said who it is, in the order of numbers.
pub fn candidates(state: &State) -> Vec<Candidate> {
    let mut found = BTreeMap::new();
    let promises = &state.books.promises;
    let counted = promises.pending().map(|member| (member, Stage::Joining));
    for (member, stage) in counted.chain(promises.members().map(|member| (member, Stage::Member))) {
        let removed = state.catalog.is_removed(member.node);
        let stage = if removed { Stage::Leaving } else { stage };
        // The index leaves out who is removed; what it said of itself is still there.
        let name = match state.catalog.value(member.node, &Key::Host) {
            Some(Value::Host(host)) => host.name,
            _ => member.node.to_string(),
        };
        found.insert(member.node, Candidate { member, name, stage });
    }
    for (node, host) in state.catalog.hosts() {
        let member = Member { number: host.number, node };
        let stage = Stage::Member;
        found.insert(node, Candidate { member, name: host.name.clone(), stage });
    }
    let mut found: Vec<Candidate> = found.into_values().collect();
    found.sort_by_key(|candidate| candidate.member);
    found
}

/// The one that is meant: by id, else by its only name among members, else by its only name at all.
fn choose(candidates: &[Candidate], text: &str) -> Result<Candidate, Failure> {
    if let Ok(id) = text.parse::<NodeId>()
        && let Some(found) = candidates.iter().find(|candidate| candidate.member.node == id)
    {
        return Ok(found.clone());
    }
    let named: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.name == text).collect();
    match named.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(refused(format!("host {text} is not known"), &["see who is: svc-agent node ls"])),
        several => {
            let ids: Vec<String> = several.iter().map(|it| it.member.node.to_string()).collect();
            let hint = format!("give the id of the one you mean: svc-agent node rm {}", ids[0]);
            Err(usage(format!("several hosts are called {text}: {}", ids.join(", ")), &[&hint]))
        }
    }
}

fn find(agent: &Agent, text: &str) -> Result<Candidate, Failure> {
    let (found, suspended) = agent.read(|state| {
        let found = choose(&candidates(state), text)?;
        let suspended = state.suspended.contains(&found.member.node);
        Ok::<_, Failure>((found, suspended))
    })?;
    let (node, name) = (found.member.node, &found.name);
    if node == agent.identity.node {
        return Err(refused("that is this host", &["to take it out of the cluster: svc-agent leave"]));
    }
    let live = match found.stage {
        Stage::Member => !suspended,
        // Liveness follows those who have said who they are; of others only the heartbeat is known.
        Stage::Joining | Stage::Leaving => agent
            .cluster
            .get()
            .is_some_and(|cluster| cluster.members().borrow().get(&node).is_some_and(|member| member.live)),
    };
    if live {
        let what = match found.stage {
            Stage::Joining => format!("host {name} is joining right now"),
            Stage::Member | Stage::Leaving => format!("host {name} is live"),
        };
        let hint = format!("run `svc-agent leave` on {name}, or stop its agent first");
        return Err(refused(what, &[&hint]));
    }
    Ok(found)
}

/// Where a host's agent listens.
pub fn address_of(host: &crate::catalog::facts::HostFact) -> SocketAddr {
    SocketAddr::new(host.address, host.gossip_port)
}

/// This host's own removal, with `leave`: what to tell if the others did not agree.
pub async fn resign(agent: &Arc<Agent>) -> Vec<String> {
    let me = agent.identity.node;
    let (number, others) = agent.read(|state| {
        let promises = &state.books.promises;
        (promises.number(), promises.members().filter(|member| member.node != me).count())
    });
    let (Some(number), true) = (number, others > 0) else { return Vec::new() };
    let name = &agent.identity.name;
    match removing::agree(agent, Member { number, node: me }).await {
        Ok(Ended::Agreed) => Vec::new(),
        Ok(Ended::NoMajority { answered, needed, silent }) => {
            // Who agreed promises nothing until it hears this, and nobody is left to say it later.
            removing::take_back(agent, &mut removing::Heard::new()).await;
            let silent: Vec<String> = silent.iter().map(|node| agent.host_name(*node)).collect();
            let tally = tally(answered, needed, false, &[("no agreement from", &silent)]);
            vec![format!(
                "NOT settled: that {name} is gone, {tally}; if another host's svc-agent node ls still shows it, run \
                 there: svc-agent node rm {me}"
            )]
        }
        Err(error) => vec![format!("NOT settled: {}", chain(&error))],
    }
}

#[cfg(test)]
mod tests;
