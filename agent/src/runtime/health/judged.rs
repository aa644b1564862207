//! What a container engine says of its containers, beside what checks find. The worse of the two counts.
use std::collections::BTreeMap;

use crate::catalog::facts::Health;
use crate::model::Name;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::runtime::state::State;

/// What is said of an attachment's container. Not kept: its engine is asked again after a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// [`Health::Serving`]: nothing speaks against it.
    pub health: Health,
    /// In words, for events: `its container is unhealthy`.
    pub reason: String,
    /// Whether it is somebody's to look at, where it is not serving.
    pub problem: bool,
}

/// By network and attachment.
pub type AllJudged = BTreeMap<(Name, Name), Judged>;

/// What an engine says of a replica's attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It is no engine's.
    Nothing,
    /// Its engine was not asked yet.
    Awaited,
    /// This.
    Health(Health),
}

/// What is said of an attachment of this host.
pub(crate) fn said(state: &State, network: &Name, attachment: &Name) -> Said {
    let place = (network.clone(), attachment.clone());
    match state.judged.get(&place) {
        Some(judged) => Said::Health(judged.health),
        None if state.local.get(&place).is_some_and(|it| it.endpoint.is_some()) => Said::Awaited,
        None => Said::Nothing,
    }
}

/// The worse of two: failing, starting, serving. A drain is nobody's finding.
pub(crate) fn worse(one: Health, other: Health) -> Health {
    let rank = |health| match health {
        Health::Serving => 0,
        Health::Starting => 1,
        Health::Failing | Health::Draining => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// Takes note of what an engine says; replicas follow.
pub(crate) fn judge(agent: &Agent, network: &Name, attachment: &Name, judged: Judged) {
    {
        let mut state = lock(&agent.state);
        let place = (network.clone(), attachment.clone());
        if !state.local.contains_key(&place) || state.judged.get(&place) == Some(&judged) {
            return;
        }
        state.judged.insert(place, judged);
        let State { catalog, unfollowed, .. } = &mut *state;
        unfollowed.note_attachment(catalog, agent.identity.node, network, attachment);
    }
    agent.revision.send_modify(|revision| *revision += 1);
}
