//! Row P48: what two clusters say that came about apart, with the same names, node numbers, VNIs, subnets and addresses,
//! is mixed in every way. No host does that, as none takes facts of another cluster; but whatever comes together, hosts
//! that have heard the same want the same, and no more is kept than was said.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::begin;
use super::cluster::{Cluster, Sabotage};
use super::invariants::{HELD_MAX, views_differ};
use super::random::Random;
use crate::catalog::facts::ClaimKey;
use crate::catalog::tests::world::{assert_indexed, live};
use crate::catalog::{Catalog, Update};
use crate::model::{Head, NodeId};
use crate::runtime::claiming::{Books, Saved, steps};
use crate::runtime::state::State;
use crate::view::View;

const PAIRS: u64 = 20;
const WAYS: u64 = 50;
/// In one of so many ways hosts exchange facts as agents do, which is dearer; in all of them in a nightly run.
const HOSTS_EVERY: u64 = 5;
/// Random exchanges between hosts before they come to an end together.
const EXCHANGES: usize = 60;
/// Rounds in which every host asks every other; more would mean that what follows from a merge never ends.
const ROUNDS_MAX: usize = 6;
/// Readers of a merge: one that knew nothing, one of each cluster.
const READERS: usize = 3;
/// A host of neither cluster looks at what is wanted.
const OUTSIDER: NodeId = NodeId(u64::MAX);

/// A host in the middle of its life: what it knew, and its claims and promises.
struct Donor {
    node: NodeId,
    catalog: Catalog,
    books: String,
}

/// The hosts of a cluster some time into its troubles.
fn donors(seed: u64) -> Vec<Donor> {
    let cluster = Cluster::new(seed, Sabotage::None, false);
    let chaos_ms = begin(&cluster, seed);
    cluster.clock.run_until(chaos_ms * 3 / 4);
    let donor = |host: &std::cell::RefCell<super::host::Host>| {
        let host = host.borrow();
        let catalog = host.state()?.catalog.clone();
        let books = host.disk.meta::<serde_json::Value>("claims").unwrap_or_default().to_string();
        Some(Donor { node: host.node, catalog, books })
    };
    let donors = cluster.hosts.iter().filter_map(donor).collect();
    cluster.clock.clear();
    donors
}

/// Part of what a host knows of others, or all of it, as it may be on its way.
fn some_of(random: &mut Random, catalog: &Catalog) -> Vec<Update> {
    let owners: Vec<NodeId> = catalog.owners().map(|(owner, _)| owner).collect();
    let mut updates = Vec::new();
    for owner in owners {
        let Head { incarnation, version } = catalog.head(owner);
        let from = match random.below(3) {
            0 => Head::default(),
            _ => Head { incarnation, version: random.between(0..version + 1) },
        };
        updates.extend(catalog.delta_since(owner, from));
    }
    updates
}

fn shuffle<T>(random: &mut Random, list: &mut [T]) {
    for at in (1..list.len()).rev() {
        list.swap(at, random.below(at + 1));
    }
}

/// What is left of removed hosts may differ, as nobody asks about them any more.
fn kept(catalog: &Catalog) -> Vec<String> {
    let all = live(catalog).into_iter().filter(|full| !catalog.is_removed(full.owner));
    all.map(|full| serde_json::to_string(&full).unwrap()).collect()
}

/// Readers who hear everything once or twice, in any order, in parts of which some are missing, and then ask.
fn read_in_some_way(random: &mut Random, donors: &[Donor]) -> Vec<Catalog> {
    let mut readers: Vec<Catalog> = [None, donors.first(), donors.last()]
        .map(|donor| donor.map(|it| it.catalog.clone()).unwrap_or_default())
        .into();
    assert_eq!(readers.len(), READERS);
    for reader in &mut readers {
        let mut heard: Vec<Update> =
            donors.iter().flat_map(|donor| some_of(random, &donor.catalog)).collect();
        let again: Vec<Update> = heard.iter().filter(|_| random.chance(30)).cloned().collect();
        heard.extend(again);
        shuffle(random, &mut heard);
        for update in heard.into_iter().filter(|_| random.chance(80)) {
            reader.apply_update(update);
        }
        let mut order: Vec<&Donor> = donors.iter().collect();
        shuffle(random, &mut order);
        for donor in order {
            pull(&donor.catalog, &reader.heads(), |update| drop(reader.apply_update(update)));
        }
    }
    readers
}

/// What one who has come so far lacks of what another knows.
fn pull(from: &Catalog, heads: &BTreeMap<NodeId, Head>, mut take: impl FnMut(Update)) {
    for (owner, _) in from.owners() {
        let have = heads.get(&owner).copied().unwrap_or_default();
        if let Some(update) = from.delta_since(owner, have) {
            take(update);
        }
    }
}

/// Hosts as agents are, which assert what they use: each exchanges facts with any other, then with all, until nobody
/// lacks anything.
struct Hosts(Vec<(NodeId, State)>);

impl Hosts {
    fn begin(donors: &[Donor]) -> Self {
        let now = Instant::now();
        let host = |donor: &Donor| {
            let books =
                Books::of(serde_json::from_str::<Saved>(&donor.books).unwrap_or_default(), donor.node);
            let mut catalog = donor.catalog.clone();
            catalog.restart(donor.node, catalog.head(donor.node).incarnation + 1);
            let mut state = State::new(catalog, books, donor.node);
            state.view = View::build(&state.catalog, &state.suspended, donor.node);
            state.reassert_all(donor.node, now, &mut |_| Ok(())).unwrap();
            (donor.node, state)
        };
        Self(donors.iter().map(host).collect())
    }

