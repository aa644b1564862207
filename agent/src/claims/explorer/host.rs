//! One host of the model: its durable and volatile state, and what an event does to it.
use std::net::IpAddr;

use super::HOSTS;
use super::model::{Message, Model, Payload, Sabotage};
use crate::catalog::facts::{ClaimKey, Region};
use crate::claims::{
    ClaimPersist, ClaimRecord, ClaimState, Claimant, Entry, Leaving, Member, Outcome, Persist, Place,
    Promises, Removal, RemovalOutcome, Reply, Request, Resume, Step, View, conflicts, stray_promise,
};
use crate::model::{Name, NodeId};

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
    removal: Option<Removal>,
    /// Removals of the model that this host has started.
    removals: usize,
}

const EVENTS: [&str; 9] = [
    "starts to join",
    "starts its claim",
    "reaches the deadline of its join",
    "reaches the deadline of its claim",
    "gives its claim back",
    "crashes, restarts and finishes",
    "crashes, restarts and withdraws",
    "starts its next removal",
    "gives its removal up",
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

fn member(at: usize) -> Member {
    Member { number: u32::try_from(at).unwrap() + 1, node: node(at) }
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

    /// Which hosts are known to be removed here.
    pub(super) fn removed(&self) -> [bool; HOSTS] {
        let mut removed = [false; HOSTS];
        for member in self.promises.removed() {
            removed[host_of(member.node)] = true;
        }
        removed
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
        View::new(self.known.iter().copied(), self.promises.removed().map(|member| member.number))
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
        let members: Vec<Member> = (0..self.members).map(member).collect();
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
            removal: None,
            removals: 0,
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
            2 | 3 | 8 if self.patient => return None,
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
            7 => self.remove(&mut host, &mut sent)?,
            8 => {
                let mut removal = host.removal.take()?;
                removal.on_deadline();
                self.send_all(&mut host, removal.retractions(), &mut sent);
            }
            _ => return None,
        }
        Some((host, sent))
    }

    fn remove(&self, host: &mut Host, sent: &mut Vec<Message>) -> Option<()> {
        let mut mine = self.removals.iter().filter(|(remover, _)| *remover == host.at);
        let &(_, gone) = mine.nth(host.removals).filter(|_| host.removal.is_none())?;
        let member = member(gone);
        host.removals += 1;
        host.attempts += 1;
        let leaving = Leaving { member, remover: node(host.at), attempt: host.attempts };
        let (removal, step) = Removal::start(leaving, host.view());
        host.removal = Some(removal);
        self.send_all(host, step.send, sent);
        Some(())
    }

    fn start(&self, host: &mut Host, slot: usize, sent: &mut Vec<Message>) -> Option<()> {
        let to_remove = self.removals.iter().filter(|(remover, _)| *remover == host.at).count();
        if self.patient && (host.removals < to_remove || host.removal.is_some()) {
            return None;
        }
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
        host.removal = None;
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
                let needed =
                    matches!(reply, Reply::Promised { .. } | Reply::StaleView { .. } | Reply::Agreed { .. });
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
            (Sabotage::RemovalWithoutTable, Request::Removed { member, .. }) => {
                Request::Removed { member, table: Vec::new() }
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
        if matches!(reply, Reply::Agreed { .. } | Reply::StaleView { key: None, .. }) {
            return self.to_removal(host, from, reply, sent);
        }
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

    fn send_all(&self, host: &mut Host, requests: Vec<(NodeId, Request)>, sent: &mut Vec<Message>) {
        for (to, request) in requests {
            self.send(host, to, request, sent);
        }
    }

    fn to_removal(&self, host: &mut Host, from: usize, reply: &Reply, sent: &mut Vec<Message>) {
        let Some(removal) = &mut host.removal else { return };
        if let Some(RemovalOutcome::Agreed { .. }) = removal.on_reply(node(from), reply).outcome {
            let told = removal.announcements();
            host.removal = None;
            self.send_all(host, told, sent);
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
        self.send_all(host, step.send, sent);
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
        } else if !self.cut.contains(&(at.min(host_of(to)), at.max(host_of(to)))) {
            sent.push(Message { from: at, to: host_of(to), payload: Payload::Request(request) });
        }
    }
}
