//! One family's table: read, planned, committed, followed.
use std::net::IpAddr;

use crate::address::Address;
use crate::kernel::{Features, Kernel, TableStatus};
use crate::mirror::Mirror;
use crate::plan::plan;
use crate::wanted::{Scope, Wanted, wanted_vip};
use crate::{Error, Vips};

/// Foreign changes between reading and committing that are put up with.
const TRIES: u32 = 16;

/// What is common to both families' tables of a namespace.
#[derive(Debug)]
pub(crate) struct Context<'a, K> {
    pub(crate) kernel: &'a mut K,
    pub(crate) features: Features,
    /// The ruleset's generation after our last look or commit.
    pub(crate) generation: &'a mut Option<u32>,
    pub(crate) services: &'a Vips,
}

/// What a table's turn has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) changes: usize,
    pub(crate) pending: bool,
}

/// One family's table.
#[derive(Debug)]
pub(crate) struct FamilyTable<A: Address> {
    mirror: Option<Mirror<A>>,
    status: Option<TableStatus>,
    unsettled: Vec<A>,
    /// The mirror has not been compared with all that is wanted since it was read.
    whole: bool,
    /// Nothing of this family is wanted, and no table is there.
    absent: bool,
}

impl<A: Address> Default for FamilyTable<A> {
    fn default() -> Self {
        Self { mirror: None, status: None, unsettled: Vec::new(), whole: true, absent: false }
    }
}

impl<A: Address> FamilyTable<A> {
    /// Brings the table one step closer. `changed`: VIPs to look at, beside what is unsettled; `None` = all.
    pub(crate) fn reconcile<K: Kernel>(
        &mut self,
        context: &mut Context<'_, K>,
        ranges: std::collections::BTreeMap<A, (A, A)>,
        redirects: std::collections::BTreeMap<crate::element::Endpoint<A>, u16>,
        changed: Option<&[IpAddr]>,
    ) -> Result<Outcome, Error> {
        let concerned = changed.is_none_or(|vips| vips.iter().any(|vip| A::of(*vip).is_some()));
        if self.absent && !concerned && ranges.is_empty() && redirects.is_empty() {
            return Ok(Outcome::default());
        }
        self.absent = false;
        let mut wanted = Wanted { scope: Scope::Some(Vec::new()), ranges, redirects };
        for _ in 0..TRIES {
            self.read(context)?;
            wanted.scope = self.scope(changed, context.services);
            if self.is_superfluous(&wanted) {
                return self.drop_table(context);
            }
            let mut planned = plan(&wanted, self.mirror.as_ref());
            planned.transaction.adopt = self.adoptable(context.features);
            if planned.transaction.is_empty() {
                self.whole = false;
                self.unsettled = planned.unsettled;
                return Ok(Outcome { changes: 0, pending: planned.pending });
            }
            let committed =
                context.kernel.commit(&planned.transaction, context.features, *context.generation);
            match committed {
                Ok(()) => {
                    *context.generation = context.generation.map(following);
                    self.follow(context, &planned.transaction)?;
                    self.unsettled = planned.unsettled;
                    let pending = planned.pending || self.is_superfluous(&wanted);
                    return Ok(Outcome { changes: planned.transaction.changes(), pending });
                }
                Err(netfilter::Error::Changed { .. }) => self.look_again(context)?,
                Err(source) => {
                    self.forget();
                    return Err(Error::Commit { family: A::FAMILY, source });
                }
            }
        }
        self.forget();
        Err(Error::Restless { family: A::FAMILY, tries: TRIES })
    }

    /// Whether the table is still what the mirror says, after somebody changed something in the namespace. An
    /// owned table cannot have been changed, so that costs one look at its name; any other one is read again.
    pub(crate) fn look_again<K: Kernel>(&mut self, context: &mut Context<'_, K>) -> Result<(), Error> {
        if self.absent {
            return Ok(());
        }
        let read = |source| Error::Read { family: A::FAMILY, source };
        *context.generation = Some(context.kernel.generation().map_err(read)?);
        let status = context.kernel.table::<A>().map_err(read)?;
        if self.mirror.is_none() || status != self.status || !status.is_some_and(|status| status.ours) {
            self.forget();
        }
        Ok(())
    }

