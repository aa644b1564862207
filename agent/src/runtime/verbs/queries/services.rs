//! Services and their replicas, as they are shown.
use super::describe;
use crate::api::types::{ReplicaInfo, ServiceInfo};
use crate::model::Name;
use crate::runtime::agent::{Agent, host_name};
use crate::runtime::verbs;
use crate::view::Conflict;

/// All services.
pub fn services(agent: &Agent) -> Vec<ServiceInfo> {
    let names: Vec<(Name, Name)> = agent.read(|state| {
        let networks = state.catalog.networks();
        networks
            .flat_map(|network| state.catalog.services(network).map(|name| (network.clone(), name.clone())))
            .collect()
    });
    names.iter().filter_map(|(network, name)| service(agent, network, name)).collect()
}

/// One service with its replicas, those that get no flows included.
pub fn service(agent: &Agent, network: &Name, name: &Name) -> Option<ServiceInfo> {
    agent.read(|state| {
        let record = state.catalog.service(network, name)?;
        let settings = &record.definition.settings;
        let view = state.view.network(network);
        let replicas = state.catalog.replicas(network, name).map(|(attachment, owner, fact)| {
            let standing = view.and_then(|view| view.attachments.get(attachment)).map(|it| it.owner);
            let taken = standing.is_some_and(|standing| standing != owner);
            let replica_state = match (state.suspended.contains(&owner), taken) {
                (true, _) => "suspended",
                // Its attachment is another host's now: no flow reaches it.
                (false, true) => "fenced",
                (false, false) => verbs::register::health(fact.health),
            };
            ReplicaInfo {
                attachment: attachment.clone(),
                host: host_name(&state.catalog, owner),
                addresses: fact.addresses.clone(),
                weight: fact.weight,
                state: replica_state.to_owned(),
            }
        });
        let mut replicas: Vec<ReplicaInfo> = replicas.collect();
        // Two of one name, of which one is fenced, would else come in the order of what nobody sees: their hosts' identities.
        replicas.sort_by(|one, other| (&one.attachment, &one.host).cmp(&(&other.attachment, &other.host)));
        let conflicts = view.into_iter().flat_map(|view| view.conflicts());
        let concerns = |conflict: &&Conflict| conflict.service() == Some(name);
        Some(ServiceInfo {
            name: name.clone(),
            network: network.clone(),
            vips: record.vips(),
            mode: settings.mode,
            ports: settings.ports.clone(),
            aliases: settings.aliases.clone(),
            balance: settings.balance,
            check: settings.check.clone(),
            replicas,
            problems: conflicts.filter(concerns).map(|conflict| describe(state, conflict)).collect(),
        })
    })
}
