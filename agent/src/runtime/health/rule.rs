//! What is to be checked, and what a check's finding makes of a replica. Pure.
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::catalog::Catalog;
use crate::catalog::facts::{Check, Health, Key, ReplicaFact, Value};
use crate::model::{Name, NodeId};
use crate::runtime::health::judged::{Said, worse};
use crate::runtime::health::unfollowed::Service;
use crate::runtime::local::LocalAttachment;

/// What a check was started with; another one is started when it differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Started {
    /// What is tried.
    pub(super) check: Check,
    /// In which namespace.
    pub(super) cookie: u64,
    /// At which address.
    pub(super) address: IpAddr,
}

/// One replica of a service on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    /// Its attachment.
    pub(super) attachment: Name,
    /// What its fact says.
    pub(super) health: Health,
    /// The check that is to run; `None` where the service has none, or the attachment has no place here.
    pub(super) wanted: Option<Started>,
}

/// What a replica's fact is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its service is gone.
    Withdrawn,
    /// Its service has no check any more, so there is nothing to wait for.
    Unchecked,
    /// Its check says otherwise than its fact.
    Found(Health),
}

/// The replicas of a service on this host, and whether the service is defined.
pub(super) fn own(
    catalog: &Catalog,
    local: &BTreeMap<(Name, Name), LocalAttachment>,
    this: NodeId,
    (network, service): &Service,
) -> (bool, Vec<Own>) {
    let record = catalog.service(network, service);
    let check = record.as_ref().and_then(|record| record.definition.settings.check.as_ref());
    let replicas = catalog.replicas(network, service).filter(|(_, owner, _)| *owner == this);
    let own = replicas.map(|(attachment, _, fact)| {
        let local = local.get(&(network.clone(), attachment.clone()));
        let wanted = check.zip(local).and_then(|(check, local)| {
            let address = local.addresses.first().copied()?;
            Some(Started { check: check.clone(), cookie: local.cookie, address })
        });
        Own { attachment: attachment.clone(), health: fact.health, wanted }
    });
    (record.is_some(), own.collect())
}

/// What is to be written of one replica: its key, its fact as it stands, and what that is to become. `found` is the
/// finding of its check, if one runs; `said` is what an engine says of its container; `synced` says that a service which is
/// not known here does not exist.
pub(super) fn due(
    catalog: &Catalog,
    this: NodeId,
    synced: bool,
    of: &Service,
    attachment: &Name,
    (found, said): (Option<Health>, Said),
) -> Option<(Key, ReplicaFact, Due)> {
    let key = key(of, attachment);
    let Some(Value::Replica(fact)) = catalog.value(this, &key) else { return None };
    let due = match catalog.service(&of.0, &of.1) {
        None => synced.then_some(Due::Withdrawn),
        // What did not serve when this agent started does not before its engine has said that it may.
        Some(_) if said == Said::Awaited && fact.health != Health::Serving => None,
        Some(record) => {
            let checked = record.definition.settings.check.is_some();
            let against = match said {
                Said::Health(said) => Some(said).filter(|said| *said != Health::Serving),
                Said::Nothing | Said::Awaited => None,
            };
            match against {
                Some(said) => {
                    let found = found.filter(|_| checked).map_or(said, |found| worse(found, said));
                    settled(fact.health, found).map(Due::Found)
                }
                None if checked => found.and_then(|found| settled(fact.health, found)).map(Due::Found),
                None => matches!(fact.health, Health::Starting | Health::Failing).then_some(Due::Unchecked),
            }
        }
    };
    Some((key, fact, due?))
}

fn key((network, service): &Service, attachment: &Name) -> Key {
    Key::Replica { network: network.clone(), service: service.clone(), attachment: attachment.clone() }
}

/// How a replica of this host stands.
pub(super) fn stands(
    catalog: &Catalog,
    this: NodeId,
    service: &Service,
    attachment: &Name,
) -> Option<Health> {
    match catalog.value(this, &key(service, attachment)) {
        Some(Value::Replica(fact)) => Some(fact.health),
        _ => None,
    }
}

/// Whether what a check found is a problem: not of a replica that is drained or gone.
pub(super) fn fails(stands: Option<Health>, found: Health) -> bool {
    stands.is_some_and(|stands| stands != Health::Draining) && found != Health::Serving
}

/// What a finding makes of a replica's health, where that is something else. A drained replica stays drained,
/// whatever its check says; and one that may have established flows does not go back to "starting", which ends them.
pub(super) fn settled(stands: Health, found: Health) -> Option<Health> {
    match (stands, found) {
        (Health::Draining, _) | (Health::Failing, Health::Starting) => None,
        (Health::Serving, Health::Starting) => Some(Health::Failing),
        (_, found) => (stands != found).then_some(found),
    }
}
