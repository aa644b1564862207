//! Upstreams that are slow, dead, wrong, many, replaced, or ourselves. On loopback, with real sockets.
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic as they may")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dns::{ForwardSettings, Outcome, ServerSettings};
use futures::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinDecodable;
use tokio::net::UdpSocket;

use common::{
    Bed, Habit, PATIENCE, addresses, ask, changing_upstream, dead_upstream, query, serve, serve_through,
    serve_with, udp, upstream, zone,
};

mod common;

/// As long as a client waits that is not to notice anything.
const SOON: Duration = Duration::from_secs(2);

fn client() -> Bed {
    serve(zone(Vec::new()), ServerSettings::default())
}

fn client_with(settings: ForwardSettings) -> Bed {
    serve_with(zone(Vec::new()), ServerSettings::default(), settings)
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let longer = |order: Vec<usize>| {
        (0..=order.len()).map(move |place| {
            let mut order = order.clone();
            order.insert(place, count - 1);
            order
        })
    };
    orders(count - 1).into_iter().flat_map(longer).collect()
}

/// P43: whatever stands before the server that has an answer, in every order, it answers, and soon.
#[tokio::test]
async fn p43_bad_upstreams_in_every_order() {
    let (dead, _held) = dead_upstream();
    let (slow, _) = upstream(Habit::SlowGood(Duration::from_secs(5))).await;
    let (broken, _) = upstream(Habit::Says(ResponseCode::ServFail)).await;
    let (refusing, _) = upstream(Habit::Says(ResponseCode::Refused)).await;
    for (last, code) in
        [(Habit::Good, ResponseCode::NoError), (Habit::Says(ResponseCode::NXDomain), ResponseCode::NXDomain)]
    {
        let servers = [dead, slow, broken, refusing, upstream(last).await.0];
        let asked = orders(servers.len()).into_iter().map(|order| async move {
            let bed = client();
            let servers: Vec<SocketAddr> = order.iter().map(|n| servers[*n]).collect();
            bed.forwarder.set_upstreams(&servers);
            let begin = Instant::now();
            let reply = ask(bed.address, "example.com", RecordType::A).await;
            assert_eq!(reply.metadata.response_code, code, "{order:?}");
            assert_eq!(addresses(&reply).len(), usize::from(code == ResponseCode::NoError), "{order:?}");
            assert!(begin.elapsed() < SOON, "{order:?}: {:?}", begin.elapsed());
        });
        assert_eq!(join_all(asked).await.len(), 120);
    }
}

