//! Queries that wait for an upstream, or for the first sync, written where the next agent finds them.
//!
//! They have left the socket, or they would hold up those behind them. What is not answered when the agent ends, killed or
//! not, the next one asks for again, and its answer goes to the client that still waits.
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest query that is noted. With every option that libraries send it is about 300 bytes.
const NOTED_MAX: usize = 512;
/// Length of the query, the client's address as one of IPv6, and its port.
const PREFIX: usize = 2 + 16 + 2;
const SLOT: usize = PREFIX + NOTED_MAX;
/// Most that are noted at once: what one resolver lets wait by default, and more.
const SLOTS: u16 = 2_048;
/// Nobody waits longer for an answer: 5 s is what libraries wait for one, and then they ask again.
const WAITED_MAX: Duration = Duration::from_secs(10);

/// The notes of one namespace.
pub(super) struct Notes {
    file: Arc<File>,
    free: Mutex<BTreeSet<u16>>,
}

/// A query that is noted.
pub(super) struct Note(u16);

impl Notes {
    /// Begins with what an earlier agent left. A file that cannot be read is empty.
    pub(super) fn begin(file: Arc<File>) -> (Self, Vec<(Note, SocketAddr, Vec<u8>)>) {
        let notes = Self { file, free: Mutex::new((0..SLOTS).collect()) };
        let left = notes.left().unwrap_or_default();
        let taken: BTreeSet<u16> = left.iter().map(|(Note(slot), ..)| *slot).collect();
        notes.free.lock().unwrap_or_else(PoisonError::into_inner).retain(|slot| !taken.contains(slot));
        (notes, left)
    }

    fn left(&self) -> io::Result<Vec<(Note, SocketAddr, Vec<u8>)>> {
        let about = self.file.metadata()?;
        // A clock that was set back says nothing: one answer too many does no harm.
        let age = about.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        let mut left = Vec::new();
        let mut slot = [0; SLOT];
        for number in 0..SLOTS {
            let read = self.file.read_at(&mut slot, offset(number))?;
            if read == 0 {
                break;
            }
            if let Some((client, query)) = decode(&slot[..read]) {
                match age > WAITED_MAX {
                    true => self.clear(Note(number)),
                    false => left.push((Note(number), client, query.to_vec())),
                }
            }
        }
        Ok(left)
    }

    /// Notes a query. `None` where it is too long, or the file is full: it is lost with the agent then.
    pub(super) fn write(&self, client: SocketAddr, query: &[u8]) -> Option<Note> {
        let bytes = encode(client, query)?;
        let slot = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_first()?;
        match self.file.write_all_at(&bytes, offset(slot)) {
            Ok(()) => Some(Note(slot)),
            Err(error) => {
                tracing::debug!(%error, "a query that waits is not noted");
                self.free.lock().unwrap_or_else(PoisonError::into_inner).insert(slot);
                None
            }
        }
    }

    /// It is answered.
    pub(super) fn clear(&self, note: Note) {
        // A note that stays is answered once more by the next agent.
        drop(self.file.write_all_at(&[0; 2], offset(note.0)));
        self.free.lock().unwrap_or_else(PoisonError::into_inner).insert(note.0);
    }
}

fn offset(slot: u16) -> u64 {
    u64::from(slot) * SLOT as u64
}

fn encode(client: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(query.len()).ok().filter(|length| usize::from(*length) <= NOTED_MAX)?;
    let address = match client.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut bytes = Vec::with_capacity(PREFIX + query.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(address.octets());
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(query);
    Some(bytes)
}

/// `None` for an empty slot, and for what is none.
fn decode(slot: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (length, rest) = slot.split_first_chunk::<2>()?;
    let (address, rest) = rest.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let query = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    let address = Ipv6Addr::from(*address).to_canonical();
    (!query.is_empty()).then_some((SocketAddr::new(address, u16::from_be_bytes(*port)), query))
}
