//! What is looked at again, and what is taken to be known.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use netfilter::Family;
use overlay::{
    Attachment, DefaultRoute, Desired, FakeKernel, FaultyKernel, Host, Look, Mac, Network, Observed, Op,
    Phase, Reconciler, Remote, Space, Subnet, network_port,
};

const CONTAINER: Space = Space::Container(7);
/// Another one that is there before.
const EARLIER: Space = Space::Container(3);

type Kernel = Arc<FaultyKernel<FakeKernel>>;

fn blue() -> Space {
    Space::Network("blue".to_owned())
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn attachment(space: Space, last: u8) -> Attachment {
    Attachment {
        space,
        addresses: vec![format!("10.20.0.{last}/16").parse().unwrap()],
        mac: Mac([2, 0, 0, 0, 0, last]),
        default_route: DefaultRoute::IfNone,
        metric: 0,
    }
}

fn desired() -> Desired {
    let network = Network {
        vni: 4097,
        subnets: vec![Subnet {
            cidr: "10.20.0.0/16".parse().unwrap(),
            gateway: "10.20.0.1".parse().unwrap(),
        }],
        mtu: 1450,
        internal: false,
        link_index: 3,
        flood: BTreeSet::from([address(2)]),
        remotes: Arc::default(),
        attachments: BTreeMap::from([("web".to_owned(), attachment(CONTAINER, 10))]).into(),
    };
    let host = Host {
        address: address(1),
        vxlan_port: 4789,
        former_ports: BTreeSet::new(),
        other_ports: BTreeMap::new(),
        guarded_ports: BTreeSet::new(),
        peers: BTreeSet::from([address(2)]),
        link_pool: "169.254.64.0/20".parse().unwrap(),
        offload: true,
    };
    Desired { host, networks: BTreeMap::from([("blue".to_owned(), network)]), paths: None }
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
        Arc::new(Remote { mac: Mac([2, 0, 0, 0, 1, last]), addresses, vtep: address(2) })
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
