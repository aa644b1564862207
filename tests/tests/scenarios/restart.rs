//! Agents that are killed and started again.
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use agent::api::{routes, types};
use agent::bed::{Sandbox, connect};
use agent::netns::Namespace;
use tests::cluster::Cluster;
use tests::family::Family;
use tests::load::Load;
use tests::names::{Etc, Manner, RESOLVER, Upstream, Way, ask};
use tests::runner::{Scenario, is_nightly};
use tests::versions;
use tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(5);
/// So that one is under way at nearly any time.
const UPSTREAM_DELAY: Duration = Duration::from_millis(60);
/// A little more than is asked for: a client begins late and ends early.
const CONNECTIONS_PER_SECOND: u32 = 520;
const CONNECTIONS_MIN: u32 = 500;
const CLIENTS: u32 = 4;
const LOOK_UPS_PER_SECOND: u32 = 105;
const LOOK_UPS_MIN: u32 = 100;

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        a_restart_or_an_upgrade_fails_no_flow_and_no_lookup,
        a_holder_that_ends_is_replaced_and_the_agent_may_follow,
        leave_removes_everything,
        a_start_that_fails_leaves_no_holder_but_the_one_that_was_there once,
    ]
}

/// What goes on all the while, from one container to a service: of these, none may fail.
struct Traffic {
    stream: Load,
    clients: Vec<Load>,
    look_ups: Load,
}

