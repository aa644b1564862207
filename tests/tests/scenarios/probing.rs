//! What no table shows: rules of others in a container that undo what ours say.
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agent::api::routes;
use agent::api::types::Problem;
use agent::bed::Sandbox;
use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::family::Family;
use tests::load::Burner;
use tests::runner::Scenario;
use tests::wait::{pause, wait_until};

/// From the harm, or its end, until every host says so.
const SEEN: Duration = Duration::from_secs(5);
/// The same where all processors are busy with other things.
const HARD_TIMES: Duration = Duration::from_secs(8);
/// Not yet long enough to be suspended.
const STOP: Duration = Duration::from_secs(3);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        p52_a_probe_finds_what_no_table_shows,
        p52_a_probe_is_not_misled_by_a_stop_nor_by_busy_processors once,
        p52_probes_of_the_hosts_own_namespace_and_of_none once,
    ]
}

/// Rules that somebody loads in a container, and what is to be said of them.
struct Harm {
    rules: String,
    said: &'static [&'static str],
}

/// Drops and redirects, before and after ours. What a nat chain does to look-ups is none: ours are written before it.
/// `network`: where VIPs and endpoints are, in the scenario's family.
fn harms(network: &str) -> Vec<Harm> {
    let family = Family::now().table();
    let table = |inside: &str| format!("table inet foreign {{ chain c {{ {inside}; }}; }}");
    let nat = |inside: &str| {
        let chain = format!("chain c {{ type nat hook output priority -150; {inside}; }}");
        format!("table {family} foreign {{ {chain}; }}")
    };
    vec![
        Harm {
            rules: table("type filter hook output priority -350; udp dport 53 drop"),
            said: &["127.0.0.11:53", "EPERM", "it passes", "inet foreign"],
        },
        Harm {
            rules: table("type filter hook input priority 0; iif lo drop"),
            said: &["127.0.0.11:53", "timeout", "as well", "inet foreign"],
        },
        Harm {
            rules: table(
                "type filter hook output priority -350; ip daddr 127.0.0.11 udp dport 53 udp dport set 9",
            ),
            said: &["127.0.0.11:53", "timeout", "it passes", "inet foreign"],
        },
        Harm {
            rules: table(&format!(
                "type filter hook output priority -150; {family} daddr {network} meta l4proto udp drop"
            )),
            said: &["VIPs: ", "EPERM", "it passes", "inet foreign"],
        },
        Harm {
            rules: nat(&format!("{family} daddr {network} meta l4proto udp redirect to :9")),
            said: &["VIPs: ", "timeout", "it passes", "foreign"],
        },
    ]
}

