//! Sealing and opening of records: XChaCha20-Poly1305 with the cluster key.
//!
//! ```text
//! version 1 | kind 1 | key id 4 | nonce 24 | ciphertext | tag 16
//! ```
//! Version, kind, key id and cluster id are authenticated, and so is a context that both ends know: a record of one
//! connection opens in no other. Nonces are random; 24 bytes make a repetition negligible without any state.
use std::sync::Arc;

use arc_swap::ArcSwap;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use super::key::{ClusterKey, KeyId, KeyRing};

#[cfg(test)]
mod tests;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes before the ciphertext.
const HEADER_BYTES: usize = 6 + NONCE_BYTES;
/// What sealing adds to a plain text, in bytes.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// Bytes of a notice: version, kind, key id, reason, and eight bytes of the frame that it answers.
pub(super) const NOTICE_BYTES: usize = 15;
const NOTICE_KIND: u8 = 0x7f;

/// What a sealed record is; authenticated, so that none passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A gossip datagram.
    Gossip = 1,
    /// The answer to a datagram that does not name our boot nonce.
    Hello = 2,
    /// First record of a connection, from the host that dialled.
    Dial = 3,
    /// Its answer.
    Welcome = 4,
    /// The dialler's proof that it is there now.
    Proof = 5,
    /// Everything after that.
    Stream = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Gossip, Self::Hello, Self::Dial, Self::Welcome, Self::Proof, Self::Stream]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Eight bytes of a record's nonce: whoever names them has seen the record.
pub(super) type Token = [u8; 8];

/// Why a record did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// Shorter than any record.
    Truncated,
    /// Of another format version.
    Version,
    /// Of a kind that we do not know.
    Kind,
    /// Sealed with a key that is not in our ring.
    UnknownKey(KeyId, Token),
    /// Forged, damaged, replayed into another context, or of a cluster that happens to share the key id.
    BadTag(KeyId, Token),
    /// In clear: a peer says that it cannot open our record.
    Notice(Notice),
}

/// In clear and unauthenticated: the sender could not open a record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// The key id that the record named.
    pub key_id: KeyId,
    /// Whether the sender has a key with this id, which then is another key.
    pub known: bool,
    /// Of the record that it answers.
    pub token: Token,
}

impl Notice {
    pub(super) fn encode(self) -> [u8; NOTICE_BYTES] {
        let mut bytes = [0; NOTICE_BYTES];
        bytes[0] = VERSION;
        bytes[1] = NOTICE_KIND;
        bytes[2..6].copy_from_slice(&self.key_id.0);
        bytes[6] = u8::from(self.known);
        bytes[7..].copy_from_slice(&self.token);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; NOTICE_BYTES] = bytes.try_into().ok()?;
        let key_id = KeyId([bytes[2], bytes[3], bytes[4], bytes[5]]);
        let mut token = Token::default();
        token.copy_from_slice(&bytes[7..]);
        Some(Self { key_id, known: bytes[6] != 0, token })
    }
}

impl Unopened {
    /// The notice that the sender deserves, if any.
    pub(super) fn notice(self) -> Option<Notice> {
        match self {
            Self::UnknownKey(key_id, token) => Some(Notice { key_id, known: false, token }),
            Self::BadTag(key_id, token) => Some(Notice { key_id, known: true, token }),
            Self::Truncated | Self::Version | Self::Kind | Self::Notice(_) => None,
        }
    }
}

/// Seals with the first key of the ring, opens with each.
pub(super) struct Sealer {
    ring: ArcSwap<KeyRing>,
}

impl Sealer {
    pub(super) fn new(ring: KeyRing) -> Self {
        Self { ring: ArcSwap::from_pointee(ring) }
    }

    pub(super) fn ring(&self) -> Arc<KeyRing> {
        self.ring.load_full()
    }

    pub(super) fn replace(&self, ring: KeyRing) {
        self.ring.store(Arc::new(ring));
    }

    /// Seals `plain` and says by which token a notice would name the record. `None` beyond the cipher's 256 GiB.
    pub(super) fn seal(
        &self,
        kind: Kind,
        context: &[u8],
        plain: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> Option<(Vec<u8>, Token)> {
        let ring = self.ring.load();
        let key = ring.sealing();
        let mut record = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        record.extend([VERSION, kind as u8]);
        record.extend(key.id().0);
        record.extend(nonce);
        record.extend(plain);
        let additional = additional_data(&record, key, context);
        let (_, text) = record.split_at_mut(HEADER_BYTES);
        let tag = cipher(key).encrypt_inout_detached(&nonce.into(), &additional, text.into()).ok()?;
        let token = token_of(&record);
        record.extend_from_slice(&tag);
        Some((record, token))
    }

    /// Opens a record in place of its own buffer.
    pub(super) fn open(&self, mut record: Vec<u8>, context: &[u8]) -> Result<(Kind, Vec<u8>), Unopened> {
        let [version, kind, a, b, c, d, ..] = record[..] else { return Err(Unopened::Truncated) };
        if version != VERSION {
            return Err(Unopened::Version);
        }
        if kind == NOTICE_KIND {
            return Err(Notice::decode(&record).map_or(Unopened::Truncated, Unopened::Notice));
        }
        let key_id = KeyId([a, b, c, d]);
        let text_bytes = record.len().checked_sub(OVERHEAD_BYTES).ok_or(Unopened::Truncated)?;
        let kind = Kind::from_byte(kind).ok_or(Unopened::Kind)?;
        let token = token_of(&record);
        let ring = self.ring.load();
        let key = ring.find(key_id).ok_or(Unopened::UnknownKey(key_id, token))?;
        let bad = Unopened::BadTag(key_id, token);
        let additional = additional_data(&record, key, context);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&record[6..HEADER_BYTES]);
        let (text, tag) = record[HEADER_BYTES..].split_at_mut(text_bytes);
        let tag: [u8; TAG_BYTES] = (&*tag).try_into().map_err(|_| bad)?;
        cipher(key)
            .decrypt_inout_detached(&nonce.into(), &additional, text.into(), &tag.into())
            .map_err(|_| bad)?;
        record.truncate(HEADER_BYTES + text_bytes);
        record.drain(..HEADER_BYTES);
        Ok((kind, record))
    }
}

fn cipher(key: &ClusterKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*key.secret()).into())
}

/// Callers have checked that the header is there, or made it.
fn token_of(record: &[u8]) -> Token {
    let mut token = Token::default();
    token.copy_from_slice(&record[6..14]);
    token
}

fn additional_data(record: &[u8], key: &ClusterKey, context: &[u8]) -> Vec<u8> {
    let mut additional = Vec::with_capacity(14 + context.len());
    additional.extend(&record[..6]);
    additional.extend(key.cluster().0);
    additional.extend(context);
    additional
}
