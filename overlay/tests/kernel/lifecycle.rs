//! Drift, adoption, prune and teardown.
use std::net::SocketAddr;
use std::sync::Arc;

use overlay::{Kernel, LinuxKernel, Look, Observed, Op, Phase, Reconciler, Space};

use crate::bed::Bed;
use crate::traffic::reaches;

#[tokio::test]
async fn what_was_changed_by_hand_is_repaired_and_counted() {
    let (mut bed, here, there) = Bed::pair().await;
    let space = Space::Network("blue".to_owned());
    let mac = crate::bed::mac_of("10.20.1.10".parse().unwrap());
    let own = crate::bed::mac_of("10.20.0.10".parse().unwrap());
    let (vxlan, bridge) = ("vxlan".to_owned(), "br".to_owned());
    let vtep = SocketAddr::new(bed.nodes[1].address, 4789);
    let stray = SocketAddr::from(([192, 168, 77, 250], 4789));
    let port = bed.nodes[0].port("web1");
    let container = bed.nodes[0].desired.networks["blue"].attachments["web1"].space.clone();
    let harm = [
        (&space, Op::DeleteTunnel { name: vxlan.clone(), mac, vtep }),
        (&space, Op::SetTunnel { name: vxlan.clone(), mac, vtep: stray }),
        (&space, Op::SetTunnel { name: vxlan, mac: overlay::Mac([0; 6]), vtep: stray }),
        (&space, Op::SetForwarding { port: port.clone(), mac }),
        (&space, Op::DeleteNeighbour { name: bridge, address: "10.20.1.10".parse().unwrap() }),
        (&space, Op::DeleteTable { family: netfilter::Family::Netdev }),
        (&space, Op::DeleteChain { family: netfilter::Family::Netdev, name: format!("port-{port}") }),
        (&space, Op::DeleteWay { mac: own }),
        (&space, Op::SetWay { mac: own, port: "vxlan".to_owned() }),
        (&space, Op::SetWay { mac, port: port.clone() }),
        (&space, Op::DeleteWay { mac: overlay::Mac([0; 6]) }),
        (&space, Op::DeleteTable { family: netfilter::Family::Inet }),
        (&Space::Host, Op::DeleteTable { family: netfilter::Family::Inet }),
        (
            &space,
            Op::SetSysctl { key: "net/bridge/bridge-nf-call-iptables".to_owned(), value: "1".to_owned() },
        ),
        (&space, Op::DeleteLink { name: port }),
        (&space, Op::DeleteLink { name: "link".to_owned() }),
        (&container, Op::SetDown { name: "eth0".to_owned() }),
        (&space, Op::DeleteLink { name: "vxlan".to_owned() }),
        (&space, Op::DeleteLink { name: "br".to_owned() }),
    ];
    let mut drift = 0;
    for (space, op) in harm {
        let node = &mut bed.nodes[0];
        node.tamper(space, op.clone()).await;
        let report = node.reconciler.verify(&node.desired).await;
        assert_eq!(report.problems, [], "after: {op}");
        assert!(report.operations > 0, "not seen: {op}");
        drift += report.operations as u64;
        assert_eq!(node.reconciler.drift(), drift);
        assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0, "after: {op}");
        assert!(reaches(&here, &there, "10.20.1.10"), "after: {op}; {}", here.look());
    }
}

#[tokio::test]
async fn an_unchanged_desire_costs_nothing_and_a_restart_touches_nothing() {
    let (mut bed, here, there) = Bed::pair().await;
    let node = &mut bed.nodes[0];
    assert_eq!(node.reconcile().await.operations, 0);
    let before = snapshot(&node.kernel).await;
    let mut restarted = Reconciler::new(Arc::clone(&node.kernel));
    for phase in [Phase::Additions, Phase::Removals] {
        let report = restarted.reconcile(&node.desired, phase).await;
        assert_eq!((report.operations, report.problems), (0, Vec::new()));
    }
    assert_eq!(snapshot(&node.kernel).await, before);
    assert!(reaches(&here, &there, "10.20.1.10"));
}

async fn snapshot(kernel: &LinuxKernel) -> Vec<(Space, Observed)> {
    let mut all = Vec::new();
    for space in kernel.spaces() {
        let observed = kernel.observe(&space, Look::All).await.unwrap();
        all.push((space, Observed { drops: Default::default(), ..observed }));
    }
    all
}

