//! What is planned, and in which order: pure.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail like a test")]
#[path = "common/blue.rs"]
mod blue;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use blue::{blue, vtep};
use overlay::{
    Attachment, DefaultRoute, Desired, FakeKernel, Mac, Op, Peer, Phase, Plan, Reconciler, Remote, Space,
    Step, gateway_mac, host_link, host_port, link_addresses, network_port, plan,
};

const WEB: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 2]);
const CONTAINER: Space = Space::Container(7);

fn desired() -> Desired {
    let attachment = Attachment {
        space: CONTAINER,
        addresses: vec!["10.20.0.10/16".parse().unwrap()],
        mac: WEB,
        default_route: DefaultRoute::IfNone,
        metric: 0,
        apart: false,
    };
    let remote = Remote { mac: FAR, addresses: vec!["10.20.1.10".parse().unwrap()], vtep: vtep(2) };
    blue::with(attachment, vec![Arc::new(remote)])
}

fn empty() -> FakeKernel {
    let kernel = FakeKernel::new();
    [Space::Host, blue(), CONTAINER].into_iter().for_each(|space| kernel.insert(space));
    kernel
}

/// A kernel that holds all of this.
fn built(desired: &Desired) -> Arc<FakeKernel> {
    let kernel = Arc::new(empty());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut reconciler = Reconciler::new(Arc::clone(&kernel));
        for phase in [Phase::Additions, Phase::Removals] {
            assert_eq!(reconciler.reconcile(desired, phase).await.problems, []);
        }
    });
    kernel
}

fn planned(desired: &Desired, kernel: &FakeKernel) -> Plan {
    plan(desired, &kernel.world().spaces)
}

fn ops(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.op.to_string()).collect()
}

fn place(steps: &[Step], what: impl Fn(&Step) -> bool) -> usize {
    steps.iter().position(what).expect("a step that is not planned")
}

#[test]
fn a_second_plan_is_empty() {
    let desired = desired();
    assert_eq!(planned(&desired, &built(&desired)), Plan::default());
}

fn sets_chain(step: &Step, port: &str) -> bool {
    matches!(&step.op, Op::SetChain { name, .. } if *name == format!("port-{port}"))
}

#[test]
fn fences_stand_before_what_they_guard() {
    let plan = planned(&desired(), &empty());
    let steps = &plan.additions;
    let host_table = place(steps, |step| step.space == Space::Host && matches!(step.op, Op::SetTable { .. }));
    let tunnel = place(steps, |step| matches!(step.op, Op::AddVxlan { .. }));
    let entry = place(steps, |step| matches!(step.op, Op::SetTunnel { .. }));
    assert!(host_table < tunnel && tunnel < entry);
    let fence = place(steps, |step| sets_chain(step, &network_port("web")));
    let up = |name: String| place(steps, move |step| step.op == Op::SetUp { name: name.clone() });
    assert!(fence < up(network_port("web")));
    assert!(up(network_port("web")) < up("eth0".to_owned()));
    assert_eq!((plan.removals, plan.problems), (vec![], vec![]));
}

#[test]
fn a_port_out_of_the_bridge_is_fenced_too_when_the_table_is_written_anew() {
    let desired = desired();
    let kernel = built(&desired);
    let port = network_port("web");
    {
        let mut world = kernel.world();
        let seen = world.spaces.get_mut(&blue()).unwrap();
        seen.tables.remove(&netfilter::Family::Netdev);
        seen.ways.clear();
        let link = seen.links.get_mut(&port).unwrap();
        (link.controller, link.port) = (None, None);
    }
    let steps = planned(&desired, &kernel).additions;
    let way = |step: &Step| matches!(&step.op, Op::SetWay { port: to, .. } if *to == port);
    let table = place(&steps, |step| matches!(step.op, Op::SetTable { .. }));
    assert!(table < place(&steps, |step| sets_chain(step, &port)));
    assert!(
        place(&steps, way)
            < place(&steps, |step| matches!(&step.op, Op::SetWay { port, .. } if port == "vxlan"))
    );
}

#[test]
fn a_second_attachment_is_fenced_before_it_is_up() {
    let mut desired = desired();
    let kernel = built(&desired);
    let network = desired.networks.get_mut("blue").unwrap();
    let mut second = network.attachments["web"].clone();
    second.mac = Mac([2, 0, 0, 0, 0, 9]);
    second.addresses = vec!["10.20.0.11/16".parse().unwrap()];
    second.metric = 1;
    Arc::make_mut(&mut network.attachments).insert("db".to_owned(), second);
    let steps = planned(&desired, &kernel).additions;
    let fence = place(&steps, |step| sets_chain(step, &network_port("db")));
    let up = place(&steps, |step| step.op == Op::SetUp { name: network_port("db") });
    assert!(fence < up);
    let made = steps.iter().find_map(|step| match &step.op {
        Op::AddVeth { peer, .. } => Some(peer.name.clone()),
        _ => None,
    });
    assert_eq!(made.as_deref(), Some("eth1"), "the next free name");
}

fn with_remote(change: impl FnOnce(&mut Remote)) -> Desired {
    let mut desired = desired();
    let network = desired.networks.get_mut("blue").unwrap();
    change(Arc::make_mut(&mut Arc::make_mut(&mut network.remotes)[0]));
    desired
}

#[test]
fn a_remote_that_moves_with_its_mac_is_one_operation() {
    let kernel = built(&desired());
    let plan = planned(&with_remote(|remote| remote.vtep = vtep(3)), &kernel);
    assert_eq!(ops(&plan.additions), ["send 02:00:00:00:00:02 to host 192.0.2.3:4789"]);
    assert_eq!(plan.removals, []);
}

