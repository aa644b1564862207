//! Route netlink requests and dumps.
use std::sync::PoisonError;
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::Open;
use crate::kernel::KernelError;

/// How often a dump is begun again that changes interrupted.
const DUMP_TRIES: u32 = 8;

/// The kernel answers at once; where there was no room for its answer it is lost, and none comes.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

fn unanswered() -> KernelError {
    KernelError::Refused(std::io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

impl Open {
    /// Sends one request and waits for its acknowledgement.
    pub(super) async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), KernelError> {
        self.exchange(message, flags | NLM_F_ACK).await.map(|_| ())
    }

    /// Reads a whole table; again if it changed meanwhile.
    pub(super) async fn dump(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        for _ in 1..DUMP_TRIES {
            let (answers, interrupted) = self.exchange(message.clone(), NLM_F_DUMP).await?;
            if !interrupted {
                return Ok(answers);
            }
        }
        // What changes all the time is as true as it gets; the next look sees the rest.
        self.exchange(message, NLM_F_DUMP).await.map(|(answers, _)| answers)
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), KernelError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut route = self.route.clone();
        let mut stream = route.request(request).map_err(|error| KernelError::Route(Box::new(error)))?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let answer = tokio::time::timeout(ANSWER_LIMIT, stream.next()).await;
            let Some(answer) = answer.map_err(|_| unanswered())? else { break };
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0 && flags & NLM_F_DUMP == NLM_F_DUMP;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(KernelError::Refused(error.to_io()));
                }
                _ => {}
            }
        }
        Ok((answers, interrupted))
    }

    /// A link's index, from memory or from the kernel.
    pub(super) async fn index(&self, name: &str) -> Result<u32, KernelError> {
        let known = self.indexes.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(index) = known {
            return Ok(index);
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let missing = || KernelError::NoLink { space: self.space.clone(), name: name.to_owned() };
        let (answers, _) = match self.exchange(RouteNetlinkMessage::GetLink(message), 0).await {
            Err(error) if error.errno() == Some(libc::ENODEV) => return Err(missing()),
            outcome => outcome?,
        };
        let index = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        let index = index.ok_or_else(missing)?;
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), index);
        Ok(index)
    }

    /// Forgets all indexes; answers whether there were any.
    pub(super) fn forget_indexes(&self) -> bool {
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let had = !indexes.is_empty();
        indexes.clear();
        had
    }
}
