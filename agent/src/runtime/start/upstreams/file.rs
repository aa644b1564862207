//! What a resolv.conf says, however it is replaced.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::watch::Watch;
use crate::runtime::host;

/// The file is looked at this often, should no event tell of a change: on a file system that tells none, through a
/// link whose directory was made later, with no inotify instance left.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// From an event to the reading: a file that is written in place is empty first, and a writer without end is not read
/// without end.
const PACE: Duration = Duration::from_millis(10);
/// For how long a file without a server means one that is being written, where it named some before.
const EMPTY_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at such a file.
const EMPTY_INTERVAL: Duration = Duration::from_millis(100);

/// A resolv.conf that is followed.
pub(super) struct ResolvConf {
    path: PathBuf,
    watch: Option<Watch>,
    /// Whether the path may lead elsewhere than the watch knows.
    stale: bool,
    said: dns::Upstreams,
    empty_since: Option<Instant>,
}

impl ResolvConf {
    pub(super) fn new(path: &Path) -> Self {
        let said = dns::Upstreams::default();
        Self { path: path.to_owned(), watch: None, stale: true, said, empty_since: None }
    }

    /// What it says now.
    pub(super) fn read(&mut self) -> &dns::Upstreams {
        if self.stale {
            // Before the file is read, so that no change falls between the two.
            self.watch = Watch::begin(&self.path).ok();
            self.stale = false;
        }
        let found = host::read_resolv_conf(&self.path);
        if found.servers.is_empty() && !self.said.servers.is_empty() {
            let since = *self.empty_since.get_or_insert_with(Instant::now);
            if since.elapsed() < EMPTY_PATIENCE {
                return &self.said;
            }
        }
        self.empty_since = None;
        self.said = found;
        &self.said
    }

    /// Waits until it may say something else.
    pub(super) async fn changed(&mut self) {
        let look = if self.empty_since.is_some() { EMPTY_INTERVAL } else { LOOK_INTERVAL };
        let Some(watch) = &mut self.watch else {
            sleep(look).await;
            self.stale = true;
            return;
        };
        tokio::select! {
            () = watch.event() => {
                self.stale = true;
                sleep(PACE).await;
            }
            () = sleep(look) => self.stale = !watch.is_whole(),
        }
    }
}
