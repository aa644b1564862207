//! Requests that are refused, and requests that say again what is so already.
use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![bad_input_is_refused_with_the_reason once, saying_it_again_changes_nothing]
}

/// Rows P50 and "Bad input": command, exit code, what must be said. Each is refused within a second.
const REFUSED: &[(&str, &str, i32, &[&str])] = &[
    ("h1", "network create other --subnet 10.50.0.0/40", 2, &["10.50.0.0/40"]),
    ("h1", "network create other --subnet 10.50.0.7/16", 2, &["10.50.0.7/16"]),
    ("h1", "network create other --subnet 10.50.0.0/31", 1, &["10.50.0.0/31"]),
    ("h1", "network create other --vni 7000", 1, &["7000"]),
    ("h1", "network create other --vni 16777216", 2, &["16777216"]),
    ("h1", "network create other --mtu 10", 2, &["10"]),
    ("h1", "network create payment --subnet 10.51.0.0/16", 1, &["payment", "10.51.0.0/16"]),
    ("h1", "network create payment --internal", 1, &["payment", "internal"]),
    ("h1", "network create not_a_label", 2, &["not_a_label"]),
    ("h1", "network create -o", 2, &[]),
    ("h1", "network create other --encrypted", 1, &["encrypted"]),
    ("h1", "network rm payment", 1, &["payment", "c1a"]),
    ("h1", "network rm unknown", 1, &["unknown"]),
    ("h1", "network inspect unknown", 1, &["unknown"]),
    ("h1", "attach n1 --network unknown --netns c1n", 1, &["unknown"]),
    ("h1", "attach n1 --network payment --netns gone", 1, &["gone"]),
    ("h1", "attach n1 --network payment --pid 4194303", 1, &["4194303"]),
    ("h1", "attach n1 --network payment --netns c1n --ip 10.99.0.1", 1, &["10.99.0.1"]),
    ("h1", "attach n1 --network payment --netns c1n --ip 10.50.0.1", 1, &["10.50.0.1"]),
    ("h1", "attach n1 --network payment --netns c1n --ip 10.50.0.300", 2, &["10.50.0.300"]),
    ("h1", "attach n1 --network payment --netns c1n --mac 01:00:5e:00:00:01", 2, &["01:00:5e:00:00:01"]),
    ("h1", "attach n1 --network payment", 2, &["--netns"]),
    ("h1", "attach 1n- --network payment --netns c1n", 2, &["1n-"]),
    ("h1", "attach c1a --network payment --netns c1n", 1, &["c1a"]),
    ("h1", "attach c2a --network payment --netns c1n", 1, &["c2a", "h2"]),
    ("h1", "attach c1a --network payment --netns c1a --alias else", 1, &["c1a"]),
    ("h1", "detach unknown", 1, &["unknown"]),
    ("h1", "register web --on unknown", 1, &["unknown"]),
    ("h1", "register web --on c2a", 1, &["c2a", "h2"]),
    ("h1", "register web --on c1a --port 70000", 2, &["70000"]),
    ("h1", "register web --on c1a --port 80:0/tcp", 2, &["80:0/tcp"]),
    ("h1", "register web --on c1a --port 80/sctp4", 2, &["80/sctp4"]),
    ("h1", "register web --on c1a --weight 257", 2, &["257"]),
    ("h1", "register web --on c1a --mode anycast", 2, &["anycast"]),
    ("h1", "register web --on c1a --check ftp:21", 2, &["ftp:21"]),
    ("h1", "register web --on c1a --lb least-conn", 1, &["random"]),
    ("h1", "register Not_A_Label --on c1a", 2, &["Not_A_Label"]),
    ("h1", "register web", 2, &["--on"]),
    ("h2", "register payment-api --on c2a --port 81", 1, &["payment-api", "81"]),
    ("h2", "register payment-api --on c2a --mode dnsrr", 1, &["mode is vip, asked was dnsrr"]),
    ("h1", "deregister unknown", 1, &["unknown"]),
    ("h1", "deregister payment-api --on c2a", 1, &["c2a"]),
    ("h1", "service set unknown --mode dnsrr", 1, &["unknown"]),
    ("h1", "service inspect unknown", 1, &["unknown"]),
    ("h1", "drain payment-api --on c2a", 1, &["c2a"]),
    ("h1", "node rm unknown", 1, &["unknown"]),
    ("h1", "node rm h2", 1, &["h2"]),
    ("h1", "resolve payment-api --on c2a", 1, &["c2a"]),
    ("h1", "frobnicate", 2, &["frobnicate"]),
    ("h1", "status --socket /run/nobody.sock", 3, &["/run/nobody.sock"]),
];

