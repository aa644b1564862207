//! What this host's packet filters refuse that svc-agent needs. Rules are read, never run: a chain that refuses by
//! default may still accept our ports, so it is named together with the ports that no rule of its table names.
use std::ops::RangeInclusive;

use netfilter::{ChainHook, Family, Socket, Table};

use super::super::check::{Check, Lack, Verdict};
use super::rules::{TCP, UDP};
use super::{check, rules};
use crate::config::Settings;

/// NF_INET_LOCAL_IN and NF_INET_FORWARD (include/uapi/linux/netfilter.h).
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
/// Our own tables are no obstacle to us.
const OWN_TABLE: &str = "svc-agent";
/// Where Docker lets others accept what it would drop.
const EXCEPTION: (&str, &str) = ("filter", "DOCKER-USER");
/// iptables without nf_tables keeps rules that nf_tables does not show.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// A base chain that drops or rejects what none of its rules accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusing {
    /// Family, table and chain, as nft(8) names them.
    pub(super) place: String,
    /// Its hook.
    pub(super) hook: u32,
    /// Ports that the rules of its table name, each with its protocol if that is one alone.
    pub(super) ports: Vec<(Option<u8>, RangeInclusive<u16>)>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filters {
    pub(super) refusing: Vec<Refusing>,
    /// The forward chains beside which a chain DOCKER-USER exists: "ip filter FORWARD".
    pub(super) exceptions: Vec<String>,
}

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    let mut checks = match read() {
        Ok(filters) => vec![
            check("host-namespace", Verdict::Ok, "this process may read and change its rules"),
            input(&filters, &needed(settings)),
            forward(&filters),
        ],
        Err(lack) => vec![unreadable(&lack)],
    };
    checks.extend(legacy(&LEGACY.map(|path| std::fs::read_to_string(path).unwrap_or_default()).concat()));
    checks
}

/// Reading the rules takes CAP_NET_ADMIN in the namespace, which is what changing them takes.
fn unreadable(lack: &Lack) -> Check {
    let hint = match lack.errno() {
        Some(libc::EPERM | libc::EACCES) => {
            "run it as root; in a user namespace, with a network namespace of its own (unshare -Urn)"
        }
        _ => "the kernel needs module nf_tables (CONFIG_NF_TABLES)",
    };
    check("host-namespace", Verdict::Missing, format!("this host's own network namespace: {lack}"))
        .needed_for("the tunnel, and egress of the containers")
        .hint(hint)
}

fn read() -> Result<Filters, Lack> {
    let lack = |error: netfilter::Error| Lack::chain(&error);
    let mut socket = Socket::open().map_err(lack)?;
    let mut filters = Filters::default();
    for state in socket.tables().map_err(lack)? {
        let filters_packets = matches!(state.family, Family::Inet | Family::Ip | Family::Ip6);
        if !filters_packets || state.name == OWN_TABLE {
            continue;
        }
        let table = Table { family: state.family, name: &state.name };
        // A table that goes away meanwhile is no obstacle; neither is one that nobody can read.
        if let Ok(found) = read_table(&mut socket, table) {
            filters.refusing.extend(found.refusing);
            filters.exceptions.extend(found.exceptions);
        }
    }
    Ok(filters)
}

fn read_table(socket: &mut Socket, table: Table<'_>) -> Result<Filters, netfilter::Error> {
    let chains = socket.chains(table)?;
    let has_exception = table.name == EXCEPTION.0 && chains.iter().any(|chain| chain.name == EXCEPTION.1);
    let exceptions = match table.family {
        Family::Ip if has_exception => vec!["ip filter FORWARD".to_owned()],
        Family::Ip6 if has_exception => vec!["ip6 filter FORWARD".to_owned()],
        _ => Vec::new(),
    };
    let bases: Vec<(&str, &ChainHook)> = chains
        .iter()
        .filter_map(|chain| Some((chain.name.as_str(), chain.hook.as_ref()?)))
        .filter(|(_, hook)| hook.kind == "filter" && matches!(hook.number, INPUT | FORWARD))
        .collect();
    if bases.is_empty() {
        return Ok(Filters { refusing: Vec::new(), exceptions });
    }
    let all = socket.rules(table, None)?;
    let refuses = |name: &str, hook: &ChainHook| {
        let last = all.iter().rev().find(|rule| rule.chain == name);
        hook.drop_by_default || last.is_some_and(rules::refuses_all)
    };
    let found: Vec<_> = bases.into_iter().filter(|(name, hook)| refuses(name, hook)).collect();
    let mut ports = Vec::new();
    if !found.is_empty() {
        for rules::Named { protocol, ports: named, sets } in all.iter().map(rules::named) {
            ports.extend(named.into_iter().map(|range| (protocol, range)));
            for set in sets {
                ports.extend(ports_in_set(socket, table, &set)?.into_iter().map(|range| (protocol, range)));
            }
        }
    }
    let refusing = found.into_iter().map(|(name, hook)| Refusing {
        place: format!("{} {} {name}", family(table.family), table.name),
        hook: hook.number,
        ports: ports.clone(),
    });
    Ok(Filters { refusing: refusing.collect(), exceptions })
}

