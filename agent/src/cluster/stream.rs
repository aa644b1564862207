//! Sealed streams over TCP: requests, their answers, and gossip that no datagram holds.
//!
//! ```text
//! dialler                                   other end
//!   Dial    speaker, nonce c, address  ->
//!                                      <-   Welcome   speaker, nonce s      opens only with c
//!   Proof                              ->                                   opens only with c and s
//!   Stream  request, ping, gossip      ->                                   c, s, direction, count
//!                                      <-   Stream    answer, pong
//! ```
//! So both ends prove the key, and that they are there now, before anything is handled; and no record can be left
//! out, repeated or moved to another connection.
mod assemble;
mod dial;
mod handshake;
mod pool;
mod queue;
mod record;
mod serve;

pub(super) use pool::Pool;
pub use pool::{Reply, RequestError};
pub use record::StreamError;
pub(super) use serve::Server;

/// Largest request or answer, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a body in one record: a large body lets others pass between its records.
const CHUNK_BYTES: usize = 64 * 1024;
/// Requests in flight on one connection, which is one direction of one pair of hosts.
const IN_FLIGHT_MAX: usize = 256;

/// Cuts a body into the messages that carry it.
fn messages(id: u64, body: &[u8]) -> Option<impl Iterator<Item = super::wire::Message>> {
    use super::wire::Message;
    if body.len() > BODY_BYTES_MAX {
        return None;
    }
    let total = u32::try_from(body.len()).ok()?;
    let (first, rest) = body.split_at(body.len().min(CHUNK_BYTES));
    let first = Message::First { id, total, data: first.to_vec() };
    let more = rest.chunks(CHUNK_BYTES).map(move |chunk| Message::More { id, data: chunk.to_vec() });
    Some(std::iter::once(first).chain(more))
}
