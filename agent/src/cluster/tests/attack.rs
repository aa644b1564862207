use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::relay::Relay;
use super::*;

fn refused(host: &Cluster) -> u64 {
    let stats = host.stats();
    stats.replayed.get() + stats.not_fresh.get() + stats.stale_incarnation.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_datagrams_of_a_dead_host_do_not_revive_it() {
    let (real, other) = (free_address(), free_address());
    let relay = Relay::before(real).await;
    let watching = Config { listen: real, ..config(1, relay.front, &[]) };
    let watcher = start(watching.clone()).await;
    let dying = start(config(2, other, &[relay.front])).await;
    wait(&watcher, SOON, is_live(2)).await;
    until(SOON, || relay.kept.lock().unwrap().len() > 20).await;
    dying.stop().await;
    wait(&watcher, SOON, is_suspended(2)).await;
    relay.task.abort();

    let before = refused(&watcher);
    let sent = relay.replay(real).await;
    until(SOON, || refused(&watcher) >= before + sent).await;
    assert!(is_suspended(2)(&watcher.members().borrow()));

    // A restarted receiver has nothing but the persisted maxima.
    let max_incarnations = (*watcher.max_incarnations().borrow().clone()).clone();
    assert_eq!(max_incarnations, BTreeMap::from([(NodeId(2), 1)]));
    watcher.stop().await;
    let watcher = start(Config { incarnation: 2, max_incarnations, ..watching }).await;
    let begun = Instant::now();
    let sent = relay.replay(real).await;
    until(SOON, || refused(&watcher) >= sent).await;
    assert_eq!(live(&watcher.members().borrow()), [1]);
    // A burst of one second's worth, and what has come free since.
    let allowed = 21.0 + 20.0 * begun.elapsed().as_secs_f64();
    let greeted = watcher.stats().hellos_sent.get();
    assert!(
        f64::from(u32::try_from(greeted).unwrap()) <= allowed,
        "greeting a stranger is limited: {greeted}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_a_wrong_key_says_so_itself() {
    let (host, wrong) = (free_address(), free_address());
    let cluster = start(config(1, host, &[])).await;
    let stranger = start(Config { keys: key(2), ..config(2, wrong, &[host]) }).await;
    let took = until(Duration::from_secs(5), || !stranger.complaints().is_empty()).await;
    eprintln!("a wrong key is known after {took:?}");
    let complaint = stranger.complaints().remove(0);
    assert_eq!((complaint.from, complaint.key_id, complaint.known), (host, KeyId([2; 4]), false));
    assert!(complaint.to_string().contains("does not know our key id 02020202"), "{complaint}");
    assert!(cluster.complaints().is_empty());
    let unreadable = cluster.unreadable().remove(0);
    assert_eq!((unreadable.from, unreadable.key_id, unreadable.known), (wrong.ip(), KeyId([2; 4]), false));
    assert!(cluster.stats().unopened_unknown_key.get() > 0);
    until(SOON, || cluster.stats().notices_sent.get() >= 2).await;
    // Over TCP as well; a notice is due once a second.
    let mut errors = Vec::new();
    for _ in 0..30 {
        match stranger.request(host, b"e".to_vec(), Duration::from_secs(2)).await {
            Err(RequestError::Connect { source, .. }) => errors.push(source),
            other => panic!("{other:?}"),
        }
        if matches!(errors.last().map(|error| &**error), Some(StreamError::KeyRefused)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(errors.last().map(|error| &**error), Some(StreamError::KeyRefused)), "{errors:?}");
    assert_eq!(live(&cluster.members().borrow()), [1]);
    let sent = cluster.stats();
    assert!(sent.notices_sent.get() < sent.unopened_unknown_key.get(), "notices are limited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_datagrams_are_counted_by_reason() {
    let address = free_address();
    let host = start(config(1, address, &[])).await;
    let stranger = UdpSocket::bind(free_address()).await.unwrap();
    let stats = host.stats();
    let mut forged = vec![1, 1, 1, 1, 1, 1];
    forged.resize(100, 0);
    let altered = |index: usize, value: u8| {
        let mut forged = forged.clone();
        forged[index] = value;
        forged
    };
    for datagram in [
        vec![],
        vec![1; 3],
        forged[..45].to_vec(),
        forged.clone(),
        altered(0, 9),
        altered(1, 9),
        altered(2, 9),
    ] {
        stranger.send_to(&datagram, address).await.unwrap();
    }
    until(SOON, || stats.datagrams_received.get() == 7).await;
    let counted = || {
        [
            &stats.unopened_truncated,
            &stats.unopened_bad_tag,
            &stats.unopened_version,
            &stats.unopened_kind,
            &stats.unopened_unknown_key,
        ]
        .map(Counter::get)
    };
    until(SOON, || counted() == [3, 1, 1, 1, 1]).await;
    let mut notice = [0; 100];
    let length = stranger.recv(&mut notice).await.unwrap();
    assert!(length < forged.len() && notice[..2] == [1, 0x7f]);
    // An invented notice names no frame of ours.
    stranger.send_to(&notice[..length], address).await.unwrap();
    until(SOON, || stats.notices_unmatched.get() == 1).await;
    assert!(host.complaints().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_connection_is_dropped_and_others_are_served() {
    let (hosts, addresses) = hosts(2).await;
    let seals = |kind, plain: &[u8]| seal::Sealer::new(key(1)).seal(kind, &[], plain, [1; 24]).unwrap().0;
    let mut bodies: Vec<Vec<u8>> = (0..40).map(|_| (0..200).map(|_| rand::random()).collect()).collect();
    bodies.push(vec![0xff; 4]);
    for record in [vec![1; 100], seals(seal::Kind::Dial, b"x"), seals(seal::Kind::Gossip, b"x")] {
        let mut body = u32::try_from(record.len()).unwrap().to_be_bytes().to_vec();
        body.extend(record);
        bodies.push(body);
    }
    for body in bodies {
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        // The host may close before it has all.
        let _ = stream.write_all(&body).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() <= 4 + seal::NOTICE_BYTES, "{answer:?}");
    }
    until(SOON, || hosts[0].stats().connections_refused.get() >= 44).await;
    let stats = hosts[0].stats();
    assert!(
        stats.malformed.get() == 1 && stats.unopened_kind.get() == 1 && stats.unopened_bad_tag.get() >= 1
    );
    hosts[1].request(addresses[0], b"e".to_vec(), Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_identity_and_a_restored_one_are_reported() {
    let (hosts, addresses) = hosts(2).await;
    let twin = start(Config { incarnation: 5, ..config(1, free_address(), &addresses) }).await;
    until(SOON, || hosts[0].duplicate().is_some()).await;
    twin.stop().await;
    // The other host now knows incarnation 5, and tells the first so.
    until(SOON, || hosts[0].superseded() == Some(5)).await;
    assert!(hosts[1].stats().stale_incarnation.get() > 0);
}