#[test]
fn an_address_with_another_mac_is_announced() {
    let kernel = built(&desired());
    let plan = planned(&with_remote(|remote| remote.mac = Mac([2, 0, 0, 0, 0, 7])), &kernel);
    assert_eq!(
        ops(&plan.additions),
        [
            "send 02:00:00:00:00:07 to host 192.0.2.2:4789",
            "forward 02:00:00:00:00:07 to port vxlan",
            "set neighbour 10.20.1.10 to 02:00:00:00:00:07",
            "announce 10.20.1.10 at 02:00:00:00:00:07",
        ]
    );
    assert_eq!(
        ops(&plan.removals),
        [
            "stop sending 02:00:00:00:00:02 to host 192.0.2.2:4789",
            "stop forwarding 02:00:00:00:00:02 to port vxlan"
        ]
    );
}

#[test]
fn a_new_peer_is_let_in_before_it_is_sent_to_and_shut_out_last() {
    let before = desired();
    let kernel = built(&before);
    let mut after = with_remote(|remote| remote.vtep = vtep(3));
    after.host.peers = BTreeSet::from([vtep(3)]);
    after.networks.get_mut("blue").unwrap().flood = BTreeSet::from([vtep(3)]);
    let plan = planned(&after, &kernel);
    assert_eq!(
        ops(&plan.additions),
        [
            "add 1 and delete 0 elements of set peers4",
            "send 00:00:00:00:00:00 to host 192.0.2.3:4789",
            "send 02:00:00:00:00:02 to host 192.0.2.3:4789",
        ]
    );
    assert_eq!(
        ops(&plan.removals),
        [
            "stop sending 00:00:00:00:00:00 to host 192.0.2.2:4789",
            "add 0 and delete 1 elements of set peers4"
        ]
    );
}

#[test]
fn our_own_address_is_never_a_peer() {
    let mut desired = desired();
    desired.host.peers.insert(vtep(1));
    let kernel = built(&desired);
    let world = kernel.world();
    let peers = &world.spaces[&Space::Host].tables[&netfilter::Family::Inet].sets["peers4"];
    assert_eq!(peers, &BTreeSet::from([vec![192, 0, 2, 2]]));
}

#[test]
fn what_cannot_be_seen_is_not_taken_away() {
    let desired = desired();
    let kernel = built(&desired);
    for hidden in [Space::Host, blue(), CONTAINER] {
        let mut observed = kernel.world().spaces.clone();
        observed.remove(&hidden);
        let plan = plan(&desired, &observed);
        assert_eq!(plan.removals, [], "without {hidden}");
        assert!(!plan.problems.is_empty(), "without {hidden}");
    }
}

#[test]
fn a_foreign_link_with_our_name_is_a_problem_and_stays() {
    let kernel = empty();
    let name = host_link(3);
    let op = Op::AddBridge { name: name.clone(), mac: WEB, mtu: 1500 };
    kernel.world().apply(&Space::Host, &op).unwrap();
    let plan = planned(&desired(), &kernel);
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].error.contains("svc-link3"), "{}", plan.problems[0].error);
    assert!(!plan.additions.iter().any(|step| step.op == Op::DeleteLink { name: name.clone() }));
}

/// Its other end's namespace may be on its way out, which takes the kernel a while.
#[test]
fn a_pair_that_an_agent_made_and_did_not_live_to_mark_is_replaced() {
    let kernel = empty();
    let name = host_link(3);
    let peer = Peer { space: CONTAINER, name: "going".to_owned(), mac: None };
    let made = Op::AddVeth { name: name.clone(), mtu: 1500, peer };
    kernel.world().apply(&Space::Host, &made).unwrap();
    let deleted =
        |plan: &Plan| plan.additions.iter().any(|it| it.op == Op::DeleteLink { name: name.clone() });
    let first = planned(&desired(), &kernel);
    assert!(first.problems.is_empty() && deleted(&first), "{:?}", first.problems);
    // Somebody uses it.
    kernel.world().apply(&Space::Host, &Op::SetUp { name: name.clone() }).unwrap();
    let second = planned(&desired(), &kernel);
    assert!(second.problems.len() == 1 && !deleted(&second), "{:?}", second.problems);
}

#[test]
fn a_link_index_beyond_the_pool_is_a_problem_of_its_network() {
    let mut desired = desired();
    desired.networks.get_mut("blue").unwrap().link_index = 2048;
    let plan = planned(&desired, &empty());
    let problems: Vec<String> = plan.problems.iter().map(|p| format!("{}: {}", p.object, p.error)).collect();
    assert_eq!(problems, ["network blue: link pool 169.254.64.0/20 has no pair with index 2048"]);
}

#[test]
fn names_fit_and_addresses_are_as_documented() {
    let long = "a-very-long-attachment-name-of-sixty-three-bytes-that-fits-dns0";
    assert_eq!(network_port(long).len(), 15);
    assert_ne!(network_port(long), network_port("a-very-long-attachment-name"));
    assert_eq!(host_port("blue", long).len(), 15);
    assert_eq!(host_link(u16::MAX).len(), 13);
    let pool = "169.254.64.0/20".parse().unwrap();
    let pair = (Ipv4Addr::new(169, 254, 64, 6), Ipv4Addr::new(169, 254, 64, 7));
    assert_eq!(link_addresses(pool, 3), Some(pair));
    assert_eq!(link_addresses(pool, 2047).map(|(_, last)| last), Some(Ipv4Addr::new(169, 254, 79, 255)));
    assert_eq!(link_addresses(pool, 2048), None);
    assert_eq!(gateway_mac("10.20.0.1".parse().unwrap()), Mac([0x0a, 0x67, 10, 20, 0, 1]));
}
