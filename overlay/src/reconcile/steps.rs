//! Runs the steps of a plan and writes what came of them into the mirror.
use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{REPAIRED_MAX, Reconciler, Report};
use crate::op::Step;
use crate::{Kernel, KernelError, Object, Op, Problem};

/// Writes in flight at once: a netlink round trip costs more than the kernel's work on it.
const IN_FLIGHT_MAX: usize = 64;
/// Addresses whose last MAC is remembered after their removal, per network.
const FORMER_MAX: usize = 4096;

impl<K: Kernel> Reconciler<K> {
    /// Runs steps in order; those that do not depend on each other many at a time. After a failure the rest of
    /// that object is left out, and of what hangs on it.
    pub(super) async fn run(&mut self, steps: &[Step], report: &mut Report) -> Vec<Problem> {
        let mut failed: BTreeSet<Object> = BTreeSet::new();
        let mut problems = Vec::new();
        let kept = self.keep_before(steps);
        let mut rest = steps;
        while let Some(first) = rest.first() {
            let bulk = rest.iter().take_while(|step| step.op.is_bulk()).count();
            let (now, later) = rest.split_at(bulk.max(1));
            rest = later;
            let free = |step: &&Step| {
                !failed.contains(&step.object) && step.object.parent().is_none_or(|p| !failed.contains(&p))
            };
            let outcomes = if bulk == 0 {
                if !free(&first) {
                    continue;
                }
                if let Some(problem) = self.unkept(first, &kept) {
                    failed.insert(first.object.clone());
                    problems.push(problem);
                    continue;
                }
                vec![(first, self.kernel.apply(&first.space, &first.op).await)]
            } else {
                self.apply_many(now.iter().filter(free)).await
            };
            for (step, outcome) in outcomes {
                if let Some(problem) = self.conclude(step, outcome, report) {
                    failed.insert(step.object.clone());
                    problems.push(problem);
                }
            }
        }
        problems
    }

    async fn apply_many<'a>(
        &self,
        steps: impl Iterator<Item = &'a Step>,
    ) -> Vec<(&'a Step, Result<(), KernelError>)> {
        let mut outcomes = Vec::new();
        let mut running = FuturesUnordered::new();
        for step in steps {
            if running.len() >= IN_FLIGHT_MAX {
                outcomes.extend(running.next().await);
            }
            let kernel = &self.kernel;
            running.push(async move { (step, kernel.apply(&step.space, &step.op).await) });
        }
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome);
        }
        outcomes
    }

    pub(super) async fn perform(&mut self, step: &Step) -> Result<(), KernelError> {
        self.kernel.apply(&step.space, &step.op).await
    }

    /// Writes an outcome into the mirror. What failed, or what the mirror cannot follow, is observed again.
    fn conclude(
        &mut self,
        step: &Step,
        outcome: Result<(), KernelError>,
        report: &mut Report,
    ) -> Option<Problem> {
        tracing::debug!(object = %step.object, space = %step.space, operation = %step.op, ?outcome);
        match outcome {
            Ok(()) => {
                report.operations = report.operations.saturating_add(1);
                self.note_repair(step, report);
                self.note_former(step);
                if let Op::AddVeth { peer, .. } = &step.op {
                    self.paired.insert((step.space.clone(), peer.space.clone()));
                }
                if self.world.apply(&step.space, &step.op).is_err() || self.may_have_taken_more(step) {
                    self.forget_touched(step);
                }
                match &step.op {
                    Op::AddVeth { name, .. } => self.world.forget_fence(&step.space, name),
                    Op::AddVxlan { link_space, name, .. } => self.world.forget_fence(link_space, name),
                    _ => {}
                }
                None
            }
            Err(error) if is_done(&step.op, error.errno()) => {
                // Before kernel 6.16 a chain goes with its device; the mirror follows later kernels.
                let follows =
                    matches!(step.op, Op::DeleteChain { .. }) && error.errno() == Some(libc::ENOENT);
                if !(follows && self.world.apply(&step.space, &step.op).is_ok()) {
                    self.forget_touched(step);
                }
                None
            }
            Err(error) => {
                self.forget_touched(step);
                Some(problem(step, &error))
            }
        }
    }

    fn note_repair(&mut self, step: &Step, report: &mut Report) {
        if !self.looking {
            return;
        }
        self.drift = self.drift.saturating_add(1);
        if report.repaired.len() < REPAIRED_MAX {
            report.repaired.push(format!("{}: {}", step.object, step.op));
        }
    }

    fn note_former(&mut self, step: &Step) {
        let Op::DeleteNeighbour { name, address } = &step.op else { return };
        let Some(observed) = self.world.spaces.get_mut(&step.space) else { return };
        if observed.former.len() >= FORMER_MAX {
            observed.former.pop_first();
        }
        if let Some(mac) = observed.neighbours.get(&(name.clone(), *address)) {
            observed.former.insert(*address, *mac);
        }
    }

    /// An IPv4 address that was the first of its subnet takes the others with it, unless promote_secondaries is
    /// set; which was the first is not observed.
    fn may_have_taken_more(&self, step: &Step) -> bool {
        let Op::DeleteAddress { name, address } = &step.op else { return false };
        let left = self.world.spaces.get(&step.space).map(|seen| seen.addresses.iter());
        address.is_ipv4()
            && left.is_some_and(|mut left| {
                left.any(|(on, other)| on == name && other.is_ipv4() && other.contains(address.network()))
            })
    }

    fn forget_touched(&mut self, step: &Step) {
        let other = match &step.op {
            Op::AddVxlan { link_space, .. } => Some(link_space.clone()),
            Op::AddVeth { peer, .. } => Some(peer.space.clone()),
            // The other end may be anywhere.
            Op::DeleteLink { .. } | Op::DeleteLinks { .. } => return self.forget_all(),
            _ => None,
        };
        self.forget(&step.space);
        if let Some(other) = other {
            self.forget(&other);
        }
        self.done = (false, false);
    }
}

/// Whether a refusal means that what was asked for is so already.
pub(super) fn is_done(op: &Op, errno: Option<i32>) -> bool {
    let gone = [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL];
    match op {
        Op::DeleteLink { .. }
        | Op::DeleteAddress { .. }
        | Op::DeleteRoute { .. }
        | Op::DeleteNeighbour { .. }
        | Op::DeleteTunnel { .. }
        | Op::DeleteForwarding { .. }
        | Op::DeleteChain { .. }
        | Op::DeleteWay { .. }
        | Op::DeleteTable { .. } => errno.is_some_and(|errno| gone.contains(&errno)),
        Op::AddAddress { .. } => errno == Some(libc::EEXIST),
        _ => false,
    }
}

pub(super) fn problem(step: &Step, error: &KernelError) -> Problem {
    Problem {
        object: step.object.clone(),
        operation: step.op.to_string(),
        errno: error.errno(),
        error: error.chain(),
    }
}
