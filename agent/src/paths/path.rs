//! One way to another host: what is sent in each round, and what its answers mean.
use std::collections::BTreeSet;

use super::offload::Damage;

/// Bytes of the smallest probe, which any path carries.
const SMALL: u32 = 64;
/// Less than this is not believed of a path: the smallest MTU of IPv4 (RFC 791), less a tunnel over IPv6.
pub(super) const MTU_FLOOR: u32 = 576 - 70;
/// Rounds without any answer until a path is dead: more than a host's own death takes to be noticed, which is not to be
/// taken for this, and than another host takes to learn of this one.
pub const DEAD_AFTER: u32 = 5;
/// Rounds with an answer until a dead path lives.
const ALIVE_AFTER: u32 = 2;
/// Probes of one kind that are lost in a row, while others of the same rounds are answered, until that is no chance: where
/// 30 % of all packets are lost in both directions, which is 51 % of probes, it takes a century until it is. Nine rounds.
const LOST_MAX: u32 = 33;
/// Probes of a kind in a round that follows their loss.
const BURST: u32 = 4;
/// Sizes tried at once when a narrow path's is sought, each so many times.
const LADDER: u32 = 8;
const LADDER_TIMES: usize = 2;
/// Rounds that the full size must pass until a narrow path is wide.
const WIDE_AFTER: u32 = 10;
/// Rounds after which it is looked whether a narrow path carries more, if not all.
const SEEK_AFTER: u32 = 30;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// An echo request of so many bytes, header included, that is not to be fragmented.
    Echo(u32),
    /// A datagram whose checksum is left to whoever computes those of networks' packets.
    Datagram,
}

/// What is known of the way to one host.
#[derive(Clone, Debug)]
pub struct Path {
    full: u32,
    /// What it carries, if less than that.
    narrow: Option<u32>,
    /// Something of that size has passed.
    proven: bool,
    known: bool,
    dead: bool,
    silent: u32,
    answered_rounds: u32,
    /// Lost in a row.
    lost_large: u32,
    lost_datagrams: u32,
    /// One was answered since they were last found damaged, or nothing was known of them.
    datagrams_pass: bool,
    wide: u32,
    narrow_rounds: u32,
    search: Option<Search>,
    sent: Vec<Probe>,
    answered: BTreeSet<Probe>,
}

/// The size is above `low` or it, and below `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Search {
    low: u32,
    high: u32,
    /// Something of the size `low` has passed; or it is but the least that is looked for.
    passed: bool,
}

impl Path {
    /// Nothing is known yet but what was once found it to carry. `full` is what it should carry, in bytes.
    pub fn new(full: u32, narrow: Option<u32>) -> Self {
        let narrow = narrow.filter(|narrow| *narrow < full);
        Self {
            full,
            narrow,
            proven: narrow.is_some(),
            known: false,
            dead: false,
            silent: 0,
            answered_rounds: 0,
            lost_large: 0,
            lost_datagrams: 0,
            datagrams_pass: false,
            wide: 0,
            narrow_rounds: 0,
            search: None,
            sent: Vec::new(),
            answered: BTreeSet::new(),
        }
    }

    /// What it should carry has changed.
    pub fn set_full(&mut self, full: u32) {
        if self.full != full {
            let Self { known, dead, lost_datagrams, datagrams_pass, .. } = *self;
            let anew = Self::new(full, self.narrow());
            *self = Self { known, dead, lost_datagrams, datagrams_pass, ..anew };
        }
    }

    /// Nothing is sent for a while: what was found stays, and what was lost before counts for nothing afterwards.
    pub fn pause(&mut self) {
        self.sent.clear();
        self.answered.clear();
        (self.silent, self.answered_rounds) = (0, 0);
        (self.lost_large, self.lost_datagrams, self.datagrams_pass) = (0, 0, false);
        self.search = None;
    }

    /// An answer to a probe of this path came in, of this round or shortly before.
    pub fn note(&mut self, probe: Probe) {
        self.answered.insert(probe);
    }

    /// Nothing at all gets through.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Answers have come, or enough have failed to: it is no guess.
    pub fn is_settled(&self) -> bool {
        self.known || self.dead
    }

    /// What it carries in bytes, if that is less than it should.
    pub fn narrow(&self) -> Option<u32> {
        self.narrow.filter(|_| self.proven)
    }

    /// Of all sizes that were tried none has passed, while small echoes do: what it carries is not known.
    pub fn carries_no_size(&self) -> bool {
        self.narrow.is_some() && !self.proven
    }

    /// Datagrams arrive with wrong checksums.
    pub fn is_damaging(&self) -> bool {
        self.damage() == Damage::Damaged
    }

    /// What is known of datagrams' checksums.
    pub fn damage(&self) -> Damage {
        match () {
            () if self.dead => Damage::Unknown,
            () if self.lost_datagrams >= LOST_MAX => Damage::Damaged,
            () if self.datagrams_pass => Damage::Intact,
            () => Damage::Unknown,
        }
    }

