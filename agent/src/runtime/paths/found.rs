//! What follows from the paths as they were found.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::catalog::facts::{HostFact, Key, Value};
use crate::model::NodeId;
use crate::paths::{Damage, Offload, Trial};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::paths::prober::Prober;
use crate::runtime::paths::words;
use crate::runtime::verbs::namesakes;
use crate::store::Writes;

/// Narrow paths that a host tells of. The other end tells of each as well.
const NARROW_MAX: usize = 64;
/// Hosts that are named in one line.
const NAMED_MAX: usize = 8;
const STATES: [&str; 5] = ["fine", "narrow", "damaging", "dead", "unknown"];

/// That checksums are not left to the device, and why; for this boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeptOffload {
    boot_id: String,
    pub(super) damaged_by: Vec<String>,
}

impl KeptOffload {
    pub(super) fn load(agent: &Agent) -> Option<Self> {
        let kept: Option<Self> = agent.store.meta("offload").ok().flatten();
        kept.filter(|kept| kept.boot_id == agent.identity.boot_id)
    }
}

impl Prober {
    /// Tells others what follows; `taken` is why no path leads anywhere.
    pub(super) fn conclude(&mut self, taken: Option<&str>, now: Instant) {
        let dead = |way: &super::prober::Way| taken.is_some() || way.path.is_dead();
        let away: BTreeSet<NodeId> =
            self.ways.iter().filter(|(_, way)| dead(way)).map(|(node, _)| *node).collect();
        let before = self.agent.paths.away();
        let died = away.difference(&before).count();
        self.agent.metrics.paths_died.inc_by(u64::try_from(died).unwrap_or(u64::MAX));
        if self.agent.paths.set_away(away) {
            self.agent.changed.notify_one();
        }
        let own = self.agent.settings.load().vxlan_port;
        let own = words::Own { address: self.agent.identity.address, port: own };
        let mut problems: Vec<(String, String)> = self
            .tried()
            .filter_map(|(node, way)| {
                let why = match taken {
                    Some(_) => Some(words::TAKEN.to_owned()),
                    None => words::problem(way, own, now),
                };
                let handle = self.agent.read(|state| namesakes::handle(state, *node, &way.peer.name));
                Some((format!("path/{handle}"), why?))
            })
            .collect();
        problems.sort();
        self.agent.report("path/", problems);
        self.count(taken.is_some());
        if taken.is_none() {
            self.follow_damage(now);
            self.tell_narrow();
        }
    }

    fn count(&self, taken: bool) {
        let mut counts: BTreeMap<&str, i64> = STATES.iter().map(|state| (*state, 0)).collect();
        for (_, way) in self.tried() {
            let path = &way.path;
            let state = match () {
                () if taken || path.is_dead() => "dead",
                () if !path.is_settled() => "unknown",
                () if path.is_damaging() => "damaging",
                () if path.narrow().is_some() || path.carries_no_size() => "narrow",
                () => "fine",
            };
            *counts.entry(state).or_default() += 1;
        }
        for (state, count) in counts {
            self.agent.metrics.paths.with_label_values(&[state]).set(count);
        }
    }

    fn follow_damage(&mut self, now: Instant) {
        // Who has left the cluster will not tell that the damage is over.
        let left = |node: &NodeId| self.agent.read(|state| state.catalog.host(*node).is_none());
        if self.offload == Offload::InVain && self.suspects.iter().all(left) {
            self.offload = Offload::On;
        }
        let suspects = &self.suspects;
        let told = self.tried().map(|(node, way)| (way.path.damage(), suspects.contains(node)));
        let damage = Damage::of_all(told);
        match self.offload.follow(damage, now) {
            Trial::Same => {}
            Trial::Began => {
                let damaging = self.tried().filter(|(_, way)| way.path.is_damaging());
                let (nodes, mut names): (BTreeSet<NodeId>, Vec<String>) =
                    damaging.map(|(node, way)| (*node, way.peer.name.clone())).unzip();
                let more = names.len().saturating_sub(NAMED_MAX);
                names.truncate(NAMED_MAX);
                names.extend((more > 0).then(|| format!("{more} more")));
                (self.suspects, self.damaged_by) = (nodes, names);
                self.apply_offload();
            }
            Trial::Helped => self.keep(Some(KeptOffload {
                boot_id: self.agent.identity.boot_id.clone(),
                damaged_by: self.damaged_by.clone(),
            })),
            Trial::Failed => {
                self.keep(None);
                self.apply_offload();
            }
        }
        let found =
            (!self.offload.is_on()).then(|| words::offload(&self.damaged_by, self.offload == Offload::Off));
        self.agent.report("offload", found.map(|why| ("offload".to_owned(), why)).into_iter().collect());
    }

    /// Has the tunnels changed, where they are not so.
    pub(super) fn apply_offload(&self) {
        let on = self.offload.is_on();
        self.agent.metrics.offload.set(on.into());
        if self.agent.paths.set_computes_checksums(!on) {
            self.agent.changed.notify_one();
        }
    }

    fn keep(&self, kept: Option<KeptOffload>) {
        let mut writes = Writes::default();
        let saved = writes
            .put_meta("offload", &kept)
            .and_then(|()| tokio::task::block_in_place(|| self.agent.store.commit(&writes, true)));
        if let Err(error) = saved {
            tracing::warn!("{}", chain(&error));
        }
    }

    /// Writes down which paths carry less than they should, for all hosts to heed.
    fn tell_narrow(&self) {
        let me = self.agent.identity.node;
        let next = |known: &HostFact, is_host: &dyn Fn(NodeId) -> bool| {
            let mut narrow = known.narrow.clone();
            narrow.retain(|node, _| is_host(*node));
            for (node, way) in self.tried().filter(|(_, way)| way.path.is_settled()) {
                match way.path.narrow() {
                    Some(mtu) => narrow.insert(*node, mtu),
                    None => narrow.remove(node),
                };
            }
            while narrow.len() > NARROW_MAX {
                let widest = narrow.iter().max_by_key(|(_, mtu)| **mtu).map(|(node, _)| *node);
                widest.and_then(|node| narrow.remove(&node));
            }
            narrow
        };
        let changed = self.agent.read(|state| {
            let known = state.catalog.host(me)?;
            let narrow = next(known, &|node| state.catalog.host(node).is_some());
            (narrow != known.narrow).then_some(narrow)
        });
        let Some(narrow) = changed else { return };
        let written = self.agent.update(|state| {
            let fact = state.catalog.host(me).map(|known| HostFact { narrow, ..HostFact::clone(known) });
            let batch = fact.map(|fact| (Key::Host, Some(Value::Host(fact)))).into_iter().collect();
            Ok((batch, Writes::default()))
        });
        if let Err(failure) = written {
            tracing::warn!("what paths carry is not told: {}", failure.message);
        }
    }
}
