//! A kernel that fails, at random or where it is told to: before doing what it was asked, or after.
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Kernel, KernelError, Look};
use crate::{Observed, Op, Space};

/// What it fails with at random: busy, no room, somebody was quicker, gone meanwhile. Some of them say, of some operations,
/// that what was asked for is so already, which here is a lie.
const ERRORS: [i32; 4] = [libc::EBUSY, libc::ENOBUFS, libc::EEXIST, libc::ENODEV];

/// Wraps any kernel and makes some of its operations fail. Seeded: one seed fails the same operations again.
#[derive(Debug)]
pub struct FaultyKernel<K> {
    inner: K,
    state: Mutex<Faults>,
}

#[derive(Debug)]
struct Faults {
    seed: u64,
    per_mille: u64,
    planned: Option<Planned>,
}

/// A failure at a certain operation.
#[derive(Debug)]
struct Planned {
    /// Operations that come before.
    after: usize,
    errno: i32,
    done: bool,
    lasting: bool,
}

impl<K> FaultyKernel<K> {
    /// Fails `per_mille` of 1,000 operations.
    pub fn new(inner: K, seed: u64, per_mille: u16) -> Self {
        Self { inner, state: Mutex::new(Faults { seed, per_mille: per_mille.into(), planned: None }) }
    }

    /// Changes how many of 1,000 operations fail; 0 heals it.
    pub fn set_rate(&self, per_mille: u16) {
        self.lock().per_mille = per_mille.into();
    }

    /// Lets `after` operations pass and fails the next with this errno: once it is `done`, or instead of doing it.
    pub fn fail_at(&self, after: usize, errno: i32, done: bool) {
        self.lock().planned = Some(Planned { after, errno, done, lasting: false });
    }

    /// Lets `after` operations pass and does none from then on, as if whoever asks had died there.
    pub fn die_at(&self, after: usize, errno: i32) {
        self.lock().planned = Some(Planned { after, errno, done: false, lasting: true });
    }

    /// Whether a failure that was asked for is still to come.
    pub fn waits(&self) -> bool {
        self.lock().planned.as_ref().is_some_and(|planned| planned.after > 0 || !planned.lasting)
    }

    /// Forgets about it.
    pub fn heal(&self) {
        self.lock().planned = None;
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel inside.
    pub fn inner(&self) -> &K {
        &self.inner
    }

    /// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    fn draw(&self) -> Fault {
        let mut state = self.lock();
        state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let errno = ERRORS[usize::try_from(z >> 40).unwrap_or_default() % ERRORS.len()];
        match (z % 1000 < state.per_mille, z & (1 << 60) == 0) {
            (false, _) => Fault::None,
            (true, true) => Fault::Before(errno),
            (true, false) => Fault::After(errno),
        }
    }

    /// What becomes of the next operation.
    fn next(&self) -> Fault {
        let mut state = self.lock();
        let due = match &mut state.planned {
            Some(planned) if planned.after > 0 => {
                planned.after -= 1;
                None
            }
            Some(planned) if planned.lasting => Some((planned.errno, false)),
            planned => planned.take().map(|planned| (planned.errno, planned.done)),
        };
        drop(state);
        match due {
            Some((errno, false)) => Fault::Before(errno),
            Some((errno, true)) => Fault::After(errno),
            None => self.draw(),
        }
    }
}

enum Fault {
    None,
    Before(i32),
    After(i32),
}

fn failure(errno: i32) -> KernelError {
    KernelError::Refused(io::Error::from_raw_os_error(errno))
}

#[async_trait]
impl<K: Kernel> Kernel for FaultyKernel<K> {
    fn spaces(&self) -> Vec<Space> {
        self.inner.spaces()
    }

    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError> {
        match self.draw() {
            Fault::None => self.inner.observe(space, look).await,
            Fault::Before(errno) | Fault::After(errno) => Err(failure(errno)),
        }
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        match self.next() {
            Fault::None => self.inner.apply(space, op).await,
            Fault::Before(errno) => Err(failure(errno)),
            Fault::After(errno) => {
                self.inner.apply(space, op).await?;
                Err(failure(errno))
            }
        }
    }
}
