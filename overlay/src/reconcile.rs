//! Makes the kernel hold what is wanted, and remembers what it holds so that a call without change costs nothing.
mod journal;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::journal::Journal;
use self::steps::{is_done, problem};
use crate::observed::Tables;
use crate::plan::{Base, Fences, plan_changed, teardown};
use crate::{Desired, Kernel, Look, Mac, Object, Observed, Op, Plan, Problem, Space, Step, World};

/// A second look resolves what came in between (a name taken, a link gone); what fails twice is a problem.
const ATTEMPTS: u32 = 2;

/// Which half of the work to do. A caller with other tables that refer to the overlay adds here first, then there,
/// then removes there, then here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Adds, changes and replaces.
    Additions,
    /// Takes away what is wanted no more.
    Removals,
}

/// What a call did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is not as it should be, per object. Empty means that all that was to be done in this phase is done.
    pub problems: Vec<Problem>,
    /// Operations that the kernel took.
    pub operations: usize,
    /// The first of those that repaired what somebody else had changed, [`REPAIRED_MAX`] at most.
    pub repaired: Vec<String>,
}

/// Repairs that a report tells in words.
pub const REPAIRED_MAX: usize = 8;

/// What `teardown_all` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Teardown {
    /// One line for each thing that was removed.
    pub removed: Vec<String>,
    /// What could not be removed.
    pub problems: Vec<Problem>,
}

/// Keeps a kernel's namespaces as desired.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    /// As last observed and since changed by us. A namespace that is not here is to be observed.
    world: World,
    /// What was last wanted, and whether each phase of it was done without a problem.
    last: Option<Desired>,
    done: (bool, bool),
    /// What was wanted before that, if the kernel held exactly this and nothing has been observed anew since.
    base: Option<Desired>,
    /// And no namespace at all has been observed since.
    whole: bool,
    before: BTreeMap<String, String>,
    journal: Journal,
    /// [`Observed::former`] of namespaces that are to be observed again.
    former: BTreeMap<Space, BTreeMap<IpAddr, Mac>>,
    /// The tables of namespaces of which only the rest is to be observed again.
    tables: BTreeMap<Space, Tables>,
    /// Namespaces that are to be observed again as they were, without their tables and former MACs; and those tables, where
    /// they are to be observed again as well. What then is as it was asks for no plan.
    doubted: BTreeMap<Space, (Observed, Option<Tables>)>,
    /// What the chains of attachments' ports look like to the kernel.
    fences: Fences,
    /// Namespaces with a veth pair between them that we made since we looked: the mirror does not know its indexes
    /// until one end is looked at.
    paired: BTreeSet<(Space, Space)>,
    drift: u64,
    /// The namespace that was verified last.
    verified: Option<Space>,
    /// All was as desired, and namespaces are read again: what is done now repairs somebody else's changes.
    looking: bool,
}

