//! Out of a network and not back in.
use std::net::{IpAddr, Ipv4Addr};

use overlay::{Op, Space};

use crate::bed::{Bed, Namespace};
use crate::traffic::{PATIENCE, exchange, is_silent, reaches};

const OUTSIDE: &str = "192.168.77.99";

async fn outside(bed: &Bed) -> Namespace {
    let outside = Namespace::new();
    bed.plug(&outside, 99, OUTSIDE.parse().unwrap()).await;
    outside
}

#[tokio::test]
async fn egress_has_the_hosts_address_and_an_internal_network_none() {
    let mut bed = Bed::new(1).await;
    let outside = outside(&bed).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    bed.network("red", 4098, "10.30.0.0/16", false, &[0]);
    bed.network("dark", 4099, "10.40.0.0/16", true, &[0]);
    let blue = bed.member(0, "blue", "web1", "10.20.0.10");
    let red = bed.member(0, "red", "db1", "10.30.0.10");
    let dark = bed.member(0, "dark", "vault", "10.40.0.10");
    bed.settle().await;
    let host: IpAddr = bed.nodes[0].address;
    assert_eq!(exchange(&blue, &outside, OUTSIDE.parse().unwrap(), 100, PATIENCE), Some(host));
    assert_eq!(exchange(&red, &outside, OUTSIDE.parse().unwrap(), 100, PATIENCE), Some(host));
    assert!(is_silent(&dark, &outside, OUTSIDE));
    assert!(is_silent(&blue, &red, "10.30.0.10"), "between networks");
    assert_eq!(bed.nodes[0].namespace.sysctl("net/ipv4/ip_forward"), "1");
}

#[tokio::test]
async fn nothing_comes_in_unasked() {
    let mut bed = Bed::new(1).await;
    let outside = outside(&bed).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    bed.network("red", 4098, "10.30.0.0/16", false, &[0]);
    let blue = bed.member(0, "blue", "web1", "10.20.0.10");
    let red = bed.member(0, "red", "db1", "10.30.0.10");
    bed.settle().await;
    let (kernel, space) = (overlay::LinuxKernel::new(), Space::Container(1));
    kernel.insert(space.clone(), outside.handles());
    let route = overlay::Route {
        link: Some("u0".to_owned()),
        six: false,
        metric: 0,
        gateway: Some(bed.nodes[0].address),
        protocol: 4,
    };
    overlay::Kernel::apply(&kernel, &space, &Op::SetRoute { route, replace: false }).await.unwrap();
    assert!(reaches(&blue, &outside, OUTSIDE));
    assert!(is_silent(&outside, &blue, "10.20.0.10"), "by its own address");
    let (_, link) = overlay::link_addresses(bed.nodes[0].desired.host.link_pool, 0).unwrap();
    let network = bed.nodes[0].networks["blue"].clone();
    assert!(is_silent(&outside, &network, &link.to_string()), "the network's link address");
    assert!(bed.nodes[0].drops("unsolicited").await > 0);
    // From one network to the other's link.
    let (_, other) = overlay::link_addresses(bed.nodes[0].desired.host.link_pool, 1).unwrap();
    let network = bed.nodes[0].networks["red"].clone();
    assert!(reaches(&red, &outside, OUTSIDE));
    assert!(is_silent(&blue, &network, &other.to_string()));
    assert!(bed.nodes[0].drops("between-networks").await > 0);
}

#[tokio::test]
async fn a_foreign_default_route_is_left_alone() {
    let mut bed = Bed::new(1).await;
    let outside = outside(&bed).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    bed.network("red", 4098, "10.30.0.0/16", false, &[0]);
    let (space, both) = bed.container(0);
    bed.attach(0, "red", "web1", &space, "10.30.0.10");
    bed.settle().await;
    let foreign = overlay::Route {
        link: Some("eth0".to_owned()),
        six: false,
        metric: 7,
        gateway: Some(Ipv4Addr::new(10, 30, 0, 77).into()),
        protocol: 3,
    };
    let node = &mut bed.nodes[0];
    node.tamper(&space, Op::SetRoute { route: foreign.clone(), replace: false }).await;
    assert_eq!(node.reconciler.verify(&node.desired).await.operations, 0, "ours stays beside it");
    bed.attach(0, "blue", "web1", &space, "10.20.0.10");
    bed.settle().await;
    let observed = overlay::Kernel::observe(&bed.nodes[0].kernel, &space, overlay::Look::All).await.unwrap();
    let links: Vec<_> = observed.routes.iter().map(|route| (route.link.as_deref(), route.protocol)).collect();
    assert_eq!(links, [(Some("eth0"), 83), (Some("eth0"), 3)], "none on the second network");
    assert!(reaches(&both, &outside, OUTSIDE));
}

/// Beside the tool that Docker drives: its policy drops what is forwarded, its user chain is ours to use.
#[tokio::test]
async fn egress_passes_a_closed_iptables_forward_chain() {
    let mut bed = Bed::new(1).await;
    let outside = outside(&bed).await;
    bed.network("blue", 4097, "10.20.0.0/16", false, &[0]);
    let blue = bed.member(0, "blue", "web1", "10.20.0.10");
    let host = bed.nodes[0].namespace.clone();
    let iptables = |arguments: &str| {
        let run = || std::process::Command::new("iptables-nft").args(arguments.split(' ')).output();
        let output = host.run(run)?;
        assert!(output.status.success(), "iptables {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        std::io::Result::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if iptables("-P FORWARD DROP").is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has iptables");
        return eprintln!("skipped: no iptables-nft on this machine");
    }
    let problems = bed.nodes[0].reconcile().await.problems;
    assert!(problems.iter().any(|problem| problem.error.contains("ip filter FORWARD")), "{problems:?}");
    assert!(is_silent(&blue, &outside, OUTSIDE), "the policy drops");
    for arguments in ["-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER"] {
        iptables(arguments).unwrap();
    }
    let node = &mut bed.nodes[0];
    assert_eq!(node.reconciler.verify(&node.desired).await.problems, []);
    assert!(reaches(&blue, &outside, OUTSIDE), "{}", host.look());
    let listed = iptables("-S DOCKER-USER").unwrap();
    assert!(listed.contains("-A DOCKER-USER -i svc-link+"), "{listed}");
    assert!(listed.contains("-A DOCKER-USER -o svc-link+"), "{listed}");
    // Somebody puts a rule before ours, somebody else flushes.
    iptables("-I DOCKER-USER -i docker0 -j DROP").unwrap();
    let node = &mut bed.nodes[0];
    assert_eq!(node.reconciler.verify(&node.desired).await.operations, 1);
    iptables("-F DOCKER-USER").unwrap();
    assert_eq!(node.reconciler.verify(&node.desired).await.operations, 1);
    assert!(reaches(&blue, &outside, OUTSIDE));
    node.reconciler.teardown_all(&Default::default()).await;
    assert_eq!(iptables("-S DOCKER-USER").unwrap().trim(), "-N DOCKER-USER");
}