fn bad_input_is_refused_with_the_reason(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment --subnet 10.50.0.0/16 --vni 7000");
    cluster.attach("payment", "c1a c2a c1z");
    cluster.containers("c1n");
    cluster.ok("h1", "register payment-api --on c1a --port 80");
    let taken = cluster.address_of("c1z");
    let before = facts(&cluster);
    let mut wrong = Vec::new();
    let taken_line = format!("attach n1 --network payment --netns c1n --ip {taken}");
    let taken_case = ("h1", taken_line.as_str(), 1, &["c1z"][..]);
    let key = cluster.bed().log_directory().join("cluster.key");
    let second_line = format!(
        "run --node h1 --advertise {} --key-file {} --state-dir {}",
        cluster.address(1),
        key.display(),
        cluster.bed().state_directory("h1").display()
    );
    let second_case =
        ("h1", second_line.as_str(), 1, &["an agent runs here already", "svc-agent status"][..]);
    for (host, words, exit, said) in REFUSED.iter().copied().chain([taken_case, second_case]) {
        let output = cluster.cli(host, words);
        let missing: Vec<&&str> = said.iter().filter(|part| !output.stderr.contains(**part)).collect();
        if output.exit != exit || !missing.is_empty() || output.took.as_millis() >= 1_000 {
            wrong.push(format!(
                "svc-agent {words}: exit {} in {:?}, missing {missing:?}\n{}{}",
                output.exit, output.took, output.stdout, output.stderr
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(facts(&cluster), before, "what is refused changes nothing");
    let links = cluster.shell("c1n", "ip -o link | wc -l");
    assert_eq!(links.trim(), "1", "nothing is left in the container");
    // What comes to the gossip port from nowhere is dropped, and everything goes on.
    let junk = "for n in 1 20 100 1400; do head -c $n /dev/urandom | busybox nc -u -w1 192.168.77.1 7946; done; \
                head -c 3000 /dev/urandom | busybox nc -w1 192.168.77.1 7946";
    cluster.try_shell("h2", junk);
    cluster.wait_well(std::time::Duration::from_secs(5));
}

/// Everything that the cluster knows, as the API tells it.
fn facts(cluster: &Cluster) -> (Vec<String>, Vec<String>, Vec<String>) {
    let networks: Vec<types::NetworkInfo> = cluster.get("h1", routes::NETWORKS, &[]);
    let attachments: Vec<types::AttachmentInfo> = cluster.get("h1", routes::ATTACHMENTS, &[]);
    let services: Vec<types::ServiceInfo> = cluster.get("h1", routes::SERVICES, &[]);
    (
        networks.iter().map(|it| format!("{it:?}")).collect(),
        attachments.iter().map(|it| format!("{it:?}")).collect(),
        services.iter().map(|it| format!("{it:?}")).collect(),
    )
}

fn saying_it_again_changes_nothing(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.containers("c1a c2a");
    let verbs = [
        ("h1", "network create payment --subnet 10.50.0.0/16"),
        ("h1", "attach c1a --network payment --netns c1a --alias one"),
        ("h2", "attach c2a --network payment --netns c2a"),
        ("h1", "register payment-api --on c1a --port 80:8080/tcp --weight 2"),
        ("h2", "register payment-api --on c2a"),
        ("h2", "service set payment-api --alias api"),
    ];
    for (host, words) in verbs {
        cluster.ok(host, words);
    }
    let (known, kernel) = (facts(&cluster), cluster.kernel_state("c1a"));
    for _ in 0..2 {
        for (host, words) in verbs {
            let done: types::Done =
                serde_json::from_str(&cluster.ok(host, &format!("{words} -o json"))).expect("JSON");
            assert!(done.changed.is_empty(), "{words}, again: {:?}", done.changed);
        }
    }
    cluster.ok("h2", "network create payment --subnet 10.50.0.0/16");
    assert_eq!(facts(&cluster), known);
    assert_eq!(cluster.kernel_state("c1a"), kernel);
    for (host, words) in [
        ("h1", "deregister payment-api --on c1a"),
        ("h1", "deregister payment-api"),
        ("h1", "detach c1a"),
        ("h2", "detach c2a"),
        ("h1", "network rm payment"),
    ] {
        cluster.ok(host, words);
    }
    assert_eq!(facts(&cluster), Default::default(), "and everything can be taken back");
}
