//! Who asks when: identical questions once, and room for each namespace.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::{Message, Query};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Flags, ForwardError};

/// Queries under way that a namespace has room for whatever the others do.
const OWN_ROOM: usize = 8;

/// What makes two queries the same. Names compare without case.
pub(super) type Key = (Query, Flags);
type Outcome = Result<Message, ForwardError>;
/// A question under way. Whoever waits for it drives it; when nobody does any more, it ends.
pub(super) type Flight = Shared<BoxFuture<'static, Outcome>>;

/// The questions under way; as many at most as there is room for.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Outcome>>>>>);

impl Flights {
    /// The flight of the same question, if there is one.
    pub(super) fn join(&self, key: &Key) -> Option<Flight> {
        self.lock().get(key).and_then(WeakShared::upgrade)
    }

    /// Begins a flight. One of the same question that began meanwhile goes on by itself.
    pub(super) fn begin(&self, key: Key, ask: impl Future<Output = Outcome> + Send + 'static) -> Flight {
        let landing = Landing { flights: self.clone(), key: key.clone() };
        let flight = async move {
            let _landing = landing;
            ask.await
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            self.lock().insert(key, weak);
        }
        flight
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, WeakShared<BoxFuture<'static, Outcome>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a flight at its end. It may hit a later one of the same question, which then has nobody join it.
struct Landing {
    flights: Flights,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

/// A namespace's own room, beside the one that it shares with all others: however many wait for that, a query of a
/// namespace that asks little is sent at once.
#[derive(Debug)]
pub(crate) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(OWN_ROOM))
    }
}

impl Room {
    /// Waits for room in either.
    pub(super) async fn enter<'a>(&'a self, shared: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
        // The own room last: it is for when there is no other.
        if let Ok(permit) = shared.try_acquire() {
            return Some(permit);
        }
        tokio::select! {
            permit = self.0.acquire() => permit.ok(),
            permit = shared.acquire() => permit.ok(),
        }
    }
}
