//! What a question gets: a pure function of the zone, the question and a source of randomness.
use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;

use crate::network::{Claim, Network};
use crate::question::{Kind, Question};
use crate::reverse::{self, Reverse};
use crate::zone::{Mode, Service, Zone};

#[cfg(test)]
mod tests;

/// Most records in one answer: as many AAAA records fit into one TCP message of 65,535 bytes beside any question. A service
/// with more serving replicas is answered with a random part of them, another each time.
pub const ANSWERS_MAX: usize = 2_300;

/// How long answers may be kept, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttls {
    /// A service's VIPs, which never move; 60 by default.
    pub vip: u32,
    /// Whatever can move: replicas, attachments; 2 by default.
    pub movable: u32,
    /// No such name or no such data (RFC 2308); 2 by default.
    pub negative: u32,
}

impl Default for Ttls {
    fn default() -> Self {
        Self { vip: 60, movable: 2, negative: 2 }
    }
}

/// What a question gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Data; the owner of every record is the name asked for, in the case it was asked in.
    Records {
        /// Seconds that the records may be kept.
        ttl: u32,
        /// At least one, at most [`ANSWERS_MAX`].
        data: Vec<Data>,
    },
    /// The name is ours and has no data of this type.
    NoData(Soa),
    /// The name does not exist.
    NxDomain(Soa),
    /// The name is not ours: ask the host's upstreams.
    Forward,
    /// The name might be ours, but the catalog has not been complete yet: wait for the next zone, then SERVFAIL.
    NotYet,
}

/// The data of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// PTR: a dotted name without a trailing dot.
    Name(String),
    /// SOA, of our domain itself.
    Soa(Soa),
}

/// The SOA record that a negative answer carries (RFC 2308, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soa {
    /// Whose record it is.
    pub owner: Owner,
    /// Our domain, which names the primary server.
    pub domain: Arc<str>,
    /// Seconds that the denial may be kept: the record's TTL and its MINIMUM field.
    pub ttl: u32,
}

/// The zone that speaks in a negative answer; always the name asked for or something above it, or caches reject the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Our domain, for every name under it.
    Domain,
    /// The name asked for, for our names outside the domain (`payment-api`, an address's name).
    Question,
    /// The root, for a denial of what is not ours, as the real root servers deny an unknown name.
    Root,
}

/// Answers one question from one zone.
///
/// - A name that we own gets data or [`Answer::NoData`] for every type, and is never forwarded, not even with no replica left.
/// - [`Answer::NxDomain`] is said under our own domain, of addresses inside our subnets, and of everything else in a namespace
///   that does not forward (with any other code the search walks of glibc and musl would end there).
/// - Everything else is [`Answer::Forward`].
/// - Before the first sync a name that might be ours and is not there is [`Answer::NotYet`].
///
/// `random` orders the replicas of one answer.
pub fn answer(zone: &Zone, question: &Question, ttls: &Ttls, random: &mut impl Rng) -> Answer {
    let found = match reverse::parse(question.name()) {
        Some(reverse) => find_address(zone, &reverse),
        None => find_name(zone, question.name()),
    };
    let soa = |owner| Soa { owner, domain: Arc::clone(&zone.domain), ttl: ttls.negative };
    match found {
        Found::Owned(owned, owner) => owned_answer(owned, soa(owner), question.kind(), ttls, random),
        Found::Lacking | Found::MaybeOurs if !zone.synced => Answer::NotYet,
        Found::Lacking if under(question.name(), &zone.domain).is_some() => {
            Answer::NxDomain(soa(Owner::Domain))
        }
        Found::Lacking => Answer::NxDomain(soa(Owner::Root)),
        Found::MaybeOurs | Found::Foreign if zone.forward => Answer::Forward,
        Found::MaybeOurs | Found::Foreign => Answer::NxDomain(soa(Owner::Root)),
    }
}

/// Whose a name is.
enum Found<'a> {
    /// Ours, and there.
    Owned(Owned<'a>, Owner),
    /// Ours if it existed: under our domain or inside our subnets.
    Lacking,
    /// Of a form that our names have, but not there now.
    MaybeOurs,
    /// Of a form that no name of ours has.
    Foreign,
}

/// What is behind a name that we own.
enum Owned<'a> {
    /// The plain name of a service or an attachment.
    Plain(&'a Claim),
    /// `tasks.<service>`.
    Tasks(&'a Service),
    /// An address.
    Address(&'a Claim, &'a Network),
    /// Our domain itself.
    Apex,
    /// A name that exists only because there are names below it, or with data of types that we do not serve.
    Empty,
}

fn find_name<'a>(zone: &'a Zone, name: &str) -> Found<'a> {
    match under(name, &zone.domain) {
        Some("") => Found::Owned(Owned::Apex, Owner::Domain),
        Some(rest) => find_qualified(zone, rest),
        None => find_short(zone, name),
    }
}

