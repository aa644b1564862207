//! A reply, and how much of it fits.
use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};

use crate::answer::{Answer, Data, Owner, Soa};
use crate::stats::Outcome;

/// Most that goes into one datagram whatever the client says it takes: no fragments on any path of 1,280 bytes.
const UDP_MAX: u16 = 1_232;
/// What every client takes (RFC 1035, 4.2.1).
const UDP_MIN: u16 = 512;
/// An OPT record without options (RFC 6891, 6.1.2).
const OPT_LEN: u16 = 11;

/// SOA fields that only secondaries read.
const SOA_SERIAL: u32 = 1;
const SOA_REFRESH: i32 = 3_600;
const SOA_RETRY: i32 = 600;
const SOA_EXPIRE: i32 = 86_400;

/// What goes back, whatever its size.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) authentic: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Reply {
    pub(super) fn error(outcome: Outcome, code: ResponseCode) -> Self {
        Self {
            outcome,
            code,
            authoritative: false,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// An answer of our own. [`Answer::Forward`] and [`Answer::NotYet`] are the caller's to deal with.
    pub(super) fn local(name: &Name, answer: Answer) -> Self {
        let own = |outcome, code| Self { authoritative: true, ..Self::error(outcome, code) };
        match answer {
            Answer::Records { ttl, data } => Self {
                answers: data.into_iter().map(|data| record(name, ttl, data)).collect(),
                ..own(Outcome::Local, ResponseCode::NoError)
            },
            Answer::NoData(soa) => {
                Self { authorities: vec![denial(name, &soa)], ..own(Outcome::NoData, ResponseCode::NoError) }
            }
            Answer::NxDomain(soa) => Self {
                authorities: vec![denial(name, &soa)],
                ..own(Outcome::NxDomain, ResponseCode::NXDomain)
            },
            Answer::Forward | Answer::NotYet => Self::error(Outcome::ServFail, ResponseCode::ServFail),
        }
    }
}

fn record(name: &Name, ttl: u32, data: Data) -> Record {
    let data = match data {
        Data::Address(IpAddr::V4(address)) => RData::A(A(address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
        Data::Name(target) => RData::PTR(PTR(absolute(&target))),
        Data::Soa(soa) => RData::SOA(start_of_authority(&soa)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

fn denial(name: &Name, soa: &Soa) -> Record {
    let owner = match soa.owner {
        Owner::Domain => absolute(&soa.domain),
        Owner::Question => name.clone(),
        Owner::Root => Name::root(),
    };
    Record::from_rdata(owner, soa.ttl, RData::SOA(start_of_authority(soa)))
}

fn start_of_authority(soa: &Soa) -> SOA {
    let primary = absolute(&soa.domain);
    let mailbox = absolute(&format!("hostmaster.{}", soa.domain));
    SOA::new(primary, mailbox, SOA_SERIAL, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, soa.ttl)
}

/// Our own names are labels that were checked long before; one that does not parse would be the root.
fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap_or_default();
    name.set_fqdn(true);
    name
}

/// How much of a reply is sent.
struct Fit {
    answers: usize,
    authorities: bool,
    additionals: bool,
    truncated: bool,
}

/// Encodes a reply for one datagram: the question byte for byte, as much as fits, and EDNS if the client spoke it. Second:
/// whether answers were left out.
pub(super) fn encode_datagram(request: &Request, reply: &Reply) -> Result<(Vec<u8>, bool), ProtoError> {
    let edns = edns(request);
    if let Some(bytes) = compact(request, reply, edns.as_ref())?
        && bytes.len() <= usize::from(limit(request))
    {
        return Ok((bytes, false));
    }
    let mut bytes = Vec::with_capacity(usize::from(UDP_MIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit(request));
    let info = build(request, reply, edns.as_ref()).destructive_emit(&mut encoder)?;
    Ok((bytes, info.truncation))
}

/// Encodes a reply for TCP.
pub(super) fn encode_stream(request: &Request, reply: &Reply) -> Result<Vec<u8>, ProtoError> {
    let edns = edns(request);
    if let Some(bytes) = compact(request, reply, edns.as_ref())? {
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(usize::from(UDP_MIN));
    build(request, reply, edns.as_ref()).destructive_emit(&mut BinEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// Encodes an answer of addresses only, each owner as a pointer to the question: 16 or 28 bytes each. hickory (0.26.3) writes
/// the first owner and, after some hundred, every owner in full, and then 2,000 replicas do not fit into a message.
fn compact(request: &Request, reply: &Reply, edns: Option<&Edns>) -> Result<Option<Vec<u8>>, ProtoError> {
    /// The first name of the question section (RFC 1035, 4.1.4).
    const QUESTION: [u8; 2] = [0xc0, 0x0c];
    let Ok(count) = u16::try_from(reply.answers.len()) else { return Ok(None) };
    if count == 0 || !reply.authorities.is_empty() || !reply.additionals.is_empty() || !reply.authoritative {
        return Ok(None);
    }
    let counts =
        HeaderCounts { queries: 1, answers: count, authorities: 0, additionals: u16::from(edns.is_some()) };
    let mut bytes = Vec::new();
    Header { metadata: metadata(request, reply), counts }.emit(&mut BinEncoder::new(&mut bytes))?;
    bytes.extend(request.queries.as_bytes());
    for record in &reply.answers {
        let data = match &record.data {
            RData::A(address) => &address.octets()[..],
            RData::AAAA(address) => &address.octets()[..],
            _ => return Ok(None),
        };
        bytes.extend(QUESTION);
        bytes.extend(u16::from(record.record_type()).to_be_bytes());
        bytes.extend(u16::from(record.dns_class).to_be_bytes());
        bytes.extend(record.ttl.to_be_bytes());
        bytes.extend([0, if data.len() == 4 { 4 } else { 16 }]);
        bytes.extend(data);
    }
    if let Some(edns) = edns {
        let mut option = Vec::new();
        Record::from(edns).emit(&mut BinEncoder::new(&mut option))?;
        bytes.extend(option);
    }
    Ok(Some(bytes))
}

/// What hickory is to encode: no more of the reply than fits.
fn build<'q>(
    request: &'q Request,
    reply: &'q Reply,
    edns: Option<&'q Edns>,
) -> MessageResponse<
    'q,
    'q,
    impl Iterator<Item = &'q Record> + Send + 'q,
    impl Iterator<Item = &'q Record> + Send + 'q,
    impl Iterator<Item = &'q Record> + Send + 'q,
    impl Iterator<Item = &'q Record> + Send + 'q,
> {
    let mut metadata = metadata(request, reply);
    let limit = limit(request);
    let room = if edns.is_some() { limit - OPT_LEN } else { limit };
    let fit = fit(request, &metadata, reply, room);
    metadata.truncation = fit.truncated;
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = edns {
        builder.edns(edns);
    }
    let authorities = if fit.authorities { reply.authorities.as_slice() } else { &[] };
    let additionals = if fit.additionals { reply.additionals.as_slice() } else { &[] };
    builder.build(metadata, reply.answers.iter().take(fit.answers), authorities, [], additionals)
}

fn metadata(request: &Request, reply: &Reply) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.response_code = reply.code;
    metadata.authoritative = reply.authoritative;
    metadata.authentic_data = reply.authentic;
    metadata
}

/// EDNS for a client that spoke it (RFC 6891, 6.1.1). Over UDP hickory takes the size for that of what it sends, too.
fn edns(request: &Request) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(limit(request).min(UDP_MAX)).set_dnssec_ok(asked.flags().dnssec_ok);
    Some(edns)
}

fn limit(request: &Request) -> u16 {
    match (request.protocol(), &request.edns) {
        (Protocol::Udp, Some(edns)) => edns.max_payload().clamp(UDP_MIN, UDP_MAX),
        (Protocol::Udp, None) => UDP_MIN,
        _ => u16::MAX,
    }
}

/// Leaves out the additional section first, then the authorities beside data (neither is a truncation, RFC 2181, 9), then
/// what does not fit of the answers. Part of the answers is better than none: older musl never asks over TCP.
fn fit(request: &Request, metadata: &Metadata, reply: &Reply, room: u16) -> Fit {
    let data = !reply.answers.is_empty();
    let mut attempts = vec![(true, true)];
    if !reply.additionals.is_empty() {
        attempts.push((true, false));
    }
    if data && !reply.authorities.is_empty() {
        attempts.push((false, false));
    }
    let mut answers = 0;
    for (authorities, additionals) in attempts {
        let authorities_part = if authorities { reply.authorities.as_slice() } else { &[] };
        let additionals_part = if additionals { reply.additionals.as_slice() } else { &[] };
        match measure(request, metadata, &reply.answers, authorities_part, additionals_part, room) {
            Some(info) if !info.truncation => {
                return Fit { answers: reply.answers.len(), authorities, additionals, truncated: false };
            }
            Some(info) => answers = usize::from(info.counts().answers),
            None => answers = 0,
        }
    }
    Fit { answers, authorities: false, additionals: false, truncated: true }
}

/// Encodes on trial: how many records of each section fit into `room` bytes.
fn measure(
    request: &Request,
    metadata: &Metadata,
    answers: &[Record],
    authorities: &[Record],
    additionals: &[Record],
    room: u16,
) -> Option<ResponseInfo> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room);
    let builder = MessageResponseBuilder::from_message_request(request);
    builder.build(*metadata, answers, authorities, [], additionals).destructive_emit(&mut encoder).ok()
}
