//! This host's fenced copy, while another attachment is made in its place: it is put back if that fails.
use crate::api::types::Failure;
use crate::catalog::facts::Key;
use crate::model::{Name, NodeId};
use crate::runtime::agent::{Agent, Batch};
use crate::runtime::events::lock;
use crate::runtime::host;
use crate::runtime::local::{LocalAttachment, list};
use crate::runtime::state::State;
use crate::runtime::verbs::detach;
use crate::store::Writes;

/// A copy that was withdrawn, with its replicas.
pub(super) struct Withdrawn {
    record: LocalAttachment,
    replicas: Batch,
}

impl Withdrawn {
    /// Withdraws a copy.
    ///
    /// # Errors
    /// When the store refuses; the copy is there as before.
    pub(super) fn take(agent: &Agent, record: LocalAttachment) -> Result<Self, Failure> {
        let replicas = agent.read(|state| replicas(state, agent.identity.node, &record));
        detach::withdraw(agent, std::slice::from_ref(&record))?;
        Ok(Self { record, replicas })
    }

    /// What ended with it, for the operator.
    pub(super) fn ended(&self) -> Option<String> {
        let services: Vec<&Name> = self.replicas.iter().filter_map(|(key, _)| service(key)).collect();
        let again = format!("svc-agent register SERVICE --on {}", self.record.name);
        (!services.is_empty()).then(|| {
            format!("the fenced copy's replicas of {} ended with it; again: {again}", list(&services))
        })
    }

    /// Announces it once more as it was.
    pub(super) fn put_back(self, agent: &Agent) {
        let (name, network) = (self.record.name.clone(), self.record.network.clone());
        let mut record = self.record;
        record.resolv_conf = host::write_resolv_conf(agent, &record);
        let written = agent.update(|state| back(state, &record, self.replicas));
        let said = match &written {
            Ok(_) => format!("{name} on network {network} is this host's fenced copy again"),
            Err(failure) => {
                lock(&agent.state).local.remove(&(network.clone(), name.clone()));
                format!("the fenced copy of {name} on network {network} is lost: {}", failure.message)
            }
        };
        agent.events.record("attachment", said, "agent");
        agent.changed.notify_one();
    }
}

fn service(key: &Key) -> Option<&Name> {
    match key {
        Key::Replica { service, .. } => Some(service),
        _ => None,
    }
}

fn replicas(state: &State, me: NodeId, record: &LocalAttachment) -> Batch {
    let on = state.catalog.services_on(&record.network, &record.name);
    on.filter(|(_, owner)| *owner == me)
        .filter_map(|(service, _)| {
            let (network, attachment) = (record.network.clone(), record.name.clone());
            let key = Key::Replica { network, service: service.clone(), attachment };
            let value = state.catalog.value(me, &key)?;
            Some((key, Some(value)))
        })
        .collect()
}

/// What makes a copy stand in the books as it did before it was withdrawn.
fn back(state: &mut State, record: &LocalAttachment, replicas: Batch) -> Result<(Batch, Writes), Failure> {
    state.local.insert((record.network.clone(), record.name.clone()), record.clone());
    let (mut batch, extra) = super::announcement(state, record)?;
    batch.extend(replicas);
    state.local_revision += 1;
    Ok((batch, extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::facts::{Health, Value};
    use crate::catalog::tests::world::{
        address, attachment, attachment_key, name, node, replica, replica_key, stamp,
    };
    use crate::runtime::claiming::Books;
    use crate::runtime::local::StoredPlace;

    fn copy() -> LocalAttachment {
        LocalAttachment {
            network: name("alpha"),
            name: name("db"),
            place: StoredPlace::Pid(1),
            boot_id: "boot".into(),
            cookie: 7,
            addresses: vec![address("10.0.0.2")],
            mac: "02:00:00:00:00:01".into(),
            aliases: Vec::new(),
            default_route: false,
            order: 0,
            since: stamp(1, 1),
            succeeds: Vec::new(),
            resolv_conf: None,
            endpoint: None,
            announced: true,
            detaching: false,
        }
    }

    #[test]
    fn a_copy_that_is_put_back_is_announced_with_its_replicas_as_it_was() {
        let me = node(1);
        let (own, serves) = (attachment_key("alpha", "db"), replica_key("alpha", "store", "db"));
        let mut state = State::new(Catalog::default(), Books::new(me), me);
        state.catalog.restart(me, 1);
        state.local.insert((name("alpha"), name("db")), copy());
        let replica = replica(&["10.0.0.2"], Health::Serving);
        let told = vec![
            (own.clone(), Some(attachment(&["10.0.0.2"], stamp(1, 1)))),
            (serves.clone(), Some(replica.clone())),
        ];
        state.catalog.write(me, told).unwrap();

        let replicas = replicas(&state, me, &copy());
        let taken = Withdrawn { record: copy(), replicas: replicas.clone() };
        assert!(taken.ended().is_some_and(|line| line.contains("replicas of store ended")));
        let now = std::time::Instant::now();
        let (batch, _) = detach::withdrawal(&mut state, me, now, &[copy()]).unwrap();
        state.catalog.write(me, batch).unwrap();
        assert_eq!((state.catalog.value(me, &own), state.catalog.value(me, &serves)), (None, None));

        let (batch, extra) = back(&mut state, &copy(), replicas).unwrap();
        state.catalog.write(me, batch).unwrap();
        let Some(Value::Attachment(fact)) = state.catalog.value(me, &own) else { panic!("no attachment") };
        assert_eq!((fact.since, fact.addresses), (stamp(1, 1), vec![address("10.0.0.2")]));
        assert_eq!(state.catalog.value(me, &serves), Some(replica));
        assert_eq!(state.local.get(&(name("alpha"), name("db"))), Some(&copy()));
        assert!(matches!(&extra.local[..], [(key, Some(_))] if *key == copy().key()), "its row says so");
    }

    #[test]
    fn a_copy_without_replicas_has_nothing_to_say_of_them() {
        assert_eq!(Withdrawn { record: copy(), replicas: Batch::new() }.ended(), None);
    }
}
