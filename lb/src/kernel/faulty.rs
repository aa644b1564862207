//! A kernel that fails now and then, the same way for the same seed.
use std::io;

use netfilter::{Error, Refusal, conntrack};

use super::{Contents, Features, Kernel, TableStatus};
use crate::address::Address;
use crate::flows::Stale;
use crate::transaction::Transaction;
use crate::untracked;

/// What it fails with: EBUSY, ENOBUFS, EEXIST, ENODEV, ENOENT, as Linux numbers them.
const ERRORS: [i32; 5] = [16, 105, 17, 19, 2];

/// Wraps a kernel. An operation fails before it does anything, or does all of it and reports a failure.
#[derive(Debug)]
pub struct Faulty<K> {
    /// The kernel underneath.
    pub inner: K,
    state: u64,
    per_mille: u64,
}

impl<K> Faulty<K> {
    /// Fails about `per_mille` of a thousand operations.
    pub fn new(inner: K, seed: u64, per_mille: u16) -> Self {
        Self { inner, state: seed | 1, per_mille: u64::from(per_mille) }
    }

    /// Fails this often from now on.
    pub fn set_rate(&mut self, per_mille: u16) {
        self.per_mille = u64::from(per_mille);
    }

    /// Xorshift (Marsaglia 2003): enough for faults, and no dependency.
    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 11
    }

    fn run<T>(&mut self, operation: impl FnOnce(&mut K) -> Result<T, Error>) -> Result<T, Error> {
        if self.draw() % 1000 >= self.per_mille {
            return operation(&mut self.inner);
        }
        let (done, errno) = (
            self.draw().is_multiple_of(2),
            ERRORS[usize::try_from(self.draw()).unwrap_or_default() % ERRORS.len()],
        );
        let source = io::Error::from_raw_os_error(errno);
        if done {
            operation(&mut self.inner)?;
            return Err(Error::Receive { source });
        }
        // Whoever asks for a transaction is told which message was refused.
        let refusal = Refusal { message: "do it", object: String::new(), detail: String::new(), count: 1 };
        Err(Error::Refused { refusal, source })
    }
}

impl<K: Kernel> Kernel for Faulty<K> {
    fn features(&mut self) -> Result<Features, Error> {
        self.run(K::features)
    }

    fn generation(&mut self) -> Result<u32, Error> {
        self.run(K::generation)
    }

    fn table<A: Address>(&mut self) -> Result<Option<TableStatus>, Error> {
        self.run(K::table::<A>)
    }

    fn contents<A: Address>(&mut self, features: Features) -> Result<Option<Contents<A>>, Error> {
        self.run(|kernel| kernel.contents(features))
    }

    fn commit<A: Address>(
        &mut self,
        transaction: &Transaction<A>,
        features: Features,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        self.run(|kernel| kernel.commit(transaction, features, generation))
    }

    fn remove<A: Address>(&mut self) -> Result<(), Error> {
        self.run(K::remove::<A>)
    }

    fn strangers(&mut self) -> Result<bool, Error> {
        self.run(K::strangers)
    }

    fn untrack<A: Address>(&mut self, change: &untracked::Change<A>) -> Result<(), Error> {
        self.run(|kernel| kernel.untrack(change))
    }

    fn delete_untracked<A: Address>(
        &mut self,
        untracked: &untracked::Untracked<A>,
        limit: usize,
    ) -> Result<usize, Error> {
        self.run(|kernel| kernel.delete_untracked(untracked, limit))
    }

    fn usage(&mut self) -> Result<conntrack::Usage, Error> {
        self.run(K::usage)
    }

    fn delete_flows(&mut self, stale: &Stale<'_>, limit: usize) -> Result<usize, Error> {
        self.run(|kernel| kernel.delete_flows(stale, limit))
    }
}
