//! Records on a connection: a length, then what [`super::super::seal`] makes.
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::CHUNK_BYTES;
use crate::cluster::seal::{Kind, OVERHEAD_BYTES};
use crate::cluster::shared::Shared;
use crate::cluster::wire::Message;

/// Largest record of an established connection: a chunk or a gossip message with what surrounds it.
pub(super) const RECORD_BYTES_MAX: usize = CHUNK_BYTES + OVERHEAD_BYTES + 64;
/// Largest gossip message: one record. Chitchat makes none above 65,507 bytes.
pub(in crate::cluster) const GOSSIP_BYTES_MAX: usize = CHUNK_BYTES;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection could not be made.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Reading or writing failed.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The peer did not do its part in time.
    #[error("the peer did not answer in time")]
    Silent,
    /// The peer says that it has not our key. Unauthenticated.
    #[error("the peer does not open our frames: it has another cluster key")]
    KeyRefused,
    /// A record of the peer did not open.
    #[error("a frame of the peer does not open: it has another cluster key, or somebody interferes")]
    Unopened,
    /// A record opened and broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer is not to be spoken with.
    #[error("the peer is refused: {0}")]
    Refused(&'static str),
}

/// One end of a proven connection: what its records are bound to.
#[derive(Clone, Copy)]
pub(super) struct Session {
    /// Both ends' nonces.
    pub nonces: [u8; 32],
    pub dialled: bool,
}

impl Session {
    fn context(self, from_dialler: bool, count: u64) -> [u8; 41] {
        let mut context = [0; 41];
        context[..32].copy_from_slice(&self.nonces);
        context[32] = u8::from(from_dialler);
        context[33..].copy_from_slice(&count.to_be_bytes());
        context
    }
}

/// Reads one record of at most `max` bytes.
pub(super) async fn read(reader: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>, StreamError> {
    let length = reader.read_u32().await.map_err(StreamError::Broken)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > max {
        return Err(StreamError::Protocol("a record is too long"));
    }
    let mut record = vec![0; length];
    reader.read_exact(&mut record).await.map_err(StreamError::Broken)?;
    Ok(record)
}

/// Writes one record.
pub(super) async fn write(writer: &mut (impl AsyncWrite + Unpin), record: &[u8]) -> Result<(), StreamError> {
    let length = u32::try_from(record.len()).map_err(|_| StreamError::Protocol("a record is too long"))?;
    let mut bytes = Vec::with_capacity(4 + record.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(record);
    writer.write_all(&bytes).await.map_err(StreamError::Broken)
}

/// The receiving half.
pub(super) struct Receiver {
    pub shared: Arc<Shared>,
    pub reader: BufReader<OwnedReadHalf>,
    pub session: Session,
    pub count: u64,
}

impl Receiver {
    /// The next message. Not to be cancelled, but for ending the connection.
    pub(super) async fn next(&mut self) -> Result<Message, StreamError> {
        let record = read(&mut self.reader, RECORD_BYTES_MAX).await?;
        self.shared.stats.stream_bytes_received.add(record.len() + 4);
        let context = self.session.context(!self.session.dialled, self.count);
        self.count += 1;
        let plain = match self.shared.sealer.open(record, &context) {
            Ok((Kind::Stream, plain)) => plain,
            Ok(_) => return Err(StreamError::Protocol("a record of another kind")),
            Err(why) => {
                self.shared.count_unopened(why);
                return Err(StreamError::Unopened);
            }
        };
        Message::decode(&plain).ok_or_else(|| {
            self.shared.stats.malformed.add(1);
            StreamError::Protocol("a message makes no sense")
        })
    }
}

/// The sending half.
pub(super) struct Sender {
    pub shared: Arc<Shared>,
    pub writer: OwnedWriteHalf,
    pub session: Session,
    pub count: u64,
}

impl Sender {
    pub(super) async fn send(&mut self, message: &Message) -> Result<(), StreamError> {
        let context = self.session.context(self.session.dialled, self.count);
        self.count += 1;
        let sealed = self.shared.sealer.seal(Kind::Stream, &context, &message.encode(), rand::random());
        let (record, _) = sealed.ok_or(StreamError::Protocol("a record is too long"))?;
        write(&mut self.writer, &record).await?;
        self.shared.stats.stream_bytes_sent.add(record.len() + 4);
        Ok(())
    }
}
