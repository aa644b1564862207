//! One transaction: everything in a batch takes effect at one instant, or nothing does.
use crate::expression::{Expression, Verdict};
use crate::uapi;
use crate::wire::{self, Head, Writer};

/// The attribute lists of elements are closed before their 16-bit length runs over; an element with key and
/// data is far shorter than what is left.
const ELEMENTS_BYTES_MAX: usize = 60_000;
/// NFT_OBJECT_CT_TIMEOUT.
pub(crate) const OBJECT_TIMEOUT: u32 = 7;
/// NFTNL_UDATA_RULE_COMMENT, the way nft itself stores a comment: type, length, text with its zero.
const USERDATA_COMMENT: u8 = 0;

/// What kind of packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// ARP.
    Arp,
    /// Frames that a bridge forwards.
    Bridge,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The kernel's number (NFPROTO_*).
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Arp, Self::Bridge, Self::Ip6].into_iter().find(|f| f.number() == number)
    }
}

/// A table's full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Tables of different families may have the same name.
    pub family: Family,
    /// At most 255 bytes.
    pub name: &'a str,
}

/// Flags of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableFlags {
    /// Only the socket that added (or adopted) the table may change it, and `nft flush ruleset` leaves it out
    /// (kernel 5.12 and later). Without `persist` the table goes with the socket.
    pub owner: bool,
    /// The table stays when its owner's socket closes, and another one may adopt it by adding it again with both
    /// flags (kernel 6.9 and later; older ones refuse it with EOPNOTSUPP).
    pub persist: bool,
}

impl TableFlags {
    /// No flags: what every kernel takes.
    pub const PLAIN: Self = Self { owner: false, persist: false };
    /// Both flags.
    pub const OWNED: Self = Self { owner: true, persist: true };

    pub(crate) fn bits(self) -> u32 {
        (u32::from(self.owner) << 1) | (u32::from(self.persist) << 2)
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self { owner: bits & 2 != 0, persist: bits & 4 != 0 }
    }
}

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Any verdict, no translation.
    Filter,
    /// Sees the first packet of each flow and may translate it.
    Nat,
    /// In the output hook: routes again if the mark or the addresses have changed.
    Route,
}

/// Where packets enter a base chain. Hooks of families ip, ip6, inet and bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// All that arrives.
    Prerouting,
    /// What is for this namespace. In family arp too.
    Input,
    /// What passes through.
    Forward,
    /// What is sent from here. In family arp too.
    Output,
    /// All that leaves.
    Postrouting,
}

/// How a base chain is tied to the packets' path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// What it is for.
    pub kind: ChainKind,
    /// Where packets enter it.
    pub point: HookPoint,
    /// Lower ones run first; dstnat is −100, srcnat 100, filter 0, raw −300.
    pub priority: i32,
    /// Drop what reaches its end; else accept.
    pub drop_by_default: bool,
}

impl HookPoint {
    fn number(self, family: Family) -> u32 {
        match (self, family) {
            // include/uapi/linux/netfilter_arp.h: NF_ARP_IN 0, NF_ARP_OUT 1.
            (Self::Input, Family::Arp) => 0,
            (Self::Output, Family::Arp) => 1,
            (Self::Prerouting, _) => 0,
            (Self::Input, _) => 1,
            (Self::Forward, _) => 2,
            (Self::Output, _) => 3,
            (Self::Postrouting, _) => 4,
        }
    }
}

impl ChainKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// The type of one field of a key or of data: nft's number for it, which only `nft list` reads, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldType {
    /// nft's number (include/datatype.h of nftables), 6 bits.
    pub code: u32,
    /// Length in bytes; in a concatenation each field is padded to 4.
    pub length: u32,
}

impl FieldType {
    /// An IPv4 address.
    pub const IPV4_ADDRESS: Self = Self { code: 7, length: 4 };
    /// An IPv6 address.
    pub const IPV6_ADDRESS: Self = Self { code: 8, length: 16 };
    /// A MAC address.
    pub const MAC_ADDRESS: Self = Self { code: 9, length: 6 };
    /// A transport protocol.
    pub const PROTOCOL: Self = Self { code: 12, length: 1 };
    /// A port, in network order.
    pub const PORT: Self = Self { code: 13, length: 2 };
    /// A packet mark, in host order; the type to list a random number by.
    pub const MARK: Self = Self { code: 19, length: 4 };
    /// An interface's name, padded with zeros.
    pub const INTERFACE_NAME: Self = Self { code: 41, length: 16 };

    const fn padded(self) -> u32 {
        self.length.next_multiple_of(4)
    }
}

