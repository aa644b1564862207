//! What a host knows and what follows from it, and the steps that change it.
//!
//! A step decides, has what must be durable written, then takes effect: in memory, and for others to be told. Time and the
//! store are arguments, so that a simulation takes the very steps that [`Agent`](super::agent::Agent) takes.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::catalog::facts::{Key, Value};
use crate::catalog::{Catalog, Changes, Outcome, Update, WriteError};
use crate::docker;
use crate::model::{Head, Name, NodeId};
use crate::runtime::agent::chain;
use crate::runtime::claiming::Books;
use crate::runtime::health::{AllJudged, Unfollowed};
use crate::runtime::local::LocalAttachment;
use crate::runtime::records;
use crate::runtime::revised::Revised;
use crate::runtime::verbs::addressing::{self, Grants, Leases, Vips};
use crate::runtime::verbs::leave;
use crate::store::{StoreError, Writes};
use crate::view::{View, ViewChanges};

/// What is known and what follows from it. Behind one lock.
#[derive(Debug)]
pub struct State {
    /// Everybody's facts.
    pub catalog: Catalog,
    /// What this host derives from them.
    pub view: View,
    /// What changed in the view since the converge loop last took it.
    pub pending: ViewChanges,
    /// When the oldest pending change came.
    pub pending_since: Option<Instant>,
    /// Counts derivations.
    pub derived: u64,
    /// How far this host's own facts may be spoken of: they are on disk, if under an older version where a change was
    /// taken back.
    pub durable: Head,
    /// Hosts whose heartbeat stopped.
    pub suspended: BTreeSet<NodeId>,
    /// Facts of others that are not on disk yet.
    pub unsaved: Writes,
    /// Claims of this host and promises to others.
    pub books: Books,
    /// Attachments of this host by (network, name).
    pub local: Revised<BTreeMap<(Name, Name), LocalAttachment>>,
    /// Withdrawn attachments whose rows are to be forgotten once the kernel holds nothing of them.
    pub detaching: Vec<LocalAttachment>,
    /// Counts changes of `local`.
    pub local_revision: u64,
    /// When this host freed an address of a network.
    pub freed: BTreeMap<(Name, IpAddr), Instant>,
    /// Addresses of this host's blocks that it granted to others.
    pub granted: Grants,
    /// Addresses that are given out here, to an attachment that is being made or to Docker, and that no attachment has yet.
    pub leases: Leases,
    /// What container engines say of attachments' containers.
    pub judged: AllJudged,
    /// What Docker was told and has told.
    pub docker: docker::Books,
    /// Which service has which VIP.
    pub vips: Vips,
    /// Whether the catalog has been complete since the start.
    pub synced: bool,
    /// Services whose replicas' checks are to be looked at again.
    pub unfollowed: Unfollowed,
}

/// Own facts to write; `None` removes.
pub type Batch = Vec<(Key, Option<Value>)>;

/// Makes changes durable, all or nothing.
pub type Commit<'a> = &'a mut dyn FnMut(&Writes) -> Result<(), StoreError>;

