//! Names of others: whom a host asks, and that it goes on being the right ones.
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::names::{Etc, Manner, RESOLVER, Upstream, Way, ask};
use tests::runner::Scenario;
use tests::wait::wait_until;

/// From a change until the next query asks the new server, on a busy machine; most of it is the query itself.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3);
/// What glibc and musl wait for before they ask again.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);
/// An answer that waits for nobody.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p35_resolv_conf_is_followed_while_running,
        p36_a_loopback_upstream_is_asked_on_the_host,
        p36_a_loop_through_a_container_is_named_and_left_out,
        p43_a_dead_upstream_costs_little_and_only_once,
    ]
}

/// Name servers 192.168.77.251 and on, which answer 192.0.2.51 and on.
fn name_servers(cluster: &Cluster, count: u8) -> Vec<Upstream> {
    let start = |number: u8| {
        let address = format!("192.168.77.{}", 250 + number);
        cluster.switch_address(&format!("{address}/24"));
        let at = format!("{address}:53").parse().expect("an address");
        Upstream::start(cluster.bed().switch(), at, Manner::Address([192, 0, 2, 50 + number].into()))
    };
    (1..=count).map(start).collect()
}

/// A name server at a link-local address, which answers 192.0.2.54.
fn link_local_server(cluster: &Cluster) -> Upstream {
    cluster.switch_address("fe80::53/64");
    let index = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        rustix::net::netdevice::name_to_index(socket, "br-u").expect("the switch's bridge")
    };
    let index = cluster.bed().switch().run(index).expect("the switch");
    let address: Ipv6Addr = "fe80::53".parse().expect("an address");
    let at = SocketAddrV6::new(address, 53, 0, index).into();
    Upstream::start(cluster.bed().switch(), at, Manner::Address([192, 0, 2, 54].into()))
}

/// Row P35: whatever replaces the file, the next query asks the server that it names, and no query fails meanwhile.
fn p35_resolv_conf_is_followed_while_running(sandbox: &Sandbox) {
    let etc = Etc::cover("nameserver 192.168.77.251\n");
    let mut cluster = Cluster::start(sandbox, 1);
    let _servers = name_servers(&cluster, 3);
    let _link_local = link_local_server(&cluster);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x");
    assert_eq!(outside(&cluster, "first.example.com"), "192.0.2.51");
    wait_until("the host's own link-local address is settled", FOLLOW_LIMIT, || {
        let settled = cluster.shell("h1", "ip -6 addr show dev eth0 scope link -tentative");
        if settled.contains("fe80::") { Ok(()) } else { Err(settled) }
    });

    let (stop, failures, asked) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let namespace = cluster.namespace("c1x");
            while !stop.load(Ordering::Relaxed) {
                let name = format!("host-{}.example.com", asked.fetch_add(1, Ordering::Relaxed));
                let answer = ask(&namespace, RESOLVER, &name, 1, Way::Udp, CLIENT_LIMIT);
                let good = answer.as_ref().is_ok_and(|answer| answer.summary().starts_with("192.0.2.5"));
                if !good {
                    println!("  {name}: {answer:?}");
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // Ended also when a step fails, or the scope would wait for it.
        let _ended = Stop(&stop);
        follow_every_way(&cluster, &etc);
    });
    let failures = failures.load(Ordering::Relaxed);
    assert_eq!(failures, 0, "of {} queries while the file was replaced", asked.load(Ordering::Relaxed));

    for (what, gone) in [("removed", true), ("emptied", false)] {
        if gone {
            etc.remove()
        } else {
            etc.write("")
        }
        wait_until(&format!("nobody is asked once it is {what}"), FOLLOW_LIMIT, || {
            let seen = outside(&cluster, &format!("{what}.example.com"));
            if seen == "SERVFAIL" { Ok(()) } else { Err(seen) }
        });
        let begin = Instant::now();
        assert_eq!(outside(&cluster, &format!("still-{what}.example.com")), "SERVFAIL");
        assert!(begin.elapsed() < AT_ONCE, "{what}: {:?}", begin.elapsed());
        etc.write("nameserver 192.168.77.252\n");
        followed(&cluster, &format!("after it was {what}"), "192.0.2.52");
    }
    let events = cluster.ok("h1", "events");
    assert!(events.contains("forwarding to 192.168.77.253:53"), "{events}");
    assert!(events.contains("no name server to forward to"), "{events}");
}

fn follow_every_way(cluster: &Cluster, etc: &Etc) {
    let one = "nameserver 192.168.77.251\n";
    let two = "nameserver 192.168.77.252\n";
    let three = "nameserver 192.168.77.253\n";
    let steps: [(&str, &dyn Fn(), &str); 10] = [
        ("written in place", &|| etc.write(two), "192.0.2.52"),
        ("renamed over", &|| etc.rename_over("resolv.conf", three), "192.0.2.53"),
        (
            "a link to another directory",
            &|| {
                etc.rename_over("resolved/stub-resolv.conf", one);
                etc.link("resolved/stub-resolv.conf");
            },
            "192.0.2.51",
        ),
        ("renamed where the link leads", &|| etc.rename_over("resolved/stub-resolv.conf", two), "192.0.2.52"),
        ("written through the link", &|| etc.write(three), "192.0.2.53"),
        (
            "a link that leads elsewhere",
            &|| {
                etc.rename_over("other/resolv.conf", one);
                etc.link("/etc/other/resolv.conf");
            },
            "192.0.2.51",
        ),
        (
            "line ends of another system",
            &|| etc.rename_over("resolv.conf", two.replace('\n', "\r\n")),
            "192.0.2.52",
        ),
        (
            "garbage around",
            &|| etc.write(b"\xff\0\xfe nameserver\nnameserver \xff\nnameserver 192.168.77.253\n\x07"),
            "192.0.2.53",
        ),
        ("a link-local address", &|| etc.write("nameserver fe80::53%eth0\n"), "192.0.2.54"),
        (
            "a link that there is not",
            &|| etc.write(format!("nameserver fe80::1%enp5s0\n{one}")),
            "192.0.2.51",
        ),
    ];
    for (what, change, address) in steps {
        change();
        followed(cluster, what, address);
    }
}

