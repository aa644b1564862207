//! Puts bodies together from the records that carry them. Pure.
use std::collections::HashMap;

use super::{BODY_BYTES_MAX, IN_FLIGHT_MAX};

/// Bytes of unfinished bodies that one connection may hold.
const HELD_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;

/// What became of a body's record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The body is whole.
    Whole(Vec<u8>),
    /// More is to come, or the body was given up before.
    Waiting,
    /// The body is above a limit; its further records will be ignored.
    TooLarge,
    /// No room now; its further records will be ignored.
    Busy,
    /// The records contradict each other.
    Violation,
}

struct Partial {
    total: usize,
    data: Vec<u8>,
}

/// The unfinished bodies of one connection.
#[derive(Default)]
pub(super) struct Assembler {
    partial: HashMap<u64, Partial>,
    held: usize,
}

impl Assembler {
    pub(super) fn first(&mut self, id: u64, total: u32, data: Vec<u8>) -> Progress {
        let Ok(total) = usize::try_from(total) else { return Progress::TooLarge };
        if total > BODY_BYTES_MAX {
            return Progress::TooLarge;
        }
        if data.len() > total || self.partial.contains_key(&id) {
            return Progress::Violation;
        }
        if data.len() == total {
            return Progress::Whole(data);
        }
        if self.partial.len() >= IN_FLIGHT_MAX || self.held + data.len() > HELD_BYTES_MAX {
            return Progress::Busy;
        }
        self.held += data.len();
        self.partial.insert(id, Partial { total, data });
        Progress::Waiting
    }

    pub(super) fn more(&mut self, id: u64, data: &[u8]) -> Progress {
        let Some(partial) = self.partial.get_mut(&id) else { return Progress::Waiting };
        if data.is_empty() || partial.data.len() + data.len() > partial.total {
            return Progress::Violation;
        }
        if self.held + data.len() > HELD_BYTES_MAX {
            self.forget(id);
            return Progress::Busy;
        }
        self.held += data.len();
        // Memory grows with what has come, not with what was promised.
        partial.data.extend_from_slice(data);
        if partial.data.len() < partial.total {
            return Progress::Waiting;
        }
        self.forget(id).map_or(Progress::Waiting, Progress::Whole)
    }

    /// Gives up a body.
    pub(super) fn forget(&mut self, id: u64) -> Option<Vec<u8>> {
        let partial = self.partial.remove(&id)?;
        self.held -= partial.data.len();
        Some(partial.data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{CHUNK_BYTES, messages};
    use super::*;
    use crate::cluster::wire::Message;

    fn feed(assembler: &mut Assembler, message: Message) -> Progress {
        match message {
            Message::First { id, total, data } => assembler.first(id, total, data),
            Message::More { id, data } => assembler.more(id, &data),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_cut_is_put_together() {
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let body: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let mut assembler = Assembler::default();
            let mut last = None;
            for message in messages(7, &body).unwrap() {
                assert!(matches!(last, None | Some(Progress::Waiting)));
                last = Some(feed(&mut assembler, message));
            }
            assert_eq!(last, Some(Progress::Whole(body)));
            assert_eq!(assembler.held, 0);
        }
        assert!(messages(7, &vec![0; BODY_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn contradictions_and_excess_are_named() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.first(1, u32::MAX, vec![0]), Progress::TooLarge);
        assert_eq!(assembler.first(1, 1, vec![0; 2]), Progress::Violation);
        assert_eq!(assembler.first(1, 9, vec![0]), Progress::Waiting);
        assert_eq!(assembler.first(1, 9, vec![0]), Progress::Violation);
        assert_eq!(assembler.more(1, &[]), Progress::Violation);
        assert_eq!(assembler.more(1, &[0; 9]), Progress::Violation);
        assert_eq!(assembler.more(2, &[0]), Progress::Waiting);
        for id in 2..300 {
            assembler.first(id, 9, vec![0]);
        }
        assert_eq!(assembler.first(300, 9, vec![0]), Progress::Busy);
    }

    proptest! {
        #[test]
        fn held_bytes_are_those_of_unfinished_bodies(
            steps in prop::collection::vec((0_u64..4, any::<bool>(), 0_u32..40, 0_usize..40), 0..60),
        ) {
            let mut assembler = Assembler::default();
            for (id, first, total, length) in steps {
                let _ = if first { assembler.first(id, total, vec![0; length]) } else { assembler.more(id, &vec![0; length]) };
                let held: usize = assembler.partial.values().map(|partial| partial.data.len()).sum();
                prop_assert_eq!(assembler.held, held);
            }
        }
    }
}
