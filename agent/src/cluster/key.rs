//! The cluster key: what makes a host a member.
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(test)]
mod tests;

/// What a key's text begins with; the number changes with the format.
const PREFIX: &str = "svc-agent-key-1";
/// Keys in one ring. Rotation needs two; more only cost look-ups.
const KEYS_MAX: usize = 8;
/// Bytes of a key file; a full ring with long comments is far below.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Which cluster a key belongs to: drawn once, at `keygen`, and kept by every later key of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 8]);

/// Which key of a cluster sealed a frame; stands in clear in front of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
    )*};
}
hex_text!(ClusterId, KeyId);

/// One key of a cluster. Its `Debug` leaves the secret out; its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    cluster: ClusterId,
    id: KeyId,
    secret: [u8; 32],
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.secret.fill(0);
        // Without a reader the compiler may drop the write above as dead.
        std::hint::black_box(&self.secret);
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({} of cluster {})", self.id, self.cluster)
    }
}

impl ClusterKey {
    /// A key of a new cluster, from 44 random bytes.
    pub fn found(random: [u8; 44]) -> Self {
        let mut key = Self { cluster: ClusterId([0; 8]), id: KeyId([0; 4]), secret: [0; 32] };
        key.cluster.0.copy_from_slice(&random[..8]);
        key.id.0.copy_from_slice(&random[8..12]);
        key.secret.copy_from_slice(&random[12..]);
        key
    }

    /// A further key of the same cluster, from 36 random bytes.
    pub fn successor(&self, random: [u8; 36]) -> Self {
        let mut key = Self { cluster: self.cluster, id: KeyId([0; 4]), secret: [0; 32] };
        key.id.0.copy_from_slice(&random[..4]);
        key.secret.copy_from_slice(&random[4..]);
        key
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its id within the cluster.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The line that goes into a key file, secret included.
    pub fn to_text(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{PREFIX}.{}.{}.{}", self.cluster, self.id, hex(&self.secret))
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

/// Why a text is no key. Never repeats the text, which may hold most of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no cluster key: {0}; copy the line that `svc-agent keygen` printed, whole")]
pub struct KeyTextError(&'static str);

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

impl FromStr for ClusterKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let parts: Vec<&str> = text.split('.').collect();
        let [prefix, cluster, id, secret] = parts[..] else {
            return Err(KeyTextError("it has not four parts separated by dots"));
        };
        if prefix != PREFIX {
            return Err(KeyTextError("it does not begin with svc-agent-key-1"));
        }
        let cluster = from_hex(cluster).ok_or(KeyTextError("its cluster id is not 16 hexadecimal digits"))?;
        let id = from_hex(id).ok_or(KeyTextError("its key id is not 8 hexadecimal digits"))?;
        let secret = from_hex(secret).ok_or(KeyTextError("its secret is not 64 hexadecimal digits"))?;
        Ok(Self { cluster: ClusterId(cluster), id: KeyId(id), secret })
    }
}

/// The keys of one cluster: the first seals, each opens.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<ClusterKey>,
}

/// Why a key file's text is no key ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// A line is neither a key nor a comment.
    #[error("line {line} is bad")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: KeyTextError,
    },
    /// Keys of two clusters in one file.
    #[error(
        "line {line} is a key of cluster {found}, the lines before are of {expected}; keep the keys of one cluster"
    )]
    OtherCluster {
        /// From 1.
        line: usize,
        /// The first key's cluster.
        expected: ClusterId,
        /// This key's cluster.
        found: ClusterId,
    },
    /// Two keys with one id: a frame could not say which it means.
    #[error("line {line} repeats key id {id}; remove one of the two")]
    Repeated {
        /// From 1.
        line: usize,
        /// The id.
        id: KeyId,
    },
    /// Nothing in it.
    #[error("there is no key in it; write the line that `svc-agent keygen` prints into it")]
    Empty,
    /// More than eight keys.
    #[error("there are more than {KEYS_MAX} keys in it; remove the oldest, which stand last")]
    TooMany,
}

/// Why a key file was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be opened, looked at or read.
    #[error("cannot read the cluster key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner may read it.
    #[error(
        "the cluster key file {} may be read by others (mode {mode:03o}); run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its text is no key ring.
    #[error("the cluster key file {} holds no usable keys", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyRingError,
    },
}

impl KeyRing {
    /// Reads a key file's text: one key a line, `#` begins a comment, the first key seals.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<ClusterKey> = Vec::new();
        for (index, content) in text.lines().enumerate() {
            let line = index + 1;
            let content = content.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let key: ClusterKey = content.parse().map_err(|source| KeyRingError::Line { line, source })?;
            if let Some(first) = keys.first().filter(|first| first.cluster != key.cluster) {
                return Err(KeyRingError::OtherCluster { line, expected: first.cluster, found: key.cluster });
            }
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyRingError::Repeated { line, id: key.id });
            }
            if keys.len() == KEYS_MAX {
                return Err(KeyRingError::TooMany);
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeyRingError::Empty) } else { Ok(Self { keys }) }
    }

    /// Reads a key file, and refuses one that group or others may read, write or execute.
    ///
    /// # Errors
    /// The file with what is wrong and what to do.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let read = |source| KeyFileError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        // Asked of the open file, so that it is the one that is read.
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
        let ring = Self::parse(&text);
        let mut text = text.into_bytes();
        text.fill(0);
        // As in `drop` above.
        std::hint::black_box(&text);
        ring.map_err(|source| KeyFileError::Text { path: path.to_owned(), source })
    }

    /// The cluster that all keys belong to.
    pub fn cluster(&self) -> ClusterId {
        self.sealing().cluster
    }

    /// The key that seals.
    pub fn sealing(&self) -> &ClusterKey {
        // `parse` is the only maker and leaves at least one.
        &self.keys[0]
    }

    /// The key with an id.
    pub fn find(&self, id: KeyId) -> Option<&ClusterKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl From<ClusterKey> for KeyRing {
    fn from(key: ClusterKey) -> Self {
        Self { keys: vec![key] }
    }
}