    /// Ends a round, and says what to send in the next.
    pub fn next_round(&mut self) -> Vec<Probe> {
        if !self.sent.is_empty() {
            self.judge();
        }
        self.answered.clear();
        self.sent = self.probes();
        self.sent.clone()
    }

    fn judge(&mut self) {
        if self.answered.is_empty() {
            self.silent = self.silent.saturating_add(1);
            self.answered_rounds = 0;
            self.dead |= self.silent >= DEAD_AFTER;
            if self.dead {
                (self.search, self.lost_large, self.lost_datagrams) = (None, 0, 0);
                self.datagrams_pass = false;
            }
            return;
        }
        self.silent = 0;
        self.answered_rounds = self.answered_rounds.saturating_add(1);
        if !self.dead || self.answered_rounds >= ALIVE_AFTER {
            (self.known, self.dead) = (true, false);
        }
        // Where a small echo is not answered either, others that are not mean nothing.
        if !self.answered.contains(&Probe::Echo(SMALL)) {
            return;
        }
        self.lost_datagrams = self.lost(Probe::Datagram, self.lost_datagrams);
        self.datagrams_pass |= self.lost_datagrams == 0;
        self.datagrams_pass &= self.lost_datagrams < LOST_MAX;
        self.judge_size();
    }

    /// How many of a kind have been lost in a row.
    fn lost(&self, probe: Probe, before: u32) -> u32 {
        let sent = self.sent.iter().filter(|sent| **sent == probe).count();
        let lost = before.saturating_add(u32::try_from(sent).unwrap_or(u32::MAX));
        if self.answered.contains(&probe) { 0 } else { lost }
    }

    fn judge_size(&mut self) {
        if let Some(search) = self.search {
            return self.go_on(search);
        }
        self.lost_large = self.lost(Probe::Echo(self.size()), self.lost_large);
        self.proven |= self.lost_large == 0;
        if self.lost_large >= LOST_MAX {
            let low = MTU_FLOOR.min(self.size());
            self.search = Some(Search { low, high: self.size(), passed: false });
            self.lost_large = 0;
            return;
        }
        if self.narrow.is_none() {
            return;
        }
        let passes = self.answered.contains(&Probe::Echo(self.full));
        self.wide = if passes { self.wide + 1 } else { 0 };
        self.narrow_rounds += 1;
        if self.wide >= WIDE_AFTER {
            (self.narrow, self.wide, self.narrow_rounds) = (None, 0, 0);
        } else if self.narrow_rounds >= SEEK_AFTER {
            self.narrow_rounds = 0;
            self.search = Some(Search { low: self.size(), high: self.full, passed: self.proven });
        }
    }

    fn go_on(&mut self, search: Search) {
        let passed = search.sizes().filter(|size| self.answered.contains(&Probe::Echo(*size))).max();
        let low = passed.unwrap_or(search.low);
        let high = search.sizes().find(|size| *size > low).unwrap_or(search.high);
        let passed = search.passed || passed.is_some();
        if high.saturating_sub(low) > 1 {
            self.search = Some(Search { low, high, passed });
            return;
        }
        self.search = None;
        self.proven = passed;
        self.narrow = Some(low).filter(|low| *low < self.full);
        (self.wide, self.narrow_rounds) = (0, 0);
    }

    fn size(&self) -> u32 {
        self.narrow.unwrap_or(self.full)
    }

    fn probes(&self) -> Vec<Probe> {
        let times = |lost: u32| if lost > 0 { BURST } else { 1 };
        let mut probes: Vec<Probe> = (0..times(self.silent)).map(|_| Probe::Echo(SMALL)).collect();
        probes.extend((0..times(self.lost_datagrams)).map(|_| Probe::Datagram));
        match self.search {
            Some(search) => {
                let sizes = search.sizes().flat_map(|size| [Probe::Echo(size); LADDER_TIMES]);
                probes.extend(sizes);
            }
            None => {
                probes.extend((0..times(self.lost_large)).map(|_| Probe::Echo(self.size())));
                probes.extend(self.narrow.map(|_| Probe::Echo(self.full)));
            }
        }
        probes
    }
}

impl Search {
    /// What is tried next, ascending.
    fn sizes(self) -> impl Iterator<Item = u32> {
        let span = self.high.saturating_sub(self.low);
        let at = move |step: u32| self.low + span * step / (LADDER + 1);
        let inside = move |size: &u32| *size > self.low && *size < self.high;
        let sizes: BTreeSet<u32> = (1..=LADDER).map(at).filter(inside).collect();
        // Of two neighbours the upper one is not left out.
        let last = (span > 1 && span <= LADDER).then(|| self.high - 1);
        sizes.into_iter().chain(last).collect::<BTreeSet<u32>>().into_iter()
    }
}
