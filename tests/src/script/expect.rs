//! Steps of a script that look and change nothing.
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use agent::api::{routes, types};

use crate::cluster::Cluster;
use crate::family::Family;
use crate::names::Way;

/// How long a refusal may take.
const REFUSAL_LIMIT: Duration = Duration::from_millis(50);

/// Whether a step holds now; what is seen instead, if not. A panic when it is no step.
pub(super) fn holds(cluster: &Cluster, told: &str, step: &str) -> Result<(), String> {
    let (left, wanted) = step.rsplit_once(" = ").unwrap_or_else(|| panic!("{told}: no step that is known"));
    let (place, asked) = left.split_once(' ').unwrap_or_else(|| panic!("{told}: nothing is asked"));
    match place.split_at(place.len() - 1) {
        (container, "?") => resolves(cluster, container, asked, wanted),
        (container, ">") => lands(cluster, told, container, asked, wanted),
        _ => panic!("{told}: no step that is known"),
    }
}

fn resolves(cluster: &Cluster, container: &str, asked: &str, wanted: &str) -> Result<(), String> {
    let mut words = asked.split_whitespace();
    let name = words.next().unwrap_or_default();
    let kind = words.next().unwrap_or(Family::now().record());
    // Of the family that names have no addresses of, if there is one.
    let kind = match (kind, Family::now()) {
        ("OTHER", Family::Four) => "AAAA",
        ("OTHER", Family::Six) => "A",
        ("OTHER", Family::Both) => return Ok(()),
        _ => kind,
    };
    let mut wanted: Vec<String> = wanted.split_whitespace().map(|word| meaning(cluster, word)).collect();
    wanted.sort();
    for way in [Way::Udp, Way::Tcp] {
        let seen = cluster.dns_by(container, name, kind, way).summary();
        if seen != wanted.join(" ") {
            return Err(format!("{seen} over {way:?}, not {}", wanted.join(" ")));
        }
    }
    Ok(())
}

/// A VIP for `$service`, an address for `@attachment`, the reverse name for either behind `~`.
fn meaning(cluster: &Cluster, word: &str) -> String {
    if let Some(service) = word.strip_prefix('$') {
        return cluster.vip("h1", service).to_string();
    }
    match word.strip_prefix('@') {
        Some(attachment) => cluster.address_of(attachment).to_string(),
        None => word.to_owned(),
    }
}

fn lands(cluster: &Cluster, told: &str, from: &str, asked: &str, wanted: &str) -> Result<(), String> {
    let udp = asked.starts_with("udp ");
    let (target, count) = asked.trim_start_matches("udp ").split_once(" x").unwrap_or((asked, "1"));
    let target = target.trim_start_matches("udp ");
    let (name, port) = target.split_once(':').unwrap_or_else(|| panic!("{told}: no port"));
    let port = port.parse().unwrap_or_else(|_| panic!("{told}: {port} is no port"));
    let to = address(cluster, from, name)?;
    if wanted == "refused" {
        let (kind, took) = cluster.refusal(from, to, port, udp);
        let refused = kind == ErrorKind::ConnectionRefused && took < REFUSAL_LIMIT;
        return if refused { Ok(()) } else { Err(format!("{kind} after {took:?}")) };
    }
    let mut seen = BTreeSet::new();
    for _ in 0..count.parse::<usize>().unwrap_or_else(|_| panic!("{told}: {count} is no count")) {
        let answer = if udp { cluster.udp(from, to, port) } else { cluster.tcp(from, to, port) };
        seen.insert(answer.map_err(|error| format!("{to}: {error}"))?.name);
    }
    let wanted: BTreeSet<String> = wanted.split_whitespace().map(str::to_owned).collect();
    if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
}

/// What stands before a colon: `$service`, `@attachment`, an address, or a name that the container's resolver knows.
fn address(cluster: &Cluster, from: &str, name: &str) -> Result<IpAddr, String> {
    let text = meaning(cluster, name);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let answer = cluster.resolve(from, &text);
    answer.split(' ').next().and_then(|first| first.parse().ok()).ok_or(format!("{name} is {answer}"))
}

impl Cluster {
    /// Replicas of a service that get flows, as a host sees it.
    pub fn serving(&self, host: &str, service: &str) -> BTreeSet<String> {
        let services: Vec<types::ServiceInfo> = self.get(host, routes::SERVICES, &[]);
        let found = services.into_iter().filter(|it| it.name.as_str() == service);
        let replicas = found.flat_map(|it| it.replicas).filter(|replica| replica.state == "serving");
        replicas.map(|replica| replica.attachment.to_string()).collect()
    }
}
