//! Forwarding to real upstreams on loopback.
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dns::{ForwardSettings, Mode, Network, Outcome, ServerSettings, Zone};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::BinDecodable;

use common::{
    Bed, Habit, addresses, ask, network, query, replicas, serve, serve_with, service, tcp, udp, upstream,
    zone,
};

mod common;

/// A second resolver of ours plays the upstream: authoritative for example.com.
fn example() -> Bed {
    let mut www = Network::new("www", &[]);
    www.set_service(service("small", Mode::Vip, &["192.0.2.1"], Vec::new()));
    www.set_service(service("large", Mode::RoundRobin, &[], replicas(300, false)));
    let zone = Zone { domain: "example.com".into(), forward: false, ..zone(vec![www]) };
    serve(zone, ServerSettings::default())
}

fn client() -> Bed {
    let mut blue = network("blue", "10.0.0.0/8");
    blue.set_service(service("own", Mode::RoundRobin, &[], Vec::new()));
    serve(zone(vec![blue]), ServerSettings::default())
}

#[tokio::test]
async fn replies_come_through_faithfully() {
    let (upstream, bed) = (example(), client());
    bed.forwarder.set_upstreams(&[upstream.address]);
    let found = ask(bed.address, "small.www.example.com", RecordType::A).await;
    assert_eq!((found.metadata.response_code, addresses(&found).len()), (ResponseCode::NoError, 1));
    assert!(!found.metadata.authoritative && found.metadata.recursion_available);
    let empty = ask(bed.address, "small.www.example.com", RecordType::MX).await;
    assert_eq!((empty.metadata.response_code, empty.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(empty.authorities[0].record_type(), RecordType::SOA);
    let denied = ask(bed.address, "nobody.www.example.com", RecordType::A).await;
    assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(denied.authorities[0].name.to_ascii(), "example.com.");
    assert_eq!(bed.stats.outcome(Outcome::Forwarded), 3);
}

/// The upstream truncates over UDP, we ask it over TCP, and our client the same of us.
#[tokio::test]
async fn large_replies_come_over_tcp() {
    let (upstream, bed) = (example(), client());
    bed.forwarder.set_upstreams(&[upstream.address]);
    let bytes = query("large.www.example.com", RecordType::A, Some(1_232)).to_vec().unwrap();
    let cut = Message::from_bytes(&udp(bed.address, &bytes).await.unwrap()).unwrap();
    assert!(cut.metadata.truncation && !cut.answers.is_empty() && cut.answers.len() < 300);
    let whole = Message::from_bytes(&tcp(bed.address, &[bytes]).await[0]).unwrap();
    assert_eq!(addresses(&whole), replicas(300, false));
}

#[tokio::test]
async fn the_cache_answers_in_the_case_asked() {
    let (upstream, bed) = (example(), client());
    bed.forwarder.set_upstreams(&[upstream.address]);
    for name in ["small.www.example.com", "SMALL.www.EXAMPLE.com"] {
        let reply = ask(bed.address, name, RecordType::A).await;
        assert_eq!(reply.queries[0].name().to_ascii(), format!("{name}."));
        assert_eq!(reply.answers[0].name.to_ascii(), format!("{name}."));
    }
    assert_eq!(bed.stats.cache_hits.load(Ordering::Relaxed), 1);
    // Other upstreams may know other names.
    let (other, _) = common::upstream(Habit::Says(ResponseCode::NXDomain)).await;
    bed.forwarder.set_upstreams(&[other]);
    let reply = ask(bed.address, "small.www.example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn without_an_upstream_it_is_servfail() {
    let bed = client();
    let begin = Instant::now();
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(bed.stats.no_upstream.load(Ordering::Relaxed), 1);
    assert_eq!(bed.stats.outcome(Outcome::ServFail), 1);
}

#[tokio::test]
async fn what_all_upstreams_say_is_said() {
    let bed = client();
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NXDomain] {
        let servers = [upstream(Habit::Says(code)).await.0, upstream(Habit::Says(code)).await.0];
        bed.forwarder.set_upstreams(&servers);
        let reply = ask(bed.address, "example.com", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, code);
    }
}

/// The first look-up pays the hedge; while the penalty lasts no other does. (A long delay: this machine may be busy.)
#[tokio::test]
async fn a_silent_upstream_is_asked_last_from_then_on() {
    let settings = ForwardSettings { hedge_delay: Duration::from_secs(1), ..ForwardSettings::default() };
    let bed = serve_with(zone(Vec::new()), ServerSettings::default(), settings);
    let (silent, asked) = upstream(Habit::Silent).await;
    let (good, _) = upstream(Habit::Good).await;
    bed.forwarder.set_upstreams(&[silent, good]);
    assert_eq!(addresses(&ask(bed.address, "example.com", RecordType::A).await).len(), 1);
    let before = asked.load(Ordering::Relaxed);
    assert!(before > 0);
    for n in 0..20 {
        let reply = ask(bed.address, &format!("host-{n}.example.com"), RecordType::A).await;
        assert_eq!(addresses(&reply).len(), 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), before);
}

/// A dead upstream, then a live one in its place while running; and one that is slow alone is waited for.
#[tokio::test]
async fn upstreams_change_while_running() {
    let settings =
        ForwardSettings { server_timeout: Duration::from_millis(400), ..ForwardSettings::default() };
    let bed = serve_with(zone(Vec::new()), ServerSettings::default(), settings);
    bed.forwarder.set_upstreams(&[upstream(Habit::Silent).await.0]);
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    bed.forwarder.set_upstreams(&[upstream(Habit::SlowGood(Duration::from_millis(300))).await.0]);
    assert_eq!(addresses(&ask(bed.address, "example.com", RecordType::A).await).len(), 1);
    bed.forwarder.set_upstreams(&[]);
    let reply = ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

/// P05, P08: no name of ours reaches an upstream, whatever its type and however empty it is.
#[tokio::test]
async fn names_of_ours_never_leak() {
    let bed = client();
    let (server, asked) = upstream(Habit::Good).await;
    bed.forwarder.set_upstreams(&[server]);
    for name in ["own", "own.blue", "tasks.own", "x.svc.internal", "_http._tcp.own", "5.0.0.10.in-addr.arpa"]
    {
        for number in [1_u16, 12, 15, 28, 33, 255] {
            ask(bed.address, name, RecordType::from(number)).await;
        }
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    ask(bed.address, "example.com", RecordType::A).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
