//! Whether checksums are left to the underlay's device.
use std::time::{Duration, Instant};

/// So long it is tried without, before that is judged.
const TRIAL: Duration = Duration::from_secs(10);

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

    /// Follows whether any path damages checksums now.
    pub fn follow(&mut self, damaged: bool, now: Instant) -> Trial {
        let (next, trial) = match (*self, damaged) {
            (Self::On, true) => (Self::Tried(now), Trial::Began),
            (Self::Tried(since), damaged) if now.saturating_duration_since(since) >= TRIAL => match damaged {
                true => (Self::InVain, Trial::Failed),
                false => (Self::Off, Trial::Helped),
            },
            (Self::InVain, false) => (Self::On, Trial::Same),
            (same, _) => (same, Trial::Same),
        };
        *self = next;
        trial
    }
}
