//! From a parsed request to a reply.
use std::sync::Arc;

use hickory_proto::op::{Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::ServerSettings;
use super::reply::{self, Reply};
use crate::answer::{Answer, answer};
use crate::forward::{Flags, ForwardError, Forwarder, Room};
use crate::handle::ZoneHandle;
use crate::question::{Kind, Question};
use crate::stats::{Outcome, Stats, add};

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

#[derive(Clone)]
pub(super) struct Shared(pub(super) Arc<Handler>);

/// The UDP side, through hickory's loop.
#[async_trait::async_trait]
impl RequestHandler for Shared {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let handler = &self.0;
        let reply = handler.reply(request).await;
        match reply::send(request, &reply, &mut response).await {
            Ok(info) => {
                if info.truncation {
                    add(&handler.stats.truncated);
                }
                info
            }
            Err(error) => {
                tracing::debug!(%error, "a reply was not sent");
                let metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
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
        let reply = self.decide(request).await;
        self.stats.count(reply.outcome);
        reply
    }

    async fn decide(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::error(Outcome::Malformed, ResponseCode::NotImp);
        }
        if request.version() != 0 {
            return Reply::error(Outcome::Malformed, ResponseCode::BADVERS);
        }
        let Ok(info) = request.request_info() else {
            return Reply::error(Outcome::Malformed, ResponseCode::FormErr);
        };
        if info.query.query_class() != DNSClass::IN {
            return Reply::error(Outcome::Refused, ResponseCode::Refused);
        }
        let query = info.query.original();
        if self.forwarder.knows_marker(query.name()) {
            return Reply::error(Outcome::Refused, ResponseCode::Refused);
        }
        let kind = Kind(query.query_type().into());
        let Ok(question) = Question::from_labels(query.name().iter(), kind) else {
            return Reply::error(Outcome::Malformed, ResponseCode::FormErr);
        };
        match self.answer_or_wait(&question).await {
            Ok(Answer::Forward) if matches!(kind, Kind::AXFR | Kind::IXFR) => {
                Reply::error(Outcome::Refused, ResponseCode::Refused)
            }
            Ok(Answer::Forward) => self.forward(request, query).await,
            Ok(answer) => Reply::local(query.name(), answer),
            Err(outcome) => Reply::error(outcome, ResponseCode::ServFail),
        }
    }

    /// Answers from the current zone; before the first sync waits for a zone that has the name or is complete.
    async fn answer_or_wait(&self, question: &Question) -> Result<Answer, Outcome> {
        let first = self.answer(question);
        if first != Answer::NotYet {
            return Ok(first);
        }
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
