//! The reconciler of one namespace.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Address;
use crate::flows::{Stale, may_strand};
use crate::kernel::real::Real;
use crate::kernel::{Features, Kernel};
use crate::services::{Change, Pair, Services};
use crate::table::{Context, FamilyTable, Outcome, following};
use crate::untracked::{Change as TrackingChange, Moment, Present, Replicas, Shape, shape, step};
use crate::wanted::{ranges, redirects};
use crate::{AddressRange, Desired, Error, Problem, Redirect, Report, VipRange};

/// Flows deleted in one turn; the rest follows in the next.
const FLOWS_MAX: usize = 10_000;
/// VIPs remembered until their flows are deleted; beyond, only those in the ranges are looked for.
const REMOVED_MAX: usize = 100_000;

/// Makes one namespace's table equal to what is desired, and keeps it so.
///
/// Blocking: each call is one or a few round trips to the kernel, microseconds to milliseconds; the first one reads
/// or loads the whole table (0.3 s at 10,000 services). Dropping it leaves the kernel as it is.
#[derive(Debug)]
pub struct Balancer<K = Real> {
    kernel: K,
    features: Option<Features>,
    generation: Option<u32>,
    services: Services,
    ranges: Vec<VipRange>,
    redirects: Vec<Redirect>,
    four: FamilyTable<Ipv4Addr>,
    six: FamilyTable<Ipv6Addr>,
    /// VIPs whose flows may be stale beside those of the services; `None` = there is nothing to look for.
    sweep: Option<Vec<IpAddr>>,
    /// VIPs that changed in a turn that failed.
    owed: Owed,
    untracked: Untracking,
}

/// Which flows are exempt from tracking, and what that depends on.
#[derive(Debug)]
struct Untracking {
    replicas: Replicas,
    peers: Vec<AddressRange>,
    four: Present<Ipv4Addr>,
    six: Present<Ipv6Addr>,
    /// Whether there are tables of others, and the ruleset's generation of which that was found.
    strangers: Option<(u32, bool)>,
    /// Nothing is left to do for what was desired last.
    settled: bool,
}

/// VIPs to look at again.
#[derive(Debug)]
enum Owed {
    These(Vec<IpAddr>),
    All,
}

