//! The server on real sockets.
use std::time::{Duration, Instant};

use dns::{Kind, Limits, Mode, Network, Outcome, Question, ServerSettings, Ttls};
use hickory_proto::op::{DEFAULT_MAX_PAYLOAD_LEN, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use proptest::prelude::*;

use common::{
    Habit, PATIENCE, addresses, ask, attachment, network, query, replicas, serve, service, tcp, udp,
    udp_within, zone,
};

mod common;

fn blue() -> Network {
    let mut blue = network("blue", "10.0.0.0/8");
    blue.set_service(service("dual", Mode::Vip, &["10.255.0.1", "fd00::ff01"], replicas(2, false)));
    blue.set_service(service("four", Mode::Vip, &["10.255.0.2"], replicas(2, false)));
    blue.set_service(service("six", Mode::Vip, &["fd00::ff02"], replicas(2, true)));
    blue.set_service(service("empty", Mode::RoundRobin, &[], Vec::new()));
    blue.set_attachment(attachment("payment-api-1", "10.0.0.1"));
    for (name, six) in [("v4", false), ("v6", true)] {
        for count in [1, 20, 300, 2_000] {
            blue.set_service(service(
                &format!("{name}-{count}"),
                Mode::RoundRobin,
                &[],
                replicas(count, six),
            ));
        }
    }
    blue
}

/// P33, on the wire: NOERROR with an SOA whose minimum is short, or data; NXDOMAIN only under our domain.
#[tokio::test]
async fn every_type_of_a_name_of_ours() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    let kinds = [1_u16, 2, 5, 6, 12, 15, 16, 28, 33, 35, 65, 255];
    for (name, has_four, has_six) in
        [("dual", true, true), ("four", true, false), ("six", false, true), ("empty", false, false)]
    {
        for number in kinds {
            let reply = ask(bed.address, name, RecordType::from(number)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name} {number}");
            assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
            let any = number == 255;
            let expected =
                usize::from(has_four && (any || number == 1)) + usize::from(has_six && (any || number == 28));
            assert_eq!(reply.answers.len(), expected, "{name} {number}");
            assert_eq!(reply.authorities.len(), usize::from(expected == 0), "{name} {number}");
            for record in &reply.authorities {
                let RData::SOA(soa) = &record.data else { panic!("{record}") };
                assert_eq!((record.ttl, soa.minimum, record.name.to_ascii()), (2, 2, format!("{name}.")));
            }
        }
    }
    for number in kinds {
        let reply = ask(bed.address, "unknown.blue.svc.internal", RecordType::from(number)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].name.to_ascii(), "svc.internal.");
    }
    assert!(bed.stats.outcome(Outcome::NoData) > 0 && bed.stats.outcome(Outcome::NxDomain) == 12);
    bed.server.stop().await;
}

#[tokio::test]
async fn an_address_has_a_name_and_ttls_are_as_set() {
    let ttls = Ttls { vip: 30, movable: 1, negative: 5 };
    let bed = serve(zone(vec![blue()]), ServerSettings { ttls, ..ServerSettings::default() });
    let reply = ask(bed.address, "1.0.0.10.in-addr.arpa", RecordType::PTR).await;
    assert_eq!(reply.answers[0].data.to_string(), "payment-api-1.blue.svc.internal.");
    assert_eq!(reply.answers[0].ttl, 1);
    assert_eq!(ask(bed.address, "four", RecordType::A).await.answers[0].ttl, 30);
    assert_eq!(ask(bed.address, "tasks.four", RecordType::A).await.answers[0].ttl, 1);
    assert_eq!(ask(bed.address, "four", RecordType::MX).await.authorities[0].ttl, 5);
}