/// P43: where nobody listens the kernel says so; nobody waits for a time-out then.
#[tokio::test]
async fn p43_a_dead_upstream_alone_is_servfail_at_once() {
    let (bed, (dead, _held)) = (client(), dead_upstream());
    bed.forwarder.set_upstreams(&[dead]);
    let begin = Instant::now();
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// P43: one that is silent alone is given up before the client's libraries ask again.
#[tokio::test]
async fn p43_a_silent_upstream_alone_is_servfail_before_the_client_gives_up() {
    let (bed, (silent, _)) = (client(), upstream(Habit::Silent).await);
    bed.forwarder.set_upstreams(&[silent]);
    let begin = Instant::now();
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// P43: one query finds out whether a server is back, not all of them; and once it is, it is asked first again.
#[tokio::test]
async fn p43_recovery_is_noticed_by_one_query() {
    let penalty = Duration::from_millis(500);
    let bed = client_with(ForwardSettings { penalty, ..ForwardSettings::default() });
    let (first, asked, habit) = changing_upstream(Habit::Silent).await;
    let (second, _) = upstream(Habit::Good).await;
    bed.forwarder.set_upstreams(&[first, second]);
    let good = |name: String| async move { addresses(&ask(bed.address, &name, RecordType::A).await).len() };
    assert_eq!(good("shunned.example.com".to_owned()).await, 1);
    tokio::time::sleep(penalty).await;
    let before = asked.load(Ordering::Relaxed);
    let all = join_all((0..50).map(|n| good(format!("still-{n}.example.com")))).await;
    assert_eq!(all.iter().sum::<usize>(), 50);
    let tried = asked.load(Ordering::Relaxed) - before;
    assert!((1..=2).contains(&tried), "{tried} of 50 queries waited for a server that is silent");

    habit.send(Habit::Good).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    let mut all_first = false;
    while !all_first {
        assert!(Instant::now() < deadline, "it is back and not asked");
        let before = asked.load(Ordering::Relaxed);
        for n in 0..5 {
            assert_eq!(good(format!("back-{round}-{n}.example.com")).await, 1);
        }
        all_first = asked.load(Ordering::Relaxed) - before == 5;
        round += 1;
    }
}

/// P35: who asked an upstream that goes away with its network gets the reply of the next one.
#[tokio::test]
async fn p35_queries_under_way_ask_the_new_upstreams() {
    let bed = client();
    let (silent, asked) = upstream(Habit::Silent).await;
    bed.forwarder.set_upstreams(&[silent]);
    let address = bed.address;
    let begin = Instant::now();
    let waiting = (0..20).map(|n| async move {
        addresses(&ask(address, &format!("host-{n}.example.com"), RecordType::A).await).len()
    });
    let waiting = tokio::spawn(join_all(waiting));
    until("all are under way", || asked.load(Ordering::Relaxed) >= 20).await;
    // None at all, as while a network comes up, ends nobody's wait.
    bed.forwarder.set_upstreams(&[]);
    bed.forwarder.set_upstreams(&[upstream(Habit::Good).await.0]);
    assert_eq!(waiting.await.unwrap().iter().sum::<usize>(), 20);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

/// P34: neither of two queries from one socket waits for the other, and both are answered.
#[tokio::test]
async fn p34_an_address_does_not_wait_for_the_other_family() {
    let bed = client();
    bed.forwarder.set_upstreams(&[upstream(Habit::GoodForType(RecordType::A)).await.0]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bed.address).await.unwrap();
    let begin = Instant::now();
    for kind in [RecordType::AAAA, RecordType::A] {
        socket.send(&query("example.com", kind, None).to_vec().unwrap()).await.unwrap();
    }
    let mut buffer = [0; 512];
    for (kind, code, limit) in [
        (RecordType::A, ResponseCode::NoError, Duration::from_secs(1)),
        (RecordType::AAAA, ResponseCode::ServFail, Duration::from_millis(4_900)),
    ] {
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        let reply = Message::from_bytes(&buffer[..length]).unwrap();
        assert_eq!((reply.queries[0].query_type(), reply.metadata.response_code), (kind, code));
        assert!(begin.elapsed() < limit, "{kind}: {:?}", begin.elapsed());
    }
}

/// P39: a name that hundreds ask for at once is asked for once.
#[tokio::test]
async fn p39_identical_questions_are_asked_once() {
    let bed = client();
    let (slow, asked) = upstream(Habit::SlowGood(Duration::from_millis(600))).await;
    bed.forwarder.set_upstreams(&[slow]);
    let names = ["example.com", "Example.COM"];
    let asking = (0..200).map(|n| ask(bed.address, names[n % 2], RecordType::A));
    for (n, reply) in join_all(asking).await.iter().enumerate() {
        assert_eq!(reply.answers[0].name.to_ascii(), format!("{}.", names[n % 2]));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(bed.stats.outcome(Outcome::Forwarded), 200);
}

/// P39: a burst waits for room instead of failing.
#[tokio::test]
async fn p39_a_burst_is_answered_whole() {
    let bed = client_with(ForwardSettings { in_flight_max: 8, ..ForwardSettings::default() });
    let (slow, _) = upstream(Habit::SlowGood(Duration::from_millis(20))).await;
    bed.forwarder.set_upstreams(&[slow]);
    let address = bed.address;
    // As many as a socket's buffer takes at once.
    let asking = (0..200).map(|n| async move {
        addresses(&ask(address, &format!("host-{n}.example.com"), RecordType::A).await).len()
    });
    assert_eq!(join_all(asking).await.iter().sum::<usize>(), 200);
    assert_eq!(bed.stats.outcome(Outcome::OverLimit), 0);
}

/// P39: a namespace whose queries all hang leaves room for those of others.
#[tokio::test]
async fn p39_no_namespace_takes_the_room_of_others() {
    let greedy = client_with(ForwardSettings { in_flight_max: 8, ..ForwardSettings::default() });
    let (picky, asked) = upstream(Habit::GoodFor("good-")).await;
    greedy.forwarder.set_upstreams(&[picky]);
    let modest = serve_through(
        zone(Vec::new()),
        ServerSettings::default(),
        greedy.forwarder.clone(),
        Arc::clone(&greedy.stats),
    );
    let address = greedy.address;
    for n in 0..400 {
        tokio::spawn(async move { ask(address, &format!("hangs-{n}.example.com"), RecordType::A).await });
    }
    // Eight that all share, eight of its own.
    until("the room is full", || asked.load(Ordering::Relaxed) >= 16).await;
    let begin = Instant::now();
    for n in 0..20 {
        let reply = ask(modest.address, &format!("good-{n}.example.com"), RecordType::A).await;
        assert_eq!(addresses(&reply).len(), 1);
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// What a name server in a container does whose own upstream is our resolver.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let relayed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&relayed);
    tokio::spawn(async move {
        let mut buffer = [0; 4_096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            counter.fetch_add(1, Ordering::Relaxed);
            let (socket, bytes) = (Arc::clone(&socket), buffer[..length].to_vec());
            tokio::spawn(async move {
                if let Some(reply) = udp(to, &bytes).await {
                    let _gone = socket.send_to(&reply, peer).await;
                }
            });
        }
    });
    (address, relayed)
}

/// P36: an upstream that asks us in turn is found out, said, and left out; nothing goes round and round.
#[tokio::test]
async fn p36_an_upstream_that_asks_us_is_left_out() {
    let settings =
        ForwardSettings { server_timeout: Duration::from_millis(500), ..ForwardSettings::default() };
    let bed = client_with(settings);
    let (looping, relayed) = relay(bed.address).await;
    bed.forwarder.set_upstreams(&[looping]);
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    until("the loop is known", || bed.forwarder.loops() == [looping]).await;
    let before = relayed.load(Ordering::Relaxed);
    assert!(before < 10, "{before} queries went round");
    let begin = Instant::now();
    for n in 0..50 {
        let reply = ask(bed.address, &format!("host-{n}.example.com"), RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(relayed.load(Ordering::Relaxed), before);
    // With another one beside it nobody notices.
    let (good, _) = upstream(Habit::Good).await;
    bed.forwarder.set_upstreams(&[looping, good]);
    assert_eq!(addresses(&ask(bed.address, "other.example.com", RecordType::A).await).len(), 1);
    until("the loop is known again", || bed.forwarder.loops() == [looping]).await;
    assert_eq!(bed.stats.loops.load(Ordering::Relaxed), 2);
}

/// P36: the same, where the way back leads through another host's resolver.
#[tokio::test]
async fn p36_a_loop_over_two_hosts_is_found_by_both() {
    let beds = [client(), client()];
    for (from, to) in [(0, 1), (1, 0)] {
        let (looping, _) = relay(beds[to].address).await;
        beds[from].forwarder.set_upstreams(&[looping]);
    }
    let reply = ask(beds[0].address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    until("both know", || beds.iter().all(|bed| bed.forwarder.loops().len() == 1)).await;
}

/// P43: where it is wanted, what an upstream said before it fell silent serves on, and nobody waits long for it.
#[tokio::test]
async fn p43_old_replies_serve_while_nobody_answers() {
    let cases = [(Duration::ZERO, ResponseCode::ServFail), (Duration::from_secs(60), ResponseCode::NoError)];
    let both = cases.map(|(serve_stale, code)| async move {
        let bed = client_with(ForwardSettings { serve_stale, ..ForwardSettings::default() });
        let (server, _, habit) = changing_upstream(Habit::Brief).await;
        bed.forwarder.set_upstreams(&[server]);
        assert_eq!(addresses(&ask(bed.address, "example.com", RecordType::A).await).len(), 1);
        habit.send(Habit::Silent).unwrap();
        for limit in [Duration::from_millis(4_900), Duration::from_secs(1)] {
            let begin = Instant::now();
            let reply = ask(bed.address, "example.com", RecordType::A).await;
            assert_eq!(reply.metadata.response_code, code);
            if code == ResponseCode::NoError {
                assert!(reply.answers[0].ttl <= 30, "{}", reply.answers[0].ttl);
                assert!(begin.elapsed() < limit, "{:?}", begin.elapsed());
            }
        }
        // What was never known fails; what is known anew is new.
        let unknown = ask(bed.address, "other.example.com", RecordType::A).await;
        assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
        habit.send(Habit::Says(ResponseCode::NXDomain)).unwrap();
        let reply = ask(bed.address, "example.com", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    });
    join_all(both).await;
}