impl<K: Kernel> Reconciler<K> {
    /// Nothing is read yet: the first call of [`Self::reconcile`] does.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            world: World::default(),
            last: None,
            done: (false, false),
            base: None,
            whole: false,
            before: BTreeMap::new(),
            journal: Journal::default(),
            former: BTreeMap::new(),
            tables: BTreeMap::new(),
            doubted: BTreeMap::new(),
            fences: Fences::default(),
            paired: BTreeSet::new(),
            drift: 0,
            verified: None,
            looking: false,
        }
    }

    /// The kernel it works on.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Makes one phase of `desired` true. Costs a comparison if nothing has changed since the last call. Wait for
    /// [`Phase::Removals`] until every source has first synced: what is ours and not desired goes.
    pub async fn reconcile(&mut self, desired: &Desired, phase: Phase) -> Report {
        let mut report = Report::default();
        self.take_up(desired);
        for attempt in 1..=ATTEMPTS {
            let mut problems = self.observe_missing().await;
            if self.is_done(phase) && problems.is_empty() {
                self.looking &= self.done != (true, true);
                return report;
            }
            let base = self.base.as_ref().map(|desired| Base { desired, whole: self.whole });
            let plan = plan_changed(desired, &self.world.spaces, base, &mut self.fences);
            problems.extend(plan.problems.iter().cloned());
            let steps = match phase {
                Phase::Additions => &plan.additions,
                Phase::Removals => &plan.removals,
            };
            let failed = self.run(steps, &mut report).await;
            let again = !failed.is_empty() && attempt < ATTEMPTS;
            problems.extend(failed);
            self.remember(phase, &plan, problems.is_empty());
            if !again {
                report.problems = problems;
                break;
            }
        }
        report
    }

    /// Forgets what was observed: the next call reads every namespace again. To be called when the kernel says
    /// that something changed (our own changes make such events too: gather them for a while).
    pub fn invalidate(&mut self) {
        self.forget_all();
        self.last = None;
    }

    /// Forgets one namespace only.
    pub fn invalidate_space(&mut self, space: &Space) {
        self.forget(space);
        self.done = (false, false);
        self.last = None;
    }

    /// Something has changed in these namespaces (our own changes of links are heard of too): the next calls of
    /// [`Self::reconcile`] read them again. If all was as desired before, what they do then is drift.
    pub fn look_again<'a>(&mut self, desired: &Desired, spaces: impl IntoIterator<Item = (&'a Space, Look)>) {
        self.looking |= self.last.as_ref() == Some(desired) && self.done == (true, true);
        for (space, look) in spaces {
            match look {
                Look::All => self.forget(space),
                Look::Links => self.forget_links(space),
            }
        }
    }

    /// Reads everything again and repairs what differs from `desired`; operations are counted as drift.
    pub async fn verify(&mut self, desired: &Desired) -> Report {
        self.verify_part(desired, 1).await
    }

    /// The same with one of so many parts of the namespaces, each time the next one: to read a thousand takes a second.
    pub async fn verify_part(&mut self, desired: &Desired, parts: usize) -> Report {
        let count = self.world.spaces.len().div_ceil(parts.max(1));
        let after =
            self.world.spaces.keys().filter(|space| self.verified.as_ref().is_none_or(|it| *space > it));
        let next: Vec<Space> = after.chain(self.world.spaces.keys()).take(count).cloned().collect();
        self.verified = next.last().cloned();
        self.look_again(desired, next.iter().map(|space| (space, Look::All)));
        let mut report = self.reconcile(desired, Phase::Additions).await;
        let removals = self.reconcile(desired, Phase::Removals).await;
        report.operations = report.operations.saturating_add(removals.operations);
        report.repaired.extend(removals.repaired);
        report.repaired.truncate(REPAIRED_MAX);
        for problem in removals.problems {
            if !report.problems.contains(&problem) {
                report.problems.push(problem);
            }
        }
        report
    }

    /// Operations that repaired what somebody else had changed, since the start.
    pub fn drift(&self) -> u64 {
        self.drift
    }

    /// The host's sysctls that this changed or was about to, with what they were before.
    pub fn sysctls_before(&self) -> &BTreeMap<String, String> {
        &self.before
    }

    /// Packets that our fences dropped, by namespace and reason, as of the last observation.
    pub fn drops(&self) -> impl Iterator<Item = (&Space, &str, u64)> {
        let all = self.world.spaces.iter();
        all.flat_map(|(space, seen)| seen.drops.iter().map(move |(reason, n)| (space, reason.as_str(), *n)))
    }

    /// Permanent neighbours of IPv4 and of IPv6 that our namespaces hold, as of the last observation.
    pub fn neighbours(&self) -> [usize; 2] {
        let all = self.world.spaces.values().flat_map(|seen| seen.neighbours.keys());
        all.fold([0; 2], |[four, six], (_, address)| match address {
            IpAddr::V4(_) => [four + 1, six],
            IpAddr::V6(_) => [four, six + 1],
        })
    }

    /// Removes everything of ours and puts the host's sysctls back (`restore`: what they were before, as
    /// [`Self::journal`] was told).
    pub async fn teardown_all(&mut self, restore: &BTreeMap<String, String>) -> Teardown {
        self.invalidate();
        let mut result = Teardown { removed: Vec::new(), problems: self.observe_missing().await };
        let steps = teardown(&self.world.spaces, restore);
        let at_once = self.delete_at_once(&steps).await;
        for step in steps {
            let done = match at_once.contains(&step.space) && matches!(step.op, Op::DeleteLink { .. }) {
                true => Ok(()),
                false => self.perform(&step).await,
            };
            match done {
                Ok(()) => result.removed.push(format!("{}: {} in {}", step.object, step.op, step.space)),
                Err(error) if is_done(&step.op, error.errno()) => {}
                Err(error) => result.problems.push(problem(&step, &error)),
            }
        }
        self.invalidate();
        result
    }

    /// Deletes the links of networks' own namespaces, all of one at once. Returns where that was done; where the kernel
    /// refuses, each is deleted by itself, so that it is known which stay.
    async fn delete_at_once(&self, steps: &[Step]) -> BTreeSet<Space> {
        let mut links: BTreeMap<&Space, BTreeSet<String>> = BTreeMap::new();
        for step in steps {
            if let (Space::Network(_), Op::DeleteLink { name }) = (&step.space, &step.op) {
                links.entry(&step.space).or_default().insert(name.clone());
            }
        }
        let mut done = BTreeSet::new();
        for (space, names) in links {
            let op = Op::DeleteLinks { names };
            match self.kernel.apply(space, &op).await {
                Ok(()) => drop(done.insert(space.clone())),
                Err(error) => tracing::debug!("{op} in {space}: {}", error.chain()),
            }
        }
        done
    }

    /// Notes what is wanted now. What was wanted before is worth knowing if the kernel held just that.
    fn take_up(&mut self, desired: &Desired) {
        if self.last.as_ref() == Some(desired) {
            return;
        }
        self.looking = false;
        let last = self.last.replace(desired.clone());
        self.base = last.filter(|_| self.done == (true, true));
        self.whole = self.base.is_some();
        self.done = (false, false);
    }

    fn is_done(&self, phase: Phase) -> bool {
        match phase {
            Phase::Additions => self.done.0,
            Phase::Removals => self.done.1,
        }
    }

    fn remember(&mut self, phase: Phase, plan: &Plan, good: bool) {
        match phase {
            Phase::Additions => {
                self.done.0 = good;
                self.done.1 &= plan.removals.is_empty();
            }
            Phase::Removals => self.done.1 = good,
        }
        self.looking &= self.done != (true, true);
    }

    async fn observe_missing(&mut self) -> Vec<Problem> {
        let open: BTreeSet<Space> = self.kernel.spaces().into_iter().collect();
        // One that was to be looked at again may have gone as well.
        let known = self.world.spaces.len() + self.doubted.len();
        self.world.spaces.retain(|space, _| open.contains(space));
        self.tables.retain(|space, _| open.contains(space));
        self.doubted.retain(|space, _| open.contains(space));
        if self.world.spaces.len() + self.doubted.len() != known {
            self.done = (false, false);
            self.whole = false;
        }
        let mut problems = Vec::new();
        self.observe_all(&open, &mut problems).await;
        // One end of a pair did not tell of the other: that is looked at, too.
        if problems.is_empty() && !open.iter().all(|space| self.world.spaces.contains_key(space)) {
            self.observe_all(&open, &mut problems).await;
        }
        problems
    }

    async fn observe_all(&mut self, open: &BTreeSet<Space>, problems: &mut Vec<Problem>) {
        for space in open {
            if self.world.spaces.contains_key(space) {
                continue;
            }
            let tables = self.tables.remove(space);
            let look = if tables.is_some() { Look::Links } else { Look::All };
            let doubted = self.doubted.remove(space);
            let outcome = self.kernel.observe(space, look).await;
            if !outcome.as_ref().is_ok_and(|observed| is_as_it_was(observed, look, doubted)) {
                self.done = (false, false);
                self.forget_base(space);
            }
            match outcome {
                Ok(mut observed) => {
                    observed.former = self.former.remove(space).unwrap_or_default();
                    tables.into_iter().for_each(|tables| observed.put_tables(tables));
                    self.world.spaces.insert(space.clone(), observed);
                    self.join_pairs(space);
                    self.world.sweep(space);
                }
                Err(error) => problems.push(Problem {
                    object: object_of(space),
                    operation: format!("look into {space}"),
                    errno: error.errno(),
                    error: error.chain(),
                }),
            }
        }
    }

    fn forget_all(&mut self) {
        self.paired.clear();
        let spaces: Vec<Space> = self.world.spaces.keys().cloned().collect();
        spaces.iter().for_each(|space| self.forget(space));
        self.doubted.clear();
        self.done = (false, false);
    }

    fn forget(&mut self, space: &Space) {
        self.forget_links(space);
        let tables = self.tables.remove(space);
        if let Some((_, kept)) = self.doubted.get_mut(space) {
            *kept = kept.take().or(tables);
        }
    }

    /// As [`Self::forget`], but what the tables hold stays known.
    fn forget_links(&mut self, space: &Space) {
        let Some(mut seen) = self.world.spaces.remove(space) else { return };
        self.tables.insert(space.clone(), seen.take_tables());
        let former = std::mem::take(&mut seen.former);
        if !former.is_empty() {
            self.former.insert(space.clone(), former);
        }
        self.doubted.insert(space.clone(), (seen, None));
    }

    /// What was wanted before says nothing of what is looked at anew; of networks' tables it says as much as before when
    /// that is a container.
    fn forget_base(&mut self, space: &Space) {
        self.whole = false;
        if !matches!(space, Space::Container(_)) {
            self.base = None;
        }
    }

    /// One end of the pairs that were made since has been looked at: it tells the indexes of the other ends, where those
    /// are in the mirror.
    fn join_pairs(&mut self, space: &Space) {
        let of_it = |(near, far): &(Space, Space)| near == space || far == space;
        let pairs: Vec<_> = self.paired.extract_if(.., of_it).collect();
        for (near, far) in pairs {
            let other = if near == *space { far } else { near };
            if !self.world.join_ends(space, &other) {
                self.forget_links(&other);
            }
        }
    }
}

/// Whether a look found just what was known; packets that were dropped meanwhile make no difference.
fn is_as_it_was(observed: &Observed, look: Look, doubted: Option<(Observed, Option<Tables>)>) -> bool {
    let Some((mut before, tables)) = doubted else { return false };
    match (look, tables) {
        (Look::Links, _) => before == *observed,
        (Look::All, Some(tables)) => {
            before.put_tables(tables);
            before.drops.clone_from(&observed.drops);
            before == *observed
        }
        (Look::All, None) => false,
    }
}

fn object_of(space: &Space) -> Object {
    match space {
        Space::Host => Object::Host,
        Space::Network(name) => Object::Network(name.clone()),
        Space::Paths => Object::Paths,
        Space::Container(_) => Object::Leftover(space.to_string()),
    }
}
