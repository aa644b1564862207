//! One transaction: everything in a batch takes effect at one instant, or nothing does.
use crate::expression::{Expression, Verdict};
use crate::objects::{Family, Hook, Set, SetData, Table, TableFlags, concatenate};
use crate::uapi;
use crate::wire::{self, Head, Writer};

/// The attribute lists of elements are closed before their 16-bit length runs over; an element with key and
/// data is far shorter than what is left.
const ELEMENTS_BYTES_MAX: usize = 60_000;
/// NFT_OBJECT_CT_TIMEOUT.
pub(crate) const OBJECT_TIMEOUT: u32 = 7;
/// NFTNL_UDATA_RULE_COMMENT, the way nft itself stores a comment: type, length, text with its zero.
const USERDATA_COMMENT: u8 = 0;

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

    /// Adds a base chain of family netdev: it sees what arrives at a device, and accepts what reaches its end. A
    /// device that is not there is ENOENT (kernel 6.16 and later: it is waited for).
    pub fn add_ingress_chain(&mut self, table: Table<'_>, name: &str, device: &str, priority: i32) {
        self.message(uapi::NEW_CHAIN, table.family, uapi::CREATE, |out| {
            out.text(1, table.name);
            out.text(3, name);
            out.nest(4, |out| {
                out.number(1, uapi::INGRESS);
                out.attribute(2, &priority.to_be_bytes());
                out.text(3, device);
            });
            out.text(7, "filter");
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
    if concatenated_ranges || set.size_max.is_some() {
        out.nest(9, |out| {
            if let Some(size) = set.size_max {
                out.number(1, size);
            }
            if concatenated_ranges {
                out.nest(2, |out| {
                    set.key.iter().for_each(|field| out.nest(1, |out| out.number(1, field.length)));
                });
            }
        });
    }
    out.number(10, id);
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
