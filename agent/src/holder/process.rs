//! The process of `svc-agent hold`: what it does to itself before it serves.
#![allow(unsafe_code)] // close_range(2), which rustix lacks.

use std::path::Path;

use super::server::Server;
use super::{Error, FILES_MAX, NAMES_MAX, stored};

/// Descriptors beside those that are held: standard streams, lock, sockets, and what is in transit.
const FILES_BESIDE: u64 = 64;

/// Runs the holder until it is told to end. To be called first in `main`, on the only thread: it closes every file
/// descriptor but the standard streams and those that a service manager kept for it, leaves the caller's session, and
/// moves to `/`.
///
/// Where a path of Docker's plugin socket is given, and no agent has left one yet, it is opened: at a boot Docker finds
/// somebody there though the agent may be late, or not come at all.
///
/// SIGTERM ends it, as it ends every process that does not ask otherwise; what it left is replaced by the next one.
///
/// # Errors
/// [`Error::Occupied`] when another holder is there, [`Error::Setup`].
pub fn run(path: &Path, docker_plugin: Option<&Path>) -> Result<(), Error> {
    let (kept, after) = stored::take();
    // SAFETY: no other thread runs and nothing in this process has opened a descriptor that it still uses.
    // It exists since kernel 5.9; without it inherited descriptors would only stay open.
    unsafe { libc::syscall(libc::SYS_close_range, after, u32::MAX, 0u32) };
    // Fails for a leader of a process group (started from a shell), which does no harm.
    let _leader = rustix::process::setsid();
    let path = std::path::absolute(path).map_err(|source| Error::Setup {
        what: "find the place",
        path: path.to_owned(),
        source,
    })?;
    let files_max = raise_file_limit();
    let server = match Server::bind(&path, files_max) {
        // It is ready in that there is one. It takes over when that ends; what its manager kept is of one before.
        Err(Error::Occupied { .. }) if std::env::var_os("NOTIFY_SOCKET").is_some() => {
            stored::ready();
            kept.iter().for_each(|(name, files)| stored::forget(name, files.len()));
            Server::bind_later(&path, files_max)?
        }
        server => server?.holding(kept),
    };
    let server = match docker_plugin {
        Some(plugin) => server.expecting_docker(plugin),
        None => server,
    };
    // The directory it was started in may be unmounted.
    let _stays = std::env::set_current_dir("/");
    stored::ready();
    server.serve()
}

/// As far as it goes. Returns how many descriptors may be held below the limit.
fn raise_file_limit() -> usize {
    let wanted = u64::try_from(NAMES_MAX * FILES_MAX).unwrap_or(u64::MAX).saturating_add(FILES_BESIDE);
    let current = crate::limits::raise_file_limit(wanted);
    usize::try_from(current.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX)
}
