//! What the kernel holds, as read from dumps.
use crate::batch::read_comment;
use crate::expression::Verdict;
use crate::objects::{Family, TableFlags};
use crate::uapi;
use crate::wire::{self, Received};

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its flags; `persist` alone is an orphan that may be adopted.
    pub flags: TableFlags,
    /// Unique in the namespace; a table that was deleted and added again has another one.
    pub handle: u64,
    /// The port of the socket that owns it (see [`crate::Socket::port`]), if one does.
    pub owner: Option<u32>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// For a base chain its hook's number, its priority and its type.
    pub hook: Option<ChainHook>,
}

/// How a chain is tied to the packets' path, in the kernel's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainHook {
    /// Number of the hook within the family.
    pub number: u32,
    /// Its priority.
    pub priority: i32,
    /// Its type, such as `nat`.
    pub kind: String,
    /// Whether it drops what reaches its end.
    pub drop_by_default: bool,
    /// The device whose packets it sees (family netdev).
    pub device: Option<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain it stands in.
    pub chain: String,
    /// What [`crate::Batch::delete_rule`] takes.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its expressions as the kernel words them: not byte for byte what was sent.
    pub expressions: Vec<RawExpression>,
}

/// An expression as the kernel words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawExpression {
    /// Its kind, such as `payload`.
    pub name: String,
    /// Its attributes, as in netlink.
    pub attributes: Vec<u8>,
}

/// A counter's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

/// A set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// Its name.
    pub name: String,
    /// Length of its key in bytes, padding included.
    pub key_length: u32,
    /// Length of its data in bytes; 0 for a set.
    pub data_length: u32,
    /// Whether its elements are verdicts.
    pub verdicts: bool,
    /// Whether its elements are ranges.
    pub interval: bool,
}

/// An element, as it lies in the dump's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// The last key of a range, in a set of several fields.
    pub key_end: Option<&'a [u8]>,
    /// Its data; empty without.
    pub data: &'a [u8],
    /// Its verdict.
    pub verdict: Option<Verdict<'static>>,
    /// It is not a key but the end of the range before it.
    pub interval_end: bool,
}

impl TableState {
    pub(crate) fn read(message: &Received<'_>) -> Option<Self> {
        let attributes = message.attributes();
        Some(Self {
            family: Family::from_number(message.family())?,
            name: wire::text(wire::find(attributes, 1)?),
            flags: TableFlags::from_bits(wire::find(attributes, 2).and_then(wire::number)?),
            handle: wire::find(attributes, 4).and_then(wire::number64)?,
            owner: wire::find(attributes, 7).and_then(wire::number),
        })
    }
}

impl Chain {
    pub(crate) fn read(message: &Received<'_>) -> Option<Self> {
        let attributes = message.attributes();
        let name = wire::text(wire::find(attributes, 3)?);
        let hook = wire::find(attributes, 4).and_then(|hook| {
            Some(ChainHook {
                number: wire::find(hook, 1).and_then(wire::number)?,
                priority: wire::find(hook, 2).and_then(wire::number)?.cast_signed(),
                kind: wire::find(attributes, 7).map(wire::text).unwrap_or_default(),
                drop_by_default: wire::find(attributes, 5).and_then(wire::number) == Some(0),
                // NFTA_HOOK_DEV: the kernel names a chain's only device here as well as in the list of devices.
                device: wire::find(hook, 3).map(wire::text),
            })
        });
        Some(Self { name, hook })
    }
}

impl Rule {
    pub(crate) fn read(message: &Received<'_>) -> Option<Self> {
        let attributes = message.attributes();
        let expressions = wire::find(attributes, 4).unwrap_or_default();
        Some(Self {
            chain: wire::text(wire::find(attributes, 2)?),
            handle: wire::find(attributes, 3).and_then(wire::number64)?,
            comment: wire::find(attributes, 7).and_then(read_comment),
            expressions: wire::attributes(expressions)
                .filter_map(|(_, bytes)| RawExpression::read(bytes))
                .collect(),
        })
    }

    /// The states of its counters, in order.
    pub fn counts(&self) -> Vec<Count> {
        let counters = self.expressions.iter().filter(|expression| expression.name == "counter");
        counters
            .map(|counter| Count {
                bytes: wire::find(&counter.attributes, 1).and_then(wire::number64).unwrap_or_default(),
                packets: wire::find(&counter.attributes, 2).and_then(wire::number64).unwrap_or_default(),
            })
            .collect()
    }
}

impl RawExpression {
    fn read(bytes: &[u8]) -> Option<Self> {
        let name = wire::text(wire::find(bytes, 1)?);
        Some(Self { name, attributes: wire::find(bytes, 2).unwrap_or_default().to_vec() })
    }
}

impl SetState {
    pub(crate) fn read(message: &Received<'_>) -> Option<Self> {
        let attributes = message.attributes();
        let number = |kind| wire::find(attributes, kind).and_then(wire::number);
        Some(Self {
            name: wire::text(wire::find(attributes, 2)?),
            key_length: number(5)?,
            data_length: number(7).unwrap_or_default(),
            verdicts: number(6) == Some(uapi::DATA_VERDICT),
            interval: number(3).unwrap_or_default() & uapi::SET_INTERVAL != 0,
        })
    }
}

impl<'a> Element<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut element = Self { key: &[], key_end: None, data: &[], verdict: None, interval_end: false };
        for (kind, value) in wire::attributes(bytes) {
            match kind {
                1 => element.key = wire::find(value, 1)?,
                2 => match wire::attributes(value).next()? {
                    (1, data) => element.data = data,
                    (_, verdict) => element.verdict = Some(Verdict::read(verdict)?),
                },
                3 => element.interval_end = wire::number(value)? & uapi::ELEMENT_INTERVAL_END != 0,
                10 => element.key_end = wire::find(value, 1),
                _ => {}
            }
        }
        Some(element)
    }
}