    fn exchange(&mut self, to: usize, from: usize, taken: impl Fn(&mut Vec<Update>)) {
        let mut updates = Vec::new();
        let heads = self.0[to].1.catalog.heads();
        pull(&self.0[from].1.catalog, &heads, |update| updates.push(update));
        taken(&mut updates);
        let (node, state) = &mut self.0[to];
        for update in updates {
            state.receive(*node, Instant::now(), update, &mut |_| Ok(()));
        }
    }

    fn mix(&mut self, random: &mut Random) {
        for _ in 0..EXCHANGES {
            let (to, from) = (random.below(self.0.len()), random.below(self.0.len()));
            let (first, twice) = (random.below(4), random.chance(30));
            self.exchange(to, from, |updates| {
                let skipped = first.min(updates.len());
                updates.rotate_left(skipped);
                updates.truncate(1 + first);
                if twice {
                    updates.extend(updates.clone());
                }
            });
        }
        let all = self.0.len();
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "there is always something new");
            let before: Vec<_> = self.0.iter().map(|(_, state)| state.catalog.heads()).collect();
            for to in 0..all {
                (0..all).filter(|from| *from != to).for_each(|from| self.exchange(to, from, |_| {}));
            }
            if self.0.iter().map(|(_, state)| state.catalog.heads()).eq(before) {
                return;
            }
        }
    }

    /// What is dear to compare is compared on one host of each way.
    fn check(&mut self, random: &mut Random) {
        let looked_at = random.below(self.0.len());
        for (at, (node, state)) in self.0.iter_mut().enumerate() {
            if at == looked_at {
                assert_indexed(&state.catalog);
                assert_eq!(state.view, View::build(&state.catalog, &state.suspended, *node));
            }
            // Numbers that two have are one number here: the count is never above what either cluster gave out.
            let counted = steps::current_view(state, &ClaimKey::Vni { vni: 4_096 });
            let numbers: BTreeSet<u32> = state.catalog.hosts().map(|(_, host)| host.number).collect();
            assert!(
                counted.len() <= numbers.len() + state.books.promises.pending().count() + 1,
                "{counted:?}"
            );
            let held = state.catalog.owners().map(|(_, owner)| owner.len()).max().unwrap_or(0);
            assert!(held <= HELD_MAX, "{held} entries of one owner");
        }
        let (_, first) = &self.0[0];
        for (at, (_, state)) in self.0.iter().enumerate().skip(1) {
            let heads = |catalog: &Catalog| {
                let heads = catalog.heads().into_iter();
                heads.filter(|(owner, _)| !catalog.is_removed(*owner)).collect::<Vec<_>>()
            };
            assert_eq!(heads(&state.catalog), heads(&first.catalog), "hosts 0 and {at}");
            if at == looked_at {
                assert_eq!(kept(&state.catalog), kept(&first.catalog), "hosts 0 and {at}");
            }
            assert_eq!(views_differ(0, &first.view, at, &state.view, true), Vec::<String>::new());
        }
    }
}

fn merge_two(pair: u64) -> (usize, usize) {
    let mut both = donors(pair * 2 + 1);
    let of_one = both.len();
    both.extend(donors(pair * 2 + 2));
    assert!(of_one > 0 && both.len() > of_one, "nobody lives");
    let nodes: BTreeSet<NodeId> = both.iter().map(|donor| donor.node).collect();
    assert_eq!(nodes.len(), both.len(), "node ids are drawn");
    let mut whole = Catalog::default();
    both.iter().for_each(|donor| drop(whole.merge(&donor.catalog)));
    let (wanted, view) = (kept(&whole), View::build(&whole, &BTreeSet::new(), OUTSIDER));
    let mut random = Random::new(pair);
    let nightly = std::env::var_os("NIGHTLY").is_some_and(|value| value == "1");
    for way in 0..WAYS {
        for (at, reader) in read_in_some_way(&mut random, &both).iter().enumerate() {
            assert_indexed(reader);
            assert_eq!(kept(reader), wanted, "pair {pair}, way {way}, reader {at}");
            assert_eq!(View::build(reader, &BTreeSet::new(), OUTSIDER), view, "pair {pair}, way {way}");
        }
        if way % HOSTS_EVERY == 0 || nightly {
            let mut hosts = Hosts::begin(&both);
            hosts.mix(&mut random);
            hosts.check(&mut random);
        }
    }
    (view.networks().len(), view.conflicts().count())
}

#[test]
fn p48_two_clusters_merged_in_1000_ways_are_alike_everywhere() {
    let next = std::sync::atomic::AtomicU64::new(0);
    let found = std::thread::scope(|scope| {
        let work = || {
            let (mut networks, mut conflicts) = (0, 0);
            loop {
                let pair = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if pair >= PAIRS {
                    return (networks, conflicts);
                }
                let found = merge_two(pair);
                networks += found.0;
                conflicts += found.1;
            }
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|it| it.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    });
    println!("{} ways; {} networks, {} conflicts between what was merged", PAIRS * WAYS, found.0, found.1);
    assert!(found.0 > 40 && found.1 > 20, "they had nothing in common: {found:?}");
}
