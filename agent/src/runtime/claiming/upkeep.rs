//! What claims owe after the fact: withdrawals until all have acknowledged them, removals until all have applied them.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::facts::ClaimKey;
use crate::claims::{ClaimRecord, ClaimState, Claimant, Entry, Leaving, Member, Request, Resume};
use crate::model::NodeId;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::claiming::{apply_removal, send, write_step};
use crate::runtime::messages::{Answer, Request as PeerRequest};
use crate::runtime::peers;

/// What was not acknowledged is sent again this often.
const INTERVAL: Duration = Duration::from_secs(2);
/// Claims withdrawn at once; the next round takes the next.
const AT_ONCE: usize = 16;
/// How long a member may take to tell what it adopted with a removal.
const TABLE_LIMIT: Duration = Duration::from_secs(1);

/// Runs until the agent ends. A claim that a crash cut short is given up first: whoever wanted it asks anew.
pub async fn run(agent: Arc<Agent>) {
    let mut running = give_up_pending(&agent);
    retract_removals(&agent).await;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        adopt_withdrawing(&agent, &mut running);
        withdraw(&agent, &mut running).await;
        apply_removals(&agent).await;
    }
}

fn give_up_pending(agent: &Agent) -> BTreeMap<ClaimKey, Claimant> {
    let pending: Vec<ClaimRecord> = agent.read(|state| {
        let open = state.books.claims.values().filter(|record| record.state == ClaimState::Pending);
        open.cloned().collect()
    });
    let mut running = BTreeMap::new();
    for record in pending {
        let key = record.key.clone();
        let (claimant, step) = Claimant::resume(agent.identity.node, record, Resume::Withdraw);
        if let Err(error) = write_step(agent, &claimant, &step) {
            tracing::error!("{}", chain(&error));
        }
        running.insert(key, claimant);
    }
    running
}

/// Takes up claims that were given up since.
fn adopt_withdrawing(agent: &Agent, running: &mut BTreeMap<ClaimKey, Claimant>) {
    let records: Vec<ClaimRecord> = agent.read(|state| {
        let withdrawing = state.books.claims.values().filter(|it| it.state == ClaimState::Withdrawing);
        withdrawing.cloned().collect()
    });
    running.retain(|key, claimant| {
        records.iter().any(|record| record.key == *key && record.attempt == claimant.record().attempt)
    });
    for record in records {
        let me = agent.identity.node;
        running.entry(record.key.clone()).or_insert_with(|| Claimant::resume(me, record, Resume::Withdraw).0);
    }
}

async fn withdraw(agent: &Arc<Agent>, running: &mut BTreeMap<ClaimKey, Claimant>) {
    for claimant in running.values_mut().take(AT_ONCE) {
        let gone: Vec<NodeId> = agent.read(|state| state.catalog.removed().collect());
        let mut steps: Vec<_> = gone.into_iter().map(|node| claimant.forget_member(node)).collect();
        let sends = claimant.unanswered();
        let sends = sends.into_iter().map(|(to, request)| send(Arc::clone(agent), to, request));
        for (from, reply) in futures::future::join_all(sends).await {
            steps.extend(reply.map(|reply| claimant.on_reply(from, &reply)));
        }
        for step in steps {
            if let Err(error) = write_step(agent, claimant, &step) {
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}

/// A removal that this host asked for and a crash cut short: those who agreed promise nothing until they hear.
async fn retract_removals(agent: &Arc<Agent>) {
    let me = agent.identity.node;
    let (own, members): (Vec<Leaving>, Vec<NodeId>) = agent.read(|state| {
        let promises = &state.books.promises;
        let own = promises.leaving().filter(|leaving| leaving.remover == me).collect();
        (own, promises.members().map(|member| member.node).collect())
    });
    for Leaving { member, remover, attempt } in own {
        let keep = Request::Keep { member, remover, attempt };
        let sends = members.iter().map(|node| send(Arc::clone(agent), *node, keep.clone()));
        futures::future::join_all(sends).await;
    }
}

/// Applies removals of which this host knows the fact but missed the telling: the promises that go with one are
/// asked of a member that has applied it.
async fn apply_removals(agent: &Arc<Agent>) {
    let missed: Vec<Member> = agent.read(|state| {
        let members = state.books.promises.members();
        members.filter(|member| state.catalog.is_removed(member.node)).collect()
    });
    for member in missed {
        for (_, host) in agent.live_peers() {
            let to = SocketAddr::new(host.address, host.gossip_port);
            let asked = peers::ask(agent, to, &PeerRequest::RemovalTable { member }, TABLE_LIMIT).await;
            let Ok(Answer::RemovalTable(Some(table))) = asked else { continue };
            if let Err(error) = apply_removal(agent, member, &table) {
                tracing::error!("the removal of node {} cannot be applied: {error}", member.node);
            }
            break;
        }
    }
}

/// What this host adopted with a removal that it has applied; `None` if it has not.
pub fn removal_table(agent: &Agent, member: Member) -> Option<Vec<Entry>> {
    agent.read(|state| {
        let promises = &state.books.promises;
        promises.removed().any(|removed| removed == member).then(|| promises.entries().collect())
    })
}