/// Keys of two bytes; of a set of ranges, what lies between a start and its end.
fn ports_in_set(
    socket: &mut Socket,
    table: Table<'_>,
    set: &str,
) -> Result<Vec<RangeInclusive<u16>>, netfilter::Error> {
    let keys = socket.elements(table, set, |element| {
        let key = u16::from_be_bytes(*<&[u8; 2]>::try_from(element.key).ok()?);
        Some((key, element.interval_end))
    })?;
    Ok(ranges(keys))
}

/// `true`: the key is the first one behind a range.
pub(super) fn ranges(mut keys: Vec<(u16, bool)>) -> Vec<RangeInclusive<u16>> {
    keys.sort_unstable();
    let mut found = Vec::new();
    let mut keys = keys.into_iter().filter(|key| *key != (0, true)).peekable();
    while let Some((first, ends)) = keys.next() {
        match keys.peek() {
            Some((next, true)) if !ends => found.push(first..=next.saturating_sub(1)),
            _ if !ends => found.push(first..=first),
            _ => {}
        }
    }
    found
}

/// What other hosts send here, with the port.
fn needed(settings: &Settings) -> Vec<(u8, u16)> {
    vec![(UDP, settings.gossip_port), (TCP, settings.gossip_port), (UDP, settings.vxlan_port)]
}

pub(super) fn input(filters: &Filters, needed: &[(u8, u16)]) -> Check {
    let name = "input-filter";
    let chains: Vec<&Refusing> = filters.refusing.iter().filter(|chain| chain.hook == INPUT).collect();
    if chains.is_empty() {
        return check(name, Verdict::Ok, "no chain refuses by default what arrives");
    }
    let places = chains.iter().map(|chain| chain.place.as_str()).collect::<Vec<_>>().join(", ");
    let blocked: Vec<String> = needed
        .iter()
        .filter(|(protocol, port)| !chains.iter().all(|chain| names(chain, *protocol, *port)))
        .map(|(protocol, port)| format!("{} {port}", if *protocol == TCP { "TCP" } else { "UDP" }))
        .collect();
    if blocked.is_empty() {
        let detail =
            format!("refusing by default: {places}; rules there name every port that svc-agent needs");
        return check(name, Verdict::Ok, detail);
    }
    let detail = format!("refusing by default: {places}; no rule there names {}", blocked.join(", "));
    check(name, Verdict::Degraded, detail)
        .needed_for("tunnel and gossip, unless other hosts are accepted by address")
        .hint("svc-agent ports prints the commands that open them")
}

fn names(chain: &Refusing, protocol: u8, port: u16) -> bool {
    chain.ports.iter().any(|(of, range)| of.is_none_or(|of| of == protocol) && range.contains(&port))
}

pub(super) fn forward(filters: &Filters) -> Check {
    let name = "forward-filter";
    let chains: Vec<&Refusing> = filters.refusing.iter().filter(|chain| chain.hook == FORWARD).collect();
    if chains.is_empty() {
        return check(name, Verdict::Ok, "no chain refuses by default what is forwarded");
    }
    let excepted = |place: &str| filters.exceptions.iter().any(|exception| exception == place);
    let places = chains.iter().map(|chain| chain.place.as_str()).collect::<Vec<_>>().join(", ");
    let blocking: Vec<&str> =
        chains.iter().map(|chain| chain.place.as_str()).filter(|place| !excepted(place)).collect();
    if blocking.is_empty() {
        let detail =
            format!("refusing by default: {places}; svc-agent adds an exception to DOCKER-USER there");
        return check(name, Verdict::Ok, detail);
    }
    check(
        name,
        Verdict::Degraded,
        format!("refusing by default, with no exception for svc-agent: {}", blocking.join(", ")),
    )
    .needed_for("egress of the containers; traffic between containers does not pass there")
    .hint("accept what svc-agent forwards there: svc-agent ports prints the link pool")
}

pub(super) fn legacy(tables: &str) -> Option<Check> {
    let names: Vec<&str> = tables.split_whitespace().collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!("rules of the older iptables are in force and not read here: {}", names.join(", "));
    let check = check("legacy-filter", Verdict::Info, detail);
    Some(check.needed_for("tunnel and gossip, if they drop them").hint("iptables-legacy -S shows them"))
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Arp => "arp",
        Family::Netdev => "netdev",
        Family::Bridge => "bridge",
        Family::Ip6 => "ip6",
    }
}
