//! One host of the model: its durable and volatile state, and what an event does to it.
use std::net::IpAddr;

use super::HOSTS;
use crate::catalog::facts::{ClaimKey, Region};
use crate::claims::{
    ClaimPersist, ClaimRecord, ClaimState, Claimant, Entry, Member, Outcome, Persist, Place, Promises, Reply,
    Request, Resume, Step, View, conflicts, stray_promise,
};
use crate::model::{Name, NodeId};

/// A way to break the protocol, to show that the explorer notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// Promises are answered but not written.
    PromiseNotWritten,
    /// A late withdrawal releases a newer attempt.
    WithdrawIgnoresAttempt,
    /// The claimant withdraws without having written so, and may finish the claim after a restart.
    WithdrawalNotWritten,
    /// A joiner starts with an empty table.
    TableNotAdopted,
    /// Members do not refuse claimants who count fewer than they do.
    StaleViewAccepted,
    /// Half of the members is taken for a majority.
    HalfIsEnough,
}

/// What is explored.
pub(super) struct Model {
    /// Hosts that are members from the start; the first of them founded the cluster.
    pub(super) members: usize,
    /// Hosts that may join, after the members.
    pub(super) joiners: usize,
    /// What each host wants besides a node number.
    pub(super) wants: [Option<ClaimKey>; HOSTS],
    /// How often each host may start each claim.
    pub(super) starts: u8,
    /// Crashes in all.
    pub(super) crashes: u32,
    /// Whether a confirmed claim may be given back.
    pub(super) releases: bool,
    /// Leaves out replies that only hasten what may happen at any time anyway (refusals: the deadline is an event of its own) or that
    /// only end repetitions (acknowledgements: a message may always arrive again). Far fewer states, the same safety.
    pub(super) lean: bool,
    pub(super) sabotage: Sabotage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) to: usize,
    payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Payload {
    Request(Request),
    Reply(Reply),
    /// The fact that somebody is a member.
    Member(Member),
}

/// The join and the other claim.
const SLOTS: usize = 2;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    at: usize,
    promises: Promises,
    /// What a crash leaves of the promises, where that is less than all.
    written: Option<Promises>,
    /// Members that facts or refusals have named.
    known: Vec<Member>,
    books: [Option<ClaimRecord>; SLOTS],
    running: [Option<Claimant>; SLOTS],
    attempts: u64,
    starts: [u8; SLOTS],
}

const EVENTS: [&str; 8] = [
    "starts to join",
    "starts its claim",
    "reaches the deadline of its join",
    "reaches the deadline of its claim",
    "gives its claim back",
    "crashes, restarts and finishes",
    "crashes, restarts and withdraws",
    "",
];
pub(super) const LOCAL_EVENTS: usize = EVENTS.len();

pub(super) fn is_crash(event: usize) -> bool {
    event == 5 || event == 6
}

pub(super) fn event_name(event: usize) -> &'static str {
    EVENTS[event]
}

/// Addresses of the model's network: 10.0.n.0/24 is block n.
pub(super) fn place(_: &Name, address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => Place::Block(Region::Endpoint, u32::from(v4.octets()[2])),
        IpAddr::V6(_) => Place::Open,
    }
}

/// Whether two hosts must not hold these at the same time. A number does not exclude a block: the block that comes with it does,
/// and that is among what a host holds.
pub(super) fn exclude_each_other(one: &ClaimKey, other: &ClaimKey) -> bool {
    let number = |key: &ClaimKey| matches!(key, ClaimKey::Node { .. });
    number(one) == number(other) && conflicts(one, other, &place)
}

/// A block of the model's network.
pub(super) fn block(index: u32) -> ClaimKey {
    ClaimKey::Block { network: "web".parse().unwrap(), region: Region::Endpoint, index }
}

fn node(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn host_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap() - 1
}

impl Host {
    /// What may be in use here.
    pub(super) fn holds(&self) -> Vec<ClaimKey> {
        let confirmed = |record: &&ClaimRecord| record.state == ClaimState::Confirmed;
        let mut keys: Vec<ClaimKey> =
            self.books.iter().flatten().filter(confirmed).map(|record| record.key.clone()).collect();
        if let Some(number) = self.promises.number() {
            keys.push(ClaimKey::Node { number });
            keys.extend(self.own_block(number));
        }
        keys
    }

    /// The block that comes with the number, unless the table says that somebody was before.
    fn own_block(&self, number: u32) -> Option<ClaimKey> {
        let block = block(number);
        let foreign = |entry: Entry| {
            entry.claimant != node(self.at) && (entry.key == block || conflicts(&block, &entry.key, &place))
        };
        let own = ClaimKey::Node { number };
        (!self.promises.entries().filter(|entry| entry.key != own).any(foreign)).then_some(block)
    }

    fn view(&self) -> View {
        View::new(self.known.iter().copied(), [])
    }