#[tokio::test]
async fn teardown_leaves_nothing() {
    let mut bed = Bed::new(1).await;
    let containers = [bed.container(0), bed.container(0)];
    let before = snapshot(&bed.nodes[0].kernel).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    bed.attach(0, "blue", "host1", &Space::Host, "10.20.0.9");
    for (index, (space, _)) in containers.iter().enumerate() {
        bed.attach(0, "blue", &format!("web{index}"), space, &format!("10.20.0.{}", 10 + index));
    }
    bed.settle().await;
    let node = &mut bed.nodes[0];
    let restore = node.reconciler.sysctls_before().clone();
    assert_eq!(restore.get("net/ipv4/ip_forward").map(String::as_str), Some("0"));
    // A restarted agent, which knows the old value from its store.
    let mut restarted = Reconciler::new(Arc::clone(&node.kernel));
    let torn = restarted.teardown_all(&restore).await;
    assert_eq!(torn.problems, []);
    // Each link by its name: the ports of three attachments, the bridge, the tunnel.
    let links = torn.removed.iter().filter(|line| line.contains("delete link ")).count();
    assert!(links >= 5, "{:?}", torn.removed);
    node.kernel.remove(&Space::Network("blue".to_owned()));
    let mut after = snapshot(&node.kernel).await;
    for (space, observed) in &mut after {
        // The loopback links of containers stay up: others may have come to rely on them.
        if matches!(space, Space::Container(_)) {
            observed.links.get_mut("lo").unwrap().up = false;
            observed.addresses.clear();
        }
    }
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_network_that_vanishes_leaves_the_host_and_its_containers_clean() {
    let mut bed = Bed::new(1).await;
    bed.network("red", 4098, "10.30.0.0/16", false, &[0]);
    bed.settle().await;
    let before = bed.nodes[0].kernel.observe(&Space::Host, Look::All).await.unwrap();
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    let (space, _container) = bed.container(0);
    let clean = bed.nodes[0].kernel.observe(&space, Look::All).await.unwrap();
    bed.attach(0, "blue", "web1", &space, "10.20.0.10");
    bed.settle().await;
    bed.nodes[0].desired.networks.remove("blue");
    bed.settle().await;
    assert_eq!(bed.nodes[0].kernel.observe(&Space::Host, Look::All).await.unwrap(), before);
    let mut after = bed.nodes[0].kernel.observe(&space, Look::All).await.unwrap();
    // The loopback link stays up: others may have come to rely on it.
    after.links.get_mut("lo").unwrap().up = false;
    after.addresses.clear();
    assert_eq!(after, clean);
}

#[tokio::test]
async fn a_container_that_is_gone_is_a_problem_of_its_own() {
    let mut bed = Bed::new(2).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
    let (space, _) = bed.container(0);
    bed.attach(0, "blue", "gone", &space, "10.20.0.9");
    let here = bed.member(0, "blue", "web1", "10.20.0.10");
    let there = bed.member(1, "blue", "web2", "10.20.1.10");
    bed.nodes[0].kernel.remove(&space);
    bed.nodes[1].reconcile().await;
    let report = bed.nodes[0].reconcile().await;
    let objects: Vec<String> = report.problems.iter().map(|problem| problem.object.to_string()).collect();
    assert_eq!(objects, ["attachment blue/gone", "attachment blue/gone"], "once per phase");
    assert!(reaches(&here, &there, "10.20.1.10"));
}

#[tokio::test]
async fn docker_user_gets_our_rules_and_a_closed_forward_chain_is_named() {
    use netfilter::{Batch, ChainKind, Family, Hook, HookPoint, Table, TableFlags};
    let mut bed = Bed::new(1).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    let node = &mut bed.nodes[0];
    let filter = Table { family: Family::Ip, name: "filter" };
    let hook =
        Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: 0, drop_by_default: true };
    let host = node.namespace.clone();
    let commit = |batch: &Batch| host.run(|| netfilter::Socket::open().unwrap().commit(batch)).unwrap();
    let mut batch = Batch::new();
    batch.add_table(filter, TableFlags::PLAIN);
    batch.add_chain(filter, "FORWARD", Some(&hook));
    commit(&batch);
    let problems = node.reconcile().await.problems;
    assert!(problems.iter().any(|problem| problem.error.contains("ip filter FORWARD")), "{problems:?}");
    let mut batch = Batch::new();
    batch.add_chain(filter, "DOCKER-USER", None);
    commit(&batch);
    let report = node.reconciler.verify(&node.desired).await;
    assert_eq!((report.problems, report.operations), (Vec::new(), 1));
    let hook = node.kernel.observe(&Space::Host, Look::All).await.unwrap().forward_hook;
    assert_eq!((&hook.exceptions, &hook.docker_user), (&[Family::Ip].into(), &[Family::Ip].into()));
    // Nothing of this network is IPv6: whoever drops that does not concern it.
    let six = Table { family: Family::Ip6, name: "filter" };
    let hook =
        Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: 0, drop_by_default: true };
    let mut batch = Batch::new();
    batch.add_table(six, TableFlags::PLAIN);
    batch.add_chain(six, "FORWARD", Some(&hook));
    commit(&batch);
    let report = node.reconciler.verify(&node.desired).await;
    assert_eq!((report.problems, report.operations), (Vec::new(), 0));
    let blue = node.desired.networks.get_mut("blue").unwrap();
    let gateway = "fd00:20::1".parse().unwrap();
    blue.subnets.push(overlay::Subnet { cidr: "fd00:20::/64".parse().unwrap(), gateway });
    let problems = node.reconciler.verify(&node.desired).await.problems;
    assert!(problems.iter().any(|problem| problem.error.contains("ip6 filter FORWARD")), "{problems:?}");
    let mut batch = Batch::new();
    batch.add_chain(six, "DOCKER-USER", None);
    commit(&batch);
    assert_eq!(node.reconciler.verify(&node.desired).await.problems, []);
    let hook = node.kernel.observe(&Space::Host, Look::All).await.unwrap().forward_hook;
    assert_eq!(hook.exceptions, [Family::Ip, Family::Ip6].into());
    let torn = node.reconciler.teardown_all(&Default::default()).await;
    assert!(torn.removed.iter().any(|line| line.contains("DOCKER-USER")), "{:?}", torn.removed);
    assert!(node.kernel.observe(&Space::Host, Look::All).await.unwrap().forward_hook.exceptions.is_empty());
}