impl<K: Kernel> Balancer<K> {
    /// A balancer of the kernel's namespace; nothing is read or changed yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            features: None,
            generation: None,
            services: Services::default(),
            ranges: Vec::new(),
            redirects: Vec::new(),
            four: FamilyTable::default(),
            six: FamilyTable::default(),
            // What vanished while no agent ran left flows behind.
            sweep: Some(Vec::new()),
            owed: Owed::All,
            untracked: Untracking {
                replicas: Replicas::default(),
                peers: Vec::new(),
                four: Present::Absent,
                six: Present::Absent,
                strangers: None,
                settled: false,
            },
        }
    }

    /// Brings the namespace one transaction per family closer to `desired`, and deletes the flows that the turn
    /// before has made stale. If the report says pending, call again, with the same or a newer value, within 100 ms
    /// but not before 1 ms has passed: packets on their way must have left what is deleted then.
    ///
    /// After an error the namespace may hold any of the states between; the next call reads what it holds.
    pub fn reconcile(&mut self, desired: &Desired) -> Result<Report, Error> {
        let due = self.sweep.take();
        self.reconcile_with(desired, due)
    }

    /// The same, but stale flows are left to a later call of [`Self::reconcile`]: finding them costs milliseconds, as the
    /// kernel looks through its whole table of flows for those of one namespace. To be called with what many namespaces
    /// shall hold before any of them is searched.
    pub fn reconcile_tables(&mut self, desired: &Desired) -> Result<Report, Error> {
        self.reconcile_with(desired, None)
    }

    fn reconcile_with(&mut self, desired: &Desired, due: Option<Vec<IpAddr>>) -> Result<Report, Error> {
        let change = self.services.declare(&desired.services);
        self.owe(&change);
        self.ranges.clone_from(&desired.ranges);
        self.redirects.clone_from(&desired.redirects);
        self.untracked.peers.clone_from(&desired.peers);
        self.untracked.replicas.follow(&change.pairs, &desired.services);
        self.untracked.settled = false;
        // The change is known now and never again: what it strands is noted before anything can fail.
        self.plan_sweep(&change);
        let mut problems = Vec::new();
        let outcome = match self.untrack(Moment::Before).and_then(|()| self.turn(&mut problems)) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.sweep = merge(due, self.sweep.take());
                return Err(error);
            }
        };
        let flows_deleted = self.sweep_flows(due)?;
        problems.extend(self.services.problems().cloned());
        let pending = outcome.pending || self.sweep.is_some();
        if !pending {
            self.untracked.settled = true;
            self.untrack(Moment::After)?;
        }
        let tables_pending = outcome.pending;
        Ok(Report { changes: outcome.changes, pending, tables_pending, problems, flows_deleted })
    }

    /// Compares the kernel with what was last desired and repairs what differs; says whether anything did. Costs
    /// one round trip of 5 µs when nobody has changed the namespace's ruleset, two more when somebody has but our
    /// tables have an owner; else they are read again.
    pub fn check(&mut self) -> Result<bool, Error> {
        if matches!(self.owed, Owed::All) {
            return Ok(false);
        }
        let generation = self.kernel.generation().map_err(|source| Error::Generation { source })?;
        if Some(generation) == self.generation {
            return Ok(false);
        }
        let features = self.features()?;
        let mut context = Context {
            kernel: &mut self.kernel,
            features,
            generation: &mut self.generation,
            services: &self.services.by_vip,
        };
        self.four.look_again(&mut context)?;
        self.six.look_again(&mut context)?;
        let repaired =
            (self.four.is_unread() || self.six.is_unread()) && self.turn(&mut Vec::new())?.changes > 0;
        self.untrack(if self.untracked.settled { Moment::After } else { Moment::Before })?;
        Ok(repaired)
    }

    /// Deletes our tables; what was desired is forgotten.
    pub fn remove(&mut self) -> Result<(), Error> {
        let commit = |family| move |source| Error::Commit { family, source };
        self.kernel.remove::<Ipv4Addr>().map_err(commit(netfilter::Family::Ip))?;
        self.kernel.remove::<Ipv6Addr>().map_err(commit(netfilter::Family::Ip6))?;
        self.untracked.peers.clear();
        self.untrack(Moment::Before)?;
        self.untracked.replicas = Replicas::default();
        self.services = Services::default();
        self.four = FamilyTable::default();
        self.six = FamilyTable::default();
        self.generation = None;
        self.owed = Owed::All;
        Ok(())
    }

    /// The kernel that it works on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn features(&mut self) -> Result<Features, Error> {
        if self.features.is_none() {
            self.features = Some(self.kernel.features().map_err(|source| Error::Features { source })?);
            self.generation = None;
        }
        Ok(self.features.unwrap_or_default())
    }

    /// One turn of each family's table.
    fn turn(&mut self, problems: &mut Vec<Problem>) -> Result<Outcome, Error> {
        let features = self.features()?;
        let desired =
            Desired { redirects: self.redirects.clone(), ranges: self.ranges.clone(), ..Desired::default() };
        let changed = match &self.owed {
            Owed::These(vips) => Some(vips.as_slice()),
            Owed::All => None,
        };
        let mut context = Context {
            kernel: &mut self.kernel,
            features,
            generation: &mut self.generation,
            services: &self.services.by_vip,
        };
        let (ranges_four, redirects_four) = (ranges(&desired, problems), redirects(&desired, problems));
        let (ranges_six, redirects_six) = (ranges(&desired, problems), redirects(&desired, problems));
        let four = self.four.reconcile(&mut context, ranges_four, redirects_four, changed)?;
        let six = self.six.reconcile(&mut context, ranges_six, redirects_six, changed)?;
        self.owed = Owed::These(Vec::new());
        Ok(Outcome { changes: four.changes + six.changes, pending: four.pending || six.pending })
    }

    /// Has the flows tracked that must be; the others, after everything else is settled, not.
    fn untrack(&mut self, moment: Moment) -> Result<(), Error> {
        let Untracking { peers, replicas, .. } = &self.untracked;
        let mut four = shape::<Ipv4Addr>(peers, &self.ranges);
        let mut six = shape::<Ipv6Addr>(peers, &self.ranges);
        let mut unknown = Ok(());
        if (four.is_some() || six.is_some()) && !replicas.are_too_many() {
            // As long as it is not known who else is there, everything is tracked; balancing goes on.
            let may = self.may_untrack().unwrap_or_else(|error| {
                unknown = Err(error);
                false
            });
            if !may {
                (four, six) = (None, None);
            }
        } else {
            (four, six) = (None, None);
        }
        let Self { kernel, generation, untracked, .. } = self;
        change(kernel, generation, &mut untracked.four, four, &untracked.replicas, moment)?;
        change(kernel, generation, &mut untracked.six, six, &untracked.replicas, moment)?;
        if moment == Moment::Before {
            return Ok(());
        }
        untracked.replicas.settled();
        unknown
    }

    /// Whether the kernel can, and nobody else filters or translates in the namespace.
    fn may_untrack(&mut self) -> Result<bool, Error> {
        if !self.features()?.untracked {
            return Ok(false);
        }
        let read = |source| Error::Untracked { family: netfilter::Family::Ip, source };
        let generation = self.kernel.generation().map_err(read)?;
        let strangers = match self.untracked.strangers {
            Some((judged, strangers)) if judged == generation => strangers,
            _ => self.kernel.strangers().map_err(read)?,
        };
        self.untracked.strangers = Some((generation, strangers));
        Ok(!strangers)
    }

    fn owe(&mut self, change: &Change) {
        match &mut self.owed {
            _ if change.everything => self.owed = Owed::All,
            Owed::These(vips) => vips.extend_from_slice(&change.vips),
            Owed::All => {}
        }
    }

    /// Notes whether the change can have stranded flows. They are deleted in the next turn, when no packet is
    /// still on its way by the old elements.
    fn plan_sweep(&mut self, change: &Change) {
        let strands = |(old, new): &Pair| match (old, new) {
            (Some(old), Some(new)) => may_strand(old, new),
            // A new service's VIP was refused until now; a client of that time is to be let in.
            (None, Some(new)) => new.vips.iter().any(|vip| crate::flows::serves(new, *vip)),
            (Some(_), None) => true,
            (None, None) => false,
        };
        if !change.pairs.iter().any(strands) {
            return;
        }
        let left = change.vips.iter().filter(|vip| self.services.by_vip.get(**vip).is_none());
        let removed = left.take(REMOVED_MAX).copied().collect();
        self.sweep = merge(self.sweep.take(), Some(removed));
    }

    fn sweep_flows(&mut self, due: Option<Vec<IpAddr>>) -> Result<usize, Error> {
        let Some(removed) = due else { return Ok(0) };
        let stale = Stale { services: &self.services.by_vip, ranges: &self.ranges, removed: &removed };
        let deleted = self.kernel.delete_flows(&stale, FLOWS_MAX);
        if !matches!(deleted, Ok(count) if count < FLOWS_MAX) {
            self.sweep = merge(self.sweep.take(), Some(removed));
        }
        deleted.map_err(|source| Error::Flows { source })
    }
}

