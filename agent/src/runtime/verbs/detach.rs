//! `detach`, and what undoes an attachment: on the way to one, after a crash, at a namespace's end.
use std::sync::Arc;

use crate::api::types::{Detach, Done, Failure};
use crate::catalog::facts::Key;
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::{Agent, Batch, chain, refused, usage};
use crate::runtime::events::lock;
use crate::runtime::local::{LocalAttachment, list};
use crate::runtime::state::State;
use crate::runtime::{host, verbs};
use crate::store::{StoreError, Writes};

/// Undoes a reservation: nothing half-done is left.
pub(super) fn forget(agent: &Agent, record: &LocalAttachment) -> Result<(), Failure> {
    withdraw(agent, std::slice::from_ref(record)).map(|_| ())
}

/// Undoes an attempt that has failed, also where that cannot be written down: nobody was told of it, and its row says so
/// to the next start.
pub(super) fn undo(agent: &Agent, record: &LocalAttachment) {
    if forget(agent, record).is_ok() {
        return;
    }
    {
        let mut state = lock(&agent.state);
        let now = std::time::Instant::now();
        // Written in vain: what of it is in memory counts.
        drop(withdrawal(&mut state, agent.identity.node, now, std::slice::from_ref(record)));
    }
    let_go(agent, record);
}

/// What stands outside the kernel and the catalog.
fn let_go(agent: &Agent, record: &LocalAttachment) {
    lock(&agent.opened).remove(&record.cookie);
    host::remove_resolv_conf(agent, record);
    agent.changed.notify_one();
}

/// Detaches.
///
/// # Errors
/// When there is no such attachment on this host.
pub async fn detach(agent: &Arc<Agent>, request: Detach, origin: &str) -> Result<Done, Failure> {
    let turn = agent.verbs.lock().await;
    let name = verbs::name("attachment", &request.name)?;
    let named =
        request.network.as_deref().map(|text| verbs::choose_network(agent, Some(text))).transpose()?;
    let found: Vec<LocalAttachment> = agent.read(|state| {
        let named_so = state.local.values().filter(|it| it.name == name);
        named_so.filter(|it| named.as_ref().is_none_or(|network| it.network == *network)).cloned().collect()
    });
    let record = match found.as_slice() {
        [one] => one.clone(),
        [] => {
            let all: Vec<Name> = agent.read(|state| state.local.values().map(|it| it.name.clone()).collect());
            return Err(verbs::nearby::no_attachment(&name, &all, "see what is: svc-agent attachments"));
        }
        several => {
            let networks: Vec<&Name> = several.iter().map(|it| &it.network).collect();
            let hint = format!("name one of them: --network {}", several[0].network);
            return Err(usage(
                format!("{name} is attached to several networks: {}", list(&networks)),
                &[&hint],
            ));
        }
    };
    let head = withdraw(agent, std::slice::from_ref(&record))?;
    drop(turn);
    let line = format!("{name} detached from network {}", record.network);
    agent.events.record("attachment", &line, origin);
    // This host no longer has to have the network, so it is waited for by name below.
    let laggards = verbs::everywhere(agent, Some(&record.network), head, request.wait).await;
    Ok(Done { changed: vec![line], laggards, ..Done::default() })
}

/// Takes attachments and their replicas out of the catalog and of this host's records; the converge loop then
/// removes what the kernel holds of them.
///
/// # Errors
/// When the store refuses.
pub fn withdraw(agent: &Agent, records: &[LocalAttachment]) -> Result<Head, Failure> {
    let me = agent.identity.node;
    let now = std::time::Instant::now();
    let head = agent
        .update(|state| withdrawal(state, me, now, records).map_err(|error| refused(chain(&error), &[])));
    if head.is_err() {
        // Nothing was written: they are attached as before.
        let mut state = lock(&agent.state);
        for record in records {
            state.detaching.retain(|row| row.key() != record.key());
            state.local.insert((record.network.clone(), record.name.clone()), record.clone());
        }
        return head;
    }
    records.iter().for_each(|record| let_go(agent, record));
    head
}

/// What withdraws attachments; their addresses begin to rest.
///
/// # Errors
/// When a record cannot be written as JSON.
pub(crate) fn withdrawal(
    state: &mut State,
    me: NodeId,
    now: std::time::Instant,
    records: &[LocalAttachment],
) -> Result<(Batch, Writes), StoreError> {
    let mut batch: Batch = Vec::new();
    let mut extra = Writes::default();
    for record in records {
        batch.push((Key::Attachment { network: record.network.clone(), name: record.name.clone() }, None));
        let on = state.catalog.services_on(&record.network, &record.name);
        for (service, _) in on.filter(|(_, owner)| *owner == me) {
            let (network, attachment) = (record.network.clone(), record.name.clone());
            batch.push((Key::Replica { network, service: service.clone(), attachment }, None));
        }
        // The row stays until the kernel holds nothing of it: a crash in between is finished by the next start.
        let row = LocalAttachment { detaching: true, ..record.clone() };
        extra.put_local(&row.key(), Some(&row))?;
        state.detaching.push(row);
    }
    for record in records {
        state.local.remove(&(record.network.clone(), record.name.clone()));
        state.judged.remove(&(record.network.clone(), record.name.clone()));
        let freed = record.addresses.iter().map(|address| ((record.network.clone(), *address), now));
        state.freed.extend(freed);
    }
    state.local_revision += 1;
    Ok((batch, extra))
}
