//! From a parsed request to a reply.
use std::sync::Arc;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_server::server::Request;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::ServerSettings;
use super::reply::Reply;
use crate::answer::{Answer, Owner, answer};
use crate::beside::Beside;
use crate::forward::{Flags, ForwardError, Forwarder, Room};
use crate::handle::ZoneHandle;
use crate::question::{Kind, Question};
use crate::stats::{Outcome, Stats};

/// What the UDP and the TCP side of one namespace share.
pub(super) struct Handler {
    zone: ZoneHandle,
    forwarder: Forwarder,
    stats: Arc<Stats>,
    settings: ServerSettings,
    forwarded: Semaphore,
    room: Room,
    waiting: Semaphore,
}

impl Handler {
    pub(super) fn new(
        zone: ZoneHandle,
        forwarder: Forwarder,
        stats: Arc<Stats>,
        settings: ServerSettings,
    ) -> Self {
        let forwarded = Semaphore::new(settings.limits.forwarded);
        let waiting = Semaphore::new(settings.limits.waiting);
        Self { zone, forwarder, stats, settings, forwarded, room: Room::default(), waiting }
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Decides on one request, and counts it.
    pub(super) async fn reply(&self, request: &Request) -> Reply {
        let reply = match self.examine(request) {
            Examined::Reply(reply) => reply,
            Examined::Forward(query) => self.forward(request, query).await,
            Examined::Beside(beside, query, answer) => self.ask_beside(request, &beside, query, answer).await,
            Examined::NotYet(query, question) => self.wait(request, query, &question).await,
        };
        self.stats.count(reply.outcome);
        reply
    }

    /// The same for a request that needs no waiting, neither for upstreams nor for the first sync; `None` and not counted
    /// otherwise.
    pub(super) fn reply_at_once(&self, request: &Request) -> Option<Reply> {
        let Examined::Reply(reply) = self.examine(request) else { return None };
        self.stats.count(reply.outcome);
        Some(reply)
    }

    /// For a request that there is no room for, counted.
    pub(super) fn over_limit(&self) -> Reply {
        self.stats.count(Outcome::OverLimit);
        Reply::error(Outcome::OverLimit, ResponseCode::ServFail)
    }

    fn examine<'a>(&self, request: &'a Request) -> Examined<'a> {
        let error = |outcome, code| Examined::Reply(Reply::error(outcome, code));
        if request.metadata.op_code != OpCode::Query {
            return error(Outcome::Malformed, ResponseCode::NotImp);
        }
        if request.version() != 0 {
            return error(Outcome::Malformed, ResponseCode::BADVERS);
        }
        let [lower] = request.queries.queries() else {
            return error(Outcome::Malformed, ResponseCode::FormErr);
        };
        let query = lower.original();
        if query.query_class() != DNSClass::IN {
            return error(Outcome::Refused, ResponseCode::Refused);
        }
        if self.forwarder.knows_marker(query.name()) {
            return error(Outcome::Refused, ResponseCode::Refused);
        }
        let kind = Kind(query.query_type().into());
        let Ok(question) = Question::from_labels(query.name().iter(), kind) else {
            return error(Outcome::Malformed, ResponseCode::FormErr);
        };
        match self.answer(&question) {
            Answer::NotYet => Examined::NotYet(query, question),
            answer => self.examined(query, answer),
        }
    }

    fn examined<'a>(&self, query: &'a Query, answer: Answer) -> Examined<'a> {
        let lacking = match &answer {
            Answer::Forward => true,
            Answer::NxDomain(soa) => soa.owner == Owner::Root,
            _ => false,
        };
        let asked =
            |it: &Beside| it.may_know(query.name()) || (it.has_servers && matches!(answer, Answer::Forward));
        let beside = self.zone.load().beside.clone().filter(|it| lacking && asked(it));
        match beside {
            Some(beside) => Examined::Beside(beside, query, answer),
            None => examined(query, answer),
        }
    }

    /// Another resolver of the namespace may know it; if not, it is as without.
    async fn ask_beside(&self, request: &Request, beside: &Beside, query: &Query, answer: Answer) -> Reply {
        let known = match self.forwarded.try_acquire() {
            Ok(_permit) => beside.ask(query).await,
            Err(_) => None,
        };
        match (known, examined(query, answer)) {
            (Some(mut message), _) => {
                // What it knows can move, whatever it says; what its servers say does not.
                if beside.may_know(query.name()) {
                    for record in &mut message.answers {
                        record.ttl = record.ttl.min(self.settings.ttls.movable);
                    }
                }
                forwarded(query.name(), message)
            }
            (None, Examined::Reply(reply)) => reply,
            // Who chose other servers than the host's may have names that the host's are not to hear of.
            (None, _) if beside.has_servers => Reply::error(Outcome::ServFail, ResponseCode::ServFail),
            (None, _) => self.forward(request, query).await,
        }
    }

    /// Before the first sync: waits for a zone that has the name or is complete.
    async fn wait(&self, request: &Request, query: &Query, question: &Question) -> Reply {
        let answer = match self.answer_or_wait(question).await {
            Ok(answer) => answer,
            Err(outcome) => return Reply::error(outcome, ResponseCode::ServFail),
        };
        match self.examined(query, answer) {
            Examined::Reply(reply) => reply,
            Examined::Forward(query) => self.forward(request, query).await,
            Examined::Beside(beside, query, answer) => self.ask_beside(request, &beside, query, answer).await,
            Examined::NotYet(..) => Reply::error(Outcome::ServFail, ResponseCode::ServFail),
        }
    }

    async fn answer_or_wait(&self, question: &Question) -> Result<Answer, Outcome> {
        let Ok(_permit) = self.waiting.try_acquire() else { return Err(Outcome::OverLimit) };
        let deadline = Instant::now() + self.settings.sync_wait;
        loop {
            // Taken before the zone is read, so that no publication falls between the two.
            let changed = self.zone.changed();
            match self.answer(question) {
                Answer::NotYet => {}
                answer => return Ok(answer),
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(Outcome::ServFail);
            }
        }
    }

    fn answer(&self, question: &Question) -> Answer {
        answer(&self.zone.load(), question, &self.settings.ttls, &mut rand::rng())
    }

    async fn forward(&self, request: &Request, query: &Query) -> Reply {
        let Ok(_permit) = self.forwarded.try_acquire() else {
            return Reply::error(Outcome::OverLimit, ResponseCode::ServFail);
        };
        let flags = Flags {
            dnssec_ok: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: request.metadata.checking_disabled,
        };
        match self.forwarder.resolve(query.clone(), flags, &self.room).await {
            Ok(message) => forwarded(query.name(), message),
            Err(ForwardError::OverLimit) => Reply::error(Outcome::OverLimit, ResponseCode::ServFail),
            Err(ForwardError::NoUpstream | ForwardError::Failed(None)) => {
                Reply::error(Outcome::ServFail, ResponseCode::ServFail)
            }
            Err(ForwardError::Failed(Some(ResponseCode::ServFail))) => {
                Reply::error(Outcome::ServFail, ResponseCode::ServFail)
            }
            Err(ForwardError::Failed(Some(code))) => Reply::error(Outcome::Forwarded, code),
        }
    }
}

/// What a request needs.
enum Examined<'a> {
    Reply(Reply),
    Forward(&'a Query),
    Beside(Beside, &'a Query, Answer),
    NotYet(&'a Query, Question),
}

fn examined(query: &Query, answer: Answer) -> Examined<'_> {
    match answer {
        // A transfer of somebody else's zone is no look-up.
        Answer::Forward if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) => {
            Examined::Reply(Reply::error(Outcome::Refused, ResponseCode::Refused))
        }
        Answer::Forward => Examined::Forward(query),
        answer => Examined::Reply(Reply::local(query.name(), answer)),
    }
}

/// An upstream's reply. A record of the name asked for gets the case it was asked in: the cached reply may be another
/// client's, and clients that randomise case compare.
fn forwarded(name: &Name, message: Message) -> Reply {
    let mut reply = Reply {
        outcome: Outcome::Forwarded,
        code: message.metadata.response_code,
        authoritative: false,
        authentic: message.metadata.authentic_data,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    };
    for record in &mut reply.answers {
        // Names compare without case.
        if record.name == *name {
            record.name = name.clone();
        }
    }
    reply
}
