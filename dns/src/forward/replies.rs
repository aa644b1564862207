//! Replies kept: while they are good, and longer where that is wanted, for when nobody answers.
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{ResponseCache, TtlConfig};

use super::ForwardSettings;

/// How long a client may keep a reply whose time is over (RFC 8767, 4), in seconds.
const STALE_TTL: u32 = 30;

/// A reply as the cache keeps it: a negative one without data is an `Err` there.
pub(super) type Reply = Result<Message, NetError>;

/// The replies of one list of upstreams.
pub(super) struct Replies {
    good: ResponseCache,
    /// Every reply for at least as long as it may be served late.
    late: Option<ResponseCache>,
}

impl Replies {
    pub(super) fn new(settings: &ForwardSettings) -> Self {
        let late = (settings.serve_stale > Duration::ZERO).then(|| {
            let mut options = ResolverOpts::default();
            options.positive_min_ttl = Some(settings.serve_stale);
            options.positive_max_ttl = Some(settings.serve_stale.max(Duration::from_secs(86_400)));
            ResponseCache::new(settings.cache_entries, TtlConfig::from_opts(&options))
        });
        Self { good: ResponseCache::new(settings.cache_entries, TtlConfig::default()), late }
    }

    pub(super) fn put(&self, query: Query, reply: Reply) {
        let now = Instant::now();
        if let Some(late) = &self.late {
            late.insert(query.clone(), reply.clone(), now);
        }
        self.good.insert(query, reply, now);
    }

    pub(super) fn get(&self, query: &Query) -> Option<Message> {
        self.good.get(query, Instant::now()).and_then(into_message)
    }

    /// A reply with data whose time may be over.
    pub(super) fn get_late(&self, query: &Query) -> Option<Message> {
        let mut message = self.late.as_ref()?.get(query, Instant::now())?.ok()?;
        let records =
            message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals);
        for record in records {
            record.ttl = record.ttl.min(STALE_TTL);
        }
        Some(message)
    }
}

pub(super) fn into_message(reply: Reply) -> Option<Message> {
    let no_records = match reply {
        Ok(message) => return Some(message),
        Err(NetError::Dns(DnsError::NoRecordsFound(no_records))) => no_records,
        Err(_) => return None,
    };
    let mut message = Message::query();
    message.metadata.response_code = no_records.response_code;
    message.authorities = match (no_records.authorities, no_records.soa) {
        (Some(authorities), _) => authorities.to_vec(),
        (None, Some(soa)) => vec![soa.into_record_of_rdata()],
        (None, None) => Vec::new(),
    };
    Some(message)
}
