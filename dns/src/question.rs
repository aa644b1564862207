//! A question as [`answer`](crate::answer) wants it: one lower-case name and one type, without the heap.
use std::fmt;

/// Longest text of a name, in bytes: 255 on the wire (RFC 1035, 2.3.4) less the first length and the root.
const TEXT_MAX: usize = 253;

/// Longest label, in bytes.
const LABEL_MAX: usize = 63;

/// Stands for a byte that none of our names can have, a dot inside a label among them.
const FOREIGN: u8 = 0;

/// A record type, as its number (IANA's registry of DNS parameters).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// Name of an address.
    pub const PTR: Self = Self(12);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Place of a service.
    pub const SRV: Self = Self(33);
    /// Incremental zone transfer.
    pub const IXFR: Self = Self(251);
    /// Zone transfer.
    pub const AXFR: Self = Self(252);
    /// Whatever there is.
    pub const ANY: Self = Self(255);

    pub(crate) fn wants(self, other: Self) -> bool {
        self == other || self == Self::ANY
    }
}

/// One question of class IN.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    bytes: [u8; TEXT_MAX],
    len: u8,
    kind: Kind,
}

/// Why something is no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// More than 253 bytes of text.
    #[error("the name is longer than 253 bytes")]
    NameTooLong,
    /// A label of none or of more than 63 bytes.
    #[error("a label of the name is empty or longer than 63 bytes")]
    BadLabel,
}

impl Question {
    /// From labels as they came, any bytes, the root left out.
    ///
    /// # Errors
    /// When a label or the whole exceeds RFC 1035's limits.
    pub fn from_labels<'a>(
        labels: impl IntoIterator<Item = &'a [u8]>,
        kind: Kind,
    ) -> Result<Self, QuestionError> {
        let mut question = Self { bytes: [FOREIGN; TEXT_MAX], len: 0, kind };
        for (index, label) in labels.into_iter().enumerate() {
            if label.is_empty() || label.len() > LABEL_MAX {
                return Err(QuestionError::BadLabel);
            }
            if index > 0 {
                question.push(b'.')?;
            }
            for byte in label {
                question.push(fold(*byte))?;
            }
        }
        Ok(question)
    }

    /// From a dotted name, with or without a trailing dot.
    ///
    /// # Errors
    /// As [`Self::from_labels`].
    pub fn from_text(name: &str, kind: Kind) -> Result<Self, QuestionError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        Self::from_labels(name.split('.').filter(|_| !name.is_empty()).map(str::as_bytes), kind)
    }

    /// The name: lower case, dotted, without a trailing dot; empty for the root. NUL stands for what no name of ours has.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The type asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn push(&mut self, byte: u8) -> Result<(), QuestionError> {
        let place = self.bytes.get_mut(usize::from(self.len)).ok_or(QuestionError::NameTooLong)?;
        *place = byte;
        self.len += 1;
        Ok(())
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} type {}", self.name(), self.kind.0)
    }
}

/// Lower case; only ASCII letters have case in DNS (RFC 4343).
fn fold(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => byte,
        b'A'..=b'Z' => byte.to_ascii_lowercase(),
        _ => FOREIGN,
    }
}
