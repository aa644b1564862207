//! Keeps one check running per local replica that has one, and writes what they find.
//!
//! What a check last found is kept beside its task and compared with the fact whenever either changes. So a finding
//! that could not be written, or that a drain held back, is written as soon as it may be.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::catalog::facts::{Health, Key, ReplicaFact, Value};
use crate::model::{Name, NodeId};
use crate::runtime::agent::{Agent, Batch, State};
use crate::runtime::checks::{self, Verdict};
use crate::runtime::events::lock;
use crate::runtime::verbs::register::health;
use crate::store::Writes;

mod judged;
mod rule;
#[cfg(test)]
mod tests;
mod unfollowed;

pub use judged::{AllJudged, Judged};
pub(crate) use judged::{Said, judge, said};
use rule::{Due, Own, Started};
use unfollowed::Awaited;
pub use unfollowed::{Replica, Service, Unfollowed};

/// Verdicts that may wait to be written; a check waits beyond that.
const VERDICTS_MAX: usize = 1_024;

/// Changes within this time are followed together.
const GATHER: Duration = Duration::from_millis(20);

/// What could not be written is tried again so often, and a check that ended by itself is started again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Whose verdict it is: a task that was ended may have left one behind.
#[derive(Clone, Debug)]
struct Ticket {
    replica: Replica,
    number: u64,
}

/// A check that runs.
#[derive(Debug)]
struct Running {
    started: Started,
    task: JoinHandle<()>,
    number: u64,
    found: Health,
    reason: String,
    /// Whether it has found anything since it was started.
    told: bool,
}

/// What is followed.
#[derive(Debug, Default)]
struct Following {
    running: BTreeMap<Service, BTreeMap<Name, Running>>,
    /// To be looked at again whatever changes: a namespace is not open yet, or nothing has been synced.
    waiting: BTreeSet<Service>,
    /// To be settled again at the next retry: the disk refused.
    unwritten: BTreeSet<Replica>,
    /// Who waits for what a check finds first.
    awaited: Vec<Awaited>,
    /// Checks started so far.
    count: u64,
}

/// A change of a replica's fact, on its way.
struct Step {
    replica: Replica,
    key: Key,
    before: ReplicaFact,
    due: Due,
}

/// Runs until the agent ends.
pub async fn run(agent: Arc<Agent>) {
    let (sender, mut verdicts) = mpsc::channel(VERDICTS_MAX);
    let mut following = Following::default();
    let mut revision = agent.revision.subscribe();
    let mut opened = agent.opened_revision.subscribe();
    let mut retries = tokio::time::interval(RETRY_INTERVAL);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut told: Vec<Verdict<Ticket>> = Vec::new();
    let mut again = BTreeSet::new();
    loop {
        let mut replicas = following.follow(&agent, &sender);
        replicas.append(&mut again);
        replicas.extend(told.drain(..).filter_map(|verdict| following.take_in(&agent, verdict)));
        following.settle(&agent, &replicas);
        following.report(&agent, &replicas);
        following.answer();
        tokio::select! {
            _count = verdicts.recv_many(&mut told, VERDICTS_MAX) => {}
            _ = retries.tick() => again = following.retry(),
            changed = revision.changed() => if changed.is_err() { return },
            changed = opened.changed() => if changed.is_err() { return },
        }
        // Many registrations at once are followed together.
        if last.elapsed() < GATHER {
            tokio::time::sleep(GATHER - last.elapsed()).await;
        }
        last = Instant::now();
    }
}