/// What a set's elements carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetData<'a> {
    /// Nothing: a set.
    None,
    /// A verdict: a verdict map.
    Verdict,
    /// A value of these fields: a map.
    Value(&'a [FieldType]),
}

/// A named set, map or verdict map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set<'a> {
    /// Its name, unique in the table.
    pub name: &'a str,
    /// The fields of its key, in order; 64 bytes with padding at most.
    pub key: &'a [FieldType],
    /// What its elements carry.
    pub data: SetData<'a>,
    /// Elements are ranges. With one field each range is two elements (start, and an interval end one past its
    /// last key); with several it is one element with `key_end` (kernel 5.6 and later).
    pub interval: bool,
}

/// What an element carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ElementData<'a> {
    /// Nothing.
    None,
    /// A value, its fields padded like a key's.
    Value(&'a [u8]),
    /// A verdict.
    Verdict(Verdict<'a>),
}

/// Elements being written into a batch; opens a new message whenever one is full.
pub struct ElementList<'a> {
    batch: &'a mut Batch,
    table: Table<'a>,
    set: &'a str,
    operation: u16,
    open: Option<OpenElements>,
}

struct OpenElements {
    message: usize,
    list: usize,
}

impl ElementList<'_> {
    /// A key (fields padded to 4 bytes in a concatenation) with what it carries. When deleting, data is left out.
    pub fn push(&mut self, key: &[u8], data: &ElementData<'_>) {
        self.write(key, None, 0, data);
    }

    /// The end of a range in a one-field interval set: the first key behind it.
    pub fn push_interval_end(&mut self, key: &[u8]) {
        self.write(key, None, uapi::ELEMENT_INTERVAL_END, &ElementData::None);
    }

    /// A range, both ends included, in an interval set of several fields.
    pub fn push_range(&mut self, first: &[u8], last: &[u8], data: &ElementData<'_>) {
        self.write(first, Some(last), 0, data);
    }

    fn write(&mut self, key: &[u8], last: Option<&[u8]>, flags: u32, data: &ElementData<'_>) {
        if self.open.as_ref().is_some_and(|open| self.batch.out.bytes.len() - open.list > ELEMENTS_BYTES_MAX)
        {
            self.close();
        }
        if self.open.is_none() {
            self.begin();
        }
        self.batch.out.nest(1, |out| {
            if flags != 0 {
                out.number(3, flags);
            }
            out.nest(1, |out| out.attribute(1, key));
            if let Some(last) = last {
                out.nest(10, |out| out.attribute(1, last));
            }
            match data {
                ElementData::None => {}
                ElementData::Value(value) => out.nest(2, |out| out.attribute(1, value)),
                ElementData::Verdict(verdict) => out.nest(2, |out| verdict.write(out)),
            }
        });
    }

    fn begin(&mut self) {
        let flags = if self.operation == uapi::NEW_ELEMENT { uapi::CREATE } else { 0 };
        let message = self.batch.begin(self.operation, self.table.family, flags);
        let out = &mut self.batch.out;
        out.text(1, self.table.name);
        out.text(2, self.set);
        let list = out.begin_nest(3);
        self.open = Some(OpenElements { message, list });
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.batch.out.end_attribute(open.list);
            self.batch.out.end_message(open.message);
        }
    }
}

