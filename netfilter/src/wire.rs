//! Netlink's bytes: messages, attributes and nests, written and read with every length checked.
use netlink_packet_core::NlasIterator;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of `struct nfgenmsg`, which follows it in every netfilter message.
pub(crate) const FAMILY_HEADER_BYTES: usize = 4;
/// Set on an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// What goes into a message's two headers.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) family: u8,
    pub(crate) resource: u16,
}

/// A growing buffer of messages. A length that does not fit its field is remembered in `overflow`, never cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) overflow: bool,
}

impl Writer {
    pub(crate) fn message(&mut self, head: Head, body: impl FnOnce(&mut Self)) {
        let start = self.begin_message(head);
        body(self);
        self.end_message(start);
    }

    /// Opens a message and says where it starts; `end_message` closes it.
    pub(crate) fn begin_message(&mut self, head: Head) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&head.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&head.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&head.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[head.family, 0]);
        self.bytes.extend_from_slice(&head.resource.to_be_bytes());
        start
    }

    pub(crate) fn end_message(&mut self, start: usize) {
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.begin_attribute(kind);
        self.bytes.extend_from_slice(value);
        self.end_attribute(start);
    }

    /// A text with its closing zero, as the kernel's NLA_NUL_STRING wants it.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.begin_attribute(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end_attribute(start);
    }

    /// A number in network order: nf_tables has no other.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.begin_attribute(kind | NESTED);
        body(self);
        self.end_attribute(start);
    }

    pub(crate) fn begin_attribute(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    pub(crate) fn begin_nest(&mut self, kind: u16) -> usize {
        self.begin_attribute(kind | NESTED)
    }

    pub(crate) fn end_attribute(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// One attribute as read: its kind without the flag bits, and its value.
pub(crate) type Attribute<'a> = (u16, &'a [u8]);

/// Walks attributes and ends at the first one whose length is not possible.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    // NlasIterator checks each length against the buffer; its items borrow from the iterator's own buffer, so
    // the value is cut out of ours by the length it has checked.
    NlasIterator::new(bytes).map_while(move |item| {
        let item = item.ok()?;
        let length = usize::from(item.length());
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((item.kind(), value))
    })
}

/// The value of the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

pub(crate) fn number64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

/// A text up to its closing zero; bytes that are no UTF-8 are replaced.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// One message as received: header fields, and all that follows the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes after the `nfgenmsg`.
    pub(crate) fn attributes(&self) -> &'a [u8] {
        self.payload.get(FAMILY_HEADER_BYTES..).unwrap_or_default()
    }

    /// The family byte of the `nfgenmsg`.
    pub(crate) fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or_default()
    }
}

/// Walks the messages of one datagram and ends at the first impossible length.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER_BYTES)?;
        let length = usize::try_from(u32::from_ne_bytes(header[..4].try_into().ok()?)).ok()?;
        let payload = rest.get(HEADER_BYTES..length)?;
        let received = Received {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}
