//! A resolver that ends, killed or not, and the one after it on the same sockets.
#![allow(clippy::unwrap_used, reason = "a helper of tests may panic as they may")]
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dns::{ForwardSettings, Forwarder, ServerSettings, Sockets, Stats, Zone};
use hickory_proto::rr::RecordType;

use common::{
    Bed, Habit, PATIENCE, addresses, ask, attachment, network, query, serve_on, sockets, udp_within,
    upstream, zone,
};

mod common;

fn names() -> Zone {
    let mut blue = network("blue", "10.0.0.0/8");
    blue.set_attachment(attachment("own", "10.0.0.1"));
    zone(vec![blue])
}

fn copy(sockets: &Sockets) -> Sockets {
    Sockets {
        udp: sockets.udp.try_clone().unwrap(),
        tcp: sockets.tcp.try_clone().unwrap(),
        notes: sockets.notes.try_clone().unwrap(),
    }
}

/// A resolver with everything new but what the holder keeps, as in another process.
fn begin(kept: &Sockets, zone: Zone, upstream: std::net::SocketAddr) -> Bed {
    let stats = Arc::new(Stats::default());
    let forwarder = Forwarder::new(ForwardSettings::default(), Arc::clone(&stats));
    forwarder.set_upstreams(&[upstream]);
    let address = kept.udp.local_addr().unwrap();
    serve_on(copy(kept), address, zone, ServerSettings::default(), forwarder, stats)
}

fn keep() -> Sockets {
    let (udp, tcp, _) = sockets();
    Sockets { udp, tcp, notes: tempfile::tempfile().unwrap() }
}

/// P61: what waited for an upstream when the resolver ended, and what had come in meanwhile.
#[tokio::test]
async fn look_ups_under_way_are_answered_by_the_next_resolver() {
    let kept = keep();
    let (silent, asked) = upstream(Habit::Silent).await;
    let first = begin(&kept, names(), silent);
    let address = first.address;
    let started = Instant::now();
    let mut clients: Vec<_> = (0..20)
        .map(|n| {
            tokio::spawn(async move { ask(address, &format!("www-{n}.example.com"), RecordType::A).await })
        })
        .collect();
    while asked.load(Ordering::Relaxed) < 20 {
        assert!(started.elapsed() < PATIENCE, "{asked:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Answered ones leave no note.
    ask(address, "own", RecordType::A).await;
    first.server.stop().await;
    clients.push(tokio::spawn(async move { ask(address, "own", RecordType::A).await }));
    clients.push(tokio::spawn(async move { ask(address, "late.example.com", RecordType::A).await }));

    let (good, asked) = upstream(Habit::Good).await;
    let second = begin(&kept, names(), good);
    for client in clients {
        assert_eq!(addresses(&client.await.unwrap()).len(), 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 21);
    second.server.stop().await;

    // And nothing is asked a third time.
    let (third_upstream, asked) = upstream(Habit::Good).await;
    let third = begin(&kept, names(), third_upstream);
    ask(address, "last.example.com", RecordType::A).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    third.server.stop().await;
}

/// The same for names that may not have been learned yet.
#[tokio::test]
async fn look_ups_that_wait_for_the_first_sync_are_answered_by_the_next_resolver() {
    let kept = keep();
    let (silent, _) = upstream(Habit::Silent).await;
    let early = Zone { synced: false, ..zone(vec![network("blue", "10.0.0.0/8")]) };
    let first = begin(&kept, early, silent);
    let address = first.address;
    let client = tokio::spawn(async move { ask(address, "own.blue.svc.internal", RecordType::A).await });
    let started = Instant::now();
    while kept.notes.metadata().unwrap().len() == 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.server.stop().await;
    let second = begin(&kept, names(), silent);
    assert_eq!(addresses(&client.await.unwrap()).len(), 1);
    second.server.stop().await;
}

/// A file of anything: nobody is answered who has not asked, and the resolver works.
#[tokio::test]
async fn notes_that_are_none_are_passed_over() {
    use std::os::unix::fs::FileExt;
    let kept = keep();
    let noise: Vec<u8> =
        (0_u32..1_000_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    kept.notes.write_all_at(&noise, 0).unwrap();
    let (good, _) = upstream(Habit::Good).await;
    let bed = begin(&kept, names(), good);
    let bytes = query("www.example.com", RecordType::A, None).to_vec().unwrap();
    assert!(udp_within(bed.address, &bytes, PATIENCE).await.is_some());
    bed.server.stop().await;
}