/// Row P52. Our tables stay as they are, so drift repair sees nothing.
fn p52_a_probe_finds_what_no_table_shows(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c2b");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.wait_well(SEEN);
    wait_until("it is tried", SEEN, || match passed(&cluster, "h2") {
        0 => Err("nothing has passed"),
        count => Ok(count),
    });
    // The one address that VIPs are tried with; a service's own would do as well.
    let network = first_of(cluster.address_of("c2a"));
    for harm in harms(&network.to_string()) {
        let tables = |cluster: &Cluster| {
            let family = Family::now().table();
            cluster.shell("c2a", &format!("nft list table {family} svc-agent; nft list table ip svc-agent"))
        };
        let before = tables(&cluster);
        let began = Instant::now();
        cluster.shell("c2a", &format!("nft '{}'", harm.rules));
        for host in ["h1", "h2", "h3"] {
            let problem = wait_until(&format!("{host} sees {}", harm.rules), SEEN, || {
                let seen = probes(&cluster, host);
                seen.first().cloned().ok_or(format!("{:?}", cluster.status(host).hosts))
            });
            assert_eq!(problem.object, "probe/payment/c2a", "{problem:?}");
            let said = harm.said.iter().all(|part| problem.error.contains(part));
            assert!(said && problem.seconds < 6, "{:?}: {problem:?}", harm.said);
            assert_eq!(cluster.cli(host, "status").exit, 4);
        }
        println!("  {:?} until all hosts said so: {}", began.elapsed(), harm.rules);
        assert_eq!(tables(&cluster), before, "somebody's table is somebody's own, and ours is as it was");
        cluster.shell("c2a", "nft delete table inet foreign 2>&- || nft delete table ip foreign 2>&- || nft delete table ip6 foreign");
        let began = Instant::now();
        cluster.wait_well(SEEN);
        println!("  {:?} until it was over", began.elapsed());
    }
    let events = cluster.ok("h2", "events");
    assert!(events.contains("probe/payment/c2a works again"), "{events}");
    assert!(!events.contains("probe/payment/c2b"), "its neighbour is well: {events}");
    // It is gone with its namespace, and with what it was tried for.
    cluster.shell("c2b", &format!("nft '{}'", harms(&network.to_string())[0].rules));
    wait_until(
        "h1 sees it",
        SEEN,
        || if probes(&cluster, "h1").is_empty() { Err("nothing") } else { Ok(()) },
    );
    cluster.ok("h2", "detach c2b");
    wait_until("it is over", SEEN, || {
        let seen = probes(&cluster, "h1");
        if seen.is_empty() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// No alarm while the agent cannot work.
fn p52_a_probe_is_not_misled_by_a_stop_nor_by_busy_processors(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1b c2a c2b");
    cluster.wait_well(SEEN);
    for _ in 0..3 {
        cluster.signal_agent("h2", Signal::STOP);
        pause(STOP);
        cluster.signal_agent("h2", Signal::CONT);
        pause(Duration::from_secs(1));
    }
    let burners: Vec<Burner> = (0..8).map(|_| Burner::start()).collect();
    let before = passed(&cluster, "h1");
    pause(HARD_TIMES);
    drop(burners);
    assert!(passed(&cluster, "h1") > before, "nothing was tried");
    cluster.wait_well(SEEN);
    // And over a restart, whose tables another life has made.
    cluster.kill_agent("h2");
    cluster.restart_agent("h2");
    wait_until("it is tried again", SEEN, || match passed(&cluster, "h2") {
        0 => Err("nothing has passed"),
        count => Ok(count),
    });
    for host in ["h1", "h2"] {
        let events = cluster.ok(host, "events");
        assert!(!events.contains("probe/"), "{host}: {events}");
    }
}

/// A host that is attached itself has no redirect; what it has is tried. Where probes are off nothing is.
fn p52_probes_of_the_hosts_own_namespace_and_of_none(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.ok("h1", "attach h1 --network payment --netns host");
    wait_until("it is tried", SEEN, || match passed(&cluster, "h1") {
        0 => Err("nothing has passed"),
        count => Ok(count),
    });
    let network = first_of(cluster.address_of("h1"));
    let family = Family::now().table();
    let drop = format!("type filter hook output priority -150; {family} daddr {network} drop");
    cluster.shell("h1", &format!("nft 'table inet foreign {{ chain c {{ {drop}; }}; }}'"));
    let problem = wait_until("h2 sees it", SEEN, || {
        let status = cluster.status("h2");
        let found =
            status.hosts.iter().flat_map(|host| &host.problems).find(|it| it.object.starts_with("probe/"));
        found.cloned().ok_or(format!("{:?}", status.hosts))
    });
    assert!(problem.object == "probe/payment/h1" && problem.error.starts_with("VIPs: "), "{problem:?}");
    cluster.shell("h1", "nft delete table inet foreign");
    cluster.wait_well(SEEN);
    cluster.stop_agent("h1");
    cluster.start_agent("h1", "--probes off");
    cluster.wait_ready("h1");
    pause(SEEN);
    assert_eq!(passed(&cluster, "h1"), 0);
}

/// What probes found on the second host, as another one says.
fn probes(cluster: &Cluster, host: &str) -> Vec<Problem> {
    let status = cluster.status(host);
    let problems = status.hosts.into_iter().filter(|it| it.name == "h2").flat_map(|it| it.problems);
    problems.filter(|problem| problem.object.starts_with("probe/")).collect()
}

/// How many have passed since the agent started.
fn passed(cluster: &Cluster, host: &str) -> u64 {
    let metrics = cluster.client(host).fetch(routes::METRICS).expect("metrics").text();
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("svc_agent_probes_total{outcome=\"passed\"} "));
    line.and_then(|value| value.parse().ok()).expect("the counter")
}

/// The first address of an endpoint's subnet, which is a /16 of IPv4 or a /64.
fn first_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            IpAddr::from([a, b, 0, 0])
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}
