//! What trials of look-ups and VIPs inside a namespace come to: when they fail, and why, in words. No I/O, no clocks.
//!
//! Tables can be read and be right while somebody else's rules in the same namespace undo what they say. So it is tried what
//! a container's own program would do: a look-up sent to 127.0.0.11:53, and a datagram to a VIP that leads back to its sender.
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Trials lost in a row until something fails. One of them may be lost by chance, or while somebody loads a firewall anew.
pub const FAILING_AFTER: u8 = 3;
/// Trials passed in a row until it works again.
pub const FINE_AFTER: u8 = 2;

/// What is tried in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// A look-up of an own address, as any program sends it.
    Names {
        /// Where the resolver listens, behind the redirect.
        resolver: SocketAddr,
        /// The address that is asked for.
        address: IpAddr,
        /// Its name: the right answer, lower case, without a trailing dot.
        name: String,
    },
    /// A datagram to an address that the balancing table translates to the namespace's own.
    Vip {
        /// The network's first address, which is nobody's.
        vip: IpAddr,
        /// The namespace's address on that network.
        own: IpAddr,
    },
}

/// What one trial came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The right thing came back.
    Passed,
    /// Nothing within the time.
    Unanswered,
    /// It could not be sent, or was refused: an errno.
    Failed(i32),
    /// Somebody else answered, with this.
    Wrong(String),
    /// It says nothing of what is tried.
    Unjudged,
}

impl Outcome {
    /// Its word in metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Unanswered => "unanswered",
            Self::Failed(_) => "failed",
            Self::Wrong(_) => "wrong",
            Self::Unjudged => "unjudged",
        }
    }

    /// What errno(3) means for a trial. Without its own address, or without memory, nothing is tried.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::EADDRNOTAVAIL | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => {
                Self::Unjudged
            }
            errno => Self::Failed(errno),
        }
    }

    /// What a VIP's trial says beside one that goes the same way without translation, sent at the same time: where that
    /// is lost as well, the namespace's own rules let nothing through, and nothing follows for VIPs.
    pub fn beside(self, direct: Option<&Self>) -> Self {
        match (self, direct) {
            (Self::Passed, _) => Self::Passed,
            (_, Some(direct)) if *direct != Self::Passed => Self::Unjudged,
            (outcome, _) => outcome,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passes"),
            Self::Unanswered => f.write_str("is lost (timeout)"),
            Self::Failed(libc::EPERM) => f.write_str("may not be sent: a rule drops it (EPERM)"),
            Self::Failed(libc::ECONNREFUSED) => f.write_str("is refused (ECONNREFUSED)"),
            Self::Failed(errno) => write!(f, "fails: {}", std::io::Error::from_raw_os_error(*errno)),
            Self::Wrong(said) => write!(f, "is answered by somebody else: {said}"),
            Self::Unjudged => f.write_str("could not be tried"),
        }
    }
}

/// Whether something works, judged by its trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judge {
    failing: bool,
    /// Trials in a row that speak against what was found.
    against: u8,
}

impl Judge {
    /// Takes a trial in. Whether that changed what is found.
    pub fn note(&mut self, outcome: &Outcome) -> bool {
        let passed = match outcome {
            Outcome::Unjudged => return false,
            outcome => *outcome == Outcome::Passed,
        };
        if passed != self.failing {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let turned = self.against >= if self.failing { FINE_AFTER } else { FAILING_AFTER };
        if turned {
            *self = Self { failing: !self.failing, against: 0 };
        }
        turned
    }

    /// What it tries fails.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// The last trial spoke against what was found before it: the next is to come soon.
    pub fn is_in_doubt(&self) -> bool {
        self.against > 0
    }
}

/// Says what fails, what goes the same way and does not, and who may have a hand in it. `strangers`: the tables of others in
/// the namespace, if that could be told.
pub fn words(
    trial: &Trial,
    outcome: &Outcome,
    direct: Option<&Outcome>,
    strangers: Option<&[String]>,
) -> String {
    let (what, other) = match trial {
        Trial::Names { resolver, .. } => {
            let other = format!("straight to the resolver, at {resolver}");
            ("names: a look-up sent to 127.0.0.11:53 in its namespace".to_owned(), other)
        }
        Trial::Vip { vip, own } => {
            let what = format!("VIPs: a datagram sent to {vip} in its namespace, which leads to {own},");
            (what, format!("sent to {own} itself"))
        }
    };
    let beside = match direct {
        Some(Outcome::Passed) => format!("; {other}, it passes"),
        Some(direct) => format!("; {other}, it {direct} as well"),
        None => String::new(),
    };
    let whose = match strangers {
        None => String::new(),
        Some([]) => "; no table but ours is there".to_owned(),
        Some(tables) => format!("; tables of others are there: {}", tables.join(", ")),
    };
    format!("{what} {outcome}{beside}{whose}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Outcome = Outcome::Unanswered;

    #[test]
    fn p52_three_losses_in_a_row_fail_and_two_passes_end_it() {
        let mut judge = Judge::default();
        let turns = |judge: &mut Judge, outcomes: &[Outcome]| -> Vec<bool> {
            outcomes.iter().map(|outcome| judge.note(outcome)).collect()
        };
        assert_eq!(turns(&mut judge, &[LOST, LOST, Outcome::Passed, LOST, LOST]), [false; 5]);
        assert!(judge.is_in_doubt() && !judge.is_failing());
        assert_eq!(turns(&mut judge, &[Outcome::Unjudged, Outcome::Failed(1)]), [false, true]);
        assert!(judge.is_failing() && !judge.is_in_doubt());
        assert_eq!(turns(&mut judge, &[Outcome::Passed, LOST, Outcome::Passed]), [false; 3]);
        assert_eq!(turns(&mut judge, &[Outcome::Unjudged, Outcome::Passed]), [false, true]);
        assert!(!judge.is_failing());
    }

    #[test]
    fn p52_what_cannot_reach_itself_says_nothing_of_vips() {
        assert_eq!(LOST.beside(Some(&LOST)), Outcome::Unjudged);
        assert_eq!(LOST.beside(Some(&Outcome::Passed)), LOST);
        assert_eq!(Outcome::Passed.beside(Some(&LOST)), Outcome::Passed);
        assert_eq!(Outcome::Failed(1).beside(None), Outcome::Failed(1));
    }

    #[test]
    fn p52_the_words_tell_the_agents_part_from_others() {
        let trial = Trial::Names {
            resolver: "127.0.0.11:61053".parse().unwrap(),
            address: [10, 1, 0, 7].into(),
            name: "web.blue.svc.internal".to_owned(),
        };
        let tables = ["inet foreign".to_owned()];
        let said = words(&trial, &Outcome::Failed(libc::EPERM), Some(&Outcome::Passed), Some(&tables));
        assert!(said.contains("EPERM") && said.contains("61053, it passes"), "{said}");
        assert!(said.ends_with("tables of others are there: inet foreign"), "{said}");
        let said = words(&trial, &LOST, Some(&LOST), Some(&[]));
        assert!(said.contains("timeout") && said.ends_with("no table but ours is there"), "{said}");
    }
}
