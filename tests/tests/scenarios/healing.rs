//! Partitions under loss, with changes on both sides: soon after they heal all hosts are alike.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agent::api::{routes, types};
use agent::bed::Sandbox;
use tests::cluster::{Cluster, host_of, shell_in};
use tests::family::Family;
use tests::runner::{Scenario, is_nightly};
use tests::wait::{pause, wait_until};

const HEAL_LIMIT: Duration = Duration::from_secs(5);
/// How long the partitions are, in seconds; all of them again and again in a nightly run.
const PARTITIONS_S: [u64; 5] = [3, 10, 3, 10, 30];
const PARTITIONS_NIGHTLY: usize = 100;
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
/// One of each host that stays, and looks.
const CLIENTS: [&str; 3] = ["c1x", "c2x", "c3x"];
/// What each host's containers a and b are used for in turn.
const SERVICES: [&str; 2] = ["red", "green"];
/// Between the hosts three of ten frames are lost.
const LOSS: &str = "nft -f - <<'END'\ntable bridge loss {\n chain forward {\n  type filter hook forward priority 0;\n  \
                    numgen random mod 100 < 30 counter drop\n }\n}\nEND";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![partitions_with_loss_leave_all_alike once]
}

/// What was asked for: who is attached, and the replicas of each service.
#[derive(Default)]
struct Registry {
    attached: BTreeSet<String>,
    services: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Registry {
    /// Changes one host: its container `a` or `b` comes or goes, with its replica, and the other's replica with it.
    fn change(&mut self, cluster: &Cluster, host: &str, round: usize) {
        let number = host.trim_start_matches('h');
        let comes = format!("c{number}{}", if round.is_multiple_of(2) { 'a' } else { 'b' });
        let goes = format!("c{number}{}", if round.is_multiple_of(2) { 'b' } else { 'a' });
        let service = SERVICES[round / 2 % SERVICES.len()];
        if self.attached.remove(&goes) {
            if round.is_multiple_of(3) {
                let of = self.services.iter().find(|(_, all)| all.contains(&goes)).map(|(name, _)| *name);
                if let Some(of) = of {
                    done(cluster, host, &format!("deregister {of} --on {goes}"));
                }
            }
            self.services.values_mut().for_each(|replicas| replicas.retain(|it| *it != goes));
            done(cluster, host, &format!("detach {goes}"));
        }
        done(cluster, host, &format!("attach {comes} --network payment --netns {comes}"));
        done(cluster, host, &format!("register {service} --on {comes}"));
        self.attached.insert(comes.clone());
        self.services.entry(service).or_default().insert(comes);
    }
}

/// Done here, whether or not others could say so meanwhile.
fn done(cluster: &Cluster, host: &str, words: &str) {
    let output = cluster.cli(host, words);
    assert!([0, 4].contains(&output.exit), "{host}$ svc-agent {words}\n{output:?}");
}

/// Rows P01 and P09.
fn partitions_with_loss_leave_all_alike(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.containers("c1a c1b c2a c2b c3a c3b");
    cluster.attach("payment", &CLIENTS.join(" "));
    let mut registry = Registry::default();
    registry.attached.extend(CLIENTS.map(str::to_owned));
    let count = if is_nightly() { PARTITIONS_NIGHTLY } else { PARTITIONS_S.len() };
    for (round, seconds) in PARTITIONS_S.into_iter().cycle().take(count).enumerate() {
        let away = HOSTS[(round + 2) % HOSTS.len()];
        assert_eq!(shell_in(cluster.bed().switch(), LOSS), "");
        let began = Instant::now();
        cluster.cut(away);
        for host in HOSTS {
            registry.change(&cluster, host, round);
        }
        pause(Duration::from_secs(seconds).saturating_sub(began.elapsed()));
        cluster.heal(away);
        let lost =
            shell_in(cluster.bed().switch(), "nft list table bridge loss; nft delete table bridge loss");
        assert!(!lost.contains("packets 0 "), "nothing was lost: {lost}");
        let healed = Instant::now();
        wait_until(&format!("all are alike after {seconds} s without {away}"), HEAL_LIMIT, || {
            disagreement(&cluster, &registry)
        });
        println!("  {seconds} s without {away}, all alike {:?} after it healed", healed.elapsed());
    }
    cluster.wait_well(HEAL_LIMIT);
}

/// Compares what was asked for with catalog, names, VIP tables and forwarding entries of every host.
fn disagreement(cluster: &Cluster, registry: &Registry) -> Result<(), String> {
    let attachments: Vec<types::AttachmentInfo> = cluster.get("h1", routes::ATTACHMENTS, &[]);
    let addresses: BTreeMap<String, IpAddr> = attachments
        .iter()
        .filter_map(|it| Some((it.name.to_string(), Family::now().choose(&it.addresses)?)))
        .collect();
    for (host, client) in HOSTS.into_iter().zip(CLIENTS) {
        let known: Vec<types::AttachmentInfo> = cluster.get(host, routes::ATTACHMENTS, &[]);
        let known: BTreeSet<String> = known.iter().map(|it| it.name.to_string()).collect();
        if known != registry.attached {
            return Err(format!("{host} knows {known:?}, not {:?}", registry.attached));
        }
        for (name, address) in &addresses {
            // Said in full: a short one that is not known yet would be forwarded.
            let seen = cluster.resolve(client, &format!("{name}.payment.svc.internal"));
            if seen != address.to_string() {
                return Err(format!("{name} is {seen} on {host}, not {address}"));
            }
        }
        let mut table = BTreeMap::new();
        for (name, replicas) in &registry.services {
            let service = cluster.service(host, name).ok_or_else(|| format!("{host} has no {name}"))?;
            let listed: BTreeSet<String> =
                service.replicas.iter().map(|it| it.attachment.to_string()).collect();
            if listed != *replicas {
                return Err(format!("{host}: {name} has {listed:?}, not {replicas:?}"));
            }
            let wanted: BTreeSet<IpAddr> =
                replicas.iter().filter_map(|it| addresses.get(it).copied()).collect();
            let mut tasks: Vec<String> = wanted.iter().map(IpAddr::to_string).collect();
            tasks.sort();
            let tasks = if tasks.is_empty() { "NODATA".to_owned() } else { tasks.join(" ") };
            let vip = Family::now().choose(&service.vips).ok_or("no VIP")?;
            for (asked, wanted) in [((*name).to_owned(), vip.to_string()), (format!("tasks.{name}"), tasks)] {
                let seen = cluster.resolve(client, &format!("{asked}.payment.svc.internal"));
                if seen != wanted {
                    return Err(format!("{asked} is {seen} on {host}, not {wanted}"));
                }
            }
            for vip in service.vips {
                table.insert(vip, wanted.clone());
            }
        }
        // A VIP that nothing serves is in no table; one of two that were given at once leads where the other does.
        table.retain(|_, replicas: &mut BTreeSet<IpAddr>| !replicas.is_empty());
        let mut seen = cluster.vip_table(client);
        seen.retain(|_, replicas| !replicas.is_empty());
        if seen != table {
            return Err(format!("{host}: the table is {seen:?}, not {table:?}"));
        }
    }
    forwarding(cluster, &attachments)
}

/// The tunnels' entries of all hosts, each host's by itself, in no order: its namespace has no name.
fn forwarding(cluster: &Cluster, attachments: &[types::AttachmentInfo]) -> Result<(), String> {
    let wanted = HOSTS.map(|host| {
        let remote = attachments.iter().filter(|it| it.host != host);
        remote
            .map(|it| (it.mac.clone(), vtep(cluster, &host_of(it.name.as_str()))))
            .collect::<BTreeMap<_, _>>()
    });
    let entries = cluster.network_namespaces().into_iter().map(|namespace| {
        let text = shell_in(&namespace, "bridge fdb show dev vxlan");
        let lines = text.lines().filter(|line| !line.starts_with("00:00:00:00:00:00"));
        let entries = lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            let mac = words.next()?.to_owned();
            let mut rest = words.skip_while(|word| *word != "dst");
            rest.next()?;
            Some((mac, rest.next()?.to_owned()))
        });
        entries.collect::<BTreeMap<String, String>>()
    });
    let (mut seen, mut wanted): (Vec<_>, Vec<_>) = (entries.collect(), wanted.to_vec());
    seen.sort();
    wanted.sort();
    if seen == wanted { Ok(()) } else { Err(format!("forwarding is {seen:?}, not {wanted:?}")) }
}

fn vtep(cluster: &Cluster, host: &str) -> String {
    cluster.address(host.trim_start_matches('h').parse().expect("a host's number"))
}
