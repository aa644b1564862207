//! The agent's side of the holder.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::Error;
use super::message::{Reply, Request, decode_list};
use super::transfer::{is_same_user, receive, send};

/// How long a request may take. The holder answers in microseconds; this is for a stopped or starved one.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a new holder may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether it does.
const START_LOOK_INTERVAL_NS: i64 = 5_000_000;

/// A connection to the holder. Calls block, for microseconds as a rule and [`CALL_TIMEOUT`] at most; they may come
/// from several threads. When the holder has been started anew, the next call finds it.
pub struct Client {
    path: PathBuf,
    socket: Mutex<Option<OwnedFd>>,
    /// The holder's process, if [`ensure`] has started it for this client.
    started: Option<u32>,
}

/// What a holder says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Its process, in its own process namespace.
    pub pid: u32,
    /// Its version, which is older than ours after an upgrade.
    pub version: String,
}

/// A name that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was put.
    pub name: String,
    /// How many file descriptors are under it.
    pub files: usize,
}

/// An answer that is neither a refusal nor an error: `None` for an unknown name.
type Answer = Option<(Vec<u8>, Vec<OwnedFd>)>;

/// Reaches the holder at `path`, and starts `<program> hold --socket <path>` if none answers. It is not a part of
/// the caller's session, and outlives it; under systemd it must be in another unit, or `KillMode=process` be set.
///
/// # Errors
/// [`Error::Start`], [`Error::Silent`].
pub fn ensure(path: &Path, program: &Path) -> Result<Client, Error> {
    let mut command = Command::new(program);
    command.arg("hold").arg("--socket").arg(path);
    // What it would tell there is taken for the agent's.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
    ensure_with(path, command)
}

pub(super) fn ensure_with(path: &Path, mut command: Command) -> Result<Client, Error> {
    if let Ok(client) = Client::connect(path) {
        return Ok(client);
    }
    let failed = |command: &Command, source| Error::Start { program: command.get_program().into(), source };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let mut child = command.spawn().map_err(|source| failed(&command, source))?;
    let outcome = answering(path);
    // One that answers too late would stay with nobody to use it.
    if outcome.is_err() {
        let _ended_before = child.kill();
    }
    let pid = child.id();
    // Waited for, so that none is left as a zombie while we live.
    let waiter = std::thread::Builder::new().name("holder-wait".to_owned()).spawn(move || child.wait());
    let mut client = outcome?;
    // Another agent's may have been first.
    client.started = client.ping().ok().map(|pong| pong.pid).filter(|answering| *answering == pid);
    if let Err(source) = waiter {
        client.end_unused();
        return Err(failed(&command, source));
    }
    Ok(client)
}

/// Waits for a holder that answers at `path`: two agents may start one each, and one of the two does.
fn answering(path: &Path) -> Result<Client, Error> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(path) {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => {
                return Err(Error::Silent { path: path.to_owned(), source: Box::new(error) });
            }
            Err(_) => {}
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: START_LOOK_INTERVAL_NS };
        // Nothing is polled: this is the pause.
        let _elapsed = rustix::event::poll(&mut [], Some(&pause));
    }
}