impl Following {
    /// Starts and ends checks so that they are those that the definitions want, wherever something changed. Returns
    /// the replicas there.
    fn follow(&mut self, agent: &Agent, sender: &mpsc::Sender<Verdict<Ticket>>) -> BTreeSet<Replica> {
        let this = agent.identity.node;
        let mut replicas = BTreeSet::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        let looked: Vec<(Service, bool, Vec<Own>)> = {
            let mut state = lock(&agent.state);
            let State { catalog, local, unfollowed, synced, .. } = &mut *state;
            let mut services = unfollowed.take(catalog, this, self.running.keys().cloned());
            services.append(&mut waiting);
            self.awaited.append(&mut unfollowed.take_awaited());
            let look = |service: Service| {
                let (defined, own) = rule::own(catalog, local, this, &service);
                (service, defined || *synced, own)
            };
            services.into_iter().map(look).collect()
        };
        for (service, known, own) in looked {
            let mut complete = known || own.is_empty();
            let mut before = self.running.remove(&service).unwrap_or_default();
            let mut running = BTreeMap::new();
            for replica in &own {
                replicas.insert((service.clone(), replica.attachment.clone()));
                let Some(wanted) = &replica.wanted else { continue };
                let kept = before.remove(&replica.attachment);
                let kept = kept.and_then(|it| it.unless(|it| it.started != *wanted || it.task.is_finished()));
                match kept.or_else(|| self.start(agent, &service, replica, wanted, sender)) {
                    Some(check) => drop(running.insert(replica.attachment.clone(), check)),
                    None => complete = false,
                }
            }
            for (attachment, check) in before {
                check.task.abort();
                replicas.insert((service.clone(), attachment));
            }
            if !running.is_empty() {
                self.running.insert(service.clone(), running);
            }
            if !complete {
                self.waiting.insert(service);
            }
        }
        replicas
    }

    /// Nothing while the namespace is not open.
    fn start(
        &mut self,
        agent: &Agent,
        service: &Service,
        replica: &Own,
        wanted: &Started,
        sender: &mpsc::Sender<Verdict<Ticket>>,
    ) -> Option<Running> {
        let namespace = lock(&agent.namespaces).get(&wanted.cookie)?.namespace.clone();
        self.count += 1;
        let number = self.count;
        let ticket = Ticket { replica: (service.clone(), replica.attachment.clone()), number };
        let judge = checks::Judge::new(replica.health, wanted.check.failures);
        let found = judge.health();
        let task = tokio::spawn(checks::run(
            ticket,
            judge,
            wanted.check.clone(),
            Arc::new(namespace),
            wanted.address,
            sender.clone(),
        ));
        let reason = "its check goes on".to_owned();
        Some(Running { started: wanted.clone(), task, number, found, reason, told: false })
    }

    /// Keeps what a check found; whom it concerns, if that check still runs.
    fn take_in(&mut self, agent: &Agent, verdict: Verdict<Ticket>) -> Option<Replica> {
        let Ticket { replica, number } = verdict.replica;
        let running = self.running.get_mut(&replica.0)?.get_mut(&replica.1)?;
        if running.number != number {
            return None;
        }
        let first = !std::mem::replace(&mut running.told, true);
        if first && verdict.health == Health::Starting {
            let ((_, service), attachment) = &replica;
            let line = format!("{service} on {attachment} does not serve yet: {}", verdict.reason);
            agent.events.record("replica", line, "check");
        }
        (running.found, running.reason) = (verdict.health, verdict.reason);
        Some(replica)
    }

    /// Writes what replicas have become, if anything: decided under the lock that it is written under, so that a
    /// drain or a deregistration that comes in between stands.
    fn settle(&mut self, agent: &Agent, replicas: &BTreeSet<Replica>) {
        let this = agent.identity.node;
        if agent.read(|state| self.steps(state, this, replicas).next().is_none()) {
            return;
        }
        let mut steps = Vec::new();
        let written = agent.update(|state| {
            steps = self.steps(state, this, replicas).collect();
            Ok((steps.iter().map(Step::write).collect::<Batch>(), Writes::default()))
        });
        match written {
            Ok(_) => steps.into_iter().for_each(|step| self.tell(agent, &step)),
            Err(failure) => {
                tracing::error!("what checks found cannot be written: {}", failure.message);
                self.unwritten.extend(steps.into_iter().map(|step| step.replica));
            }
        }
    }

    /// Says of each replica whether it fails its check, for as long as it is meant to serve. What changed was told.
    fn report(&self, agent: &Agent, replicas: &BTreeSet<Replica>) {
        let this = agent.identity.node;
        let found: Vec<(String, Option<String>)> = agent.read(|state| {
            let of = |replica: &Replica| {
                let stands = rule::stands(&state.catalog, this, &replica.0, &replica.1);
                let running = self.running(replica).filter(|running| running.told);
                let failing = running.filter(|running| rule::fails(stands, running.found));
                let failing = failing.map(|running| running.reason.clone());
                let judged =
                    self.judged(state, replica).filter(|it| it.problem && rule::fails(stands, it.health));
                (object(replica), failing.or_else(|| judged.map(|it| it.reason.clone())))
            };
            replicas.iter().map(of).collect()
        });
        let mut problems = lock(&agent.problems);
        for (object, error) in found {
            problems.set(object, error, Instant::now());
        }
    }

