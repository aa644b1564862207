//! Tables of the kernel's that are full: of neighbours, which all namespaces share, and of tracked flows. Their limits are
//! set in a machine's first network namespace alone.
//!
//! One host: two agents that agree within their own time-outs are too much for an emulated machine beside others' work.
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::{Sandbox, connect};
use agent::netns::Namespace;
use tests::cluster::Cluster;
use tests::names::Way;
use tests::runner::Scenario;
use tests::vm::Numbers;
use tests::wait::{pause, wait_until};

/// As for all that is awaited, it is longer there.
const LIMIT: Duration = Duration::from_secs(15);
/// Of neighbours, while there are too few, and when they are more.
const FEW: [u64; 3] = [16, 32, 64];
const MORE: [u64; 3] = [512, 2_048, 4_096];
/// Addresses that nobody has, more than may be resolved at one time.
const STRANGERS: u8 = 200;
/// Between two rounds of asking for them; that of which nothing was heard is given up after three seconds.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Of tracked flows, in each namespace.
const FLOWS: u64 = 200;
/// How long a connection may take while others are dropped.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p18_too_few_neighbours_are_told_and_what_is_refused_comes_by_itself_later in_vm,
        p30_a_full_table_of_flows_is_told_first_and_takes_neither_names_nor_what_is_not_translated in_vm,
    ]
}

fn set_neighbours(numbers: &mut Numbers, limits: [u64; 3]) {
    for (number, limit) in (1..).zip(limits) {
        numbers.set(&format!("net/ipv4/neigh/default/gc_thresh{number}"), limit);
    }
}

/// Sends to addresses of a network that nobody has, until it is dropped.
struct Strangers {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Strangers {
    fn of(namespace: Namespace, network: Ipv4Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let [a, b, _, _] = network.octets();
        let ask = move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            while !asked.load(Ordering::Relaxed) {
                // What the kernel refuses here it does not tell: that is why it must be told elsewhere.
                (1..=STRANGERS)
                    .for_each(|last| drop(socket.send_to(b"x", (Ipv4Addr::new(a, b, 99, last), 9))));
                pause(ASK_AGAIN);
            }
        };
        let thread = std::thread::spawn(move || namespace.run(ask).expect("a namespace"));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the strangers' thread");
        }
    }
}

fn p18_too_few_neighbours_are_told_and_what_is_refused_comes_by_itself_later(sandbox: &Sandbox) {
    let mut numbers = Numbers::default();
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1y c1a");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = cluster.vip("h1", "payment-api");
    wait_until("a service", LIMIT, || cluster.tcp("c1x", vip, 80));
    assert_eq!(problem(&cluster, "h1", "host/neighbours/ipv4"), None);
    set_neighbours(&mut numbers, FEW);
    let IpAddr::V4(own) = cluster.address_of("c1y") else { panic!("an IPv4 network") };
    let strangers = Strangers::of(cluster.namespace("c1y"), own);
    let told = wait_until("it is told that neighbours are refused", LIMIT, || {
        let told = problem(&cluster, "h1", "host/neighbours/ipv4");
        told.ok_or_else(|| format!("{:?}", cluster.status("h1").hosts))
    });
    for part in ["the 64 addresses that net.ipv4.neigh.default.gc_thresh3 allows", "sysctl -w net.ipv4.neigh"]
    {
        assert!(told.contains(part), "{told}");
    }
    println!("  {told}");
    let gauges = metrics(&cluster, "h1", "svc_agent_neighbour");
    assert!(gauges.contains("svc_agent_neighbour_entries_max{family=\"ipv4\"} 64"), "{gauges}");
    assert!(!gauges.contains("svc_agent_neighbour_table_fulls_total{family=\"ipv4\"} 0"), "{gauges}");
    let doctor = cluster.cli("h1", "doctor").stdout;
    assert!(doctor.contains("gc_thresh3 = 64"), "{doctor}");
    // Our own entries are permanent, so what is attached and registered now is in force as far as it is ours.
    cluster.containers("c1z");
    cluster.attach_again("payment", "c1z");
    set_neighbours(&mut numbers, MORE);
    wait_until("what was attached meanwhile is served", LIMIT, || cluster.tcp("c1z", vip, 80));
    wait_until("it is over by itself", LIMIT, || match problem(&cluster, "h1", "host/neighbours/ipv4") {
        None => Ok(()),
        Some(told) => Err(told),
    });
    drop(strangers);
    cluster.wait_well(LIMIT);
}