    fn learn(&mut self, members: impl IntoIterator<Item = Member>) {
        for member in members {
            if !self.known.iter().any(|known| known.number == member.number) {
                self.known.push(member);
            }
        }
        self.known.sort_unstable();
    }
}

impl Model {
    pub(super) fn initial(&self) -> Vec<Host> {
        let members: Vec<Member> =
            (0..self.members).map(|at| Member { number: at as u32 + 1, node: node(at) }).collect();
        (0..HOSTS).map(|at| self.host(at, &members)).collect()
    }

    fn host(&self, at: usize, members: &[Member]) -> Host {
        let mut promises = Promises::new(node(at));
        if at < self.members {
            promises.join(members[at].number, members.iter().copied(), &[]);
        }
        let joins = at >= self.members && at < self.members + self.joiners;
        Host {
            at,
            written: (self.sabotage == Sabotage::PromiseNotWritten).then(|| promises.clone()),
            promises,
            known: members.to_vec(),
            books: [None, None],
            running: [None, None],
            attempts: 0,
            starts: [
                if joins { self.starts } else { 0 },
                if self.wants[at].is_some() { self.starts } else { 0 },
            ],
        }
    }

    /// Whether a host has got all it could want.
    pub(super) fn satisfied(&self, at: usize, holds: &[ClaimKey]) -> bool {
        let number = holds.iter().any(|key| matches!(key, ClaimKey::Node { .. }));
        number && self.wants[at].as_ref().is_none_or(|want| holds.contains(want))
    }

    pub(super) fn local(&self, before: &Host, event: usize) -> Option<(Host, Vec<Message>)> {
        let mut host = before.clone();
        let mut sent = Vec::new();
        match event {
            0 | 1 => self.start(&mut host, event, &mut sent)?,
            2 | 3 => {
                let step = host.running[event - 2]
                    .as_mut()
                    .filter(|c| c.record().state == ClaimState::Pending)?
                    .on_deadline();
                self.take(&mut host, event - 2, step, &mut sent);
            }
            4 if self.releases => self.release(&mut host, &mut sent)?,
            5 => self.crash(&mut host, Resume::Finish, &mut sent),
            6 => self.crash(&mut host, Resume::Withdraw, &mut sent),
            _ => return None,
        }
        Some((host, sent))
    }

    fn start(&self, host: &mut Host, slot: usize, sent: &mut Vec<Message>) -> Option<()> {
        let free = host.books[slot].as_ref().is_none_or(|record| record.state == ClaimState::Withdrawing);
        let joined = host.promises.number().is_some();
        if host.starts[slot] == 0 || !free || joined != (slot == 1) {
            return None;
        }
        let view = host.view();
        let key = match slot {
            0 => ClaimKey::Node { number: view.next_number() },
            _ => self.wants[host.at].clone()?,
        };
        let (claimant, step) = Claimant::start(node(host.at), key, host.attempts + 1, view).ok()?;
        host.starts[slot] -= 1;
        host.attempts += 1;
        host.running[slot] = Some(claimant);
        self.take(host, slot, step, sent);
        Some(())
    }

    fn release(&self, host: &mut Host, sent: &mut Vec<Message>) -> Option<()> {
        let record = host.books[1].clone().filter(|record| record.state == ClaimState::Confirmed)?;
        let (claimant, step) = Claimant::release(node(host.at), record, host.known.iter().copied());
        host.running[1] = Some(claimant);
        self.take(host, 1, step, sent);
        Some(())
    }

    fn crash(&self, host: &mut Host, how: Resume, sent: &mut Vec<Message>) {
        if let Some(written) = &host.written {
            host.promises = written.clone();
        }
        for slot in 0..SLOTS {
            host.running[slot] = None;
            if let Some(record) = host.books[slot].clone() {
                let (claimant, step) = Claimant::resume(node(host.at), record, how);
                host.running[slot] = Some(claimant);
                self.take(host, slot, step, sent);
            }
        }
    }

    pub(super) fn deliver(&self, before: &Host, message: &Message) -> (Host, Vec<Message>) {
        let mut host = before.clone();
        let mut sent = Vec::new();
        match &message.payload {
            Payload::Request(request) => {
                let reply = self.answer(&mut host, request.clone());
                let needed = matches!(reply, Reply::Promised { .. } | Reply::StaleView { .. });
                if self.lean && !needed {
                    return (host, sent);
                }
                sent.push(Message { from: host.at, to: message.from, payload: Payload::Reply(reply) });
            }
            Payload::Reply(reply) => self.hear(&mut host, message.from, reply, &mut sent),
            Payload::Member(member) => {
                host.learn([*member]);
                let changes = host.promises.note_member(*member);
                self.write(&mut host, &changes);
            }
        }
        (host, sent)
    }

