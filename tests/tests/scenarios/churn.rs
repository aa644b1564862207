//! Random changes with agents killed at random; then names, registry and tables are compared.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::{Cluster, host_of};
use tests::runner::{Scenario, is_nightly};
use tests::statistics::Random;
use tests::wait::wait_until;

const QUIET: Duration = Duration::from_secs(5);
const REPLICAS: [&str; 6] = ["c1a", "c1b", "c2a", "c2b", "c3a", "c3b"];
const SERVICES: [&str; 3] = ["red", "green", "blue"];
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![names_registry_and_tables_agree_after_churn]
}

/// What was asked for.
#[derive(Default)]
struct Registry {
    /// By service: whether it is answered with its replicas, and who they are.
    services: BTreeMap<&'static str, (bool, BTreeSet<&'static str>)>,
}

/// Row P02.
fn names_registry_and_tables_agree_after_churn(sandbox: &Sandbox) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2);
    println!("  seed {seed}: repeat with SEED={seed}");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", &REPLICAS.join(" "));
    let mut registry = Registry::default();
    let steps = if is_nightly() { 1_000 } else { 60 };
    for step in 1..=steps {
        change(&mut cluster, &mut registry, &mut random);
        if step % (steps / 3) == 0 {
            wait_until(&format!("all agree after step {step}"), QUIET, || disagreement(&cluster, &registry));
        }
    }
    cluster.wait_well(QUIET);
}

fn change(cluster: &mut Cluster, registry: &mut Registry, random: &mut Random) {
    let (service, replica) = (*random.pick(&SERVICES), *random.pick(&REPLICAS));
    let host = host_of(replica);
    match random.below(10) {
        0..5 => {
            changed(cluster, &host, &format!("register {service} --on {replica}"));
            registry.services.entry(service).or_default().1.insert(replica);
        }
        5 | 6 => {
            let Some((_, replicas)) = registry.services.get_mut(service) else { return };
            let Some(&replica) = replicas.iter().nth(random.below(replicas.len().max(1))) else { return };
            changed(cluster, host_at_random(random), &format!("deregister {service} --on {replica}"));
            replicas.remove(replica);
        }
        7 => {
            if registry.services.remove(service).is_some() {
                changed(cluster, host_at_random(random), &format!("deregister {service}"));
            }
        }
        8 => {
            let Some((headless, _)) = registry.services.get_mut(service) else { return };
            *headless = !*headless;
            let mode = if *headless { "dnsrr" } else { "vip" };
            changed(cluster, host_at_random(random), &format!("service set {service} --mode {mode}"));
        }
        _ => {
            cluster.kill_agent(&host);
            cluster.restart_agent(&host);
            cluster.wait_members(HOSTS.len());
        }
    }
}

/// A change that holds here; a host whose agent has just come back may be named as behind.
fn changed(cluster: &Cluster, host: &str, words: &str) {
    let output = cluster.cli(host, words);
    assert!(matches!(output.exit, 0 | 4), "{host}$ svc-agent {words}: {output:?}");
}

/// Compares what was asked for with registry, names and VIP table of every host.
fn disagreement(cluster: &Cluster, registry: &Registry) -> Result<(), String> {
    for (host, container) in HOSTS.into_iter().zip(["c1a", "c2a", "c3a"]) {
        let mut wanted_table: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        for name in SERVICES {
            let found = cluster.service(host, name);
            let Some((headless, replicas)) = registry.services.get(name) else {
                if found.is_some() {
                    return Err(format!("{host} still has {name}"));
                }
                let resolved = cluster.resolve(container, &format!("{name}.payment.svc.internal"));
                if resolved != "NXDOMAIN" {
                    return Err(format!("{name} is {resolved} on {host}"));
                }
                continue;
            };
            let found = found.ok_or_else(|| format!("{host} does not have {name}"))?;
            let listed: BTreeSet<&str> = found.replicas.iter().map(|it| it.attachment.as_str()).collect();
            if !listed.iter().eq(replicas.iter()) {
                return Err(format!("{host}: {name} has {listed:?}, not {replicas:?}"));
            }
            let addresses: BTreeSet<IpAddr> = replicas.iter().map(|it| cluster.address_of(it)).collect();
            let vip = *found.vips.first().ok_or("no VIP")?;
            let tasks = sorted(&addresses);
            let answered = if *headless { tasks.clone() } else { vip.to_string() };
            for (asked, wanted) in [(name.to_owned(), &answered), (format!("tasks.{name}"), &tasks)] {
                let seen = cluster.resolve(container, &asked);
                if seen != *wanted {
                    return Err(format!("{asked} is {seen} on {host}, not {wanted}"));
                }
            }
            wanted_table.insert(vip, addresses);
        }
        let mut table = cluster.vip_table(container);
        // A headless service may keep its VIP working; what must not differ is where it leads.
        table.retain(|vip, replicas| !replicas.is_empty() || wanted_table.contains_key(vip));
        wanted_table.retain(|vip, replicas| !replicas.is_empty() || table.contains_key(vip));
        if table != wanted_table {
            return Err(format!("{host}: the table is {table:?}, not {wanted_table:?}"));
        }
    }
    Ok(())
}

fn sorted(addresses: &BTreeSet<IpAddr>) -> String {
    let mut texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.sort();
    if texts.is_empty() { "NODATA".to_owned() } else { texts.join(" ") }
}

/// Any host may be asked, wherever the replica is.
fn host_at_random(random: &mut Random) -> &'static str {
    HOSTS[random.below(HOSTS.len())]
}
