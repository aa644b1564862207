//! Hosts that lose, repeat and reorder what they are told still end up alike.
use proptest::prelude::*;

use super::world::{HOSTS, OWNERS, Write, assert_indexed, batch, live, node};
use crate::catalog::{Catalog, Delta, TOMBSTONE_AGE_MS};

#[derive(Clone, Debug)]
enum Step {
    /// An owner writes; the bits say which hosts get the delta at once.
    Write { host: usize, batch: Vec<Write>, reach: u8 },
    /// An owner starts again with what it had.
    Restart { host: usize },
    /// A delta of before arrives, perhaps again.
    Late { host: usize, delta: prop::sample::Index },
    /// A host asks another for what it lacks.
    Pull { host: usize, from: usize },
    /// A host forgets its tombstones.
    Forget { host: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS;
    prop_oneof![
        6 => (host(), batch(), any::<u8>()).prop_map(|(host, batch, reach)| Step::Write { host, batch, reach }),
        1 => host().prop_map(|host| Step::Restart { host }),
        3 => (host(), any::<prop::sample::Index>()).prop_map(|(host, delta)| Step::Late { host, delta }),
        3 => (host(), host()).prop_map(|(host, from)| Step::Pull { host, from }),
        1 => host().prop_map(|host| Step::Forget { host }),
    ]
}

struct Cluster {
    hosts: Vec<Catalog>,
    sent: Vec<Delta>,
    now_ms: u64,
}

impl Cluster {
    fn new() -> Self {
        let mut hosts = vec![Catalog::default(); HOSTS];
        for (host, catalog) in hosts.iter_mut().enumerate() {
            catalog.restart(node(host as u64 + 1), 1);
        }
        Self { hosts, sent: Vec::new(), now_ms: 0 }
    }

    fn pull(&mut self, host: usize, from: usize) {
        let heads = self.hosts[from].heads();
        for owner in self.hosts[host].behind(&heads) {
            let have = self.hosts[host].head(owner);
            let update = self.hosts[from].delta_since(owner, have).expect("somebody has more");
            self.hosts[host].apply_update(update);
            assert!(self.hosts[host].head(owner) >= heads[&owner]);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { host, batch, reach } => {
                let (delta, _) = self.hosts[host].write(node(host as u64 + 1), batch).unwrap();
                for (other, catalog) in self.hosts.iter_mut().enumerate() {
                    if reach & (1 << other) != 0 {
                        catalog.apply(delta.clone());
                    }
                }
                self.sent.push(delta);
            }
            Step::Restart { host } => {
                let owner = node(host as u64 + 1);
                let incarnation = self.hosts[host].head(owner).incarnation + 1;
                let json = serde_json::to_vec(&self.hosts[host]).unwrap();
                self.hosts[host] = serde_json::from_slice(&json).unwrap();
                self.hosts[host].restart(owner, incarnation);
            }
            Step::Late { host, delta } if !self.sent.is_empty() => {
                self.hosts[host].apply(delta.get(&self.sent).clone());
            }
            Step::Late { .. } => {}
            Step::Pull { host, from } => self.pull(host, from),
            Step::Forget { host } => {
                self.hosts[host].forget_tombstones(self.now_ms);
                self.now_ms += TOMBSTONE_AGE_MS;
                self.hosts[host].forget_tombstones(self.now_ms);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hosts_converge(steps in prop::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
        }
        cluster.hosts.iter().for_each(assert_indexed);
        // A removed node is not asked about any more, so what is left of it may differ.
        let removed: Vec<bool> = (1..=OWNERS).map(|id| cluster.hosts.iter().any(|it| it.is_removed(node(id)))).collect();
        for _ in 0..2 {
            for host in 0..HOSTS {
                for from in 0..HOSTS {
                    cluster.pull(host, from);
                }
            }
        }
        for (index, gone) in removed.into_iter().enumerate() {
            let owner = node(index as u64 + 1);
            let of = |catalog: &Catalog| live(catalog).into_iter().find(|full| full.owner == owner);
            let truth = of(&cluster.hosts[index]);
            for catalog in cluster.hosts.iter().filter(|_| !gone) {
                prop_assert_eq!(of(catalog), truth.clone());
            }
        }
        cluster.hosts.iter().for_each(assert_indexed);
    }
}
