//! Who says that it cannot open our frames, and whose frames we cannot open. Unauthenticated, so it is shown and changes
//! nothing.
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::key::KeyId;
use super::seal::Notice;

/// Complaints kept, one per peer address; the oldest goes first.
const COMPLAINTS_MAX: usize = 64;
/// Addresses kept whose frames do not open; the one that was silent longest goes first.
const UNREADABLE_MAX: usize = 64;
/// So long after the last such frame of an address it is right again: hosts try each other more often.
const UNREADABLE_AGE: Duration = Duration::from_secs(10);
/// So long, if frames that do open have come from it since: a host with a wrong key tries about every second. Not at
/// once, as hosts behind one address may have different keys.
const OPENED_AGE: Duration = Duration::from_secs(3);

/// Whether what was said `last` is over, `opened` being when a frame from there last opened.
fn is_over(now: Instant, last: Instant, opened: Option<Instant>) -> bool {
    let age = if opened.is_some_and(|opened| opened > last) { OPENED_AGE } else { UNREADABLE_AGE };
    now.saturating_duration_since(last) >= age
}

/// A peer says that a frame of ours does not open there. Anybody who can see our frames can forge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyComplaint {
    /// The address that the frame went to.
    pub from: SocketAddr,
    /// The key that sealed it.
    pub key_id: KeyId,
    /// Whether the peer has a key with this id, which then is another key, or another cluster's.
    pub known: bool,
    last: Instant,
    opened: Option<Instant>,
}

impl std::fmt::Display for KeyComplaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, key_id, known, .. } = self;
        if *known {
            write!(
                f,
                "host {from} has another key with our key id {key_id}: wrong cluster key here, or there?"
            )
        } else {
            write!(f, "host {from} does not know our key id {key_id}: wrong cluster key here?")
        }
    }
}

/// Frames that come from an address do not open here. Anybody can send such frames, from any address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where they come from.
    pub from: IpAddr,
    /// The key that the last one says it is sealed with.
    pub key_id: KeyId,
    /// Whether there is a key with this id here, which then is another key, or another cluster's.
    pub known: bool,
    /// How many there were.
    pub count: u64,
    /// When the first of them came.
    pub since: Instant,
    last: Instant,
    opened: Option<Instant>,
}

impl Unreadable {
    /// The first such frame.
    pub(crate) fn new(now: Instant, from: IpAddr, key_id: KeyId, known: bool) -> Self {
        Self { from, key_id, known, count: 1, since: now, last: now, opened: None }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, key_id, known, .. } = self;
        if *known {
            write!(
                f,
                "frames from {from} do not open here: its key with the id {key_id} is another one than ours"
            )
        } else {
            write!(
                f,
                "frames from {from} do not open here: they are sealed with key {key_id}, which is not in our key file"
            )
        }
    }
}

/// Whose frames did not open lately.
#[derive(Default)]
pub(super) struct Unreadables(Vec<Unreadable>);

impl Unreadables {
    pub(super) fn note(&mut self, now: Instant, from: IpAddr, notice: Notice) {
        let Notice { key_id, known, .. } = notice;
        if let Some(before) = self.0.iter_mut().find(|it| it.from == from) {
            if is_over(now, before.last, before.opened) {
                (before.since, before.count) = (now, 0);
            }
            (before.key_id, before.known, before.last) = (key_id, known, now);
            before.count += 1;
            return;
        }
        if self.0.len() == UNREADABLE_MAX
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].last)
        {
            self.0.remove(oldest);
        }
        self.0.push(Unreadable::new(now, from, key_id, known));
    }

    /// A frame from there opened that was made just now.
    pub(super) fn opened(&mut self, now: Instant, from: IpAddr) {
        self.0.iter_mut().filter(|it| it.from == from).for_each(|it| it.opened = Some(now));
    }

    pub(super) fn now(&mut self, now: Instant) -> Vec<Unreadable> {
        self.0.retain(|it| !is_over(now, it.last, it.opened));
        self.0.clone()
    }
}

#[derive(Default)]
pub(super) struct Complaints(VecDeque<KeyComplaint>);

