//! Random changes with agents killed at random; then names, registry and tables are compared.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::{Cluster, host_of};
use tests::family::Family;
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
        take(&mut cluster, registry.step(&mut random));
        if step % (steps / 3) == 0 {
            wait_until(&format!("all agree after step {step}"), QUIET, || disagreement(&cluster, &registry));
        }
    }
    cluster.wait_well(QUIET);
}

/// What is done next.
enum Step {
    /// A verb, typed on a host.
    Verb(String, String),
    /// `kill -9` of a host's agent, a verb on another host before anybody can know, and its start.
    Restart(String, (String, String)),
    /// Nothing can be done to a service that is not there.
    Nothing,
}

impl Registry {
    /// Decides on a step, and keeps what it asks for.
    fn step(&mut self, random: &mut Random) -> Step {
        let (service, replica) = (*random.pick(&SERVICES), *random.pick(&REPLICAS));
        let register = |services: &mut BTreeMap<_, (bool, BTreeSet<_>)>, replica| {
            services.entry(service).or_default().1.insert(replica);
            (host_of(replica), format!("register {service} --on {replica}"))
        };
        let anywhere = |random: &mut Random, words| Step::Verb((*random.pick(&HOSTS)).to_owned(), words);
        match random.below(10) {
            0..5 => {
                let (host, words) = register(&mut self.services, replica);
                Step::Verb(host, words)
            }
            5 | 6 => {
                let Some((_, replicas)) = self.services.get_mut(service) else { return Step::Nothing };
                let chosen = replicas.iter().nth(random.below(replicas.len().max(1))).copied();
                let Some(replica) = chosen else { return Step::Nothing };
                replicas.remove(replica);
                anywhere(random, format!("deregister {service} --on {replica}"))
            }
            7 => match self.services.remove(service) {
                Some(_) => anywhere(random, format!("deregister {service}")),
                None => Step::Nothing,
            },
            8 => {
                let Some((headless, _)) = self.services.get_mut(service) else { return Step::Nothing };
                *headless = !*headless;
                let mode = if *headless { "dnsrr" } else { "vip" };
                anywhere(random, format!("service set {service} --mode {mode}"))
            }
            _ => {
                let others: Vec<_> =
                    REPLICAS.into_iter().filter(|it| host_of(it) != host_of(replica)).collect();
                Step::Restart(host_of(replica), register(&mut self.services, *random.pick(&others)))
            }
        }
    }
}

fn take(cluster: &mut Cluster, step: Step) {
    match step {
        Step::Verb(host, words) => {
            let behind = cluster.behind(&host, &words);
            assert!(behind.is_empty(), "{host}$ svc-agent {words}: {behind:?} are behind");
        }
        Step::Restart(down, (host, words)) => {
            cluster.kill_agent(&down);
            let behind = cluster.behind(&host, &words);
            assert!(
                behind.iter().eq([&down]),
                "{host}$ svc-agent {words}: {behind:?} are behind, not {down}"
            );
            cluster.restart_agent(&down);
            cluster.wait_members(HOSTS.len());
        }
        Step::Nothing => {}
    }
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
            let vip = Family::now().choose(&found.vips).ok_or("no VIP")?;
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
