use super::relay::{NarrowWay, SilentWay};
use super::*;

const LIMIT: Duration = SOON;
/// For what does not depend on time: it only ends a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes after which a large answer is under way.
const UNDER_WAY: usize = 200_000;

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

/// Neither by speed nor by order of arrival: the narrow way lets half of the large answer through and no more, so a
/// small one that is not put before the rest of it never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_answers_pass_a_large_one() {
    let (hosts, addresses) = hosts(2).await;
    let hosts = Arc::new(hosts);
    let way = NarrowWay::before(addresses[1]).await;
    let front = way.front;
    let ask = |body: &'static [u8]| {
        let hosts = Arc::clone(&hosts);
        tokio::spawn(async move { hosts[0].request(front, body.to_vec(), PATIENCE).await.unwrap().body })
    };
    let handled = || hosts[1].stats().requests_handled.get();
    let before = handled();
    way.widen(UNDER_WAY);
    let large = ask(b"b");
    until(PATIENCE, || way.passed() == UNDER_WAY).await;
    let small: Vec<_> = (0..5).map(|_| ask(b"e")).collect();
    until(PATIENCE, || handled() == before + 6).await;
    way.widen(LARGE / 2 - UNDER_WAY);
    for small in small {
        assert_eq!(small.await.unwrap(), b"e");
    }
    assert!(!large.is_finished() && way.passed() <= LARGE / 2);
    way.widen(LARGE);
    let body = large.await.unwrap();
    assert!(body.len() == LARGE && body.iter().all(|byte| *byte == 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_does_not_hold_up_later_ones() {
    let (hosts, addresses) = hosts(2).await;
    // The first is answered only once the second has been handled.
    let waiting = hosts[0].request(addresses[1], b"g".to_vec(), PATIENCE);
    let opening = async {
        until(PATIENCE, || hosts[1].stats().requests_handled.get() > 0).await;
        hosts[0].request(addresses[1], b"o".to_vec(), PATIENCE).await
    };
    let (waited, opened) = tokio::join!(waiting, opening);
    assert_eq!((waited.unwrap().body, opened.unwrap().body), (b"g".to_vec(), b"o".to_vec()));
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
    let handler = Arc::new(Echo { dropped: Arc::clone(&dropped), ..Echo::default() });
    let asked = Cluster::start(config(1, addresses[0], &[]), handler).await.unwrap();
    let asking = start(config(2, addresses[1], &[])).await;
    let short = Duration::from_millis(300);
    assert!(asking.request(addresses[0], b"w".to_vec(), short).await.is_err());
    until(SOON, || dropped.load(Ordering::Relaxed) == 1).await;
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

/// Hundreds of connections that nothing goes over are not to cost anything, nor to end because a peer is silent that has
/// nothing to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_owes_an_answer_is_given_up_and_a_quiet_one_is_kept() {
    let (hosts, addresses) = hosts(2).await;
    let way = SilentWay::before(addresses[1]).await;
    let ask = || hosts[0].request(way.front, b"e".to_vec(), PATIENCE);
    ask().await.unwrap();
    let dialled = || hosts[0].stats().connections_dialled.get();
    let before = dialled();
    // Longer than a peer may owe an answer; shorter than it takes to be pinged, and for that to be owed for so long.
    way.silent.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(6)).await;
    way.silent.store(false, Ordering::Relaxed);
    ask().await.unwrap();
    assert_eq!(dialled(), before);
    way.silent.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let outcome = ask().await;
    assert!(matches!(outcome, Err(RequestError::Lost { .. })), "{outcome:?}");
    assert!(begun.elapsed() >= Duration::from_secs(4), "given up after {:?}", begun.elapsed());
}