/// Connections through a VIP until the table is full; what is not translated goes on as ever.
fn p30_a_full_table_of_flows_is_told_first_and_takes_neither_names_nor_what_is_not_translated(
    sandbox: &Sandbox,
) {
    let mut numbers = Numbers::default();
    let mut cluster = Cluster::start(sandbox, 1);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1x c1a c1b");
    let _servers = [cluster.server("c1a", 80), cluster.server("c1b", 80)];
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let direct = SocketAddr::new(cluster.address_of("c1b"), 80);
    wait_until("a service", LIMIT, || cluster.tcp("c1x", vip.ip(), 80));
    wait_until("flows that need no tracking go without", LIMIT, || {
        let tables = cluster.shell("c1x", "nft list tables");
        if tables.contains("svc-agent-untracked") { Ok(()) } else { Err(tables) }
    });
    numbers.set("net/netfilter/nf_conntrack_max", FLOWS);
    let object = "network/payment/attachment/c1x/balancer/conntrack";
    let mut open: Vec<TcpStream> = Vec::new();
    while open.len() < usize::try_from(FLOWS * 85 / 100).unwrap_or_default() {
        open.push(flow(&cluster, vip).expect("there is room"));
    }
    let told = wait_until("it is told before it is full", LIMIT, || {
        problem(&cluster, "h1", object).ok_or_else(|| format!("{} flows", open.len()))
    });
    println!("  {told}");
    assert!(
        told.contains(&format!("80 % of the {FLOWS} flows")) && told.contains("nf_conntrack_max"),
        "{told}"
    );
    open.push(flow(&cluster, vip).expect("there was room when it was told"));
    let gauges = metrics(&cluster, "h1", "svc_agent_conntrack_entries");
    assert!(gauges.contains(&format!("svc_agent_conntrack_entries_max {FLOWS}")), "{gauges}");
    while let Ok(stream) = flow(&cluster, vip) {
        open.push(stream);
        assert!(open.len() < 2 * usize::try_from(FLOWS).unwrap_or_default(), "no limit");
    }
    println!("  full with {} flows", open.len());
    for way in [Way::Udp, Way::Tcp].into_iter().cycle().take(40) {
        let answer = cluster.dns_by("c1x", "payment-api", "A", way);
        assert_eq!(answer.data(), [vip.ip().to_string()]);
    }
    for _ in 0..20 {
        echo(&mut flow(&cluster, direct).expect("what is not translated needs no entry"));
    }
    open.iter_mut().for_each(echo);
    assert!(flow(&cluster, vip).is_err(), "it is still full");
    assert!(problem(&cluster, "h1", object).is_some());
    drop(open);
    cluster.shell("c1x", "conntrack -F 2>&1");
    wait_until("it is over by itself", LIMIT, || match problem(&cluster, "h1", object) {
        None => Ok(()),
        Some(told) => Err(told),
    });
    wait_until("a new flow", LIMIT, || flow(&cluster, vip));
}

/// A connection of c1x's that was greeted.
fn flow(cluster: &Cluster, to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = connect(&cluster.namespace("c1x"), to, CONNECT_LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut last = [0];
    while last != *b"\n" {
        stream.read_exact(&mut last)?;
    }
    Ok(stream)
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").expect("sent");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an answer");
    assert_eq!(byte, *b"x");
}

/// What `status` says of an object of a host.
fn problem(cluster: &Cluster, host: &str, object: &str) -> Option<String> {
    let status: types::Status = cluster.get(host, routes::STATUS, &[]);
    let problems = status.hosts.into_iter().filter(|it| it.name == host).flat_map(|it| it.problems);
    problems.into_iter().find(|it| it.object == object).map(|it| it.error)
}

fn metrics(cluster: &Cluster, host: &str, prefix: &str) -> String {
    let text = cluster.client(host).fetch(routes::METRICS).expect("metrics").text();
    text.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>().join("\n")
}
