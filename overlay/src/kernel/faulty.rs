//! A kernel that fails at random: before doing what it was asked, or after.
use std::io;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Kernel, KernelError};
use crate::{Observed, Op, Space};

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
}

impl<K> FaultyKernel<K> {
    /// Fails `per_mille` of 1,000 operations.
    pub fn new(inner: K, seed: u64, per_mille: u16) -> Self {
        Self { inner, state: Mutex::new(Faults { seed, per_mille: per_mille.into() }) }
    }

    /// Changes how many of 1,000 operations fail; 0 heals it.
    pub fn set_rate(&self, per_mille: u16) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).per_mille = per_mille.into();
    }

    /// The kernel inside.
    pub fn inner(&self) -> &K {
        &self.inner
    }

    /// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    fn draw(&self) -> Fault {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        match (z % 1000 < state.per_mille, z & (1 << 60) == 0) {
            (false, _) => Fault::None,
            (true, true) => Fault::Before,
            (true, false) => Fault::After,
        }
    }
}

enum Fault {
    None,
    Before,
    After,
}

fn failure() -> KernelError {
    KernelError::Refused(io::Error::from_raw_os_error(libc::ENOBUFS))
}

#[async_trait]
impl<K: Kernel> Kernel for FaultyKernel<K> {
    fn spaces(&self) -> Vec<Space> {
        self.inner.spaces()
    }

    async fn observe(&self, space: &Space) -> Result<Observed, KernelError> {
        match self.draw() {
            Fault::None => self.inner.observe(space).await,
            Fault::Before | Fault::After => Err(failure()),
        }
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        match self.draw() {
            Fault::None => self.inner.apply(space, op).await,
            Fault::Before => Err(failure()),
            Fault::After => {
                self.inner.apply(space, op).await?;
                Err(failure())
            }
        }
    }
}
