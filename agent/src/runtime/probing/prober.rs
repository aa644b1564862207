//! Sends trials at their time, reads what they came to, and says what fails.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::conntrack::Tuple;

use super::line::{Line, opening};
use super::{TICK, Target};
use crate::netns::{Namespace, Opening};
use crate::probing::{Judge, Outcome, Trial, words};
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::spaces::Opened;

/// Between two trials of one attachment.
const INTERVAL: Duration = Duration::from_millis(1_500);
/// The same while the last one spoke against what was found. Three of them take longer than to load a firewall anew.
const INTERVAL_IN_DOUBT: Duration = Duration::from_millis(500);
/// What has not come back by then is lost. It goes through this host's memory only.
const PATIENCE: Duration = Duration::from_millis(500);
/// Trials sent in one turn: with 1,000 attachments each has its own every 1.5 s still.
const TRIALS_MAX: usize = 150;
/// New attachments begin spread over an interval, in so many parts.
const PARTS: u32 = 20;
/// Tables of others that are named.
const NAMED_MAX: usize = 6;

/// Tries what is in force in namespaces.
pub(super) struct Prober {
    agent: Arc<Agent>,
    attachments: BTreeMap<String, Attachment>,
    targets: Arc<Vec<Arc<Target>>>,
    /// Counts what was sent; where it begins nobody can guess.
    number: u64,
    /// Counts attachments, to spread them.
    begun: u32,
    /// When the next turn is to be.
    expected: Instant,
}

/// One attachment, and how it fares.
struct Attachment {
    target: Arc<Target>,
    due: Instant,
    judges: Vec<Judge>,
    found: Vec<Option<Found>>,
    /// On their way.
    lines: Vec<Line>,
    deadline: Instant,
    began: Instant,
}

/// Why something fails.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    outcome: Outcome,
    direct: Option<Outcome>,
    words: String,
}

impl Prober {
    pub(super) fn new(agent: Arc<Agent>) -> Self {
        Self {
            agent,
            attachments: BTreeMap::new(),
            targets: Arc::default(),
            number: rand::random(),
            begun: 0,
            expected: Instant::now(),
        }
    }

    /// What is to be tried from now on. What is not any more is let go of.
    pub(super) fn follow(&mut self, targets: &Arc<Vec<Arc<Target>>>, now: Instant) {
        if Arc::ptr_eq(targets, &self.targets) {
            return;
        }
        self.targets = Arc::clone(targets);
        let mut before = std::mem::take(&mut self.attachments);
        for target in targets.iter() {
            let kept = before.remove(&target.object).filter(|kept| kept.target == *target);
            let attachment = kept.unwrap_or_else(|| {
                self.begun = self.begun.wrapping_add(1);
                Attachment::new(Arc::clone(target), now + INTERVAL / PARTS * (self.begun % PARTS))
            });
            self.attachments.insert(target.object.clone(), attachment);
        }
        self.tell();
    }

    /// What has come in, then what is due; it never waits. When the next turn is to be, if anything is to be tried.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Instant> {
        // This process was stopped, or had no processor: then the resolver had none either, and nothing is late.
        let late = now.saturating_duration_since(self.expected);
        let mut turned = false;
        for attachment in self.attachments.values_mut().filter(|it| !it.lines.is_empty()) {
            attachment.deadline += late;
            turned |= attachment.conclude(&self.agent, now);
        }
        self.send(now);
        if turned {
            self.tell();
        }
        let next = self.attachments.values().map(|it| if it.lines.is_empty() { it.due } else { now }).min();
        let next = next.map(|next| next.max(now + TICK));
        self.expected = next.unwrap_or(now + TICK);
        next
    }

    /// Begins the trials that are due.
    fn send(&mut self, now: Instant) {
        let mut due: Vec<&mut Attachment> =
            self.attachments.values_mut().filter(|it| it.lines.is_empty() && it.due <= now).collect();
        due.sort_by_key(|attachment| attachment.due);
        let mut wanted: Vec<(Namespace, Opening)> = Vec::new();
        let mut begun: Vec<(&mut Attachment, Vec<(usize, bool)>)> = Vec::new();
        for attachment in due {
            if wanted.len() >= TRIALS_MAX {
                break;
            }
            let opened = lock(&self.agent.namespaces).get(&attachment.target.cookie).cloned();
            attachment.began = now;
            attachment.due = now + INTERVAL;
            // Else it is being closed.
            let Some(Opened { namespace, .. }) = opened else { continue };
            let plan = attachment.plan();
            let openings =
                plan.iter().map(|(place, direct)| opening(&attachment.target.trials[*place], *direct));
            wanted.extend(openings.map(|opening| (namespace.clone(), opening)));
            begun.push((attachment, plan));
        }
        if wanted.is_empty() {
            return;
        }
        let sockets = match Namespace::open_trials(&wanted) {
            Ok(sockets) => sockets,
            Err(error) => return tracing::warn!("nothing can be tried: {}", chain(&error)),
        };
        let mut sockets = sockets.into_iter();
        for (attachment, plan) in begun {
            attachment.deadline = now + PATIENCE;
            for ((place, direct), socket) in plan.into_iter().zip(sockets.by_ref()) {
                self.number = self.number.wrapping_add(1);
                let trial = &attachment.target.trials[place];
                attachment.lines.push(Line::begin(trial, place, direct, socket, self.number));
            }
            attachment.receive(&self.agent);
        }
    }

    /// Makes problems of what fails, and ends those that are over.
    fn tell(&self) {
        let problems = self.attachments.values().filter_map(|attachment| {
            let found: Vec<&str> = attachment.found.iter().flatten().map(|it| it.words.as_str()).collect();
            (!found.is_empty()).then(|| (attachment.target.object.clone(), found.join("; ")))
        });
        self.agent.report("probe/", problems.collect());
        for (word, names) in [("names", true), ("vips", false)] {
            let failing = self.attachments.values().filter(|attachment| {
                let found = attachment.target.trials.iter().zip(&attachment.found);
                found.into_iter().any(|(trial, found)| found.is_some() && is_names(trial) == names)
            });
            let count = i64::try_from(failing.count()).unwrap_or(i64::MAX);
            self.agent.metrics.probes_failing.with_label_values(&[word]).set(count);
        }
    }
}

