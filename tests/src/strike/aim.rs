//! Places to strike at: found by watching, then aimed at.
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Call, Strike, Verdict};

/// Before or after the n-th call of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// The call.
    pub call: Call,
    /// From 1.
    pub nth: usize,
    /// Once it is done; else it is not done.
    pub after: bool,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.after { "after" } else { "before" };
        write!(f, "{side} {} ({:?}, {})", self.call.name, self.call.kind, self.nth)
    }
}

/// A process that is watched, and goes on.
#[derive(Debug)]
pub struct Watch {
    strike: Strike,
    seen: Arc<Mutex<Vec<Call>>>,
}

impl Watch {
    /// From now on.
    ///
    /// # Errors
    /// As [`Strike::attach`].
    pub fn begin(pid: u32) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&seen);
        let strike = Strike::attach(pid, move |call| {
            list.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
            Verdict::Pass
        })?;
        Ok(Self { strike, seen })
    }

    /// Every place there was to strike at.
    ///
    /// # Errors
    /// As [`Strike::end`].
    pub fn end(self) -> io::Result<Vec<Aim>> {
        self.strike.end()?;
        let mut counts: BTreeMap<Call, usize> = BTreeMap::new();
        let mut aims = Vec::new();
        for call in self.seen.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let nth = counts.entry(call.clone()).or_default();
            *nth += 1;
            aims.extend([false, true].map(|after| Aim { call: call.clone(), nth: *nth, after }));
        }
        Ok(aims)
    }
}

/// A process that is to be killed at one place.
#[derive(Debug)]
pub struct Shot {
    strike: Strike,
    struck: Arc<AtomicBool>,
}

impl Shot {
    /// Kills a process there, if it comes there.
    ///
    /// # Errors
    /// As [`Strike::attach`].
    pub fn at(pid: u32, aim: &Aim) -> io::Result<Self> {
        let struck = Arc::new(AtomicBool::new(false));
        let (flag, aim, mut count) = (Arc::clone(&struck), aim.clone(), 0);
        let strike = Strike::attach(pid, move |call| {
            count += usize::from(*call == aim.call);
            if *call != aim.call || count != aim.nth || flag.swap(true, Ordering::Relaxed) {
                return Verdict::Pass;
            }
            if aim.after { Verdict::KillAfter } else { Verdict::KillBefore }
        })?;
        Ok(Self { strike, struck })
    }

    /// Whether it has come there.
    pub fn has_struck(&self) -> bool {
        self.struck.load(Ordering::Relaxed)
    }

    /// Ends the watch; whether it has come there.
    ///
    /// # Errors
    /// As [`Strike::end`].
    pub fn end(self) -> io::Result<bool> {
        self.strike.end()?;
        Ok(self.struck.load(Ordering::Relaxed))
    }
}
