//! Replicas are registered, drained and taken out, and services with them.
use std::rc::Rc;

use super::attachments::Taking;
use super::cluster::Cluster;
use super::verbs::{Done, Refused, name};
use crate::addresses::Wanted;
use crate::api::types::Register;
use crate::catalog::facts::{Health, Key, Region, ReplicaFact, Value};
use crate::runtime::verbs::addressing::Wish;
use crate::runtime::verbs::{register, services};
use crate::store::Writes;

const SERVICES: [&str; 4] = ["pay", "mail", "shop", "auth"];

impl Cluster {
    pub(super) async fn register(self: &Rc<Self>, at: usize) -> Done {
        let attachment = self.some_local(at).ok_or(Refused)?;
        let service = name(self.random.borrow_mut().pick(&SERVICES).ok_or(Refused)?);
        let network = &attachment.network;
        let exists = self.with(at, |it, _, _| it.state.catalog.service(network, &service).is_some());
        let vips = match exists.ok_or(Refused)? {
            true => None,
            false => {
                let layout = self.layout(at, network)?;
                let wish = Wish { network, layout, region: Region::Vip, wanted: Wanted::Any };
                let mut taking = Taking::begin(self, at, Vec::new());
                Some(vec![self.allocate(at, &wish, &mut taking).await?])
            }
        };
        let request = Register {
            service: service.to_string(),
            network: Some(network.to_string()),
            on: Some(attachment.name.to_string()),
            place: None,
            weight: None,
            settings: Default::default(),
            wait: Default::default(),
        };
        let (now, host) = (self.clock.now(), &mut *self.hosts[at].borrow_mut());
        let node = host.node;
        let asked = register::Asked {
            request: &request,
            service: &service,
            attachment: &attachment,
            vips: vips.clone(),
        };
        let done = host.step(|state, commit| {
            let registered = register::decide(state, node, &asked).ok()?;
            state.write(node, now, registered.batch, Writes::default(), commit).ok()
        });
        done.flatten().ok_or(Refused)?;
        self.note(|| format!("host {at} registers {service} on {}, VIPs {vips:?}", attachment.key()));
        self.counts.borrow_mut().registered += 1;
        Ok(())
    }

    fn some_replica(&self, at: usize) -> Option<(Key, ReplicaFact)> {
        let own = self.with(at, |running, node, _| {
            let owner = running.state.catalog.owner(node)?;
            let replicas = owner.keys().filter_map(|key| match owner.get(key) {
                Some(Value::Replica(fact)) => Some((key.clone(), fact)),
                _ => None,
            });
            Some(replicas.collect::<Vec<_>>())
        });
        self.random.borrow_mut().pick(&own.flatten()?).cloned()
    }

    pub(super) fn deregister(&self, at: usize) -> Done {
        let (key, _) = self.some_replica(at).ok_or(Refused)?;
        self.write(at, vec![(key, None)], Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
        Ok(())
    }

    pub(super) fn drain(&self, at: usize) -> Done {
        let (key, before) = self.some_replica(at).ok_or(Refused)?;
        let fact = ReplicaFact { health: Health::Draining, ..before };
        let batch = vec![(key, Some(Value::Replica(fact)))];
        self.write(at, batch, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
        Ok(())
    }

    pub(super) fn deregister_all(&self, at: usize) -> Done {
        let network = self.some_network(at).ok_or(Refused)?;
        let service = name(self.random.borrow_mut().pick(&SERVICES).ok_or(Refused)?);
        let batch = self.with(at, |running, node, _| {
            let stamp = running.state.catalog.next_stamp(node);
            services::removal(&running.state, &network, &service, stamp)
        });
        let batch = batch.filter(|batch| !batch.is_empty()).ok_or(Refused)?;
        self.write(at, batch, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
        self.note(|| format!("host {at} deregisters {service} of {network}"));
        Ok(())
    }
}