/// `<network>` and `<name>.<network>`, both under our domain.
fn find_qualified<'a>(zone: &'a Zone, rest: &str) -> Found<'a> {
    let (name, network) = rest.rsplit_once('.').unwrap_or(("", rest));
    let owned = zone
        .networks
        .iter()
        .filter(|candidate| **candidate.name() == *network)
        .find_map(|network| if name.is_empty() { Some(Owned::Empty) } else { find_in(network, name) });
    owned.map_or(Found::Lacking, |owned| Found::Owned(owned, Owner::Domain))
}

/// `<name>` on the first network that has it, else `<name>.<network>`.
fn find_short<'a>(zone: &'a Zone, name: &str) -> Found<'a> {
    let own = |owned| Found::Owned(owned, Owner::Question);
    if let Some(owned) = zone.networks.iter().find_map(|network| find_in(network, name)) {
        return own(owned);
    }
    let explicit = name.rsplit_once('.').and_then(|(name, last)| {
        zone.networks.iter().find(|network| **network.name() == *last).map(|network| find_in(network, name))
    });
    match explicit {
        Some(Some(owned)) => own(owned),
        Some(None) => Found::MaybeOurs,
        None if Form::of(name).is_some() => Found::MaybeOurs,
        None => Found::Foreign,
    }
}

/// The forms that a name has inside one network.
enum Form<'a> {
    Plain(&'a str),
    Tasks(&'a str),
    /// `_http._tcp.<name>` (RFC 2782): ours as its last part is.
    Underscored(&'a str),
}

impl<'a> Form<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let mut last = name;
        let mut labels = 0;
        while last.starts_with('_') && labels < 2 {
            last = last.split_once('.')?.1;
            labels += 1;
        }
        let tasks = last.strip_prefix("tasks.").filter(|rest| !rest.contains('.'));
        match (labels, tasks) {
            (0, Some(service)) => Some(Self::Tasks(service)),
            (0, None) if !last.contains('.') && !last.is_empty() => Some(Self::Plain(last)),
            (0, None) => None,
            (_, Some(service)) => Some(Self::Underscored(service)),
            (_, None) if !last.contains('.') => Some(Self::Underscored(last)),
            (_, None) => None,
        }
    }
}

fn find_in<'a>(network: &'a Network, name: &str) -> Option<Owned<'a>> {
    match Form::of(name)? {
        Form::Plain(name) => network.holder(name).map(Owned::Plain),
        Form::Tasks(name) => network.holder(name)?.service().map(|service| Owned::Tasks(service)),
        Form::Underscored(name) => network.holder(name).map(|_| Owned::Empty),
    }
}

fn find_address<'a>(zone: &'a Zone, reverse: &Reverse) -> Found<'a> {
    if let Reverse::Address(address) = reverse {
        let holder =
            zone.networks.iter().find_map(|network| Some((network.holder_of_address(*address)?, network)));
        if let Some((claim, network)) = holder {
            return Found::Owned(Owned::Address(claim, network), Owner::Question);
        }
    }
    let ours =
        zone.networks.iter().any(|network| network.subnets().iter().any(|subnet| reverse.inside(subnet)));
    match (ours, reverse) {
        (true, Reverse::Above { .. }) => Found::Owned(Owned::Empty, Owner::Question),
        (true, _) => Found::Lacking,
        (false, _) => Found::Foreign,
    }
}

fn owned_answer(owned: Owned<'_>, soa: Soa, kind: Kind, ttls: &Ttls, random: &mut impl Rng) -> Answer {
    let (ttl, data) = match owned {
        Owned::Plain(Claim::Service(service) | Claim::ServiceAlias(service)) => match service.mode {
            Mode::Vip => (ttls.vip, addresses(&service.vips, kind)),
            Mode::RoundRobin => (ttls.movable, shuffled(&service.replicas, kind, random)),
        },
        Owned::Plain(Claim::Attachment(attachment) | Claim::AttachmentAlias(attachment)) => {
            (ttls.movable, addresses(&attachment.addresses, kind))
        }
        Owned::Tasks(service) => (ttls.movable, shuffled(&service.replicas, kind, random)),
        Owned::Address(claim, network) if kind.wants(Kind::PTR) => {
            let ttl = if claim.service().is_some() { ttls.vip } else { ttls.movable };
            let name = format!("{}.{}.{}", claim.canonical(), network.name(), soa.domain);
            (ttl, vec![Data::Name(name)])
        }
        Owned::Apex if kind.wants(Kind::SOA) => (ttls.negative, vec![Data::Soa(soa.clone())]),
        Owned::Address(..) | Owned::Apex | Owned::Empty => (ttls.negative, Vec::new()),
    };
    if data.is_empty() { Answer::NoData(soa) } else { Answer::Records { ttl, data } }
}

fn addresses(all: &[IpAddr], kind: Kind) -> Vec<Data> {
    let wanted = |address: &&IpAddr| kind.wants(if address.is_ipv4() { Kind::A } else { Kind::AAAA });
    all.iter().filter(wanted).copied().map(Data::Address).collect()
}

fn shuffled(all: &[IpAddr], kind: Kind, random: &mut impl Rng) -> Vec<Data> {
    let mut data = addresses(all, kind);
    data.shuffle(random);
    data.truncate(ANSWERS_MAX);
    data
}

/// What stands before `domain` in a name that is, or is under, `domain`.
fn under<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}