    fn answer(&self, host: &mut Host, request: Request) -> Reply {
        let request = match (self.sabotage, request) {
            (Sabotage::WithdrawIgnoresAttempt, Request::Withdraw { key, claimant, attempt }) => {
                let held = host.promises.entries().find(|e| e.key == key && e.claimant == claimant);
                Request::Withdraw { key, claimant, attempt: held.map_or(attempt, |entry| entry.attempt) }
            }
            (Sabotage::StaleViewAccepted, Request::Promise { key, claimant, attempt, mut view }) => {
                view.extend(
                    host.promises.pending().chain(host.promises.members()).map(|member| member.number),
                );
                view.sort_unstable();
                view.dedup();
                Request::Promise { key, claimant, attempt, view }
            }
            (_, request) => request,
        };
        let (reply, changes) = host.promises.handle(request, &place);
        self.write(host, &changes);
        reply
    }

    fn write(&self, host: &mut Host, changes: &[Persist]) {
        let Some(written) = &mut host.written else { return };
        for change in changes {
            match change {
                Persist::Promise(_) | Persist::Release { .. } => {}
                Persist::Joined(member) => drop(written.join(member.number, [], &[])),
                Persist::Member(member) => drop(written.note_member(*member)),
                _ => {}
            }
        }
    }

    fn hear(&self, host: &mut Host, from: usize, reply: &Reply, sent: &mut Vec<Message>) {
        let Reply::Promised { key, attempt, .. } = reply else {
            return self.to_claimant(host, from, reply, sent);
        };
        let running = host.running.iter().flatten().map(|c| (c.record().key.clone(), c.record().attempt));
        if running.into_iter().any(|(k, a)| k == *key && a == *attempt) {
            return self.to_claimant(host, from, reply, sent);
        }
        let record = host.books.iter().flatten().find(|record| record.key == *key);
        if let Some(withdrawal) = stray_promise(node(host.at), reply, record) {
            self.send(host, node(from), withdrawal, sent);
        }
    }

    fn to_claimant(&self, host: &mut Host, from: usize, reply: &Reply, sent: &mut Vec<Message>) {
        for slot in 0..SLOTS {
            let Some(claimant) = &mut host.running[slot] else { continue };
            let mut step = claimant.on_reply(node(from), reply);
            let promised = matches!(reply, Reply::Promised { .. }) && step.outcome.is_none();
            if self.sabotage == Sabotage::HalfIsEnough
                && promised
                && claimant.record().state == ClaimState::Pending
            {
                let record = ClaimRecord { state: ClaimState::Confirmed, ..claimant.record().clone() };
                step.persist.push(ClaimPersist::Put(record));
            }
            self.take(host, slot, step, sent);
        }
    }

    /// Write, send, act: with a step's own requests to this host answered at once.
    fn take(&self, host: &mut Host, slot: usize, step: Step, sent: &mut Vec<Message>) {
        for change in step.persist {
            match change {
                ClaimPersist::Put(record) => {
                    let withdraws = record.state == ClaimState::Withdrawing;
                    if !(withdraws && self.sabotage == Sabotage::WithdrawalNotWritten) {
                        host.books[slot] = Some(record);
                    }
                }
                ClaimPersist::Forget { key, attempt } => {
                    host.books[slot].take_if(|record| record.key == key && record.attempt == attempt);
                    host.running[slot] = None;
                }
            }
        }
        match step.outcome {
            Some(Outcome::Confirmed { adopted }) if slot == 0 => self.joined(host, &adopted, sent),
            Some(Outcome::StaleView { view, pending }) => {
                host.learn(view.members());
                if slot == 1 {
                    host.learn(pending);
                }
            }
            _ => {}
        }
        let over = host.books[slot].as_ref().is_none_or(|record| record.state != ClaimState::Pending);
        if self.lean && over {
            host.running[slot] = None;
        }
        for (to, request) in step.send {
            self.send(host, to, request, sent);
        }
    }

    fn joined(&self, host: &mut Host, adopted: &[Entry], sent: &mut Vec<Message>) {
        let Some(ClaimRecord { key: ClaimKey::Node { number }, members, .. }) = host.books[0].clone() else {
            return;
        };
        let adopted = if self.sabotage == Sabotage::TableNotAdopted { &[] } else { adopted };
        let changes = host.promises.join(number, members, adopted);
        self.write(host, &changes);
        let me = Member { number, node: node(host.at) };
        host.learn([me]);
        for to in (0..self.members + self.joiners).filter(|&to| to != host.at) {
            sent.push(Message { from: host.at, to, payload: Payload::Member(me) });
        }
    }

    fn send(&self, host: &mut Host, to: NodeId, request: Request, sent: &mut Vec<Message>) {
        let at = host.at;
        if host_of(to) == at {
            let reply = self.answer(host, request);
            self.hear(host, at, &reply, sent);
        } else {
            sent.push(Message { from: at, to: host_of(to), payload: Payload::Request(request) });
        }
    }
}
