//! What the kernel answers: acknowledgements and refusals.
use std::io;

use crate::batch::Batch;
use crate::error::{Error, Refusal};
use crate::wire::{self, Received};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_ACK_TLVS: attributes follow the error.
const EXTENDED_ANSWER: u16 = 0x200;

/// An acknowledgement, a refusal or the end of a dump.
pub(crate) struct Answer {
    pub(crate) sequence: u32,
    pub(crate) errno: i32,
    pub(crate) detail: String,
}

impl Answer {
    pub(crate) fn read(message: &Received<'_>) -> Option<Self> {
        if message.kind != NLMSG_ERROR && message.kind != NLMSG_DONE {
            return None;
        }
        let code =
            message.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        // With NETLINK_CAP_ACK the header of the request follows, then the attributes.
        let extended = message.kind == NLMSG_ERROR && message.flags & EXTENDED_ANSWER != 0;
        let tail = message.payload.get(4 + wire::HEADER_BYTES..).filter(|_| extended).unwrap_or_default();
        let detail = wire::find(tail, 1).map(wire::text).unwrap_or_default();
        Some(Self { sequence: message.sequence, errno: code.saturating_neg(), detail })
    }
}

#[derive(Default)]
pub(crate) struct Refusals {
    pub(crate) first: Option<Answer>,
    pub(crate) count: usize,
    pub(crate) whole_batch: bool,
}

impl Refusals {
    pub(crate) fn note(&mut self, answer: Answer, last: u32, acknowledged: &mut bool) {
        // Sequence 0 is the begin message: the whole batch was refused, and nothing else follows.
        self.whole_batch |= answer.sequence == 0;
        *acknowledged |= answer.sequence == last;
        self.count += 1;
        self.first.get_or_insert(answer);
    }

    pub(crate) fn into_result(self, batch: &Batch) -> Result<(), Error> {
        let Some(first) = self.first else { return Ok(()) };
        if let (libc::ERESTART, Some(expected)) = (first.errno, batch.generation) {
            return Err(Error::Changed { expected });
        }
        let (message, object) = batch.describe(first.sequence);
        let refusal = Refusal { message, object, detail: first.detail, count: self.count };
        Err(Error::Refused { refusal, source: io::Error::from_raw_os_error(first.errno) })
    }
}
