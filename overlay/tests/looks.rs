//! What is looked at again, and what is taken to be known.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
#[path = "common/blue.rs"]
mod blue;

use std::collections::BTreeMap;
use std::sync::Arc;

use blue::{blue, vtep};
use netfilter::Family;
use overlay::{
    Attachment, DefaultRoute, Desired, FakeKernel, FaultyKernel, Look, Mac, Observed, Op, Phase, Reconciler,
    Remote, Space, network_port,
};

const CONTAINER: Space = Space::Container(7);
/// Another one that is there before.
const EARLIER: Space = Space::Container(3);

type Kernel = Arc<FaultyKernel<FakeKernel>>;

fn attachment(space: Space, last: u8) -> Attachment {
    Attachment {
        space,
        addresses: vec![format!("10.20.0.{last}/16").parse().unwrap()],
        mac: Mac([2, 0, 0, 0, 0, last]),
        default_route: DefaultRoute::IfNone,
        metric: 0,
        apart: false,
    }
}

fn desired() -> Desired {
    blue::with(attachment(CONTAINER, 10), Vec::new())
}

fn kernel() -> Kernel {
    let kernel = FakeKernel::new();
    [Space::Host, blue(), EARLIER, CONTAINER].into_iter().for_each(|space| kernel.insert(space));
    Arc::new(FaultyKernel::new(kernel, 1, 0))
}

fn change(kernel: &Kernel, space: &Space, how: impl FnOnce(&mut Observed)) {
    how(kernel.inner().world().spaces.get_mut(space).unwrap());
}

/// Operations that both phases took, none of which may fail.
async fn both(reconciler: &mut Reconciler<Kernel>, desired: &Desired) -> usize {
    let mut operations = 0;
    for phase in [Phase::Additions, Phase::Removals] {
        let report = reconciler.reconcile(desired, phase).await;
        assert_eq!(report.problems, []);
        operations += report.operations;
    }
    operations
}

/// With ports that have come and gone in the network's namespace, so that indexes are not the next free ones.
async fn churned(kernel: &Kernel) -> Reconciler<Kernel> {
    let mut reconciler = Reconciler::new(Arc::clone(kernel));
    let (with, mut without) = (desired(), desired());
    for network in without.networks.values_mut() {
        network.attachments = Arc::default();
    }
    let mut other = with.clone();
    for network in other.networks.values_mut() {
        network.attachments = BTreeMap::from([("old".to_owned(), attachment(EARLIER, 9))]).into();
    }
    for wanted in [&other, &without] {
        both(&mut reconciler, wanted).await;
    }
    // What the mirror knows of indexes is forgotten, not what the kernel knows.
    reconciler.invalidate();
    both(&mut reconciler, &without).await;
    assert!(both(&mut reconciler, &with).await > 0);
    reconciler
}

#[tokio::test]
async fn an_end_that_gets_another_name_is_known_by_its_alias() {
    let kernel = kernel();
    let mut reconciler = churned(&kernel).await;
    change(&kernel, &CONTAINER, |seen| {
        let link = seen.links.remove("eth0").unwrap();
        seen.links.insert("net0".to_owned(), link);
        let renamed = |name: &str| if name == "eth0" { "net0" } else { name }.to_owned();
        seen.addresses = seen.addresses.iter().map(|(on, address)| (renamed(on), *address)).collect();
        let of_it =
            |route: overlay::Route| overlay::Route { link: route.link.as_deref().map(renamed), ..route };
        seen.routes = std::mem::take(&mut seen.routes).into_iter().map(of_it).collect();
    });
    reconciler.look_again(&desired(), [(&CONTAINER, Look::Links)]);
    assert_eq!(both(&mut reconciler, &desired()).await, 0, "the link is well");
}

