use std::net::IpAddr;

use super::relay::Relay;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_find_each_other_and_see_what_is_published() {
    let (hosts, addresses) = hosts(3).await;
    hosts[2].publish("head", "1.7").unwrap();
    for host in &hosts {
        let took = wait(host, Duration::from_secs(3), |members| {
            members[&NodeId(3)].published.get("head").map(String::as_str) == Some("1.7")
        });
        eprintln!("published string seen after {:?}", took.await);
        let members = host.members().borrow().clone();
        let third = &members[&NodeId(3)];
        assert_eq!((&third.name[..], third.address, third.incarnation), ("h3", addresses[2], 1));
    }
    assert_eq!(
        *hosts[0].max_incarnations().borrow().clone(),
        BTreeMap::from([(NodeId(2), 1), (NodeId(3), 1)])
    );
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    assert!(matches!(hosts[0].publish("head", &long), Err(PublishError::Value { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_is_noticed_between_three_and_five_seconds_and_the_return_at_once() {
    let (hosts, addresses) = hosts(3).await;
    hosts[2].publish("head", "1.7").unwrap();
    wait(&hosts[0], SOON, |members| !members[&NodeId(3)].published.is_empty()).await;
    hosts[2].stop().await;
    let dead = wait(&hosts[0], Duration::from_secs(5), is_suspended(3)).await;
    eprintln!("death noticed after {dead:?}");
    assert!(dead > Duration::from_secs(3));
    wait(&hosts[1], Duration::from_secs(5) - dead, is_suspended(3)).await;
    assert_eq!(hosts[0].members().borrow()[&NodeId(3)].published["head"], "1.7");
    let again = start(Config { incarnation: 2, ..config(3, addresses[2], &[addresses[0]]) }).await;
    for host in &hosts[..2] {
        let back = wait(host, Duration::from_secs(2), is_live(3)).await;
        eprintln!("return noticed after {back:?}");
        wait(host, SOON, |members| members[&NodeId(3)].incarnation == 2).await;
    }
    wait(&again, SOON, |members| live(members) == [1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_two_seconds_suspends_nothing() {
    let (hosts, addresses) = hosts(2).await;
    let since = hosts[0].members().borrow()[&NodeId(2)].since;
    hosts[1].stop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = start(Config { incarnation: 2, ..config(2, addresses[1], &[addresses[0]]) }).await;
    wait(&hosts[0], SOON, |members| members[&NodeId(2)].incarnation == 2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let member = hosts[0].members().borrow()[&NodeId(2)].clone();
    assert_eq!((member.live, member.since), (true, since));
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_is_heard_at_once() {
    let (hosts, addresses) = hosts(3).await;
    hosts[2].leave().await;
    for host in &hosts[..2] {
        wait(host, Duration::from_millis(500), |members| members[&NodeId(3)].left).await;
    }
    let again = start(Config { incarnation: 2, ..config(3, addresses[2], &[addresses[0]]) }).await;
    wait(&hosts[1], SOON, is_live(3)).await;
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_gossip_goes_over_streams() {
    let (hosts, _) = hosts(3).await;
    for (index, host) in hosts.iter().enumerate() {
        for number in 0..KEYS_MAX {
            // Random, so that compression does not make it small.
            let value: String =
                (0..VALUE_BYTES_MAX / 16).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
            host.publish(&format!("{index}.{number}"), &value).unwrap();
        }
    }
    for host in &hosts {
        wait(host, SOON, |members| members.values().all(|member| member.published.len() == KEYS_MAX)).await;
    }
    assert!(hosts.iter().any(|host| host.stats().gossip_streamed.get() > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_lost_its_seed_is_found_through_members_known_before() {
    let (hosts, addresses) = hosts(2).await;
    hosts[1].stop().await;
    let again = start(Config { incarnation: 2, ..config(2, addresses[1], &[]) }).await;
    again.add_seed(addresses[0]);
    wait(&again, SOON, is_live(1)).await;
    hosts[0].remove(NodeId(2));
    wait(&hosts[0], SOON, |members| !members.contains_key(&NodeId(2))).await;
    until(SOON, || hosts[0].stats().forgotten_sender.get() > 0).await;
    until(SOON, || again.removed_by() == Some(addresses[0])).await;
    assert_eq!(hosts[0].removed_by(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_is_told_although_it_has_removed_the_other_meanwhile() {
    let (hosts, addresses) = hosts(2).await;
    hosts[0].remove(NodeId(2));
    hosts[1].remove(NodeId(1));
    until(SOON, || hosts[0].removed_by() == Some(addresses[1])).await;
    until(SOON, || hosts[1].removed_by() == Some(addresses[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_both_families_reach_each_other() {
    let addresses = [free_address(), free_address()];
    // A socket of IPv6 that takes IPv4, as one on [::] does, but on loopback only.
    let IpAddr::V4(ip) = addresses[0].ip() else { unreachable!() };
    let listen = SocketAddr::new(ip.to_ipv6_mapped().into(), addresses[0].port());
    let first = start(Config { listen, ..config(1, addresses[0], &[addresses[1]]) }).await;
    let second = start(config(2, addresses[1], &[])).await;
    wait(&second, SOON, |members| live(members) == [1, 2]).await;
    wait(&first, SOON, |members| live(members) == [1, 2]).await;
    first.request(addresses[1], b"e".to_vec(), Duration::from_secs(1)).await.unwrap();
    second.request(addresses[0], b"e".to_vec(), Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn bad_settings_are_refused() {
    let address = free_address();
    let advertise: SocketAddr = "0.0.0.0:7946".parse().unwrap();
    let handler = || Arc::new(Echo::default());
    let refused = |config| Cluster::start(config, handler());
    let good = config(1, address, &[]);
    assert!(matches!(refused(Config { advertise, ..good.clone() }).await, Err(StartError::Advertise { .. })));
    assert!(matches!(
        refused(Config { incarnation: 0, ..good.clone() }).await,
        Err(StartError::Incarnation { .. })
    ));
    let first = start(good.clone()).await;
    assert!(matches!(refused(good.clone()).await, Err(StartError::Sockets(_))));
    first.stop().await;
    refused(good).await.unwrap();
}

/// So long that chitchat has dropped the other host: its address is still tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_long_partition_hosts_find_each_other_again() {
    let real = [free_address(), free_address()];
    let relays = [Relay::before(real[0]).await, Relay::before(real[1]).await];
    let failure_after = Duration::from_millis(400);
    let quick = |node: usize, seeds: &[SocketAddr]| Config {
        listen: real[node],
        failure_after,
        gossip_interval: Duration::from_millis(50),
        slowed: 1,
        ..config(u64::try_from(node).unwrap() + 1, relays[node].front, seeds)
    };
    let hosts = [start(quick(0, &[])).await, start(quick(1, &[relays[0].front])).await];
    for host in &hosts {
        wait(host, SOON, |members| live(members) == [1, 2]).await;
    }
    hosts[0].publish("head", "1.1").unwrap();
    wait(&hosts[1], SOON, |members| !members[&NodeId(1)].published.is_empty()).await;
    // Only what is known of the members is left to find them by.
    hosts[1].seeds.remove(relays[0].front);
    relays.iter().for_each(|relay| relay.cut.store(true, Ordering::Relaxed));
    for (host, other) in hosts.iter().zip([2, 1]) {
        wait(host, SOON, is_suspended(other)).await;
    }
    tokio::time::sleep(failure_after * 18).await;
    hosts[0].publish("head", "1.2").unwrap();
    assert_eq!(hosts[1].members().borrow()[&NodeId(1)].published["head"], "1.1");
    relays.iter().for_each(|relay| relay.cut.store(false, Ordering::Relaxed));
    for host in &hosts {
        let took = wait(host, SOON, |members| live(members) == [1, 2]).await;
        eprintln!("found again after {took:?}");
    }
    wait(&hosts[1], SOON, |members| members[&NodeId(1)].published["head"] == "1.2").await;
}

/// Above twenty hosts every gossip message is too large for a datagram.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "too slow without optimisation: `make nightly` runs it"]
async fn thirty_hosts_keep_up_over_streams() {
    let begun = Instant::now();
    let (hosts, _) = hosts(30).await;
    eprintln!("30 hosts converged after {:?}", begun.elapsed());
    for round in 0..5 {
        let begun = Instant::now();
        hosts[29].publish("head", &round.to_string()).unwrap();
        for host in &hosts {
            let seen = |members: &Members| {
                members[&NodeId(30)].published.get("head").is_some_and(|head| *head == round.to_string())
            };
            wait(host, SOON, seen).await;
        }
        eprintln!("a string was everywhere after {:?}", begun.elapsed());
    }
    hosts[29].stop().await;
    let begun = Instant::now();
    for host in &hosts[..29] {
        wait(host, Duration::from_secs(6), is_suspended(30)).await;
    }
    eprintln!("a death was known everywhere after {:?}", begun.elapsed());
    let stats = hosts[0].stats();
    eprintln!("{:#?}", stats.each().iter().filter(|counter| counter.2 > 0).collect::<Vec<_>>());
}

/// Two clusters, each founded with the same key, of two hosts each.
async fn two_clusters() -> (Vec<Cluster>, Vec<SocketAddr>) {
    let addresses: Vec<SocketAddr> = (0..4).map(|_| free_address()).collect();
    let mut hosts = Vec::new();
    for (node, address) in (1..).zip(&addresses) {
        let founder = if node < 3 { 1 } else { 3 };
        let config = config(node, *address, &[addresses[usize::try_from(founder).unwrap() - 1]]);
        hosts.push(start(Config { founder: Some(NodeId(founder)), ..config }).await);
    }
    for (at, of) in [[1, 2], [1, 2], [3, 4], [3, 4]].iter().enumerate() {
        wait(&hosts[at], SOON, |members| live(members) == of).await;
    }
    (hosts, addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_of_one_key_stay_apart_and_name_each_other() {
    let (hosts, addresses) = two_clusters().await;
    hosts[1].add_seed(addresses[2]);
    for (host, others) in [(&hosts[0], [3, 4]), (&hosts[1], [3, 4]), (&hosts[2], [1, 2]), (&hosts[3], [1, 2])]
    {
        until(SOON, || host.foreign().iter().any(|it| others.contains(&it.node.0))).await;
        let told = host.notices();
        assert!(told.iter().any(|line| line.contains("another cluster with the same key")), "{told:?}");
    }
    let begun = Instant::now();
    until(SOON, || {
        for (at, of) in [[1, 2], [1, 2], [3, 4], [3, 4]].iter().enumerate() {
            assert_eq!(
                live(&hosts[at].members().borrow()),
                of,
                "host {} after {:?}",
                at + 1,
                begun.elapsed()
            );
        }
        begun.elapsed() > Duration::from_secs(3)
    })
    .await;
    // Requests to a host of the other cluster are not answered, those within one are.
    let refused = hosts[1].request(addresses[2], b"?".to_vec(), Duration::from_secs(1)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(hosts[1].request(addresses[0], b"?".to_vec(), SOON).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_is_of_the_cluster_of_the_first_that_speaks_to_it() {
    let (hosts, addresses) = two_clusters().await;
    // The first cluster tells of the second for a while.
    hosts[0].add_seed(addresses[3]);
    until(SOON, || !hosts[0].foreign().is_empty()).await;
    let address = free_address();
    let newcomer = start(config(5, address, &addresses[..1])).await;
    wait(&newcomer, SOON, |members| live(members) == [1, 2, 5]).await;
    assert_eq!(newcomer.founder(), Some(NodeId(1)));
    newcomer.set_founder(NodeId(1));
    wait(&hosts[1], SOON, is_live(5)).await;
    newcomer.add_seed(addresses[2]);
    until(SOON, || newcomer.foreign().iter().any(|it| it.node.0 == 3)).await;
    assert_eq!(live(&newcomer.members().borrow()), [1, 2, 5]);
    let second = hosts[3].members().borrow().clone();
    assert!(live(&second).iter().all(|node| [3, 4].contains(node)), "{second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_answers_who_looks_for_it_and_is_spoken_of_until_a_host_of_ours_is_there() {
    let [ours, theirs] = [free_address(), free_address()];
    let host = start(Config { founder: Some(NodeId(1)), ..config(1, ours, &[theirs]) }).await;
    let foreign = start(Config { founder: Some(NodeId(3)), ..config(3, theirs, &[]) }).await;
    until(SOON, || !host.foreign().is_empty() && !foreign.foreign().is_empty()).await;
    let hellos = foreign.stats().hellos_sent.get();
    until(SOON, || foreign.stats().hellos_sent.get() > hellos + 2).await;
    assert_eq!(live(&host.members().borrow()), [1]);
    assert_eq!(live(&foreign.members().borrow()), [3]);

    foreign.stop().await;
    let joined = start(config(4, theirs, &[ours])).await;
    wait(&host, SOON, is_live(4)).await;
    assert!(host.foreign().is_empty(), "{:?}", host.foreign());
    wait(&joined, SOON, is_live(1)).await;
    // It hears of the one that was at its own address before.
    assert!(joined.foreign().is_empty(), "{:?}", joined.foreign());
}