impl Traffic {
    /// One TCP stream, 500 new connections and 100 look-ups a second.
    fn begin(cluster: &Cluster, client: &str, service: &str, vip: SocketAddr) -> Self {
        let client = cluster.namespace(client);
        let mut stream = connect(&client, vip, LIMIT).expect("a connection");
        let _greeting = stream.read(&mut [0; 64]).expect("the greeting");
        let stream = Load::start(Duration::from_millis(5), move || {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        let clients = Load::clients(&client, vip, CLIENTS, CONNECTIONS_PER_SECOND);
        let (expected, number) = (vip.ip().to_string(), if vip.is_ipv4() { 1 } else { 28 });
        let (namespace, name) = (client.clone(), service.to_owned());
        let interval = Duration::from_secs(1) / LOOK_UPS_PER_SECOND;
        let look_ups =
            Load::steady(&client, interval, move || asked_once(&namespace, &name, number, &expected));
        Self { stream, clients, look_ups }
    }

    /// Ends it, looks whether anything failed, and, where the clients had the processor, whether there was as much of it
    /// as there was to be.
    fn end(self) {
        let clients = self.clients.into_iter().map(Load::stop).reduce(|one, other| one.and(&other));
        let loads = [
            ("the stream", Some(self.stream.stop()), 0),
            ("new connections", clients, CONNECTIONS_MIN),
            ("look-ups", Some(self.look_ups.stop()), LOOK_UPS_MIN),
        ];
        for (what, tally, least) in loads {
            let tally = tally.expect("clients");
            let rate = tally.per_second();
            println!("  {what}: {} worked, {rate:.0}/s, longest gap {:?}", tally.good, tally.longest_gap);
            assert!(tally.failures.is_empty() && tally.good > 0, "{what}: {tally:?}");
            if tally.starved * 10 < tally.ran {
                assert!(rate >= f64::from(least), "{what}: {rate:.0}/s: {tally:?}");
            } else {
                println!("  (a client waited {:?} of {:?} for a processor)", tally.starved, tally.ran);
            }
        }
    }
}

/// Asked once: what an agent is killed over, or has asked an upstream for, the next one answers.
fn asked_once(client: &Namespace, name: &str, number: u16, expected: &str) -> io::Result<()> {
    let answer = ask(client, RESOLVER, name, number, Way::Udp, LIMIT)?;
    if answer.summary() == expected { Ok(()) } else { Err(io::Error::other(answer.summary())) }
}

/// Row P61: agents are restarted, killed, and upgraded to older and newer versions, one host after the other, so that
/// agents of two versions are members of one cluster, with holders that are older and newer than they.
fn a_restart_or_an_upgrade_fails_no_flow_and_no_lookup(sandbox: &Sandbox) {
    let _etc = Etc::cover("nameserver 192.168.77.251\n");
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.switch_address("192.168.77.251/24");
    let manner = Manner::Slowly([192, 0, 2, 51].into(), UPSTREAM_DELAY);
    let at = "192.168.77.251:53".parse().expect("an address");
    let _upstream = Upstream::start(cluster.bed().switch(), at, manner);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c2a c2x");
    cluster.containers("c1n");
    let _servers = ["c1a", "c2a"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h2", "register payment-api --on c2a");
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let traffic = Traffic::begin(&cluster, "c2x", "payment-api", vip);
    let (mut count, client) = (0, cluster.namespace("c2x"));
    let forwarded = Load::start(Duration::ZERO, move || {
        count += 1;
        asked_once(&client, &format!("host-{count}.example.com"), 1, "192.0.2.51")
    });
    let mut versions = versions::IN_TURN.into_iter().cycle();
    for round in 0..if is_nightly() { 25 } else { 8 } {
        // Killed, stopped; the same again with another program.
        let (killed, upgrade) = (round % 2 == 0, (round / 2 % 2 == 1).then(|| versions.next()).flatten());
        // The host of the client, then that of a replica.
        for host in ["h2", "h1"] {
            if let Some(version) = upgrade {
                cluster.install(host, version);
            }
            if killed {
                cluster.kill_agent(host)
            } else {
                cluster.stop_agent(host)
            }
            cluster.restart_agent(host);
            cluster.wait_members(2);
            if let Some(version) = upgrade {
                works_beside_others(&cluster, host, version);
            }
        }
    }
    traffic.end();
    let tally = forwarded.stop();
    assert!(tally.failures.is_empty() && tally.good > 0, "look-ups of others' names: {tally:?}");
    println!("  look-ups of others' names: {} worked, longest gap {:?}", tally.good, tally.longest_gap);
}

/// The host's agent is of that version, whatever the other and its holder are of; both say so, and do what is asked. The
/// command line is of the version that was made, and says so where the agent is not.
fn works_beside_others(cluster: &Cluster, host: &str, version: &str) {
    wait_until(&format!("both hosts know {host} to be of version {version}"), LIMIT, || {
        for asked in ["h1", "h2"] {
            let nodes: Vec<types::NodeInfo> = cluster.get(asked, routes::NODES, &[]);
            let seen = nodes.iter().find(|it| it.name == host).map(|it| it.agent_version.as_str());
            if seen != Some(version) {
                return Err(format!("{asked} says {seen:?}"));
            }
        }
        Ok(())
    });
    let said = cluster.cli(host, "attachments");
    let warned = said.stderr.contains(&format!("the running agent is {version}"));
    assert!(said.exit == 0 && warned == (version != versions::MADE), "{said:?}");
    // Done here, and everywhere soon: a busy machine takes longer than a verb waits.
    let done = |at: &str, words: &str| {
        let output = cluster.cli(at, words);
        assert!([0, 4].contains(&output.exit), "{at}$ svc-agent {words}: {output:?}");
    };
    done("h1", "attach c1n --network payment --netns c1n");
    done("h1", "register beside --on c1n");
    wait_until("a name that was registered beside another version", LIMIT, || {
        let vip = cluster.service("h2", "beside").and_then(|it| Family::now().choose(&it.vips));
        let (seen, wanted) = (cluster.resolve("c2x", "beside"), vip.map(|it| it.to_string()));
        if Some(&seen) == wanted.as_ref() { Ok(()) } else { Err(format!("{seen}, not {wanted:?}")) }
    });
    done("h2", "deregister beside");
    done("h1", "detach c1n");
}

/// Row P61: the holder is killed and upgraded apart from the agent, and the agent apart from the holder, then either
/// goes as well, under new connections from and to that host.
fn a_holder_that_ends_is_replaced_and_the_agent_may_follow(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    // From a place of its own, where another version can take its place.
    cluster.install("h1", versions::MADE);
    cluster.stop_agent("h1");
    cluster.restart_agent("h1");
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x c2x");
    let _server = cluster.server("c1a", 80);
    cluster.ok("h1", "register payment-api --on c1a");
    let vip = SocketAddr::new(cluster.vip("h1", "payment-api"), 80);
    let traffic = Traffic::begin(&cluster, "c1x", "payment-api", vip);
    let from_afar = Load::clients(&cluster.namespace("c2x"), vip, 1, 100);
    let mut versions = versions::IN_TURN.into_iter().cycle();
    let mut installed = versions::MADE;
    for round in 0..if is_nightly() { 20 } else { 4 } {
        let before = installed;
        if round % 2 == 1 {
            installed = versions.next().expect("versions for ever");
            cluster.install("h1", installed);
        }
        if round % 4 == 3 {
            // First the agent: its holder is of the version before.
            cluster.kill_agent("h1");
            cluster.restart_agent("h1");
            let holder = cluster.holder("h1").map(|it| it.version);
            assert_eq!(holder.as_deref(), Some(before), "the holder has stayed");
        }
        // Then, or first, the holder: a new one is of the program that is there now.
        kill_holder(&cluster, "h1");
        let holder = cluster.holder("h1").map(|it| it.version);
        assert_eq!(holder.as_deref(), Some(installed), "the version of the new holder");
        cluster.kill_agent("h1");
        cluster.restart_agent("h1");
        cluster.wait_members(2);
        let answer = cluster.shell("c1x", "getent hosts payment-api");
        assert!(answer.contains(&vip.ip().to_string()), "{answer}");
    }
    traffic.end();
    let tally = from_afar.into_iter().map(Load::stop).next().expect("a client");
    assert!(tally.failures.is_empty() && tally.good > 50, "{tally:?}");
    assert!(cluster.ok("h1", "network ls").contains("payment"));
}

/// Ends the holder and waits until another one holds what it held.
fn kill_holder(cluster: &Cluster, host: &str) {
    let before = holder_of(cluster, host);
    cluster.shell(host, &format!("kill -9 {before}"));
    wait_until("another holder", LIMIT, || {
        let now = holder_of(cluster, host);
        if now.is_empty() || now == before { Err(now) } else { Ok(()) }
    });
    // Two namespaces' resolvers of two sockets each, and the network's namespace.
    let held = format!("ls /proc/{}/fd -l | grep -cE 'socket:|net:'", holder_of(cluster, host));
    wait_until("it holds what that one held", LIMIT, || {
        let count: usize = cluster.shell(host, &held).trim().parse().unwrap_or(0);
        if count >= 5 { Ok(()) } else { Err(format!("{count} descriptors")) }
    });
}

/// The holder's process on a host; empty while there is none.
fn holder_of(cluster: &Cluster, host: &str) -> String {
    let mine = "for pid in $(ip netns pids HOST); do tr '\\0' ' ' </proc/$pid/cmdline | grep -q '^[^ ]*svc-agent[^ ]* hold ' && echo $pid; done; true";
    cluster.shell("h1", &mine.replace("HOST", host)).trim().to_owned()
}

/// The one thing that an agent does and leaves so: processes may have come to use it.
fn loopback_up(cluster: &Cluster, places: &[&str]) {
    for place in places {
        cluster.shell(place, "ip link set lo up");
    }
}

fn leave_removes_everything(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 2);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a");
    let namespace = cluster.add_host(3);
    cluster.containers("c3a c3b");
    // conntrack's and the bridge's settings appear with their first use, whoever uses them.
    namespace.run(|| ()).expect("a namespace");
    let places = ["h3", "c3a", "c3b"];
    loopback_up(&cluster, &places);
    let before = places.map(|place| cluster.kernel_state(place));
    cluster.start_agent("h3", "--join 192.168.77.1");
    cluster.wait_ready("h3");
    cluster.ok("h3", "network create second --internal");
    cluster.attach_again("payment", "c3a");
    cluster.attach_again("payment", "c3b");
    cluster.ok("h3", "attach c3b --network second --netns c3b");
    cluster.ok("h3", "attach the-host --network payment --netns host");
    cluster.ok("h3", "register payment-api --on c3a");
    let during = places.map(|place| cluster.kernel_state(place));
    for (during, before) in during.iter().zip(&before) {
        assert_ne!(during, before);
    }
    let left = cluster.ok("h3", "leave");
    for removed in ["payment", "c3a", "c3b"] {
        assert!(left.contains(removed), "leave does not name {removed}:\n{left}");
    }
    cluster.wait_agent_end("h3");
    wait_until("everything is gone", LIMIT, || {
        let now = places.map(|place| cluster.kernel_state(place));
        if now == before { Ok(()) } else { Err(format!("{before:#?}\nis now\n{now:#?}")) }
    });
    assert!(!std::path::Path::new("/etc/netns/c3a/resolv.conf").exists());
    let processes = cluster
        .shell("h3", r"cat /proc/[0-9]*/cmdline | tr '\0' ' ' | grep -oE 'svc-agent[^ /]* hold ' | wc -l");
    assert_eq!(processes.trim(), "2", "the holders of the other two");
    wait_until("the others have forgotten it", LIMIT, || {
        let said = cluster.ok("h1", "node ls");
        if said.contains("h3")
            || cluster.service("h1", "payment-api").is_some_and(|it| !it.replicas.is_empty())
        {
            Err(said)
        } else {
            Ok(())
        }
    });
    // Row P64: again and again.
    let _server = cluster.server("c3a", 80);
    for round in 1..=if is_nightly() { 100 } else { 3 } {
        cluster.start_agent("h3", "--join 192.168.77.1");
        cluster.wait_ready("h3");
        cluster.attach_again("payment", "c3a");
        cluster.ok("h3", "register payment-api --on c3a");
        let vip = cluster.vip("h1", "payment-api");
        assert_eq!(cluster.tcp("c1a", vip, 80).expect("an answer").name, "c3a", "round {round}");
        cluster.ok("h3", "leave");
        cluster.wait_agent_end("h3");
        wait_until("everything is gone again", LIMIT, || {
            let now = places.map(|place| cluster.kernel_state(place));
            if now == before { Ok(()) } else { Err(format!("round {round}: {before:#?}\nis now\n{now:#?}")) }
        });
    }
}

fn a_start_that_fails_leaves_no_holder_but_the_one_that_was_there(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    cluster.add_host(1);
    let fail = |cluster: &mut Cluster| {
        let taken = cluster.server("h1", agent::cluster::PORT);
        cluster.start_agent("h1", "--init");
        cluster.wait_agent_end("h1");
        assert!(cluster.log("h1").contains("see what has port"), "{}", cluster.log("h1"));
        drop(taken);
    };
    fail(&mut cluster);
    assert_eq!(cluster.holder("h1"), None);
    cluster.start_agent("h1", "--init");
    cluster.wait_ready("h1");
    let before = cluster.holder("h1");
    cluster.kill_agent("h1");
    fail(&mut cluster);
    assert!(before.is_some() && cluster.holder("h1") == before, "{before:?}");
}
