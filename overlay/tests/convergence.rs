//! Whatever was wanted before, whatever failed: the end is what a fresh build gives.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
#[path = "common/states.rs"]
mod states;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use overlay::{Desired, FakeKernel, FaultyKernel, Kernel, Mac, Observed, Op, Phase, Reconciler, Space, plan};
use proptest::prelude::*;

use states::{NETWORKS, desired, network, sane, spaces};

fn fake() -> FakeKernel {
    let kernel = FakeKernel::new();
    spaces().into_iter().for_each(|space| kernel.insert(space));
    kernel
}

async fn both_phases<K: Kernel>(reconciler: &mut Reconciler<K>, desired: &Desired) -> (usize, usize) {
    let added = reconciler.reconcile(desired, Phase::Additions).await;
    let removed = reconciler.reconcile(desired, Phase::Removals).await;
    (added.operations + removed.operations, added.problems.len() + removed.problems.len())
}

/// What must not depend on history: without indexes, with container links by their tag, without what stays
/// behind on purpose (loopback up, the host's forwarding, namespaces that the agent drops).
fn essence(kernel: &FakeKernel, desired: &Desired) -> BTreeMap<Space, Observed> {
    let mut all = kernel.world().spaces.clone();
    all.retain(|space, _| match space {
        Space::Network(name) => desired.networks.contains_key(name),
        Space::Paths => desired.paths.is_some(),
        _ => true,
    });
    for (space, observed) in &mut all {
        observed.former.clear();
        observed.links.remove("lo");
        observed.addresses.retain(|(link, _)| link != "lo");
        if *space == Space::Host {
            observed.sysctls.clear();
        }
        let names: BTreeMap<String, String> = observed
            .links
            .iter()
            .filter(|_| matches!(space, Space::Container(_)))
            .map(|(name, link)| (name.clone(), link.alias.clone().unwrap_or_else(|| name.clone())))
            .collect();
        let new = |name: &String| names.get(name).unwrap_or(name).clone();
        observed.links = std::mem::take(&mut observed.links)
            .into_iter()
            .map(|(name, mut link)| {
                (link.index, link.peer_index) = (0, link.peer_index.map(|_| 0));
                (new(&name), link)
            })
            .collect();
        observed.addresses = std::mem::take(&mut observed.addresses)
            .into_iter()
            .map(|(name, address)| (new(&name), address))
            .collect();
        observed.routes = std::mem::take(&mut observed.routes)
            .into_iter()
            .map(|mut route| {
                route.link = route.link.as_ref().map(&new);
                route
            })
            .collect();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_in_a_fresh_build(
        history in prop::collection::vec(desired().prop_filter("sane", sane), 1..5),
        seed in any::<u64>(),
        restarts in any::<u8>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let kernel = Arc::new(FaultyKernel::new(fake(), seed, 100));
            let mut reconciler = Reconciler::new(Arc::clone(&kernel));
            for (step, desired) in history.iter().enumerate() {
                kernel.set_rate(100);
                for _ in 0..3 {
                    both_phases(&mut reconciler, desired).await;
                }
                if restarts & (1 << (step % 8)) != 0 {
                    reconciler = Reconciler::new(Arc::clone(&kernel));
                }
                kernel.set_rate(0);
                // Some steps are finished, so that the next begins from what is known; others are left half-done.
                for _ in 0..step % 4 {
                    both_phases(&mut reconciler, desired).await;
                }
                if step % 3 == 1 {
                    kernel.set_rate(0);
                    let again = &history[history.len() - 1 - step % history.len()];
                    reconciler.reconcile(again, Phase::Additions).await;
                }
            }
            let last = history.last().unwrap();
            for _ in 0..3 {
                both_phases(&mut reconciler, last).await;
            }
            assert_eq!(both_phases(&mut reconciler, last).await, (0, 0), "it goes on");
            assert_eq!(reconciler.verify(last).await.operations, 0, "the mirror was wrong");
            let fresh = Arc::new(fake());
            let mut builder = Reconciler::new(Arc::clone(&fresh));
            both_phases(&mut builder, last).await;
            assert_eq!(both_phases(&mut builder, last).await, (0, 0));
            assert_eq!(essence(kernel.inner(), last), essence(&fresh, last));
            let second = plan(last, &fresh.world().spaces);
            assert_eq!((second.additions, second.removals), (vec![], vec![]), "the second plan is empty");
        });
    }

    #[test]
    fn what_is_left_out_of_a_plan_was_right(
        history in prop::collection::vec(desired().prop_filter("sane", sane), 1..3),
        changes in prop::collection::vec((0..3_usize, network(0), 0..4_u8, any::<bool>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let kernel = Arc::new(fake());
            let mut reconciler = Reconciler::new(Arc::clone(&kernel));
            let mut wanted = history[0].clone();
            for (place, donor, what, interrupted) in changes {
                both_phases(&mut reconciler, &wanted).await;
                let Some(network) = wanted.networks.get_mut(NETWORKS[place]) else { continue };
                match what {
                    0 => network.remotes = donor.remotes,
                    1 => Arc::make_mut(&mut network.remotes).extend(donor.remotes.iter().cloned()),
                    2 => network.flood = donor.flood,
                    _ => {
                        Arc::make_mut(&mut network.attachments).pop_first();
                    }
                }
                if interrupted {
                    reconciler.reconcile(&wanted, Phase::Additions).await;
                    wanted = history.last().unwrap().clone();
                }
                // A VNI that a network gives up by vanishing is free once that has been removed.
                if both_phases(&mut reconciler, &wanted).await.1 > 0 {
                    assert_eq!(both_phases(&mut reconciler, &wanted).await.1, 0);
                }
                let after = plan(&wanted, &kernel.world().spaces);
                assert_eq!((after.additions, after.removals), (vec![], vec![]));
            }
        });
    }

    #[test]
    fn what_is_not_ours_is_never_touched(
        history in prop::collection::vec(desired().prop_filter("sane", sane), 1..4),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let kernel = Arc::new(FaultyKernel::new(fake(), seed, 50));
            let before = add_foreign(kernel.inner());
            let mut reconciler = Reconciler::new(Arc::clone(&kernel));
            for desired in &history {
                both_phases(&mut reconciler, desired).await;
                assert_eq!(foreign(kernel.inner()), before);
            }
            kernel.set_rate(0);
            let torn = reconciler.teardown_all(&BTreeMap::new()).await;
            assert_eq!(torn.problems, vec![]);
            assert_eq!(foreign(kernel.inner()), before);
            assert!(kernel.inner().world().spaces.values().all(|observed| observed.tables.is_empty()
                && observed.links.values().all(|link| !link.is_ours())));
        });
    }
}