/// One step of one family's exemptions. What fails may or may not have taken effect.
fn change<A: Address, K: Kernel>(
    kernel: &mut K,
    generation: &mut Option<u32>,
    present: &mut Present<A>,
    shape: Option<Shape<A>>,
    replicas: &Replicas,
    moment: Moment,
) -> Result<(), Error> {
    let Some(change) = step(present, shape.as_ref(), replicas, moment) else { return Ok(()) };
    if let Err(source) = kernel.untrack(&change) {
        *present = Present::Unknown;
        *generation = None;
        return Err(Error::Untracked { family: A::FAMILY, source });
    }
    // What was tracked until now has an entry that nobody ends: its last packets are not seen.
    let spares = match &change {
        TrackingChange::Make(..) => true,
        TrackingChange::Tracked { delete, .. } => !delete.is_empty(),
        TrackingChange::Remove => false,
    };
    present.follow(change);
    *generation = generation.map(following);
    if spares && let Present::There(untracked, _) = present {
        let deleted = kernel.delete_untracked(untracked, FLOWS_MAX);
        deleted.map_err(|source| Error::Flows { source })?;
    }
    Ok(())
}

fn merge(first: Option<Vec<IpAddr>>, second: Option<Vec<IpAddr>>) -> Option<Vec<IpAddr>> {
    match (first, second) {
        (Some(mut first), Some(second)) => {
            first.extend(second);
            first.sort_unstable();
            first.dedup();
            first.truncate(REMOVED_MAX);
            Some(first)
        }
        (first, second) => first.or(second),
    }
}