impl Attachment {
    fn new(target: Arc<Target>, due: Instant) -> Self {
        let trials = target.trials.len();
        Self {
            target,
            due,
            judges: vec![Judge::default(); trials],
            found: (0..trials).map(|_| None).collect(),
            lines: Vec::new(),
            deadline: due,
            began: due,
        }
    }

    /// What is sent: each trial, and beside one that is in doubt or fails the same straight to its end.
    fn plan(&self) -> Vec<(usize, bool)> {
        let lines = self.judges.iter().enumerate().flat_map(|(place, judge)| {
            let direct = judge.is_in_doubt() || judge.is_failing();
            [Some((place, false)), direct.then_some((place, true))]
        });
        lines.flatten().collect()
    }

    /// Judges what was sent once all of it has come to something or its time is over. Whether anything fails now, works
    /// again, or fails in another way.
    fn conclude(&mut self, agent: &Agent, now: Instant) -> bool {
        self.receive(agent);
        if now < self.deadline && self.lines.iter().any(|line| line.outcome.is_none()) {
            return false;
        }
        let mut lines = std::mem::take(&mut self.lines);
        self.untrack(agent, lines.iter_mut().filter_map(|line| line.flow.take()));
        let outcome = |place, direct| {
            let line = lines.iter().find(|line| (line.place, line.direct) == (place, direct))?;
            Some(line.outcome.clone().unwrap_or(Outcome::Unanswered))
        };
        let mut turned = false;
        for place in 0..self.judges.len() {
            let Some(plain) = outcome(place, false) else { continue };
            turned |= self.judge(agent, place, plain, outcome(place, true));
        }
        if self.judges.iter().any(Judge::is_in_doubt) {
            self.due = self.began + INTERVAL_IN_DOUBT;
        }
        turned
    }

    /// Reads what has come in. What was sent to a VIP is back before it is asked for, nearly always.
    fn receive(&mut self, agent: &Agent) {
        let mut lines = std::mem::take(&mut self.lines);
        for line in &mut lines {
            line.receive(&self.target.trials[line.place]);
        }
        let answered = lines.iter_mut().filter(|line| line.outcome.is_some());
        self.untrack(agent, answered.filter_map(|line| line.flow.take()));
        self.lines = lines;
    }

    /// A trial's flow would be tracked for half a minute, in which twenty more come; and to find the stale flows of a
    /// namespace takes long unless it tracks none.
    fn untrack(&self, agent: &Agent, flows: impl Iterator<Item = Tuple>) {
        let mut flows = flows.peekable();
        if flows.peek().is_none() {
            return;
        }
        let Some(opened) = lock(&agent.namespaces).get(&self.target.cookie).cloned() else { return };
        // Busy with something that takes long: one more flow does no harm.
        let Ok(mut balancer) = opened.balancer.try_lock() else { return };
        for flow in flows {
            if let Err(error) = balancer.kernel().delete_flow(flow) {
                tracing::debug!("the flow of a trial stays: {}", chain(&error));
            }
        }
    }

    fn judge(&mut self, agent: &Agent, place: usize, plain: Outcome, direct: Option<Outcome>) -> bool {
        let trial = &self.target.trials[place];
        let judged = if is_names(trial) { plain } else { plain.beside(direct.as_ref()) };
        agent.metrics.probes.with_label_values(&[judged.word()]).inc();
        let judge = &mut self.judges[place];
        let turned = judge.note(&judged);
        let found = &mut self.found[place];
        if !judge.is_failing() {
            *found = None;
            return turned;
        }
        let same = |found: &Found| (&found.outcome, &found.direct) == (&judged, &direct);
        let fails = !matches!(judged, Outcome::Passed | Outcome::Unjudged);
        if !fails || found.as_ref().is_some_and(same) {
            return turned;
        }
        let strangers = strangers(agent, self.target.cookie);
        let words = words(trial, &judged, direct.as_ref(), strangers.as_deref());
        *found = Some(Found { outcome: judged, direct, words });
        true
    }
}

fn is_names(trial: &Trial) -> bool {
    matches!(trial, Trial::Names { .. })
}

/// Who else has rules in a namespace, if that can be told: whoever looks after the problem begins there.
fn strangers(agent: &Agent, cookie: u64) -> Option<Vec<String>> {
    let namespace = lock(&agent.namespaces).get(&cookie)?.namespace.clone();
    let mut socket = namespace.run(netfilter::Socket::open).ok()?.ok()?;
    let tables = socket.tables().ok()?;
    let ours = |name: &str| [lb::TABLE_NAME, lb::untracked::TABLE_NAME, overlay::TABLE].contains(&name);
    let others = tables.iter().filter(|table| !ours(&table.name));
    let mut named: Vec<String> =
        others.map(|table| format!("{} {}", table.family.name(), table.name)).collect();
    if namespace.legacy_tables().is_ok_and(|legacy| legacy.present()) {
        named.push("the older iptables".to_owned());
    }
    if named.len() > NAMED_MAX {
        let more = named.len() - NAMED_MAX;
        named.truncate(NAMED_MAX);
        named.push(format!("{more} more"));
    }
    Some(named)
}
