//! The balancing part of a round: each namespace's table, on a blocking thread.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lb::Balancer;
use netfilter::conntrack::Usage;
use overlay::{Look, Space};

use super::{BALANCER_CHECK, Converger, TRACKED_FULL_PERCENT, TRACKED_ROOM_PERCENT, TURN_MIN};
use crate::config::Track;
use crate::model::Name;
use crate::runtime::agent::chain;
use crate::runtime::derived;
use crate::runtime::events::lock;
use crate::runtime::spaces::{Container, resolver_address};

/// Namespaces that one call on a blocking thread looks at: to hand each over by itself costs more than the look.
const AT_ONCE: usize = 16;

/// Namespaces of which is asked at once how many flows they track.
const ASKED_MAX: usize = 128;

/// Flows are looked for at most about this long in one round.
const SWEEPS_MAX: Duration = Duration::from_millis(100);

/// What is done in one namespace.
struct Turn {
    cookie: u64,
    balancer: Arc<Mutex<Balancer>>,
    /// What its table shall hold, if that may differ from what it holds.
    desired: Option<lb::Desired>,
    /// Whether flows that have become stale are looked for too.
    sweeps: bool,
    /// Whether to ask how full the table of flows is.
    usage: bool,
}

/// What has become of it.
struct Taken {
    cookie: u64,
    usage: Option<Usage>,
    outcome: Result<Outcome, String>,
}

enum Outcome {
    Checked { repaired: bool },
    Reconciled(lb::Report),
}

impl Turn {
    fn take(self) -> Taken {
        let mut balancer = lock(&self.balancer);
        // Where it cannot be asked for nothing is tracked.
        let usage = if self.usage { lb::kernel::Kernel::usage(balancer.kernel()).ok() } else { None };
        let outcome = match &self.desired {
            Some(desired) if self.sweeps => balancer.reconcile(desired).map(Outcome::Reconciled),
            Some(desired) => balancer.reconcile_tables(desired).map(Outcome::Reconciled),
            None => balancer.check().map(|repaired| Outcome::Checked { repaired }),
        };
        Taken { cookie: self.cookie, usage, outcome: outcome.map_err(|error| chain(&error)) }
    }
}

impl Taken {
    fn failed(cookie: u64, error: String) -> Self {
        Self { cookie, usage: None, outcome: Err(error) }
    }
}

impl Converger {
    /// Balancing in every namespace that a change concerns; those of `looks` are checked.
    pub(super) async fn balance(
        &mut self,
        changed: &BTreeSet<Name>,
        looks: &BTreeMap<Space, Look>,
        problems: &mut Vec<(String, String)>,
    ) {
        let check = self.balancer_checked.elapsed() >= BALANCER_CHECK;
        if check {
            self.balancer_checked = Instant::now();
        }
        let sweeps = std::mem::take(&mut self.sweeps);
        let mut due = std::mem::take(&mut self.due);
        due.extend(changed.iter().flat_map(|network| self.local.on(network)).map(|it| it.cookie));
        due.extend(self.newly_covered(check));
        if check {
            due.extend(self.newly_filtered());
        }
        due.retain(|cookie| !self.adopted.contains(cookie));
        let asked = if check { self.next_to_ask() } else { BTreeSet::new() };
        let concerned = |(cookie, container): &(&u64, &Container)| {
            let space = if container.host { Space::Host } else { Space::Container(**cookie) };
            check || due.contains(*cookie) || looks.contains_key(&space)
        };
        let cookies: Vec<u64> =
            self.spaces.containers.iter().filter(concerned).map(|(cookie, _)| *cookie).collect();
        for some in cookies.chunks(AT_ONCE) {
            let turns = some.iter().filter_map(|cookie| {
                let desired = due.contains(cookie).then(|| self.balanced(*cookie));
                let balancer = Arc::clone(&self.spaces.containers.get(cookie)?.balancer);
                let usage = asked.contains(cookie);
                Some(Turn { cookie: *cookie, balancer, desired, sweeps: false, usage })
            });
            let turns = turns.collect();
            self.take_turns(turns).await;
        }
        self.sweep(sweeps, &cookies).await;
        problems.extend(self.balancer_problems.values().flatten().cloned());
        self.note_tracked(problems);
        self.note_neighbours(check, problems);
    }

