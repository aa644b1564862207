//! The plugin socket: taken over from the agent before, and left with the holder, which answers there while no agent runs.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixListener;

use crate::holder::{Client, DOCKER_NAME};
use crate::runtime::agent::{Agent, chain};
use crate::{api, holder};

/// How soon another holder gets the socket.
const INTERVAL: Duration = Duration::from_secs(1);

/// Opens the socket: that of the agent before, in which calls may wait, or else a new one.
pub(super) async fn open(agent: &Agent, path: &Path) -> Result<UnixListener, String> {
    if let Some(listener) = of_before(agent, path) {
        return Ok(listener);
    }
    api::server::open(path).await.map_err(|error| chain(&error))
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
    let began = |socket: BorrowedFd<'_>| socket_peercred(socket).map(|who| who.pid).ok();
    let ours = began(listener.as_fd());
    ours.is_some() && ours == began(other.as_fd())
}

/// Leaves the socket with the holder, also with one that takes another's place, until the agent ends. The pipe's end that is kept
/// here tells the holder that we live.
pub(super) async fn leave_with_holder(agent: Arc<Agent>, listener: OwnedFd) {
    let mut held_by = 0;
    let mut alive = None;
    loop {
        let pid = agent.holder_pid.load(Ordering::Relaxed);
        if pid != held_by && pid != 0 {
            match put(&agent, &listener) {
                Ok(pipe) => {
                    // The one before closes: whoever watched it is gone or has this one.
                    drop(alive.replace(pipe));
                    held_by = pid;
                }
                Err(error) => tracing::warn!("the plugin socket is not with the holder: {error}"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn put(agent: &Agent, listener: &OwnedFd) -> Result<OwnedFd, String> {
    let client = Client::connect(&agent.settings.load().holder_socket)
        .map_err(|error: holder::Error| chain(&error))?;
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    client.put(DOCKER_NAME, &[listener.as_fd(), reader.as_fd()]).map_err(|error| chain(&error))?;
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