/// Why own facts were not written; nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Unwritten {
    /// A fact is not one that can be written.
    #[error(transparent)]
    Fact(#[from] WriteError),
    /// The disk refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl State {
    /// What is known after a start, with what was kept; nothing is derived yet.
    pub fn new(catalog: Catalog, books: Books, me: NodeId) -> Self {
        Self {
            vips: Vips::of(&catalog),
            durable: catalog.head(me),
            catalog,
            view: View::default(),
            pending: ViewChanges::default(),
            pending_since: None,
            derived: 0,
            suspended: BTreeSet::new(),
            unsaved: Writes::default(),
            books,
            local: Revised::default(),
            detaching: Vec::new(),
            local_revision: 0,
            freed: BTreeMap::new(),
            granted: Grants::default(),
            leases: Leases::default(),
            judged: AllJudged::new(),
            docker: docker::Books::default(),
            synced: false,
            unfollowed: Unfollowed::default(),
        }
    }

    /// Writes own facts: durable first, then known and derived. `extra` becomes durable in the same transaction.
    /// Returns the head that includes them.
    ///
    /// # Errors
    /// When a fact is too large or the disk refuses; nothing has changed then.
    pub fn write(
        &mut self,
        me: NodeId,
        now: Instant,
        batch: Batch,
        mut extra: Writes,
        commit: Commit<'_>,
    ) -> Result<Head, Unwritten> {
        let before: Batch = batch.iter().map(|(key, _)| (key.clone(), self.catalog.value(me, key))).collect();
        let (delta, changes) = self.catalog.write(me, batch)?;
        if delta.is_empty() && extra.meta.is_empty() && extra.local.is_empty() {
            return Ok(self.catalog.head(me));
        }
        addressing::follow(self, me, now, &changes);
        addressing::put_freed(self, now, &mut extra)?;
        records::append(&mut extra, records::of_update(&Update::Delta(delta)));
        records::put_head(&self.catalog, me, &mut extra);
        // Stamps must not repeat after a restart, even if nothing that carries them is left.
        extra.put_meta("clock", &self.catalog.clock())?;
        if let Err(error) = commit(&extra) {
            // What is not on disk must not be spoken of: take it back under a newer version.
            match self.catalog.write(me, before) {
                Ok((_, changes)) => drop(addressing::follow(self, me, now, &changes)),
                Err(error) => {
                    tracing::error!("taking back a change that could not be saved: {}", chain(&error));
                }
            }
            // Whoever compares heads gets these versions; the others must not stay behind them.
            self.durable = self.catalog.head(me);
            return Err(error.into());
        }
        self.durable = self.catalog.head(me);
        self.derive(me, now, &changes);
        let owed = self.catalog.reassertions(me, &changes);
        if !owed.is_empty() {
            // What is used is asserted, too, so that it does not die with the host that made it.
            return self.write(me, now, asserted(owed), Writes::default(), commit);
        }
        Ok(self.durable)
    }

    /// Takes another host's facts in, with what this host owes for them; returns how far they are known now.
    pub fn receive(&mut self, me: NodeId, now: Instant, update: Update, commit: Commit<'_>) -> Head {
        let owner = records::owner_of(&update);
        if owner == me {
            return self.catalog.head(owner);
        }
        let rows = records::of_update(&update);
        let at_stake = leave::at_stake(&self.catalog, &update);
        let applied = self.catalog.apply_update(update);
        if addressing::follow(self, me, now, &applied.changes) {
            let mut freed = Writes::default();
            if let Err(error) = addressing::put_freed(self, now, &mut freed) {
                tracing::error!("{}", chain(&error));
            }
            records::append(&mut self.unsaved, freed);
        }
        if applied.outcome == Outcome::Current {
            records::append(&mut self.unsaved, rows);
            records::put_head(&self.catalog, owner, &mut self.unsaved);
        }
        self.derive(me, now, &applied.changes);
        let mut owed = self.catalog.reassertions(me, &applied.changes);
        owed.extend(leave::taken_over(&self.catalog, &self.suspended, me, at_stake));
        if !owed.is_empty()
            && let Err(error) = self.write(me, now, asserted(owed), Writes::default(), commit)
        {
            tracing::error!("re-asserting definitions: {}", chain(&error));
        }
        self.catalog.head(owner)
    }

    /// Asserts what this host uses, after a start.
    ///
    /// # Errors
    /// As [`State::write`].
    pub fn reassert_all(&mut self, me: NodeId, now: Instant, commit: Commit<'_>) -> Result<(), Unwritten> {
        let owed = self.catalog.reassertions(me, &Changes::everything());
        if owed.is_empty() {
            return Ok(());
        }
        self.write(me, now, asserted(owed), Writes::default(), commit).map(drop)
    }

    /// Follows liveness: derives what hosts are suspended now. Returns those of which that has changed.
    pub fn suspend(&mut self, me: NodeId, now: Instant, suspended: BTreeSet<NodeId>) -> Vec<NodeId> {
        let moved: Vec<NodeId> = self.suspended.symmetric_difference(&suspended).copied().collect();
        if moved.is_empty() {
            return moved;
        }
        self.suspended = suspended;
        let mut changes = Changes::default();
        changes.hosts.extend(&moved);
        self.derive(me, now, &changes);
        moved
    }

    /// Brings the view up to date.
    pub fn derive(&mut self, me: NodeId, now: Instant, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        self.unfollowed.note(&self.catalog, me, changes);
        let derived = self.view.update(&self.catalog, &self.suspended, me, changes);
        self.pending.merge(derived);
        self.pending_since.get_or_insert(now);
        self.derived += 1;
    }
}

fn asserted(owed: Vec<(Key, Value)>) -> Batch {
    owed.into_iter().map(|(key, value)| (key, Some(value))).collect()
}

#[cfg(test)]
mod tests;
