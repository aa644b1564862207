//! How assertions of many owners become one definition.
use std::net::IpAddr;
use std::sync::Arc;

use super::facts::{NetworkDefinition, ServiceDefinition};
use crate::model::{NodeId, Stamp};

/// A definition of which the greatest revision stands.
pub(super) trait Revised: PartialEq {
    fn revision(&self) -> Stamp;
    fn removed(&self) -> bool;
}

impl Revised for NetworkDefinition {
    fn revision(&self) -> Stamp {
        self.revision
    }
    fn removed(&self) -> bool {
        self.removed
    }
}

impl Revised for ServiceDefinition {
    fn revision(&self) -> Stamp {
        self.revision
    }
    fn removed(&self) -> bool {
        self.removed
    }
}

/// Who asserts one birth of a name, by owner.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Birth<T> {
    pub(super) born: Stamp,
    pub(super) assertions: Vec<(NodeId, Arc<T>)>,
}

impl<T: Revised> Birth<T> {
    /// The greatest revision; if dishonest owners give one revision two contents, a removal goes first, then the
    /// lowest owner.
    pub(super) fn merged(&self) -> Option<&Arc<T>> {
        let rank = |definition: &T| (definition.revision(), definition.removed());
        let mut best: Option<&Arc<T>> = None;
        for (_, definition) in &self.assertions {
            if best.is_none_or(|best| rank(definition) > rank(best)) {
                best = Some(definition);
            }
        }
        best
    }

    pub(super) fn asserted_by(&self, owner: NodeId) -> Option<&Arc<T>> {
        let at = self.assertions.binary_search_by_key(&owner, |(owner, _)| *owner).ok()?;
        self.assertions.get(at).map(|(_, definition)| definition)
    }
}

/// All births of a name, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Births<T>(Vec<Birth<T>>);

impl<T> Default for Births<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Revised> Births<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Birth<T>> {
        self.0.iter()
    }

    /// Births that are not removed, as merged, the oldest first.
    pub(super) fn live(&self) -> impl Iterator<Item = (Stamp, &Arc<T>)> {
        self.0.iter().filter_map(|birth| {
            let merged = birth.merged()?;
            (!merged.removed()).then_some((birth.born, merged))
        })
    }

    /// An equal definition that somebody already asserts.
    pub(super) fn equal(&self, born: Stamp, definition: &T) -> Option<&Arc<T>> {
        let at = self.0.binary_search_by_key(&born, |birth| birth.born).ok()?;
        let assertions = &self.0.get(at)?.assertions;
        assertions.iter().map(|(_, known)| known).find(|known| known.as_ref() == definition)
    }

    pub(super) fn insert(&mut self, born: Stamp, owner: NodeId, definition: &Arc<T>) {
        let at = self.0.binary_search_by_key(&born, |birth| birth.born);
        let at = at.unwrap_or_else(|at| {
            // Of 10,000 names nearly every one has one birth, asserted by a few hosts: room to grow would double it.
            self.0.reserve_exact(1);
            self.0.insert(at, Birth { born, assertions: Vec::new() });
            at
        });
        let Some(birth) = self.0.get_mut(at) else { return };
        match birth.assertions.binary_search_by_key(&owner, |(owner, _)| *owner) {
            Ok(at) => birth.assertions[at].1 = Arc::clone(definition),
            Err(at) => {
                birth.assertions.reserve_exact(1);
                birth.assertions.insert(at, (owner, Arc::clone(definition)));
            }
        }
    }

    pub(super) fn remove(&mut self, born: Stamp, owner: NodeId) {
        let Ok(at) = self.0.binary_search_by_key(&born, |birth| birth.born) else { return };
        let Some(birth) = self.0.get_mut(at) else { return };
        birth.assertions.retain(|(other, _)| *other != owner);
        if birth.assertions.is_empty() {
            self.0.remove(at);
        }
    }
}

/// A network's name as the whole cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRecord {
    /// Creation of the definition that stands: the oldest that is not removed.
    pub born: Stamp,
    /// What stands.
    pub definition: Arc<NetworkDefinition>,
    /// Younger creations of the name that are not removed, the oldest first. They lose; `born.node` made them.
    pub losers: Vec<(Stamp, Arc<NetworkDefinition>)>,
}

/// A service's name as the whole cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Creation of the definition that stands: the oldest that is not removed.
    pub born: Stamp,
    /// What stands; DNS answers its VIPs.
    pub definition: Arc<ServiceDefinition>,
    /// Younger creations of the name that are not removed, the oldest first. Only their VIPs count.
    pub twins: Vec<(Stamp, Arc<ServiceDefinition>)>,
}

impl ServiceRecord {
    /// The VIPs of all live births, the older birth's first. Each of them works.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips = Vec::with_capacity(2);
        for definition in self.births().map(|(_, definition)| definition) {
            for vip in &definition.vips {
                if !vips.contains(vip) {
                    vips.push(*vip);
                }
            }
        }
        vips
    }

    /// Live births, the oldest first.
    pub fn births(&self) -> impl Iterator<Item = (Stamp, &Arc<ServiceDefinition>)> {
        std::iter::once((self.born, &self.definition)).chain(self.twins.iter().map(|(born, it)| (*born, it)))
    }

    /// Younger births whose settings differ from what stands, and so are not heeded.
    pub fn conflicts(&self) -> impl Iterator<Item = (Stamp, &Arc<ServiceDefinition>)> {
        self.births().skip(1).filter(|(_, twin)| twin.settings != self.definition.settings)
    }
}

pub(super) fn network_record(births: &Births<NetworkDefinition>) -> Option<NetworkRecord> {
    let mut live = births.live();
    let (born, definition) = live.next()?;
    let losers = live.map(|(born, it)| (born, Arc::clone(it))).collect();
    Some(NetworkRecord { born, definition: Arc::clone(definition), losers })
}

pub(super) fn service_record(births: &Births<ServiceDefinition>) -> Option<ServiceRecord> {
    let mut live = births.live();
    let (born, definition) = live.next()?;
    let twins = live.map(|(born, it)| (born, Arc::clone(it))).collect();
    Some(ServiceRecord { born, definition: Arc::clone(definition), twins })
}