impl Complaints {
    /// Whether it is the first of this peer, or the first after it was right.
    pub(super) fn note(&mut self, now: Instant, from: SocketAddr, notice: Notice) -> bool {
        let first = !self.all(now).iter().any(|complaint| complaint.from == from);
        self.0.retain(|complaint| complaint.from != from);
        if self.0.len() == COMPLAINTS_MAX {
            self.0.pop_front();
        }
        let Notice { key_id, known, .. } = notice;
        self.0.push_back(KeyComplaint { from, key_id, known, last: now, opened: None });
        first
    }

    /// As of [`Unreadables`].
    pub(super) fn opened(&mut self, now: Instant, from: IpAddr) {
        self.0.iter_mut().filter(|it| it.from.ip() == from).for_each(|it| it.opened = Some(now));
    }

    /// Those that are not over: a host that goes on not opening our frames goes on saying so.
    pub(super) fn all(&self, now: Instant) -> Vec<KeyComplaint> {
        self.0.iter().filter(|it| !is_over(now, it.last, it.opened)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_complaint_is_told_once_until_it_is_over() {
        let (mut complaints, begin) = (Complaints::default(), Instant::now());
        let notice = Notice { key_id: KeyId([7; 4]), known: false, token: [0; 8] };
        let peer = SocketAddr::from(([127, 0, 0, 1], 7946));
        assert!(complaints.note(begin, peer, notice));
        assert!(!complaints.note(begin + UNREADABLE_AGE / 2, peer, notice));
        assert_eq!(complaints.all(begin + UNREADABLE_AGE).len(), 1);
        let over = begin + UNREADABLE_AGE * 2;
        assert!(complaints.all(over).is_empty());
        assert!(complaints.note(over, peer, notice));
    }

    #[test]
    fn whose_frames_do_not_open_is_bounded_and_ends_by_itself() {
        let (mut unreadables, begin) = (Unreadables::default(), Instant::now());
        let notice = Notice { key_id: KeyId([7; 4]), known: false, token: [0; 8] };
        for number in 0..10_000 {
            unreadables.note(begin, IpAddr::V4(Ipv4Addr::from_bits(number)), notice);
        }
        assert_eq!(unreadables.now(begin).len(), UNREADABLE_MAX);
        let (host, later) = (IpAddr::V4(Ipv4Addr::LOCALHOST), begin + UNREADABLE_AGE / 2);
        unreadables.note(later, host, notice);
        unreadables.note(later, host, notice);
        let left = unreadables.now(begin + UNREADABLE_AGE);
        assert_eq!(left.iter().map(|it| (it.from, it.count)).collect::<Vec<_>>(), [(host, 2)]);
        assert!(
            left[0]
                .to_string()
                .contains("from 127.0.0.1 do not open here: they are sealed with key 07070707")
        );
        assert!(unreadables.now(later + UNREADABLE_AGE).is_empty());
    }

    #[test]
    fn it_ends_soon_after_frames_from_there_open_unless_others_still_do_not() {
        let (mut unreadables, begin) = (Unreadables::default(), Instant::now());
        let mut complaints = Complaints::default();
        let notice = Notice { key_id: KeyId([7; 4]), known: false, token: [0; 8] };
        let (host, second) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Duration::from_secs(1));
        unreadables.note(begin, host, notice);
        unreadables.note(begin + second, host, notice);
        complaints.note(begin + second, SocketAddr::new(host, 7946), notice);
        unreadables.opened(begin + second * 2, host);
        complaints.opened(begin + second * 2, host);
        let told = unreadables.now(begin + second * 3);
        assert_eq!((told[0].since, told[0].count), (begin, 2));
        assert_eq!(complaints.all(begin + second * 3).len(), 1);
        assert!(complaints.all(begin + second * 4).is_empty());
        // Another host behind that address goes on with the wrong key.
        for number in 3..9 {
            unreadables.note(begin + second * number, host, notice);
            unreadables.opened(begin + second * number + second / 2, host);
            assert_eq!(unreadables.now(begin + second * (number + 1))[0].since, begin);
        }
        assert!(unreadables.now(begin + second * 8 + OPENED_AGE).is_empty());
        // And from anew.
        unreadables.note(begin + second * 20, host, notice);
        assert_eq!(unreadables.now(begin + second * 20)[0].since, begin + second * 20);
    }
}
