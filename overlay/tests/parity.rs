//! The kernel in memory against the real one: the same wishes and disturbances, the same state after each step.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
mod common;
#[path = "common/harm.rs"]
mod harm;
#[path = "common/refusals.rs"]
mod refusals;
#[path = "common/states.rs"]
mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use common::seen::{self, normal};
use common::{Machine, block_on, has_kernel, machine};
use overlay::{
    Desired, FakeKernel, Kernel, KernelError, LinuxKernel, Look, Observed, Op, Phase, Reconciler, Space,
    network_port, plan,
};
use proptest::prelude::*;

/// Sequences in one run: each takes 0.2 to 0.5 s.
fn sequences() -> u32 {
    if std::env::var_os("NIGHTLY").is_some_and(|value| value == "1") { 400 } else { 24 }
}

/// What somebody does before a call.
#[derive(Clone, Debug)]
enum Step {
    Harm(u8, u16),
    /// The agent ends, and another begins.
    Restart,
    /// Only the first half of the call is made.
    Half,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..harm::KINDS, any::<u16>()).prop_map(|(kind, pick)| Step::Harm(kind, pick)),
        1 => Just(Step::Restart),
        1 => Just(Step::Half),
    ];
    prop::collection::vec(step, 0..6)
}

/// A kernel that notes what it was asked and what it answered.
struct Noted<K> {
    inner: Arc<K>,
    log: Mutex<Vec<String>>,
}

impl<K: Machine> Noted<K> {
    fn new() -> Self {
        Self { inner: machine(states::spaces()), log: Mutex::default() }
    }

    /// What was answered since the last call; in order of text, because many requests are in flight at once.
    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.log.lock().unwrap()).into_iter().collect()
    }
}

#[async_trait::async_trait]
impl<K: Kernel> Kernel for Noted<K> {
    fn spaces(&self) -> Vec<Space> {
        self.inner.spaces()
    }

    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError> {
        self.inner.observe(space, look).await
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        let outcome = self.inner.apply(space, op).await;
        let errno = outcome.as_ref().err().map(|error| error.errno());
        // Of the host's links the kernel in memory has no settings, see `normal`.
        if *space == Space::Host && matches!(op, Op::SetSysctl { key, .. } if key.ends_with("/accept_ra")) {
            return outcome;
        }
        self.log.lock().unwrap().push(format!("{op} in {space}: {errno:?}"));
        outcome
    }
}

/// Two kernels, each with a reconciler.
struct Pair {
    fake: Arc<Noted<FakeKernel>>,
    real: Arc<Noted<LinuxKernel>>,
    of_fake: Reconciler<Arc<Noted<FakeKernel>>>,
    of_real: Reconciler<Arc<Noted<LinuxKernel>>>,
}

impl Pair {
    fn new() -> Self {
        let (fake, real) = (Arc::new(Noted::new()), Arc::new(Noted::new()));
        let (of_fake, of_real) = (Reconciler::new(Arc::clone(&fake)), Reconciler::new(Arc::clone(&real)));
        Self { fake, real, of_fake, of_real }
    }

    fn restart(&mut self) {
        self.of_fake = Reconciler::new(Arc::clone(&self.fake));
        self.of_real = Reconciler::new(Arc::clone(&self.real));
    }

    /// Does one thing to both. What they answer is compared with what they hold.
    async fn apply(&self, space: &Space, op: &Op) {
        let _ = (self.fake.apply(space, op).await, self.real.apply(space, op).await);
        self.compare(&format!("{op:?} in {space}")).await;
    }

    /// Both have given the same answers and hold the same.
    async fn compare(&self, after: &str) {
        let (fake, real) = (self.fake.take(), self.real.take());
        agree(&format!("{after}: answers"), &fake, &real);
        let fake = settled(seen::all(&self.fake).await);
        let real = settled(seen::all(&self.real).await);
        let (of_fake, of_real) = (seen::lines(&fake), seen::lines(&real));
        agree(after, &of_fake, &of_real);
        for (space, fake) in &fake {
            assert_eq!(fake, &real[space], "after {after}: the fake's and the kernel's {space}");
        }
    }