impl Client {
    /// Reaches the holder at `path`, and has its answer to a ping.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let client = Self { path: path.to_owned(), socket: Mutex::new(None), started: None };
        client.ping()?;
        Ok(client)
    }

    /// Gives copies of the descriptors into its keeping, in place of those it has under the name. 1 to 8 of them,
    /// 8,192 names, and 255 bytes of a name are the limits.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Connect`], [`Error::Call`].
    pub fn put(&self, name: &str, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.call(Request::Put(name), files).map(drop)
    }

    /// Copies of the descriptors under the name, in the order they were put; the holder keeps its own.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn get(&self, name: &str) -> Result<Option<Vec<OwnedFd>>, Error> {
        Ok(self.call(Request::Get(name), &[])?.map(|(_, files)| files))
    }

    /// Lets go of a name's descriptors; `false` when it had none.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn drop_name(&self, name: &str) -> Result<bool, Error> {
        Ok(self.call(Request::Drop(name), &[])?.is_some())
    }

    /// All that is held, by name.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map_or("", |entry| &entry.name).to_owned();
            let request = Request::List(&after);
            let payload = self.call(request, &[])?.map(|(payload, _)| payload).unwrap_or_default();
            let page = decode_list(&payload).ok_or_else(|| self.call_error(request, bad_answer()))?;
            // Names come in order; anything else would go on for ever.
            if page.first().is_some_and(|(name, _)| *name <= after) {
                return Err(self.call_error(request, bad_answer()));
            }
            if page.is_empty() {
                return Ok(entries);
            }
            entries.extend(page.into_iter().map(|(name, files)| Entry { name, files }));
        }
    }

    /// What it is.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn ping(&self) -> Result<Pong, Error> {
        let answer = self.call(Request::Ping, &[])?.map(|(payload, _)| payload).unwrap_or_default();
        let pong = answer.split_first_chunk().and_then(|(pid, version)| {
            Some(Pong { pid: u32::from_be_bytes(*pid), version: String::from_utf8(version.to_vec()).ok()? })
        });
        pong.ok_or_else(|| self.call_error(Request::Ping, bad_answer()))
    }

    /// Ends it; with it ends what nobody else holds.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Call`].
    pub fn end(&self) -> Result<(), Error> {
        self.call(Request::End, &[]).map(drop)
    }

    /// Ends the holder that [`ensure`] has started for this client, unless it keeps what counts: for a start that
    /// fails, which is to leave nothing running. One that was there before stays, and so does one that replaced it.
    pub fn end_unused(&self) {
        let Some(started) = self.started else { return };
        if !self.ping().is_ok_and(|pong| pong.pid == started) {
            return;
        }
        // The namespace in which paths are tried is made anew by each agent that finds none.
        if self.list().is_ok_and(|entries| entries.iter().all(|entry| entry.name == super::PATHS_NAME)) {
            // One that does not answer by now keeps nothing.
            let _ended = self.end();
        }
    }

    /// Asks once more over a new connection when the old one is found closed; every request may be repeated.
    fn call(&self, request: Request<'_>, files: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = socket.take() {
            match self.ask(&old, request, files) {
                Err(Error::Call { source, .. }) if is_closed(&source) => {}
                Err(error @ Error::Call { .. }) => return Err(error),
                answer => {
                    *socket = Some(old);
                    return answer;
                }
            }
        }
        let new = connect(&self.path).map_err(|source| Error::Connect { path: self.path.clone(), source })?;
        let answer = self.ask(&new, request, files);
        // After a time-out an answer may still come, to the wrong question.
        if !matches!(answer, Err(Error::Call { .. })) {
            *socket = Some(new);
        }
        answer
    }

    fn ask(&self, socket: &OwnedFd, request: Request<'_>, files: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        let failed = |source| self.call_error(request, source);
        send(socket.as_fd(), &request.encode(), files, SendFlags::empty()).map_err(failed)?;
        let packet = receive(socket).map_err(failed)?;
        if packet.bytes.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        if packet.cut {
            return Err(failed(io::Error::other("no file descriptor is left in this process")));
        }
        match Reply::decode(&packet.bytes) {
            Some(Reply::Done(payload)) => Ok(Some((payload.to_vec(), packet.files))),
            Some(Reply::Unknown) => Ok(None),
            Some(Reply::Refused(reason)) => Err(Error::Refused {
                path: self.path.clone(),
                request: request.verb(),
                reason: reason.chars().take(200).collect(),
            }),
            None => Err(failed(bad_answer())),
        }
    }

    fn call_error(&self, request: Request<'_>, source: io::Error) -> Error {
        Error::Call { path: self.path.clone(), request: request.verb(), source }
    }
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(CALL_TIMEOUT))?;
    }
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    if !is_same_user(&socket)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user's process listens there"));
    }
    Ok(socket)
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof)
}

fn bad_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that makes no sense")
}
