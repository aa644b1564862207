//! The one place where a zone is published and read.
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::zone::Zone;

/// A namespace's current zone. Clones are the same handle; readers take no lock.
#[derive(Clone)]
pub struct ZoneHandle(Arc<Inner>);

struct Inner {
    zone: ArcSwap<Zone>,
    changed: Notify,
}

impl ZoneHandle {
    /// A handle that begins with `zone`.
    pub fn new(zone: Zone) -> Self {
        Self(Arc::new(Inner { zone: ArcSwap::from_pointee(zone), changed: Notify::new() }))
    }

    /// Replaces the zone for all readers at once and wakes the queries that wait for a name.
    pub fn publish(&self, zone: Zone) {
        self.0.zone.store(Arc::new(zone));
        self.0.changed.notify_waiters();
    }

    /// The current zone.
    pub fn load(&self) -> Arc<Zone> {
        self.0.zone.load_full()
    }

    /// Completes at the first publication after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

impl fmt::Debug for ZoneHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneHandle").field(&self.0.zone.load().networks.len()).finish()
    }
}
