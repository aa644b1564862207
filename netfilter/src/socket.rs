//! The socket: commits batches and dumps what the kernel holds.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use crate::answer::{Answer, Refusals};
use crate::batch::Batch;
use crate::dump::{Chain, Element, Rule, TableState};
use crate::error::{Error, Refusal};
use crate::objects::Table;
use crate::uapi;
use crate::wire::{self, Head, Received, Writer};

/// Room for a batch of several million elements; the kernel charges only what is in flight.
const SEND_BUFFER_BYTES: usize = 256 << 20;
/// Room for the errors of a batch that fails in every message.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// The kernel fills a dump's datagrams up to 32 KiB when it is offered that much.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Answers are queued before the request returns, so this only guards against a kernel that never answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a dump is begun again that changes interrupted.
const DUMP_TRIES: u32 = 16;

/// A netfilter socket of one network namespace.
///
/// It belongs to the namespace of the thread that opened it, for ever, and may be used from any thread. Keep it
/// as long as tables with [`crate::TableFlags::OWNED`] are to be changed: ownership is tied to this socket.
pub struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    datagram: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread. Needs CAP_NET_ADMIN there for anything
    /// but opening.
    pub fn open() -> Result<Self, Error> {
        let step = |step| move |source| Error::Open { step, source };
        let mut inner = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(step("socket"))?;
        let address = inner.bind_auto().map_err(step("bind"))?;
        inner.set_ext_ack(true).map_err(step("NETLINK_EXT_ACK"))?;
        inner.set_cap_ack(true).map_err(step("NETLINK_CAP_ACK"))?;
        let timeout = Some(ANSWER_TIMEOUT);
        sockopt::set_socket_timeout(&inner, sockopt::Timeout::Recv, timeout)
            .map_err(|errno| Error::Open { step: "SO_RCVTIMEO", source: errno.into() })?;
        // Beyond the system's limits only with CAP_NET_ADMIN in the first user namespace; without it small
        // batches still work, and a large one fails with its length.
        if sockopt::set_socket_send_buffer_size_force(&inner, SEND_BUFFER_BYTES).is_err() {
            tracing::debug!("SO_SNDBUFFORCE is not permitted; large batches will fail");
        }
        if sockopt::set_socket_recv_buffer_size_force(&inner, RECEIVE_BUFFER_BYTES).is_err() {
            tracing::debug!("SO_RCVBUFFORCE is not permitted");
        }
        Ok(Self { inner, port: address.port_number(), datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// The number by which the kernel knows this socket as a table's owner.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes a batch one transaction. An error means that nothing of it took effect, but for
    /// [`Error::Receive`], after which only a dump tells.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.out.overflow {
            return Err(Error::TooLong);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.discard_stale();
        self.send(&[
            &control(uapi::BATCH_BEGIN, batch.generation),
            &batch.out.bytes,
            &control(uapi::BATCH_END, None),
        ])?;
        self.answer_of(batch)
    }

    /// Reads all answers. The kernel queues them before the send returns, refusals first.
    fn answer_of(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut acknowledged = false;
        let mut refusals = Refusals::default();
        while !acknowledged && !refusals.whole_batch {
            self.receive(RecvFlags::empty(), |message| {
                let Some(answer) = Answer::read(&message) else { return };
                match answer.errno {
                    0 => acknowledged |= answer.sequence == batch.count,
                    _ => refusals.note(answer, batch.count, &mut acknowledged),
                }
            })?;
        }
        refusals.into_result(batch)
    }

    /// The ruleset's generation: a number that every transaction in this namespace changes, ours or foreign.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let mut found = None;
        self.request(
            uapi::GET_GENERATION,
            0,
            0,
            |_| {},
            |message| {
                found = wire::find(message.attributes(), 1).and_then(wire::number);
            },
        )?;
        found.ok_or_else(no_answer)
    }

    /// One table, or nothing if it is not there.
    pub fn table(&mut self, table: Table<'_>) -> Result<Option<TableState>, Error> {
        let mut found = None;
        let result = self.request(
            uapi::GET_TABLE,
            table.family.number(),
            0,
            |out| out.text(1, table.name),
            |message| found = TableState::read(&message),
        );
        match result {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            result => result.map(|()| found),
        }
    }

    /// All tables of all families that this crate knows.
    pub fn tables(&mut self) -> Result<Vec<TableState>, Error> {
        self.dump("tables", uapi::GET_TABLE, 0, |_| {}, |message| TableState::read(&message))
    }

    /// The chains of a table, in order of creation.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<Chain>, Error> {
        // The kernel ignores NFTA_CHAIN_TABLE in a dump, so it is filtered here.
        self.dump(
            "chains",
            uapi::GET_CHAIN,
            table.family.number(),
            |_| {},
            |message| {
                Chain::read(&message).filter(|_| {
                    wire::find(message.attributes(), 1).map(wire::text).as_deref() == Some(table.name)
                })
            },
        )
    }

    /// The rules of a table (of one chain, if named), in their order within each chain.
    pub fn rules(&mut self, table: Table<'_>, chain: Option<&str>) -> Result<Vec<Rule>, Error> {
        let narrow = |out: &mut Writer| {
            out.text(1, table.name);
            if let Some(chain) = chain {
                out.text(2, chain);
            }
        };
        self.dump("rules", uapi::GET_RULE, table.family.number(), narrow, |message| Rule::read(&message))
    }

    /// The names of a table's sets and maps.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<crate::dump::SetState>, Error> {
        let narrow = |out: &mut Writer| out.text(1, table.name);
        self.dump("sets", uapi::GET_SET, table.family.number(), narrow, |message| {
            crate::dump::SetState::read(&message)
        })
    }

    /// The elements of a set, each as `convert` makes it of the bytes; what it answers `None` for is left out.
    /// ENOENT if there is no such table or set.
    pub fn elements<T>(
        &mut self,
        table: Table<'_>,
        set: &str,
        mut convert: impl FnMut(Element<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let narrow = |out: &mut Writer| {
            out.text(1, table.name);
            out.text(2, set);
        };
        let mut all = Vec::new();
        self.dump_each(
            "elements",
            uapi::SUBSYSTEM_NFTABLES,
            uapi::GET_ELEMENT,
            table.family.number(),
            narrow,
            |event| match event {
                Event::Restart => all.clear(),
                Event::Message(message) => {
                    let list = wire::find(message.attributes(), 3).unwrap_or_default();
                    let elements = wire::attributes(list).filter_map(|(_, bytes)| Element::read(bytes));
                    all.extend(elements.filter_map(&mut convert));
                }
            },
        )?;
        Ok(all)
    }

    fn dump<T>(
        &mut self,
        what: &'static str,
        operation: u16,
        family: u8,
        narrow: impl Fn(&mut Writer),
        mut convert: impl FnMut(Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        self.dump_each(what, uapi::SUBSYSTEM_NFTABLES, operation, family, narrow, |event| match event {
            Event::Restart => all.clear(),
            Event::Message(message) => all.extend(convert(message)),
        })?;
        Ok(all)
    }

    /// Streams a dump; after [`Event::Restart`] everything comes again.
    pub(crate) fn dump_each(
        &mut self,
        what: &'static str,
        subsystem: u16,
        operation: u16,
        family: u8,
        narrow: impl Fn(&mut Writer),
        mut each: impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        for _ in 0..DUMP_TRIES {
            each(Event::Restart);
            let mut interrupted = false;
            self.exchange(subsystem, operation, family, uapi::DUMP, &narrow, |message| {
                interrupted |= message.flags & uapi::DUMP_INTERRUPTED != 0;
                each(Event::Message(message));
            })?;
            if !interrupted {
                return Ok(());
            }
        }
        Err(Error::Interrupted { what, tries: DUMP_TRIES })
    }

    fn request(
        &mut self,
        operation: u16,
        family: u8,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Received<'_>),
    ) -> Result<(), Error> {
        self.exchange(uapi::SUBSYSTEM_NFTABLES, operation, family, flags | uapi::ACK, body, each)
    }

    /// Sends one request and hands on every message until it is done or acknowledged.
    pub(crate) fn exchange(
        &mut self,
        subsystem: u16,
        operation: u16,
        family: u8,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), Error> {
        self.discard_stale();
        let mut out = Writer::default();
        let head = Head {
            kind: (subsystem << 8) | operation,
            flags: uapi::REQUEST | flags,
            sequence: 1,
            family,
            resource: 0,
        };
        out.message(head, body);
        self.send(&[&out.bytes])?;
        let (mut done, mut errno, mut detail) = (false, 0, String::new());
        while !done {
            self.receive(RecvFlags::empty(), |message| match Answer::read(&message) {
                Some(answer) => {
                    done = true;
                    (errno, detail) = (answer.errno, answer.detail);
                }
                None => each(message),
            })?;
        }
        if errno == 0 {
            return Ok(());
        }
        let refusal =
            Refusal { message: request_name(subsystem, operation), object: String::new(), detail, count: 1 };
        Err(Error::Refused { refusal, source: io::Error::from_raw_os_error(errno) })
    }

    fn send(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut []);
        loop {
            match rustix::net::sendmsg(&self.inner, &slices, &mut control, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::Send { bytes, source: errno.into() }),
            }
        }
    }

    fn receive(&mut self, flags: RecvFlags, mut each: impl FnMut(Received<'_>)) -> Result<(), Error> {
        loop {
            match rustix::net::recv(&self.inner, &mut self.datagram[..], flags | RecvFlags::TRUNC) {
                Ok((length, actual)) if actual <= length => {
                    wire::messages(&self.datagram[..length]).for_each(&mut each);
                    return Ok(());
                }
                Ok((_, actual)) => self.datagram.resize(actual, 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::Receive { source: errno.into() }),
            }
        }
    }

    /// Throws away what an exchange that failed half-way has left; a dump that still runs is read to its end.
    fn discard_stale(&mut self) {
        loop {
            match rustix::net::recv(&self.inner, &mut self.datagram[..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

/// What a streamed dump brings.
pub(crate) enum Event<'a> {
    /// Forget what came so far.
    Restart,
    /// One message.
    Message(Received<'a>),
}

fn control(kind: u16, generation: Option<u32>) -> Vec<u8> {
    let mut out = Writer::default();
    let head =
        Head { kind, flags: uapi::REQUEST, sequence: 0, family: 0, resource: uapi::SUBSYSTEM_NFTABLES };
    out.message(head, |out| {
        if let Some(generation) = generation {
            out.number(uapi::BATCH_GENERATION, generation);
        }
    });
    out.bytes
}

fn request_name(subsystem: u16, operation: u16) -> &'static str {
    match (subsystem, operation) {
        (uapi::SUBSYSTEM_CONNTRACK, _) => "read or delete flows",
        (_, uapi::GET_TABLE) => "read tables",
        (_, uapi::GET_CHAIN) => "read chains",
        (_, uapi::GET_RULE) => "read rules",
        (_, uapi::GET_SET) => "read sets",
        (_, uapi::GET_ELEMENT) => "read elements",
        _ => "read the generation",
    }
}

fn no_answer() -> Error {
    Error::Receive { source: io::Error::from(io::ErrorKind::UnexpectedEof) }
}
