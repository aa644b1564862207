//! What agent and holder say to each other: one packet each way, at most [`BYTES_MAX`] long.
//!
//! Agents and holders of different versions meet at every upgrade. The meaning of a byte never changes; a holder
//! refuses a request it does not know.
use super::{FILES_MAX, NAME_BYTES_MAX};

/// Bytes of a packet. A longer one is cut by the kernel and refused.
pub(super) const BYTES_MAX: usize = 16 * 1024;

/// A request; file descriptors of a put travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Put(&'a str),
    Get(&'a str),
    /// The names after this one, as many as fit into a packet; none means that there are no more.
    List(&'a str),
    Drop(&'a str),
    Ping,
    End,
}

/// An answer; file descriptors of a get travel beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Done(&'a [u8]),
    Unknown,
    Refused(&'a str),
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, name) = match *self {
            Self::Put(name) => (1, name),
            Self::Get(name) => (2, name),
            Self::List(after) => (3, after),
            Self::Drop(name) => (4, name),
            Self::Ping => (5, ""),
            Self::End => (6, ""),
        };
        let mut bytes = vec![code];
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (&code, name) = bytes.split_first().ok_or("an empty request")?;
        let name = std::str::from_utf8(name).map_err(|_| "a name that is not UTF-8")?;
        if name.len() > NAME_BYTES_MAX {
            return Err("a name longer than 255 bytes");
        }
        if name.is_empty() && matches!(code, 1 | 2 | 4) {
            return Err("an empty name");
        }
        match code {
            1 => Ok(Self::Put(name)),
            2 => Ok(Self::Get(name)),
            3 => Ok(Self::List(name)),
            4 => Ok(Self::Drop(name)),
            5 => Ok(Self::Ping),
            6 => Ok(Self::End),
            _ => Err("an unknown request"),
        }
    }

    /// For errors: "the holder refused to …".
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Put(_) => "keep file descriptors",
            Self::Get(_) => "hand out file descriptors",
            Self::List(_) => "list what it holds",
            Self::Drop(_) => "close file descriptors",
            Self::Ping => "say what it is",
            Self::End => "end",
        }
    }
}

impl<'a> Reply<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, rest) = match *self {
            Self::Done(payload) => (0, payload),
            Self::Unknown => (1, &[][..]),
            Self::Refused(reason) => (2, reason.as_bytes()),
        };
        let mut bytes = vec![code];
        bytes.extend_from_slice(rest);
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, payload) => Some(Self::Done(payload)),
            (1, _) => Some(Self::Unknown),
            (2, reason) => Some(Self::Refused(std::str::from_utf8(reason).ok()?)),
            _ => None,
        }
    }
}

/// Packs (name, count of descriptors) pairs until a packet is full.
pub(super) fn encode_list<'a>(entries: impl Iterator<Item = (&'a str, usize)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, files) in entries {
        let (Ok(length), Ok(files)) = (u8::try_from(name.len()), u8::try_from(files)) else { continue };
        // One byte of the packet is the reply's code.
        if bytes.len() + 2 + name.len() >= BYTES_MAX {
            break;
        }
        bytes.extend_from_slice(&[length, files]);
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}

pub(super) fn decode_list(mut bytes: &[u8]) -> Option<Vec<(String, usize)>> {
    let mut entries = Vec::new();
    while let [length, files, rest @ ..] = bytes {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let files = usize::from(*files);
        if name.is_empty() || files > FILES_MAX {
            return None;
        }
        entries.push((std::str::from_utf8(name).ok()?.to_owned(), files));
        bytes = rest;
    }
    bytes.is_empty().then_some(entries)
}
