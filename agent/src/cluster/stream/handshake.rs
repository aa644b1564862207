//! The first three records of a connection.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use socket2::SockRef;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::record::{self, Receiver, Sender, Session, StreamError};
use crate::cluster::seal::{Kind, Notice, Token, Unopened};
use crate::cluster::session::{Reason, Verdict};
use crate::cluster::shared::Shared;
use crate::cluster::wire::{Reader, Speaker, put_address};

/// Largest record before the peer has proven the key, in bytes.
const OPENING_BYTES_MAX: usize = 256;
/// Bytes that are read ahead, for several small records in one call; of a large one the rest goes where it is wanted. Each
/// of hundreds of peers has such a buffer at both ends.
const READ_AHEAD_BYTES: usize = 2 * 1024;
/// Bytes that wait in the socket without having been sent.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// A connection whose other end is a member, now.
pub(super) struct Proven {
    pub peer: Speaker,
    /// Where the peer takes connections and datagrams.
    pub advertise: SocketAddr,
    pub receiver: Receiver,
    pub sender: Sender,
}

struct Opening {
    speaker: Speaker,
    nonce: [u8; 16],
    advertise: SocketAddr,
}

impl Opening {
    fn encode(shared: &Shared, nonce: [u8; 16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        shared.own.encode(&mut bytes);
        bytes.extend(nonce);
        put_address(&mut bytes, shared.advertise);
        bytes
    }

    fn decode(shared: &Shared, bytes: &[u8]) -> Result<Self, StreamError> {
        let mut reader = Reader(bytes);
        let decoded = (|| {
            let opening = Self {
                speaker: Speaker::decode(&mut reader)?,
                nonce: reader.bytes()?,
                advertise: reader.address()?,
            };
            reader.end().map(|()| opening)
        })();
        decoded.ok_or_else(|| {
            shared.stats.malformed.add(1);
            StreamError::Protocol("its first record makes no sense")
        })
    }
}

fn both(c: [u8; 16], s: [u8; 16]) -> [u8; 32] {
    let mut nonces = [0; 32];
    nonces[..16].copy_from_slice(&c);
    nonces[16..].copy_from_slice(&s);
    nonces
}

fn admit(shared: &Shared, from: SocketAddr, speaker: Speaker) -> Result<(), StreamError> {
    let now = Instant::now();
    match shared.judged((from, speaker.node), |sessions| sessions.admit(now, speaker, true)) {
        Verdict::Accept => {
            shared.heard(now, speaker);
            Ok(())
        }
        Verdict::Greet { .. } => Err(StreamError::Refused("a newer start of it was seen")),
        Verdict::Refuse(Reason::Own) => Err(StreamError::Refused("it is this host")),
        Verdict::Refuse(Reason::Duplicate) => Err(StreamError::Refused("it uses this host's node id")),
        Verdict::Refuse(Reason::OtherProcess) => Err(StreamError::Refused("two hosts use its node id")),
        Verdict::Refuse(Reason::Forgotten) => Err(StreamError::Refused("it is of another cluster")),
        Verdict::Refuse(Reason::Removed) => Err(StreamError::Refused("it was removed from the cluster")),
        Verdict::Refuse(Reason::Full | Reason::Replayed) => {
            Err(StreamError::Refused("there is no room for it"))
        }
    }
}

fn seal(shared: &Shared, kind: Kind, context: &[u8], plain: &[u8]) -> Result<(Vec<u8>, Token), StreamError> {
    let sealed = shared.sealer.seal(kind, context, plain, rand::random());
    sealed.ok_or(StreamError::Protocol("a record is too long"))
}

/// Opens a record of the wanted kind, or answers in clear that it does not open, as often as that is allowed.
async fn open(
    shared: &Shared,
    writer: &mut OwnedWriteHalf,
    from: SocketAddr,
    wanted: Kind,
    context: &[u8],
    record: Vec<u8>,
) -> Result<Vec<u8>, StreamError> {
    match shared.sealer.open(record, context) {
        Ok((kind, plain)) if kind == wanted => Ok(plain),
        Ok(_) => {
            shared.stats.unopened_kind.add(1);
            Err(StreamError::Protocol("a record of another kind"))
        }
        Err(why) => {
            if let Some(notice) = shared.unopened(Instant::now(), from, why, &shared.stream_notices) {
                record::write(writer, &notice.encode()).await?;
            }
            Err(StreamError::Unopened)
        }
    }
}

fn halves(shared: &Arc<Shared>, stream: TcpStream) -> (Receiver, Sender) {
    // A request is one write; waiting for more to fill a segment only delays it. Failure costs time, nothing else.
    let _ = stream.set_nodelay(true);
    // What waits in the socket's buffer cannot be passed by anything more urgent. The buffer itself keeps its size,
    // which TCP needs for what is under way (Linux 3.12).
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    let (reader, writer) = stream.into_split();
    let session = Session { nonces: [0; 32], dialled: false };
    let reader = BufReader::with_capacity(READ_AHEAD_BYTES, reader);
    let receiver = Receiver { shared: Arc::clone(shared), reader, session, count: 0 };
    (receiver, Sender { shared: Arc::clone(shared), writer, session, count: 0 })
}

fn proven(opening: &Opening, session: Session, mut receiver: Receiver, mut sender: Sender) -> Proven {
    receiver.session = session;
    sender.session = session;
    Proven { peer: opening.speaker, advertise: opening.advertise, receiver, sender }
}

/// The dialling end. The caller limits its time.
pub(super) async fn dial(
    shared: &Arc<Shared>,
    to: SocketAddr,
    stream: TcpStream,
) -> Result<Proven, StreamError> {
    let (mut receiver, mut sender) = halves(shared, stream);
    let c: [u8; 16] = rand::random();
    let (record, token) = seal(shared, Kind::Dial, &[], &Opening::encode(shared, c))?;
    record::write(&mut sender.writer, &record).await?;
    let answer = record::read(&mut receiver.reader, OPENING_BYTES_MAX).await?;
    if let Err(Unopened::Notice(notice)) = shared.sealer.open(answer.clone(), &c) {
        return Err(refused_key(shared, to, notice, token));
    }
    let plain = open(shared, &mut sender.writer, to, Kind::Welcome, &c, answer).await?;
    let opening = Opening::decode(shared, &plain)?;
    admit(shared, to, opening.speaker)?;
    let nonces = both(c, opening.nonce);
    let (record, _) = seal(shared, Kind::Proof, &nonces, &[])?;
    record::write(&mut sender.writer, &record).await?;
    Ok(proven(&opening, Session { nonces, dialled: true }, receiver, sender))
}

fn refused_key(shared: &Shared, to: SocketAddr, notice: Notice, token: Token) -> StreamError {
    if notice.token == token {
        shared.complained(to, notice);
        StreamError::KeyRefused
    } else {
        shared.stats.notices_unmatched.add(1);
        StreamError::Unopened
    }
}

/// The other end. The caller limits its time.
pub(super) async fn accept(
    shared: &Arc<Shared>,
    from: SocketAddr,
    stream: TcpStream,
) -> Result<Proven, StreamError> {
    let (mut receiver, mut sender) = halves(shared, stream);
    let record = record::read(&mut receiver.reader, OPENING_BYTES_MAX).await?;
    let plain = open(shared, &mut sender.writer, from, Kind::Dial, &[], record).await?;
    let opening = Opening::decode(shared, &plain)?;
    let s: [u8; 16] = rand::random();
    let (record, _) = seal(shared, Kind::Welcome, &opening.nonce, &Opening::encode(shared, s))?;
    record::write(&mut sender.writer, &record).await?;
    let nonces = both(opening.nonce, s);
    let record = record::read(&mut receiver.reader, OPENING_BYTES_MAX).await?;
    open(shared, &mut sender.writer, from, Kind::Proof, &nonces, record).await?;
    // Only now is it known that the first record was no old one.
    admit(shared, from, opening.speaker)?;
    Ok(proven(&opening, Session { nonces, dialled: false }, receiver, sender))
}