/// P37: what fits comes over UDP, with TC when it is not all; TCP carries everything.
#[tokio::test]
async fn sizes() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    for (family, kind) in [("v4", RecordType::A), ("v6", RecordType::AAAA)] {
        for count in [1_usize, 20, 300, 2_000] {
            let name = format!("{family}-{count}");
            for edns in [None, Some(0), Some(512), Some(800), Some(1_232), Some(4_096)] {
                let bytes = query(&name, kind, edns).to_vec().unwrap();
                let limit = usize::from(edns.unwrap_or(512).clamp(512, 1_232));
                let raw = udp(bed.address, &bytes).await.expect("no reply over UDP");
                let reply = Message::from_bytes(&raw).unwrap();
                assert!(raw.len() <= limit, "{name} {edns:?}: {} bytes", raw.len());
                assert_eq!(reply.edns.is_some(), edns.is_some(), "{name} {edns:?}");
                assert_eq!(reply.metadata.truncation, reply.answers.len() < count, "{name} {edns:?}");
                // Not one record less than fits: compressed, each takes 12 bytes and its address.
                let each = if kind == RecordType::A { 16 } else { 28 };
                assert!(reply.answers.len() == count || raw.len() + each > limit, "{name} {edns:?}");

                let replies = tcp(bed.address, &[bytes]).await;
                let whole = Message::from_bytes(&replies[0]).unwrap();
                assert!(!whole.metadata.truncation);
                assert_eq!(addresses(&whole), replicas(u32::try_from(count).unwrap(), family == "v6"));
            }
        }
    }
    assert!(bed.stats.truncated.load(std::sync::atomic::Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_connection_carries_many_queries() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    let frames: Vec<Vec<u8>> = (0..50)
        .map(|n| query(if n % 2 == 0 { "four" } else { "v6-300" }, RecordType::ANY, None).to_vec().unwrap())
        .collect();
    let replies = tcp(bed.address, &frames).await;
    for (frame, reply) in frames.iter().zip(&replies) {
        assert_eq!(frame[..2], reply[..2], "out of order");
    }
}

/// P40: the question comes back byte for byte, and the answer's owner in the same case.
#[tokio::test]
async fn random_case_comes_back() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    for round in 0..64_u32 {
        let mixed: String = "payment-api-1.blue.svc.internal"
            .chars()
            .enumerate()
            .map(|(n, c)| {
                if round.wrapping_mul(0x9e37_79b9).rotate_left(u32::try_from(n).unwrap()) & 1 == 1 {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect();
        let bytes = query(&mixed, RecordType::A, None).to_vec().unwrap();
        for reply in [
            udp(bed.address, &bytes).await.unwrap(),
            tcp(bed.address, std::slice::from_ref(&bytes)).await.remove(0),
        ] {
            assert_eq!(reply[12..bytes.len()], bytes[12..], "{mixed}");
            let message = Message::from_bytes(&reply).unwrap();
            assert_eq!(message.answers[0].name.to_ascii(), format!("{mixed}."));
        }
    }
}

#[tokio::test]
async fn what_is_no_plain_query() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    let plain = || query("four", RecordType::A, Some(1_232));
    let mut status = plain();
    status.metadata.op_code = OpCode::Status;
    let mut chaos = plain();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut version = plain();
    version.edns.as_mut().unwrap().set_version(1);
    let mut none = plain();
    none.queries.clear();
    let mut two = plain();
    two.queries.push(two.queries[0].clone());
    let transfer = query("example.com", RecordType::AXFR, None);
    let cases = [
        (status, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (version, ResponseCode::BADVERS),
        (none, ResponseCode::FormErr),
        (two, ResponseCode::FormErr),
        (transfer, ResponseCode::Refused),
    ];
    for (message, code) in cases {
        let bytes = message.to_vec().unwrap();
        for reply in [
            udp(bed.address, &bytes).await.unwrap(),
            tcp(bed.address, std::slice::from_ref(&bytes)).await.remove(0),
        ] {
            let reply = Message::from_bytes(&reply).unwrap();
            // Numbers: 16 is BADSIG's, too.
            let number = u16::from(reply.metadata.response_code);
            assert_eq!((number, reply.metadata.id), (code.into(), message.metadata.id));
            assert_eq!(reply.metadata.message_type, MessageType::Response);
            assert!(reply.answers.is_empty());
        }
    }
    let mut response = plain();
    response.metadata.message_type = MessageType::Response;
    let brief = Duration::from_millis(200);
    assert!(
        udp_within(bed.address, &response.to_vec().unwrap(), brief).await.is_none(),
        "answered an answer"
    );
    assert!(udp_within(bed.address, &[0; 11], brief).await.is_none());
    let malformed = udp(bed.address, &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63]).await.unwrap();
    assert_eq!((malformed[..2].to_vec(), malformed[3] & 15), (vec![0x12, 0x34], 1));
    assert_eq!(DEFAULT_MAX_PAYLOAD_LEN, 1_232, "what we tell upstreams");
}

/// Any bytes: the server goes on, over UDP and TCP.
#[test]
fn any_bytes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let valid = query("four", RecordType::A, Some(1_232)).to_vec().unwrap();
    let mut runner = proptest::test_runner::TestRunner::default();
    let noise = prop::collection::vec(any::<u8>(), 0..600);
    let bent = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    runner
        .run(&(noise, bent), |(noise, bent)| {
            let mut message = valid.clone();
            for (place, byte) in bent {
                let place = place.index(message.len());
                message[place] = byte;
            }
            socket.send_to(&noise, bed.address).unwrap();
            socket.send_to(&message, bed.address).unwrap();
            let mut stream = std::net::TcpStream::connect(bed.address).unwrap();
            std::io::Write::write_all(&mut stream, &noise).unwrap();
            Ok(())
        })
        .unwrap();
    let reply = runtime.block_on(ask(bed.address, "four", RecordType::A));
    assert_eq!(reply.answers.len(), 1);
}

/// P66: a name that comes is answered when it comes; one that does not is SERVFAIL after the wait; after the sync it is denied.
#[tokio::test]
async fn before_the_first_sync() {
    let mut early = zone(vec![Network::new("blue", &[])]);
    early.synced = false;
    let bed = serve(early.clone(), ServerSettings::default());
    let address = bed.address;
    let begin = Instant::now();
    let mut waiting =
        tokio::spawn(async move { ask(address, "four.blue.svc.internal", RecordType::A).await });
    let hopeless = tokio::spawn(async move { ask(address, "nobody.blue.svc.internal", RecordType::A).await });
    // A publication without the name does not end the wait.
    bed.zone.publish(early.clone());
    let brief = Duration::from_millis(200);
    assert!(tokio::time::timeout(brief, &mut waiting).await.is_err(), "answered what is not known");
    let mut more = early.clone();
    more.networks = vec![std::sync::Arc::new(blue())];
    bed.zone.publish(more.clone());
    assert_eq!(waiting.await.unwrap().answers.len(), 1);
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    assert_eq!(hopeless.await.unwrap().metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() >= Duration::from_secs(1));

    let denied = tokio::spawn(async move { ask(address, "nobody.blue.svc.internal", RecordType::A).await });
    more.synced = true;
    bed.zone.publish(more);
    assert_eq!(denied.await.unwrap().metadata.response_code, ResponseCode::NXDomain);
}

/// P39 in small: with every forwarded query stuck, names of ours are answered at once, and one too many is SERVFAIL at once.
#[tokio::test]
async fn names_of_ours_never_queue_behind_forwarded_ones() {
    let limits = Limits { forwarded: 4, ..Limits::default() };
    let bed = serve(zone(vec![blue()]), ServerSettings { limits, ..ServerSettings::default() });
    let (silent, _) = common::upstream(Habit::Silent).await;
    bed.forwarder.set_upstreams(&[silent]);
    let address = bed.address;
    for n in 0..40 {
        tokio::spawn(async move { ask(address, &format!("host-{n}.example.com"), RecordType::A).await });
    }
    let deadline = Instant::now() + PATIENCE;
    while bed.stats.outcome(Outcome::OverLimit) < 36 {
        assert!(Instant::now() < deadline, "{:?}", bed.stats);
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    assert_eq!(ask(address, "four", RecordType::A).await.answers.len(), 1);
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_connection_too_many_waits_and_an_idle_one_ends() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let settings = ServerSettings { limits, idle: Duration::from_millis(300), ..ServerSettings::default() };
    let bed = serve(zone(vec![blue()]), settings);
    let idle = [
        tokio::net::TcpStream::connect(bed.address).await.unwrap(),
        tokio::net::TcpStream::connect(bed.address).await.unwrap(),
    ];
    let replies = tcp(bed.address, &[query("four", RecordType::A, None).to_vec().unwrap()]).await;
    assert_eq!(Message::from_bytes(&replies[0]).unwrap().answers.len(), 1);
    drop(idle);
}

#[tokio::test]
async fn stopping_closes_the_sockets() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    ask(bed.address, "four", RecordType::A).await;
    let _open = tokio::net::TcpStream::connect(bed.address).await.unwrap();
    bed.server.stop().await;
    std::net::UdpSocket::bind(bed.address).expect("the UDP socket is still open");
}

/// The same through `dig`, where it is installed: another implementation's idea of a well-formed answer.
#[tokio::test(flavor = "multi_thread")]
async fn dig_agrees() {
    let bed = serve(zone(vec![blue()]), ServerSettings::default());
    let port = bed.address.port().to_string();
    let dig = |arguments: &[&str]| {
        let arguments = [&["@127.0.0.1", "-p", &port, "+tries=1", "+time=3"], arguments].concat();
        std::process::Command::new("dig").args(arguments).output()
    };
    let Ok(output) = dig(&["+short", "DUAL.blue.svc.internal", "A"]) else {
        println!("skipped: dig is not installed");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10.255.0.1\n");
    let large = String::from_utf8(dig(&["v6-2000", "AAAA"]).unwrap().stdout).unwrap();
    assert!(large.contains("Truncated, retrying in TCP mode") && large.contains("ANSWER: 2000"), "{large}");
    let denied = String::from_utf8(dig(&["nobody.svc.internal", "MX"]).unwrap().stdout).unwrap();
    assert!(
        denied.contains("status: NXDOMAIN") && denied.contains("svc.internal.\t\t2\tIN\tSOA"),
        "{denied}"
    );
    assert!(!denied.contains("WARNING"), "{denied}");
}

#[test]
fn a_question_has_bounds() {
    assert!(Question::from_text(&"a".repeat(64), Kind::A).is_err());
    assert!(Question::from_text("a..b", Kind::A).is_err());
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    assert_eq!(Question::from_text(&long, Kind::A).unwrap().name().len(), 253);
    assert!(Question::from_text(&format!("{long}d"), Kind::A).is_err());
}