fn followed(cluster: &Cluster, what: &str, address: &str) {
    let begin = Instant::now();
    wait_until(what, FOLLOW_LIMIT, || {
        let name = format!("{}.{}.example.com", what.replace(' ', "-"), begin.elapsed().as_micros());
        let seen = outside(cluster, &name);
        if seen == address { Ok(()) } else { Err(seen) }
    });
    println!("  {what}: {:?}", begin.elapsed());
}

/// What c1x's resolver says of a name outside, where names have IPv4 addresses whatever the networks have.
fn outside(cluster: &Cluster, name: &str) -> String {
    let answer = ask(&cluster.namespace("c1x"), RESOLVER, name, 1, Way::Udp, CLIENT_LIMIT);
    answer.map_or_else(|error| error.to_string(), |answer| answer.summary())
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Row P36: loopback is the host's, and 127.0.0.11 is nobody's to ask.
fn p36_a_loopback_upstream_is_asked_on_the_host(sandbox: &Sandbox) {
    let etc = Etc::cover("nameserver 127.0.0.53\n");
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x");
    let serve = |place: &str, at: &str, number: u8| {
        let at: SocketAddr = at.parse().expect("an address");
        Upstream::start(&cluster.namespace(place), at, Manner::Address([192, 0, 2, number].into()))
    };
    let on_host = serve("h1", "127.0.0.53:53", 53);
    let in_container = serve("c1x", "127.0.0.53:53", 66);
    let like_ours = serve("h1", "127.0.0.11:53", 67);
    assert_eq!(outside(&cluster, "www.example.com"), "192.0.2.53");
    assert_eq!(on_host.asked(), ["www.example.com"]);

    etc.write("nameserver 127.0.0.11\nnameserver ::ffff:127.0.0.11\n");
    wait_until("127.0.0.11 is not asked", FOLLOW_LIMIT, || {
        let seen = outside(&cluster, "ours.example.com");
        if seen == "SERVFAIL" { Ok(()) } else { Err(seen) }
    });
    let begin = Instant::now();
    assert_eq!(outside(&cluster, "again.example.com"), "SERVFAIL");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert!(like_ours.asked().is_empty() && in_container.asked().is_empty());
    let events = cluster.ok("h1", "events");
    assert!(events.contains("of no use: 127.0.0.11"), "{events}");
}

/// Row P36: a name server in a container forwards to 127.0.0.11, and the host forwards to it.
fn p36_a_loop_through_a_container_is_named_and_left_out(sandbox: &Sandbox) {
    let etc = Etc::cover("");
    let mut cluster = Cluster::start(sandbox, 1);
    let _servers = name_servers(&cluster, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1y");
    cluster.ok("h1", "attach host --network payment --netns host");
    let at = SocketAddr::new(cluster.address_of("c1y"), 53);
    let relay = Upstream::start(&cluster.namespace("c1y"), at, Manner::Relay);
    etc.write(format!("nameserver {}\n", at.ip()));
    let begin = Instant::now();
    wait_until("the container is asked", FOLLOW_LIMIT, || {
        let seen = outside(&cluster, "www.example.com");
        assert_eq!(seen, "SERVFAIL", "{:?}", begin.elapsed());
        if relay.asked().is_empty() { Err("nothing") } else { Ok(()) }
    });
    wait_until("the loop is said", CLIENT_LIMIT, || {
        let status = cluster.cli("h1", "status");
        let named = status.stdout.contains(&format!("upstream/{at}")) && status.stdout.contains("a loop");
        if named && status.exit == 4 { Ok(()) } else { Err(format!("{status:?}")) }
    });
    let before = relay.asked().len();
    assert!(before < 20, "{before} queries went round: {:?}", relay.asked());
    let begin = Instant::now();
    assert_eq!(outside(&cluster, "other.example.com"), "SERVFAIL");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(relay.asked().len(), before, "it is left out: {:?}", relay.asked());
    // Mended, all is well.
    etc.write("nameserver 192.168.77.251\n");
    followed(&cluster, "without a loop", "192.0.2.51");
    cluster.wait_well(CLIENT_LIMIT);
}

/// Row P43: nobody is at the first server's address; at the second's nobody listens; the third answers.
fn p43_a_dead_upstream_costs_little_and_only_once(sandbox: &Sandbox) {
    let _etc =
        Etc::cover("nameserver 192.168.77.240\nnameserver 192.168.77.250\nnameserver 192.168.77.251\n");
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.switch_address("192.168.77.250/24");
    let _servers = name_servers(&cluster, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x");
    let begin = Instant::now();
    assert_eq!(outside(&cluster, "first.example.com"), "192.0.2.51");
    println!("  the first query: {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // One a penalty (5 s) may find out anew that the servers are dead, 0.2 s each.
    let mut took: Vec<Duration> = (0..200)
        .map(|number| {
            let begin = Instant::now();
            assert_eq!(outside(&cluster, &format!("host-{number}.example.com")), "192.0.2.51");
            begin.elapsed()
        })
        .collect();
    took.sort();
    println!("  then: median {:?}, worst {:?}", took[100], took[199]);
    assert!(took[190] < Duration::from_millis(100), "{:?}", &took[190..]);
}