    /// Flows that changes before this round made stale are looked for, now that all tables hold what is wanted: it takes long
    /// where many namespaces track some. Then the others wait for the next rounds, which what has changed goes before, and
    /// each has its turn.
    async fn sweep(&mut self, sweeps: BTreeSet<u64>, turned: &[u64]) {
        if sweeps.iter().any(|cookie| turned.binary_search(cookie).is_ok()) {
            // Packets on their way must have left what was changed just now (see `Balancer::reconcile`).
            tokio::time::sleep(TURN_MIN).await;
        }
        let began = Instant::now();
        let (before, after): (Vec<u64>, Vec<u64>) =
            sweeps.into_iter().partition(|cookie| *cookie <= self.swept_last);
        let cookies = [after, before].concat();
        for some in cookies.chunks(AT_ONCE) {
            if began.elapsed() > SWEEPS_MAX {
                self.sweeps.extend(some);
                continue;
            }
            self.swept_last = some.last().copied().unwrap_or_default();
            let turns = some.iter().filter_map(|cookie| {
                let balancer = Arc::clone(&self.spaces.containers.get(cookie)?.balancer);
                let desired = Some(self.balanced(*cookie));
                Some(Turn { cookie: *cookie, balancer, desired, sweeps: true, usage: false })
            });
            let turns = turns.collect();
            self.sweeps.retain(|cookie| !some.contains(cookie));
            self.take_turns(turns).await;
        }
    }

    /// Takes some turns on a blocking thread, and notes what came of them.
    async fn take_turns(&mut self, turns: Vec<Turn>) {
        let cookies: Vec<u64> = turns.iter().map(|turn| turn.cookie).collect();
        let done = tokio::task::spawn_blocking(move || turns.into_iter().map(Turn::take).collect()).await;
        let done: Vec<Taken> = done.unwrap_or_else(|error| {
            cookies.into_iter().map(|cookie| Taken::failed(cookie, error.to_string())).collect()
        });
        for Taken { cookie, usage, outcome } in done {
            self.tracked.extend(usage.map(|usage| (cookie, usage)));
            match outcome {
                Ok(Outcome::Checked { repaired: false }) => {}
                Ok(Outcome::Checked { repaired: true }) => {
                    self.agent.metrics.drift_repaired.with_label_values(&["balancer"]).inc();
                }
                Ok(Outcome::Reconciled(report)) => {
                    let object = self.balancer_object(cookie);
                    self.balanced_so(cookie, &object, report);
                }
                Err(error) => {
                    let object = self.balancer_object(cookie);
                    self.failed(cookie, (object, error));
                }
            }
        }
    }

    /// The namespaces whose turn it is to be asked for their flows, from where the last turn ended.
    fn next_to_ask(&mut self) -> BTreeSet<u64> {
        let cookies = || self.spaces.containers.keys().copied();
        let after = cookies().filter(|cookie| *cookie > self.asked_last);
        let next: Vec<u64> =
            after.chain(cookies()).take(ASKED_MAX.min(self.spaces.containers.len())).collect();
        self.asked_last = next.last().copied().unwrap_or_default();
        next.into_iter().collect()
    }

    /// How full the fullest namespace's table of flows is; what is nearly full fails soon, and says so before.
    fn note_tracked(&mut self, problems: &mut Vec<(String, String)>) {
        self.tracked.retain(|cookie, _| self.spaces.containers.contains_key(cookie));
        let is_host = |cookie: &u64| self.spaces.containers.get(cookie).is_some_and(|it| it.host);
        let containers = self.tracked.iter().filter(|(cookie, _)| !is_host(cookie)).map(|(_, usage)| *usage);
        let fullest = containers.max_by_key(|usage| usage.entries).unwrap_or_default();
        let metrics = &self.agent.metrics;
        metrics.tracked_flows.with_label_values(&["fullest_container"]).set(fullest.entries.into());
        let limit = fullest.limit.map(i64::from).or_else(|| {
            let limit = crate::limits::number("net/netfilter/nf_conntrack_max")?;
            i64::try_from(limit).ok()
        });
        metrics.tracked_flows_max.set(limit.unwrap_or_default());
        let is_full = |(cookie, usage): (&u64, &Usage)| {
            nearly_full(*usage, self.full.contains(cookie)).then_some(*cookie)
        };
        self.full = self.tracked.iter().filter_map(is_full).collect();
        for cookie in &self.full {
            let limit = self.tracked.get(cookie).and_then(|usage| usage.limit).unwrap_or_default();
            // Without the number of the moment: a reason that changes is another failure each time.
            let reason = format!(
                "its namespace has come to track {TRACKED_FULL_PERCENT} % of the {limit} flows that it may \
                 (net.netfilter.nf_conntrack_max); above it new ones are dropped, but for look-ups: raise the limit, or see \
                 what opens so many"
            );
            problems.push((format!("{}/conntrack", self.balancer_object(*cookie)), reason));
        }
    }

    /// Tried again with the next check, not at once.
    fn failed(&mut self, cookie: u64, problem: (String, String)) {
        self.covered.remove(&cookie);
        self.balancer_problems.insert(cookie, vec![problem]);
    }

