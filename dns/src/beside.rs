//! Another resolver in the same namespace, which knows names that we do not: a container engine's.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::time::timeout;

/// It answers from memory what it knows; the rest it would ask others for, and we ask those ourselves.
const LIMIT: Duration = Duration::from_millis(500);
/// For those that only it can ask: clients ask again after five seconds.
const SERVERS_LIMIT: Duration = Duration::from_secs(5);
/// What it may answer then in one datagram.
const PAYLOAD_BYTES: u16 = 1_232;

/// How it is asked.
#[async_trait]
pub trait Exchange: fmt::Debug + Send + Sync {
    /// Sends one query, and returns what comes back to it.
    async fn exchange(&self, query: Vec<u8>) -> Option<Vec<u8>>;
}

/// The resolver, and which names it may know: single labels, and those in the networks that it is on.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Its networks' names, lower case: `db.NETWORK` is asked for.
    pub networks: Vec<Arc<str>>,
    /// Whether it asks name servers that are this namespace's own (`docker run --dns`): then they are asked in place of the
    /// host's upstreams.
    pub has_servers: bool,
    /// How it is asked.
    pub exchange: Arc<dyn Exchange>,
}

impl PartialEq for Beside {
    fn eq(&self, other: &Self) -> bool {
        self.networks == other.networks
            && self.has_servers == other.has_servers
            && Arc::ptr_eq(&self.exchange, &other.exchange)
    }
}

impl Beside {
    /// Whether it may know a name that is not ours.
    pub(crate) fn may_know(&self, name: &Name) -> bool {
        let mut labels = name.iter();
        match (labels.next(), labels.next(), labels.next()) {
            (Some(_), None, _) => true,
            (Some(_), Some(network), None) => {
                self.networks.iter().any(|known| network.eq_ignore_ascii_case(known.as_bytes()))
            }
            _ => false,
        }
    }

    /// What it knows: records, or nothing; and what the servers say that are its own.
    pub(crate) async fn ask(&self, query: &Query) -> Option<Message> {
        let mut message = Message::query();
        message.metadata.id = rand::random();
        message.metadata.recursion_desired = true;
        message.queries.push(query.clone());
        if self.has_servers {
            message.edns.get_or_insert_with(Edns::new).set_max_payload(PAYLOAD_BYTES);
        }
        let bytes = message.to_vec().ok()?;
        let limit = if self.has_servers { SERVERS_LIMIT } else { LIMIT };
        let reply = timeout(limit, self.exchange.exchange(bytes)).await.ok()??;
        let reply = Message::from_vec(&reply).ok()?;
        let ours = reply.metadata.id == message.metadata.id && reply.queries.first() == Some(query);
        let useful = match reply.metadata.response_code {
            ResponseCode::NoError => self.has_servers || !reply.answers.is_empty(),
            ResponseCode::NXDomain => self.has_servers,
            _ => false,
        };
        (ours && useful && !reply.metadata.truncation).then_some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Echo(ResponseCode);

    #[async_trait]
    impl Exchange for Echo {
        async fn exchange(&self, query: Vec<u8>) -> Option<Vec<u8>> {
            use hickory_proto::rr::{RData, Record, rdata::A};
            let mut message = Message::from_vec(&query).ok()?;
            message.metadata.response_code = self.0;
            let name = message.queries[0].name().clone();
            let record = Record::from_rdata(name, 600, RData::A(A([172, 18, 0, 2].into())));
            message.answers.push(record);
            message.to_vec().ok()
        }
    }

    fn beside(code: ResponseCode) -> Beside {
        Beside { networks: vec!["local".into()], has_servers: false, exchange: Arc::new(Echo(code)) }
    }

    #[test]
    fn it_is_asked_for_names_that_it_may_know_only() {
        let beside = beside(ResponseCode::NoError);
        for (name, known) in [
            ("db.", true),
            ("db.LOCAL.", true),
            ("db.other.", false),
            ("example.com.", false),
            ("a.db.local.", false),
        ] {
            assert_eq!(beside.may_know(&Name::from_ascii(name).unwrap()), known, "{name}");
        }
    }

    #[tokio::test]
    async fn what_it_does_not_know_is_nothing() {
        let query = Query::query(Name::from_ascii("db.").unwrap(), hickory_proto::rr::RecordType::A);
        assert_eq!(beside(ResponseCode::NoError).ask(&query).await.unwrap().answers.len(), 1);
        let denies = beside(ResponseCode::NXDomain);
        assert!(denies.ask(&query).await.is_none());
        let servers = Beside { has_servers: true, ..denies };
        let denied = servers.ask(&query).await.expect("what its servers say");
        assert_eq!(denied.metadata.response_code, ResponseCode::NXDomain);
        assert!(Beside { has_servers: true, ..beside(ResponseCode::ServFail) }.ask(&query).await.is_none());
    }
}