/// Messages that [`crate::Socket::commit`] makes one transaction. Later messages may use what earlier ones add.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) out: Writer,
    pub(crate) count: u32,
    pub(crate) generation: Option<u32>,
    last: Option<usize>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing would be sent.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What would be sent, in bytes.
    pub fn length_bytes(&self) -> usize {
        self.out.bytes.len()
    }

    /// The batch takes effect only if the ruleset still has this generation; else the commit fails with
    /// [`crate::Error::Changed`] (kernel 4.10 and later).
    pub fn require_generation(&mut self, generation: u32) {
        self.generation = Some(generation);
    }

    /// Adds a table. If it exists with the same flags this changes nothing; if it is a persistent one without an
    /// owner, [`TableFlags::OWNED`] adopts it.
    pub fn add_table(&mut self, table: Table<'_>, flags: TableFlags) {
        self.message(uapi::NEW_TABLE, table.family, uapi::CREATE, |out| {
            out.text(1, table.name);
            out.number(2, flags.bits());
        });
    }

    /// Deletes a table with all it holds; ENOENT if it is not there.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.message(uapi::DELETE_TABLE, table.family, 0, |out| out.text(1, table.name));
    }

    /// Deletes a table if it is there. (Adds it first: DESTROYTABLE needs kernel 6.3.)
    pub fn destroy_table(&mut self, table: Table<'_>) {
        self.message(uapi::NEW_TABLE, table.family, uapi::CREATE, |out| out.text(1, table.name));
        self.delete_table(table);
    }

    /// Adds a chain; with a hook a base chain, without one a chain to jump to. One that exists stays as it is,
    /// but for its policy.
    pub fn add_chain(&mut self, table: Table<'_>, name: &str, hook: Option<&Hook>) {
        self.message(uapi::NEW_CHAIN, table.family, uapi::CREATE, |out| {
            out.text(1, table.name);
            out.text(3, name);
            if let Some(hook) = hook {
                out.nest(4, |out| {
                    out.number(1, hook.point.number(table.family));
                    out.attribute(2, &hook.priority.to_be_bytes());
                });
                out.number(5, u32::from(!hook.drop_by_default));
                out.text(7, hook.kind.name());
            }
        });
    }

    /// Deletes a chain, which must be empty of references; its rules go with it (kernel 3.18 and later).
    pub fn delete_chain(&mut self, table: Table<'_>, name: &str) {
        self.message(uapi::DELETE_CHAIN, table.family, 0, |out| {
            out.text(1, table.name);
            out.text(3, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, name: &str) {
        self.message(uapi::DELETE_RULE, table.family, 0, |out| {
            out.text(1, table.name);
            out.text(2, name);
        });
    }

    /// Adds a rule at the end of a chain. `nft list` shows the comment, of at most 127 bytes.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, rule: &[Expression], comment: Option<&str>) {
        self.rule(table, chain, rule, comment, uapi::CREATE | uapi::APPEND);
    }

    /// Adds a rule at the start of a chain.
    pub fn insert_rule(&mut self, table: Table<'_>, chain: &str, rule: &[Expression], comment: Option<&str>) {
        self.rule(table, chain, rule, comment, uapi::CREATE);
    }

    fn rule(
        &mut self,
        table: Table<'_>,
        chain: &str,
        rule: &[Expression],
        comment: Option<&str>,
        flags: u16,
    ) {
        self.message(uapi::NEW_RULE, table.family, flags, |out| {
            out.text(1, table.name);
            out.text(2, chain);
            out.nest(4, |out| rule.iter().for_each(|expression| expression.write(out)));
            if let Some(comment) = comment {
                out.attribute(7, &comment_userdata(comment));
            }
        });
    }

    /// Deletes one rule by the handle that [`crate::Socket::rules`] gave.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        self.message(uapi::DELETE_RULE, table.family, 0, |out| {
            out.text(1, table.name);
            out.text(2, chain);
            out.attribute(3, &handle.to_be_bytes());
        });
    }

    /// Adds a set; one of the same name and shape stays as it is, one of another shape is EEXIST.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set<'_>) {
        let id = self.count;
        self.message(uapi::NEW_SET, table.family, uapi::CREATE, |out| write_set(out, table, set, id));
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, table: Table<'_>, name: &str) {
        self.message(uapi::DELETE_SET, table.family, 0, |out| {
            out.text(1, table.name);
            out.text(2, name);
        });
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, table: Table<'_>, name: &str) {
        self.message(uapi::DELETE_ELEMENT, table.family, 0, |out| {
            out.text(1, table.name);
            out.text(2, name);
        });
    }

    /// Adds the elements that `fill` pushes. One that exists with the same data stays as it is; with other data
    /// it is EEXIST: to replace it, delete it earlier in the same batch.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, fill: impl FnOnce(&mut ElementList<'_>)) {
        self.elements(uapi::NEW_ELEMENT, table, set, fill);
    }

    /// Deletes the elements whose keys `fill` pushes; ENOENT if one is not there.
    pub fn delete_elements(&mut self, table: Table<'_>, set: &str, fill: impl FnOnce(&mut ElementList<'_>)) {
        self.elements(uapi::DELETE_ELEMENT, table, set, fill);
    }

    fn elements(
        &mut self,
        operation: u16,
        table: Table<'_>,
        set: &str,
        fill: impl FnOnce(&mut ElementList<'_>),
    ) {
        let mut list = ElementList { batch: self, table, set, operation, open: None };
        fill(&mut list);
        list.close();
    }

    /// Adds an object of conntrack time-outs, in seconds, for flows of one transport protocol. `policy` pairs the
    /// kernel's number of a state (CTA_TIMEOUT_TCP_* and so on) with its time-out; states left out keep the
    /// namespace's default. Needs CONFIG_NF_CONNTRACK_TIMEOUT, else EOPNOTSUPP or ENOENT.
    pub fn add_timeout(&mut self, table: Table<'_>, name: &str, protocol: u8, policy: &[(u16, u32)]) {
        self.message(uapi::NEW_OBJECT, table.family, uapi::CREATE, |out| {
            out.text(1, table.name);
            out.text(2, name);
            out.number(3, OBJECT_TIMEOUT);
            out.nest(4, |out| {
                let level3: u16 = if table.family == Family::Ip6 { 0x86dd } else { 0x0800 };
                out.attribute(1, &level3.to_be_bytes());
                out.attribute(2, &[protocol]);
                out.nest(3, |out| policy.iter().for_each(|(state, seconds)| out.number(*state, *seconds)));
            });
        });
    }

    fn message(&mut self, operation: u16, family: Family, flags: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.begin(operation, family, flags);
        body(&mut self.out);
        self.out.end_message(start);
    }

    /// Opens a message and asks for the acknowledgement of this one alone: it is the last so far.
    fn begin(&mut self, operation: u16, family: Family, flags: u16) -> usize {
        if let Some(last) = self.last {
            let previous = u16::from_ne_bytes([self.out.bytes[last + 6], self.out.bytes[last + 7]]);
            self.out.bytes[last + 6..last + 8].copy_from_slice(&(previous & !uapi::ACK).to_ne_bytes());
        }
        self.count += 1;
        let start = self.out.begin_message(Head {
            kind: (uapi::SUBSYSTEM_NFTABLES << 8) | operation,
            flags: uapi::REQUEST | uapi::ACK | flags,
            sequence: self.count,
            family: family.number(),
            resource: 0,
        });
        self.last = Some(start);
        start
    }

    /// What message `sequence` asks for, and of which object.
    pub(crate) fn describe(&self, sequence: u32) -> (&'static str, String) {
        let Some(found) = wire::messages(&self.out.bytes).find(|message| message.sequence == sequence) else {
            return ("commit the batch", String::new());
        };
        let operation = found.kind & 0xff;
        let table = wire::find(found.attributes(), 1).map(wire::text).unwrap_or_default();
        let name_kind = if matches!(operation, uapi::NEW_CHAIN | uapi::DELETE_CHAIN) { 3 } else { 2 };
        let named = !matches!(operation, uapi::NEW_TABLE | uapi::DELETE_TABLE);
        let name = wire::find(found.attributes(), name_kind).filter(|_| named).map(wire::text);
        let object = name.map_or(table.clone(), |name| format!("{table} {name}"));
        (uapi::message_name(operation), object)
    }
}