    /// Whether the next turn has to read the table, or to compare all of it.
    pub(crate) fn is_unread(&self) -> bool {
        self.whole && !self.absent
    }

    /// Deletes the table, of which nothing is wanted.
    fn drop_table<K: Kernel>(&mut self, context: &mut Context<'_, K>) -> Result<Outcome, Error> {
        let present = self.status.is_some();
        self.forget();
        self.status = None;
        self.unsettled.clear();
        if present {
            // Unguarded: the generation is read anew at the next turn.
            *context.generation = None;
            context.kernel.remove::<A>().map_err(|source| Error::Commit { family: A::FAMILY, source })?;
        }
        self.absent = true;
        Ok(Outcome { changes: usize::from(present), pending: false })
    }

    fn forget(&mut self) {
        self.mirror = None;
        self.whole = true;
    }

    fn read<K: Kernel>(&mut self, context: &mut Context<'_, K>) -> Result<(), Error> {
        let read = |source| Error::Read { family: A::FAMILY, source };
        if context.generation.is_none() {
            *context.generation = Some(context.kernel.generation().map_err(read)?);
        }
        if !self.whole {
            return Ok(());
        }
        // The generation was read before the table: what changes in between makes the commit fail, not the mirror
        // wrong.
        self.status = context.kernel.table::<A>().map_err(read)?;
        if self.mirror.is_none() && self.status.is_some() {
            let contents = context.kernel.contents::<A>(context.features).map_err(read)?;
            self.mirror = contents.map(|contents| {
                let mut mirror = Mirror::from_elements(contents.elements);
                mirror.chains.extend(contents.chains);
                mirror.spoilt.extend(contents.spoilt);
                mirror
            });
        }
        Ok(())
    }

    fn scope(&self, changed: Option<&[IpAddr]>, services: &Vips) -> Scope<A> {
        let of = |vip: &A| services.get((*vip).into()).map(|service| wanted_vip(service));
        match changed.filter(|_| !self.whole) {
            Some(changed) => {
                let mut vips: Vec<A> = changed.iter().filter_map(|vip| A::of(*vip)).collect();
                vips.extend_from_slice(&self.unsettled);
                vips.sort_unstable();
                vips.dedup();
                Scope::Some(vips.into_iter().map(|vip| (vip, of(&vip))).collect())
            }
            None => {
                let vips = services.addresses().filter_map(A::of);
                Scope::All(vips.filter_map(|vip| Some((vip, of(&vip)?))).collect())
            }
        }
    }

    /// Nothing is wanted of this family.
    fn is_superfluous(&self, wanted: &Wanted<A>) -> bool {
        let vips = match &wanted.scope {
            Scope::All(vips) => !vips.is_empty(),
            Scope::Some(vips) => {
                vips.iter().any(|(_, wanted)| wanted.is_some())
                    || self.mirror.as_ref().is_some_and(|mirror| !mirror.vips.is_empty())
            }
        };
        !vips && wanted.ranges.is_empty() && wanted.redirects.is_empty()
    }

    fn adoptable(&self, features: Features) -> bool {
        features.owned && self.mirror.is_some() && self.status.is_some_and(|status| status.orphan)
    }

    fn follow<K: Kernel>(
        &mut self,
        context: &mut Context<'_, K>,
        transaction: &crate::transaction::Transaction<A>,
    ) -> Result<(), Error> {
        self.mirror.get_or_insert_default().apply(transaction);
        if transaction.rebuild || transaction.adopt {
            let status = context.kernel.table::<A>();
            if status.is_err() {
                self.forget();
            }
            self.status = status.map_err(|source| Error::Read { family: A::FAMILY, source })?;
        }
        self.whole = false;
        Ok(())
    }
}

/// The generation after one more transaction: the kernel leaves 0 out (nf_tables_commit).
pub(crate) fn following(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