const FOREIGN: &str = "docker0";

fn add_foreign(kernel: &FakeKernel) -> Vec<(Space, Observed)> {
    for space in spaces().into_iter().filter(|space| !matches!(space, Space::Network(_) | Space::Paths)) {
        let name = FOREIGN.to_owned();
        let route = overlay::Route {
            link: Some(name.clone()),
            six: false,
            metric: 500,
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1).into()),
            protocol: 3,
        };
        let ops = [
            Op::AddBridge { name: name.clone(), mac: Mac([6; 6]), mtu: 1500 },
            Op::SetAlias { name: name.clone(), alias: "somebody's bridge".to_owned() },
            Op::AddAddress { name: name.clone(), address: "172.17.0.2/16".parse().unwrap() },
            Op::SetUp { name },
            Op::SetRoute { route, replace: false },
        ];
        for op in ops {
            kernel.world().apply(&space, &op).unwrap();
        }
    }
    foreign(kernel)
}

fn foreign(kernel: &FakeKernel) -> Vec<(Space, Observed)> {
    let world = kernel.world();
    let all = world.spaces.iter().map(|(space, observed)| {
        let mut kept = Observed::default();
        kept.links
            .extend(observed.links.get_key_value(FOREIGN).map(|(name, link)| (name.clone(), link.clone())));
        kept.addresses.extend(observed.addresses.iter().filter(|(name, _)| name == FOREIGN).cloned());
        kept.routes.extend(observed.routes.iter().filter(|route| route.protocol == 3).cloned());
        (space.clone(), kept)
    });
    all.collect()
}