    /// Namespaces whose attachments are others than at their last turn; with the check's pace also those that failed.
    fn newly_covered(&mut self, check: bool) -> Vec<u64> {
        if self.covered_revision == Some(self.local.revision()) && !check {
            return Vec::new();
        }
        self.covered_revision = Some(self.local.revision());
        let paced = |cookie: &u64| check || !self.balancer_problems.contains_key(cookie);
        let differs = |cookie: &u64| {
            let on = self.local.through(*cookie).map(|record| (&record.network, &record.addresses));
            let before = self.covered.get(cookie);
            before.is_none_or(|before| !on.eq(before.iter().map(|(network, on)| (network, on))))
        };
        let due: Vec<u64> = self.local.cookies().filter(|cookie| paced(cookie) && differs(cookie)).collect();
        for cookie in &due {
            let on = self.local.through(*cookie);
            let on = on.map(|record| (record.network.clone(), record.addresses.clone())).collect();
            self.covered.insert(*cookie, on);
        }
        due
    }

    /// Namespaces in which the older iptables has come to be used, or is used no more.
    fn newly_filtered(&mut self) -> Vec<u64> {
        let found = self.spaces.containers.keys().map(|cookie| (*cookie, self.may_untrack(*cookie)));
        let found: BTreeMap<u64, bool> = found.collect();
        let differs =
            |(cookie, may): &(&u64, &bool)| self.untracking.get(*cookie).is_some_and(|it| it != *may);
        let due = found.iter().filter(differs).map(|(cookie, _)| *cookie).collect();
        self.untracking = found;
        due
    }

    /// Whether flows of the namespace that need no tracking shall go without, and may.
    fn may_untrack(&self, cookie: u64) -> bool {
        self.agent.settings.load().track == Track::Balanced && self.spaces.may_untrack(cookie)
    }

    fn balanced_so(&mut self, cookie: u64, object: &str, report: lb::Report) {
        let metrics = &self.agent.metrics;
        let operations = u64::try_from(report.changes).unwrap_or(0);
        metrics.kernel_operations.with_label_values(&["balancer"]).inc_by(operations);
        metrics.flows_deleted.inc_by(u64::try_from(report.flows_deleted).unwrap_or(0));
        if report.tables_pending {
            self.due.insert(cookie);
        } else if report.pending {
            self.sweeps.insert(cookie);
        }
        // What is wrong with a service is not the fault of those who use it.
        let named = |problem: &lb::Problem| match problem.object.split_once('/') {
            Some((network, service)) => format!("network/{network}/service/{service}"),
            None => object.to_owned(),
        };
        let found = report.problems.iter().map(|problem| (named(problem), problem.reason.clone()));
        let found: Vec<_> = found.collect();
        match found.is_empty() {
            true => self.balancer_problems.remove(&cookie),
            false => self.balancer_problems.insert(cookie, found),
        };
    }

    fn balancer_object(&self, cookie: u64) -> String {
        let record = self.local.through(cookie).next();
        record.map_or_else(
            || format!("namespace/{cookie}/balancer"),
            |record| format!("network/{}/attachment/{}/balancer", record.network, record.name),
        )
    }

    /// All that one namespace's balancing shall hold.
    fn balanced(&mut self, cookie: u64) -> lb::Desired {
        let mut desired = lb::Desired::default();
        let may_untrack = self.may_untrack(cookie);
        self.untracking.insert(cookie, may_untrack);
        let mut on: Vec<_> = self.local.through(cookie).collect();
        // By network, so that the services are in the order of their names: the balancer compares them in one pass.
        on.sort_by(|a, b| a.network.cmp(&b.network));
        for record in &on {
            let view = self.views.get(&record.network);
            let tried = view.and_then(|view| derived::tried_service(view, &record.addresses));
            desired.services.extend(tried.map(Arc::new));
        }
        for record in on {
            let (Some(view), Some(derived)) =
                (self.views.get(&record.network), self.derived.get_mut(&record.network))
            else {
                continue;
            };
            desired.ranges.extend(derived::vip_ranges(view, &record.addresses));
            if may_untrack {
                desired.peers.extend(derived::endpoint_ranges(view));
            }
            desired.services.extend(derived.services().iter().cloned());
        }
        let resolver = self.spaces.containers.get(&cookie).and_then(|it| it.resolver.as_ref());
        if let Some(resolver) = resolver {
            let from = resolver_address();
            desired.redirects.push(lb::Redirect { from, to: SocketAddr::new(from.ip(), resolver.port) });
        }
        desired
    }
}

/// Whether a namespace tracks nearly as many flows as it may. What was so stays so until there is room again.
fn nearly_full(usage: Usage, before: bool) -> bool {
    let percent = if before { TRACKED_ROOM_PERCENT } else { TRACKED_FULL_PERCENT };
    usage
        .limit
        .filter(|limit| *limit > 0)
        .is_some_and(|limit| u64::from(usage.entries) * 100 >= u64::from(limit) * u64::from(percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p30_a_table_is_a_problem_before_it_is_full() {
        let full = |entries, limit, before| nearly_full(Usage { entries, limit }, before);
        assert!(!full(79, Some(100), false) && full(80, Some(100), false));
        assert!(full(u32::MAX, Some(u32::MAX), false));
        assert!(full(70, Some(100), true) && !full(69, Some(100), true), "it is not told again and again");
        assert!(!full(80, Some(0), false) && !full(80, None, false), "no limit, and none known");
    }
}