    /// Tells those who wait what checks found first. A check that runs is the one that is wanted: it was followed before.
    fn answer(&mut self) {
        for (replica, sender) in std::mem::take(&mut self.awaited) {
            match self.running(&replica) {
                Some(running) if running.told => drop(sender.send(running.found)),
                None if !self.waiting.contains(&replica.0) => drop(sender),
                _ if sender.is_closed() => {}
                _ => self.awaited.push((replica, sender)),
            }
        }
    }

    fn steps<'a>(
        &'a self,
        state: &'a State,
        this: NodeId,
        replicas: &'a BTreeSet<Replica>,
    ) -> impl Iterator<Item = Step> + 'a {
        replicas.iter().filter_map(move |replica| {
            let (service, attachment) = replica;
            let found = self.running(replica).map(|running| running.found);
            let said = said(state, &service.0, attachment);
            let (key, before, due) =
                rule::due(&state.catalog, this, state.synced, service, attachment, (found, said))?;
            Some(Step { replica: replica.clone(), key, before, due })
        })
    }

    fn judged<'a>(&self, state: &'a State, ((network, _), attachment): &Replica) -> Option<&'a Judged> {
        state.judged.get(&(network.clone(), attachment.clone()))
    }

    fn running(&self, (service, attachment): &Replica) -> Option<&Running> {
        self.running.get(service)?.get(attachment)
    }

    fn tell(&self, agent: &Agent, step: &Step) {
        let ((network, service), attachment) = &step.replica;
        let judged = agent.read(|state| self.judged(state, &step.replica).cloned());
        let against = judged.as_ref().filter(|judged| judged.health != Health::Serving);
        let line = match step.due {
            Due::Withdrawn => {
                format!(
                    "replica of {service} on {attachment} withdrawn: network {network} has no such service"
                )
            }
            Due::Unchecked => {
                let reason = judged.as_ref().map_or("it has no check", |judged| judged.reason.as_str());
                format!("{service} on {attachment} is serving: {reason}")
            }
            Due::Found(found) => {
                let word = health(found);
                agent.metrics.health_changes.with_label_values(&[word]).inc();
                let running = self.running(&step.replica).map_or("", |running| running.reason.as_str());
                let reason = against.map_or(running, |judged| judged.reason.as_str());
                format!("{service} on {attachment} is {word}: {reason}")
            }
        };
        let origin = match step.due {
            _ if against.is_some() => "engine",
            Due::Found(_) => "check",
            Due::Withdrawn | Due::Unchecked => "agent",
        };
        agent.events.record("replica", line, origin);
    }

    /// What is to be settled again; checks that ended by themselves are looked at, too.
    fn retry(&mut self) -> BTreeSet<Replica> {
        let ended = |running: &BTreeMap<Name, Running>| running.values().any(|it| it.task.is_finished());
        let ended = self.running.iter().filter(|(_, running)| ended(running));
        self.waiting.extend(ended.map(|(service, _)| service.clone()));
        std::mem::take(&mut self.unwritten)
    }
}

/// Of no scope that rounds of the converge loop replace, and hindering nobody: facts are in force without it.
fn object(((network, service), attachment): &Replica) -> String {
    format!("replica/{network}/{service}/{attachment}")
}

impl Running {
    /// Ends the check if it is not the one that is wanted.
    fn unless(self, other: impl FnOnce(&Self) -> bool) -> Option<Self> {
        if other(&self) {
            self.task.abort();
            return None;
        }
        Some(self)
    }
}

impl Step {
    fn write(&self) -> (Key, Option<Value>) {
        let becomes = match self.due {
            Due::Withdrawn => None,
            Due::Unchecked => Some(Health::Serving),
            Due::Found(found) => Some(found),
        };
        let fact = becomes.map(|health| Value::Replica(ReplicaFact { health, ..self.before.clone() }));
        (self.key.clone(), fact)
    }
}
