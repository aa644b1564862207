//! Whether checksums are left to the underlay's device.
use std::time::{Duration, Instant};

/// So long it is tried without, before that is judged.
const TRIAL: Duration = Duration::from_secs(10);
/// So long it is tried without while nothing is known of whether that helps.
const TRIAL_MAX: Duration = Duration::from_secs(300);

/// What is known of checksums: on one path, or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Nothing is known: a path that is dead, new, or not tried now says neither.
    Unknown,
    /// They arrive damaged.
    Damaged,
    /// They arrive as they should.
    Intact,
}

impl Damage {
    /// Of several paths, each with whether it is one of those that were damaging when that began: only these can tell that
    /// there is no damage any more.
    pub fn of_all(paths: impl IntoIterator<Item = (Self, bool)>) -> Self {
        paths.into_iter().fold(Self::Unknown, |all, path| match (all, path) {
            (Self::Damaged, _) | (_, (Self::Damaged, _)) => Self::Damaged,
            (_, (Self::Intact, true)) => Self::Intact,
            (all, _) => all,
        })
    }
}

/// What is done about damaged checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: they are left to the device.
    #[default]
    On,
    /// The kernel computes them, since then; it is not known yet whether that helps.
    Tried(Instant),
    /// The kernel computes them, and that helped. It stays so until the next boot, which may bring another driver.
    Off,
    /// It did not help: the damage is done elsewhere. Until there is none.
    InVain,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Nothing new.
    Same,
    /// It was switched off just now.
    Began,
    /// It was found to help.
    Helped,
    /// It was switched on again.
    Failed,
}

impl Offload {
    /// Whether they are left to the device.
    pub fn is_on(self) -> bool {
        matches!(self, Self::On | Self::InVain)
    }

    /// Follows what is known of checksums now ([`Damage::of_all`]).
    pub fn follow(&mut self, damage: Damage, now: Instant) -> Trial {
        let (next, trial) = match (*self, damage) {
            (Self::On, Damage::Damaged) => (Self::Tried(now), Trial::Began),
            (Self::Tried(since), damage) => {
                let tried = now.saturating_duration_since(since);
                match damage {
                    Damage::Damaged if tried >= TRIAL => (Self::InVain, Trial::Failed),
                    Damage::Intact if tried >= TRIAL => (Self::Off, Trial::Helped),
                    Damage::Unknown if tried >= TRIAL_MAX => (Self::On, Trial::Failed),
                    _ => (*self, Trial::Same),
                }
            }
            (Self::InVain, Damage::Intact) => (Self::On, Trial::Same),
            (same, _) => (same, Trial::Same),
        };
        *self = next;
        trial
    }
}
