//! From bytes to a request, or to what is answered without one.
use std::net::SocketAddr;

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

/// A message without even a header is no DNS.
const HEADER_LEN: usize = 12;

/// What somebody sent.
pub(super) enum Parsed {
    Request(Box<Request>),
    /// No request, but somebody who asks: with the reply that says so.
    Malformed(Vec<u8>),
    /// Nothing to be answered. An answer, least of all: it may be one of ours, sent under a false address.
    Nothing,
}

/// Parses one message. Its length is not limited here.
pub(super) fn parse(message: &[u8], client: SocketAddr, protocol: Protocol) -> Parsed {
    if message.len() < HEADER_LEN {
        return Parsed::Nothing;
    }
    let Ok(header) = Header::from_bytes(message) else { return Parsed::Nothing };
    if header.metadata.message_type == MessageType::Response {
        return Parsed::Nothing;
    }
    match Request::from_bytes(message.to_vec(), client, protocol) {
        Ok(request) => Parsed::Request(Box::new(request)),
        Err(_) => malformed(&header.metadata).map_or(Parsed::Nothing, Parsed::Malformed),
    }
}

fn malformed(asked: &Metadata) -> Option<Vec<u8>> {
    let mut metadata = Metadata::new(asked.id, MessageType::Response, OpCode::Query);
    metadata.recursion_desired = asked.recursion_desired;
    metadata.response_code = ResponseCode::FormErr;
    let mut bytes = Vec::new();
    Header { metadata, counts: HeaderCounts::default() }.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}
