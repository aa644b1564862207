use super::*;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_by_whoever_is_there() {
    let (hosts, addresses) = hosts(2).await;
    let reply = hosts[0].request(addresses[1], b"a".to_vec(), LIMIT).await.unwrap();
    assert_eq!((reply.node, reply.incarnation), (NodeId(2), 1));
    assert_eq!(String::from_utf8(reply.body).unwrap(), format!("{} 1 {}", NodeId(1), addresses[0]));
    for body in [Vec::new(), vec![1; 64 * 1024], vec![1; 200_000]] {
        let reply = hosts[0].request(addresses[1], body.clone(), LIMIT).await.unwrap();
        assert!(reply.body == body);
    }
    assert_eq!(hosts[0].stats().connections_dialled.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_and_large_answers_do_not_hold_up_others() {
    let (hosts, addresses) = hosts(2).await;
    // Unoptimised, the cipher can keep both workers busy on a machine with other work: one of a few tries must show it.
    for _ in 0..5 {
        if small_before_large(&hosts, &addresses).await {
            return;
        }
    }
    panic!("small requests waited for the large answer, five times");
}

/// Asks for much, and for little meanwhile; whether the small answers were all there before the large one.
async fn small_before_large(hosts: &[Cluster], addresses: &[SocketAddr]) -> bool {
    let begun = Instant::now();
    let slow = hosts[0].request(addresses[1], b"w".to_vec(), LIMIT);
    let large = async {
        let reply = hosts[0].request(addresses[1], b"b".to_vec(), Duration::from_secs(60)).await.unwrap();
        assert!(reply.body.len() == LARGE && reply.body.iter().all(|byte| *byte == 7));
        eprintln!("{LARGE} bytes after {:?}", begun.elapsed());
        begun.elapsed()
    };
    let fast = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            let begun = Instant::now();
            hosts[0].request(addresses[1], b"e".to_vec(), LIMIT).await.unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        eprintln!("slowest of 5 small requests meanwhile {slowest:?}, all after {:?}", begun.elapsed());
        begun.elapsed()
    };
    let (slow, large, fast) = tokio::join!(slow, large, fast);
    assert_eq!(slow.unwrap().body, b"waited");
    fast < large
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_its_name() {
    let (hosts, addresses) = hosts(2).await;
    let ask = |body: &[u8], limit| hosts[0].request(addresses[1], body.to_vec(), limit);
    assert!(matches!(ask(b"w", Duration::from_millis(50)).await, Err(RequestError::TimedOut { .. })));
    assert!(matches!(ask(b"p", LIMIT).await, Err(RequestError::Failed { .. })));
    assert!(matches!(ask(b"x", LIMIT).await, Err(RequestError::TooLarge { .. })));
    let own = hosts[0].request(addresses[0], Vec::new(), LIMIT).await;
    assert!(matches!(own, Err(RequestError::Connect { .. })), "{own:?}");
    let nobody = hosts[0].request(free_address(), Vec::new(), LIMIT).await;
    assert!(matches!(nobody, Err(RequestError::Connect { .. })), "{nobody:?}");
    let waiting = hosts[0].request(addresses[1], b"w".to_vec(), LIMIT);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        hosts[1].stop().await;
    };
    let (waited, ()) = tokio::join!(waiting, stopping);
    assert!(matches!(waited, Err(RequestError::Lost { .. })), "{waited:?}");
    let again = start(Config { incarnation: 2, ..config(2, addresses[1], &[]) }).await;
    assert_eq!(ask(b"e", LIMIT).await.unwrap().incarnation, 2);
    drop(again);
    hosts[0].stop().await;
    assert!(matches!(ask(b"e", LIMIT).await, Err(RequestError::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_waits_for_is_dropped_there() {
    let addresses = [free_address(), free_address()];
    let dropped = Arc::new(AtomicU32::new(0));
    let handler = Arc::new(Echo { dropped: Arc::clone(&dropped) });
    let asked = Cluster::start(config(1, addresses[0], &[]), handler).await.unwrap();
    let asking = start(config(2, addresses[1], &[])).await;
    let short = Duration::from_millis(300);
    assert!(asking.request(addresses[0], b"w".to_vec(), short).await.is_err());
    until(Duration::from_millis(500), || dropped.load(Ordering::Relaxed) == 1).await;
    drop(asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_the_limit_are_refused_and_none_is_lost() {
    let (hosts, addresses) = hosts(2).await;
    let host = Arc::new(hosts.into_iter().next().unwrap());
    let mut asked = JoinSet::new();
    let other = start(config(9, free_address(), &[])).await;
    let to = addresses[0];
    let other = Arc::new(other);
    for _ in 0..300 {
        let other = Arc::clone(&other);
        asked.spawn(async move { other.request(to, b"w".to_vec(), LIMIT).await });
    }
    let (mut answered, mut busy) = (0, 0);
    while let Some(outcome) = asked.join_next().await {
        match outcome.unwrap() {
            Ok(reply) => answered += usize::from(reply.body == b"waited"),
            Err(RequestError::Busy { .. }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((answered, busy), (256, 44));
    drop(host);
}
