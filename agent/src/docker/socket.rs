//! The plugin socket: taken over from the agent before, and left with the holder, which answers there while no agent runs.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::UnixListener;

use crate::holder::{Client, DOCKER_NAME};
use crate::runtime::agent::{Agent, chain};
use crate::{api, holder};

/// How soon another holder gets the socket.
const INTERVAL: Duration = Duration::from_secs(1);

/// A socket to serve on, with the end of a pipe that tells the holder that we live: closed, it answers in our place.
pub(super) struct Opened {
    pub listener: UnixListener,
    /// And which holder has the other end.
    alive: Option<(u32, OwnedFd)>,
}

/// Opens the socket: that of the agent before, in which calls may wait, or else a new one. From here on the holder takes none.
pub(super) async fn open(agent: &Agent, path: &Path) -> Result<Opened, String> {
    let listener = match of_before(agent, path) {
        Some(listener) => listener,
        None => {
            // The holder would answer there, and pass for another agent.
            forget(agent);
            api::server::open(path).await.map_err(|error| chain(&error))?
        }
    };
    let pid = agent.holder_pid.load(Ordering::Relaxed);
    let alive = put(agent, listener.as_fd()).inspect_err(|error| {
        tracing::warn!("the plugin socket is not with the holder: {error}");
    });
    Ok(Opened { listener, alive: alive.ok().map(|pipe| (pid, pipe)) })
}

/// What the holder has, if it is the socket at this path.
fn of_before(agent: &Agent, path: &Path) -> Option<UnixListener> {
    let client = Client::connect(&agent.settings.load().holder_socket).ok()?;
    let listener = client.get(DOCKER_NAME).ok()??.into_iter().next()?;
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true).ok()?;
    is_at(&listener, path).then(|| UnixListener::from_std(listener).ok())?
}

/// Whether who connects at a path comes to this listener: both ends of a connection know who began to listen (unix(7),
/// SO_PEERCRED). No call that waits is taken out.
fn is_at(listener: &StdListener, path: &Path) -> bool {
    let bound = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    // It was bound beside its place and moved there.
    if bound.is_none_or(|bound| bound != path.with_extension("new")) {
        return false;
    }
    let Ok(other) = UnixStream::connect(path) else { return false };
    let began = |socket: BorrowedFd<'_>| holder::listening_process(socket).ok().filter(|pid| *pid != 0);
    let ours = began(listener.as_fd());
    ours.is_some() && ours == began(other.as_fd())
}

impl Opened {
    /// Leaves the socket with each holder that takes another's place, until the agent ends.
    pub(super) async fn keep(mut alive: Option<(u32, OwnedFd)>, agent: Arc<Agent>, listener: OwnedFd) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let pid = agent.holder_pid.load(Ordering::Relaxed);
            if pid == 0 || alive.as_ref().is_some_and(|(held_by, _)| *held_by == pid) {
                continue;
            }
            match put(&agent, listener.as_fd()) {
                Ok(pipe) => alive = Some((pid, pipe)),
                Err(error) => tracing::warn!("the plugin socket is not with the holder: {error}"),
            }
        }
    }

    /// What [`Self::keep`] takes.
    pub(super) fn take_alive(&mut self) -> Option<(u32, OwnedFd)> {
        self.alive.take()
    }
}

fn put(agent: &Agent, listener: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    let client = Client::connect(&agent.settings.load().holder_socket)
        .map_err(|error: holder::Error| chain(&error))?;
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    client.put(DOCKER_NAME, &[listener, reader.as_fd()]).map_err(|error| chain(&error))?;
    Ok(writer.into())
}

/// A socket that an agent before left and this one is not to serve.
pub(super) fn forget(agent: &Agent) {
    if let Ok(client) = Client::connect(&agent.settings.load().holder_socket) {
        drop(client.drop_name(DOCKER_NAME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_over_where_it_is_the_one_at_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let (path, new) = (directory.path().join("svc-agent.sock"), directory.path().join("svc-agent.new"));
        let listener = StdListener::bind(&new).unwrap();
        assert!(!is_at(&listener, &path), "nothing is there");
        std::fs::rename(&new, &path).unwrap();
        assert!(is_at(&listener, &path));
        assert!(!is_at(&listener, &directory.path().join("other.sock")), "it was another's place");
        drop(std::fs::remove_file(&path));
        assert!(!is_at(&listener, &path), "somebody removed it");
    }
}