fn write_set(out: &mut Writer, table: Table<'_>, set: &Set<'_>, id: u32) {
    let (key_type, key_length) = concatenate(set.key);
    let concatenated_ranges = set.interval && set.key.len() > 1;
    let mut flags = if set.interval { uapi::SET_INTERVAL } else { 0 };
    flags |= if concatenated_ranges { uapi::SET_CONCATENATED } else { 0 };
    flags |= if set.data == SetData::None { 0 } else { uapi::SET_MAP };
    out.text(1, table.name);
    out.text(2, set.name);
    out.number(3, flags);
    out.number(4, key_type);
    out.number(5, key_length);
    match set.data {
        SetData::None => {}
        SetData::Verdict => {
            out.number(6, uapi::DATA_VERDICT);
            out.number(7, 4);
        }
        SetData::Value(fields) => {
            let (data_type, data_length) = concatenate(fields);
            out.number(6, data_type);
            out.number(7, data_length);
        }
    }
    if concatenated_ranges {
        out.nest(9, |out| {
            out.nest(2, |out| {
                set.key.iter().for_each(|field| out.nest(1, |out| out.number(1, field.length)));
            });
        });
    }
    out.number(10, id);
}

/// Type and length of a concatenation, as nft numbers it: 6 bits for each field.
fn concatenate(fields: &[FieldType]) -> (u32, u32) {
    match fields {
        [single] => (single.code, single.length),
        _ => fields
            .iter()
            .fold((0, 0), |(code, length), field| ((code << 6) | field.code, length + field.padded())),
    }
}

fn comment_userdata(comment: &str) -> Vec<u8> {
    let mut cut = comment.len().min(127);
    while !comment.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut userdata = vec![USERDATA_COMMENT, u8::try_from(cut + 1).unwrap_or(u8::MAX)];
    userdata.extend_from_slice(&comment.as_bytes()[..cut]);
    userdata.push(0);
    userdata
}

/// The comment in a rule's userdata, if there is one.
pub(crate) fn read_comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    loop {
        let [kind, length, tail @ ..] = rest else { return None };
        let value = tail.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            return Some(wire::text(value));
        }
        rest = &tail[usize::from(*length)..];
    }
}