#[tokio::test]
async fn thousands_of_remotes_cost_once() {
    let mut bed = Bed::new(1).await;
    bed.network("blue", 4097, "10.0.0.0/8", false, &[0]);
    let node = &mut bed.nodes[0];
    let vtep = "192.168.77.2".parse().unwrap();
    let remotes: Vec<_> = (0..5000_u32)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(0x0a01_0000 + number).into();
            Arc::new(overlay::Remote { mac: crate::bed::mac_of(address), addresses: vec![address], vtep })
        })
        .collect();
    node.reconcile().await;
    node.desired.networks.get_mut("blue").unwrap().remotes = Arc::new(remotes.clone());
    let built = timed("5,000 remotes added", node).await;
    assert_eq!(built, 15_000);
    assert_eq!(timed("nothing changed", node).await, 0);
    node.desired = node.desired.clone();
    assert_eq!(timed("nothing changed, given again", node).await, 0);
    let mut moved = (*remotes[2500]).clone();
    moved.vtep = "192.168.77.3".parse().unwrap();
    Arc::make_mut(&mut node.desired.networks.get_mut("blue").unwrap().remotes)[2500] = Arc::new(moved);
    assert_eq!(timed("one moved", node).await, 1);
    let start = std::time::Instant::now();
    assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0);
    eprintln!("verified: {:?}", start.elapsed());
    node.desired.networks.get_mut("blue").unwrap().remotes = Arc::default();
    assert_eq!(timed("all removed", node).await, 15_000);
}

async fn timed(what: &str, node: &mut crate::bed::Node) -> usize {
    let start = std::time::Instant::now();
    let report = node.reconcile().await;
    assert_eq!(report.problems, []);
    eprintln!("{what}: {:?}", start.elapsed());
    report.operations
}

/// An agent that dies at any step, again and again, and a kernel that fails: what is half-done is finished.
#[tokio::test]
async fn a_build_that_is_interrupted_anywhere_converges() {
    for seed in 0..8 {
        let mut bed = Bed::new(2).await;
        bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
        let here = bed.member(0, "blue", "web1", "10.20.0.10");
        let there = bed.member(1, "blue", "web2", "10.20.1.10");
        bed.attach(0, "blue", "host1", &Space::Host, "10.20.0.9");
        bed.nodes[1].reconcile().await;
        let node = &mut bed.nodes[0];
        let faulty = Arc::new(overlay::FaultyKernel::new(Arc::clone(&node.kernel), seed, 150));
        for _ in 0..6 {
            let mut short_lived = Reconciler::new(Arc::clone(&faulty));
            short_lived.reconcile(&node.desired, Phase::Additions).await;
            short_lived.reconcile(&node.desired, Phase::Removals).await;
        }
        assert_eq!(node.reconcile().await.problems, [], "seed {seed}");
        assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0, "seed {seed}");
        assert!(reaches(&here, &there, "10.20.1.10"), "seed {seed}");
        let torn = node.reconciler.teardown_all(&Default::default()).await;
        assert_eq!(torn.problems, [], "seed {seed}");
        let left = node.kernel.observe(&Space::Host, Look::All).await.unwrap();
        assert!(!left.links.values().any(overlay::Link::is_ours) && left.tables.is_empty(), "seed {seed}");
    }
}