#[tokio::test]
async fn a_port_made_anew_is_fenced_whatever_was_known_of_its_fence() {
    let port = network_port("web");
    let chain = format!("port-{port}");
    // Each operation of the repair in turn is refused once.
    for refused in 0.. {
        let kernel = kernel();
        let mut reconciler = churned(&kernel).await;
        kernel.inner().world().apply(&CONTAINER, &Op::DeleteLink { name: "eth0".to_owned() }).unwrap();
        // As before kernel 6.16, and nothing tells of it.
        change(&kernel, &blue(), |seen| {
            seen.tables.get_mut(&Family::Netdev).unwrap().chains.remove(&chain).unwrap();
        });
        kernel.fail_at(refused, libc::ENOMEM, false);
        let looks = [blue(), CONTAINER];
        reconciler.look_again(&desired(), looks.iter().map(|space| (space, Look::Links)));
        for _ in 0..3 {
            for phase in [Phase::Additions, Phase::Removals] {
                reconciler.reconcile(&desired(), phase).await;
            }
        }
        if kernel.waits() {
            return;
        }
        let world = kernel.inner().world();
        let seen = &world.spaces[&blue()];
        assert!(seen.links[&port].up, "{refused}");
        assert!(seen.tables[&Family::Netdev].chains.contains_key(&chain), "unfenced after {refused}");
        assert_eq!(seen.ways.get(&Mac([2, 0, 0, 0, 0, 10])), Some(&port), "{refused}");
    }
}

#[tokio::test]
async fn only_what_differs_is_planned_for_and_only_while_all_is_known() {
    let kernel = kernel();
    let mut reconciler = churned(&kernel).await;
    let mut wanted = desired();
    let remote = |last| {
        let addresses = vec![format!("10.20.1.{last}").parse().unwrap()];
        Arc::new(Remote { mac: Mac([2, 0, 0, 0, 1, last]), addresses, vtep: vtep(2) })
    };
    wanted.networks.get_mut("blue").unwrap().remotes = Arc::new(vec![remote(1)]);
    assert_eq!(both(&mut reconciler, &wanted).await, 3, "tunnel, bridge and neighbour");
    // Somebody takes a route away; a remote comes before and after that is seen.
    change(&kernel, &CONTAINER, |seen| seen.routes.clear());
    wanted.networks.get_mut("blue").unwrap().remotes = Arc::new(vec![remote(1), remote(2)]);
    assert_eq!(both(&mut reconciler, &wanted).await, 3);
    wanted.networks.get_mut("blue").unwrap().remotes = Arc::new(vec![remote(1), remote(2), remote(3)]);
    reconciler.look_again(&wanted, [(&CONTAINER, Look::Links)]);
    assert_eq!(both(&mut reconciler, &wanted).await, 4, "and the route");
}

#[tokio::test]
async fn a_namespace_that_has_gone_is_missed_although_only_a_remote_came() {
    let kernel = kernel();
    let mut reconciler = churned(&kernel).await;
    kernel.inner().remove(&CONTAINER);
    let mut wanted = desired();
    let addresses = vec!["10.20.1.1".parse().unwrap()];
    let remote = Remote { mac: Mac([2, 0, 0, 0, 1, 1]), addresses, vtep: vtep(2) };
    wanted.networks.get_mut("blue").unwrap().remotes = Arc::new(vec![Arc::new(remote)]);
    let report = reconciler.reconcile(&wanted, Phase::Additions).await;
    assert!(report.problems.iter().any(|it| it.error.contains("is not open")), "{:?}", report.problems);
}

#[tokio::test]
async fn a_namespace_that_goes_before_it_is_looked_at_again_is_missed() {
    let kernel = kernel();
    let mut reconciler = churned(&kernel).await;
    for look in [Look::Links, Look::All] {
        reconciler.look_again(&desired(), [(&CONTAINER, look)]);
    }
    kernel.inner().remove(&CONTAINER);
    let report = reconciler.reconcile(&desired(), Phase::Additions).await;
    assert!(report.problems.iter().any(|it| it.error.contains("is not open")), "{:?}", report.problems);
}

#[tokio::test]
async fn after_a_look_that_finds_what_was_known_the_next_change_is_repaired_and_told() {
    let kernel = kernel();
    let mut reconciler = churned(&kernel).await;
    let spaces = [Space::Host, blue(), CONTAINER];
    for look in [Look::Links, Look::All] {
        reconciler.look_again(&desired(), spaces.iter().map(|space| (space, look)));
        assert_eq!(both(&mut reconciler, &desired()).await, 0);
        change(&kernel, &blue(), |seen| seen.neighbours.clear());
        reconciler.look_again(&desired(), [(&blue(), look)]);
        let before = reconciler.drift();
        assert!(both(&mut reconciler, &desired()).await > 0);
        assert!(reconciler.drift() > before, "{look:?}");
        let whole = kernel.inner().world().spaces[&blue()].neighbours.len();
        assert!(whole > 0, "{look:?}");
    }
}