    /// One phase on both; they report the same.
    async fn phase(&mut self, desired: &Desired, phase: Phase) {
        self.of_fake.reconcile(desired, phase).await;
        self.of_real.reconcile(desired, phase).await;
        self.compare(&format!("{phase:?}")).await;
    }

    /// Reads all again and repairs it: then both are as wanted, and a second look finds nothing to do.
    async fn repair(&mut self, desired: &Desired) {
        self.of_fake.verify(desired).await;
        assert_eq!(self.of_real.verify(desired).await.problems, []);
        self.compare("a repair").await;
        let (fake, real) = (seen::all(&self.fake).await, seen::all(&self.real).await);
        for (kernel, world) in [("fake", fake), ("kernel", real)] {
            let second = plan(desired, &world);
            assert_eq!((second.additions, second.removals), (vec![], vec![]), "the second plan, {kernel}");
        }
    }
}

/// Without what a bridge learnt: a port that was disturbed learns from whatever a container's link says by itself
/// (neighbour discovery, multicast listeners), of which the kernel in memory knows nothing.
fn settled(all: BTreeMap<Space, Observed>) -> BTreeMap<Space, Observed> {
    let mut all = normal(all);
    for observed in all.values_mut() {
        observed.forwarding.retain(|_, (_, fixed)| *fixed);
    }
    all
}

fn agree(after: &str, fake: &BTreeSet<String>, real: &BTreeSet<String>) {
    let only_fake: Vec<&String> = fake.difference(real).collect();
    let only_real: Vec<&String> = real.difference(fake).collect();
    assert!(
        only_fake.is_empty() && only_real.is_empty(),
        "after {after}\nonly of the fake: {only_fake:#?}\nonly of the kernel: {only_real:#?}"
    );
}

async fn play(history: &[(Desired, Vec<Step>)]) {
    let mut pair = Pair::new();
    pair.compare("the start").await;
    for (desired, steps) in history {
        for step in steps {
            match step {
                Step::Harm(kind, pick) => {
                    let chosen = harm::choose(&pair.fake.inner.world(), *kind, *pick);
                    if let Some((space, op)) = chosen {
                        pair.apply(&space, &op).await;
                    }
                }
                Step::Restart => pair.restart(),
                Step::Half => pair.phase(desired, Phase::Additions).await,
            }
        }
        pair.of_fake.invalidate();
        pair.of_real.invalidate();
        pair.phase(desired, Phase::Additions).await;
        pair.phase(desired, Phase::Removals).await;
        pair.repair(desired).await;
    }
    let fake = pair.of_fake.teardown_all(&BTreeMap::new()).await;
    let real = pair.of_real.teardown_all(&BTreeMap::new()).await;
    assert_eq!((fake.problems, &fake.removed), (real.problems, &real.removed));
    pair.compare("the teardown").await;
}

#[test]
fn the_fake_refuses_what_the_kernel_refuses() {
    if !has_kernel("the_fake_refuses_what_the_kernel_refuses") {
        return;
    }
    block_on(async {
        let (desired, known) = states::coral();
        let coral = Space::Network("coral".to_owned());
        let port = network_port("web");
        let mut pair = Pair::new();
        let container = Space::Container(11);
        pair.repair(&desired).await;
        let of_links = refusals::of_links(&coral, &container, &port);
        let of_entries = refusals::of_entries(&coral, &container, &port, known);
        for (space, op) in of_links.iter().chain(&of_entries) {
            pair.apply(space, op).await;
        }
        pair.repair(&desired).await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: sequences(),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_fake_does_what_the_kernel_does(
        history in prop::collection::vec((states::desired().prop_filter("sane", states::sane), steps()), 1..4),
    ) {
        if has_kernel("the_fake_does_what_the_kernel_does") {
            block_on(play(&history));
        }
    }
}
