//! The holder's loop: one thread, one poll, one packet at a time.
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FlockOperation, Mode};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::message::{Reply, Request, encode_list};
use super::stand_in::{DOCKER_NAME, GRACE, StandIn, Watch};
use super::table::Table;
use super::transfer::{Packet, is_same_user, receive, send};
use super::{Error, stored};

/// The position of what is waited for beside connections.
const BESIDE: usize = usize::MAX;
/// Connections at once; one more takes the place of the oldest.
const CLIENTS_MAX: usize = 16;
const CLIENTS_WAITING_MAX: i32 = 16;

/// A holder at its place in the file system, which is its own while it has the lock.
pub(super) struct Server {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    listener: OwnedFd,
    clients: Vec<OwnedFd>,
    table: Table,
    stand_in: StandIn,
}

impl Server {
    /// Takes the place. A socket file that a dead holder left is replaced. `files_max` leaves room for our own.
    pub(super) fn bind(path: &Path, files_max: usize) -> Result<Self, Error> {
        let failed = |what| move |source: io::Error| Error::Setup { what, path: path.to_owned(), source };
        let lock_path = beside(path, ".lock");
        let lock = lock(&lock_path)
            .map_err(failed("take the lock"))?
            .ok_or_else(|| Error::Occupied { path: path.to_owned() })?;
        let listener = listen(path).map_err(failed("open the socket"))?;
        let (clients, table) = (Vec::new(), Table::new(files_max));
        let stand_in = StandIn::new(GRACE);
        Ok(Self { path: path.to_owned(), lock_path, _lock: lock, listener, clients, table, stand_in })
    }

    /// As [`Self::bind`], once the holder that has the place has ended.
    pub(super) fn bind_later(path: &Path, files_max: usize) -> Result<Self, Error> {
        loop {
            match Self::bind(path, files_max) {
                Err(Error::Occupied { .. }) => {}
                done => return done,
            }
            let failed = |source| Error::Setup { what: "wait for the lock", path: path.to_owned(), source };
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            let file = options.open(beside(path, ".lock")).map_err(failed)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        }
    }

    /// With what a service manager kept of a holder before. What does not fit is closed, here and there.
    pub(super) fn holding(mut self, kept: BTreeMap<String, Vec<OwnedFd>>) -> Self {
        for (name, files) in kept {
            let count = files.len();
            if self.table.put(&name, files).is_err() {
                stored::forget(&name, count);
            }
        }
        self
    }

    /// Opens Docker's plugin socket, as an agent that has just ended would have left it, unless one has. What it holds for
    /// others is worth more than this: a failure is told on standard error, and it goes on.
    pub(super) fn expecting_docker(mut self, path: &Path) -> Self {
        if self.table.get(DOCKER_NAME).is_some() {
            return self;
        }
        match open_plugin(path) {
            Ok(opened) => {
                if self.table.put(DOCKER_NAME, opened).is_ok() {
                    stored::keep(DOCKER_NAME, 0, self.table.get(DOCKER_NAME).unwrap_or_default());
                }
            }
            Err(error) => eprintln!("{} is not open: {error}", path.display()),
        }
        self
    }

    /// Answers Docker so soon after the agent's end.
    #[cfg(test)]
    pub(super) fn standing_in_after(self, grace: std::time::Duration) -> Self {
        Self { stand_in: StandIn::new(grace), ..self }
    }

    /// Until a client says end; then nothing of it is left in the file system.
    pub(super) fn serve(mut self) -> Result<(), Error> {
        loop {
            let ready = self.wait().map_err(|source| Error::Setup {
                what: "wait",
                path: self.path.clone(),
                source,
            })?;
            let mut kept = Vec::with_capacity(self.clients.len() + 1);
            for (position, client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
                let next = if ready.contains(&(position + 1)) { self.answer(&client) } else { Next::Keep };
                match next {
                    Next::Keep => kept.push(client),
                    Next::Close => {}
                    Next::End => {
                        self.remove_files();
                        return Ok(());
                    }
                }
            }
            self.clients = kept;
            if ready.contains(&0) {
                self.accept();
            }
            if ready.contains(&BESIDE) {
                self.stand_in();
            }
        }
    }

    /// Positions of what is ready: 0 is the listener, then the clients; [`BESIDE`] is what the stand-in watches.
    fn wait(&self) -> io::Result<Vec<usize>> {
        let now = Instant::now();
        let sockets = std::iter::once(&self.listener).chain(&self.clients);
        let mut files: Vec<PollFd<'_>> = sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let (beside, limit) = match self.stand_in.watch(&self.table, now) {
            Watch::Nothing => (None, None),
            // An end that closes is told in any case.
            Watch::End(pipe) => (Some(PollFd::new(pipe, PollFlags::empty())), None),
            Watch::Until(until) => (None, Timespec::try_from(until - now).ok()),
            Watch::Call(listener) => (Some(PollFd::new(listener, PollFlags::IN)), None),
        };
        let position = beside.map(|file| {
            files.push(file);
            files.len() - 1
        });
        match rustix::event::poll(&mut files, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = files.iter().enumerate().filter(|(_, file)| !file.revents().is_empty());
        Ok(ready.map(|(at, _)| if Some(at) == position { BESIDE } else { at }).collect())
    }

    /// The agent has ended, or there is a call for it.
    fn stand_in(&mut self) {
        match self.stand_in.watch(&self.table, Instant::now()) {
            Watch::End(_) => self.stand_in.ended(Instant::now()),
            Watch::Call(listener) => self.stand_in.answer(listener),
            Watch::Nothing | Watch::Until(_) => {}
        }
    }

    fn accept(&mut self) {
        let accepted = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        // It fails when the client has gone, or when no descriptor is left; the client then gets no answer.
        let Ok(client) = accepted else { return };
        if !is_same_user(&client).unwrap_or(false) {
            return;
        }
        if self.clients.len() >= CLIENTS_MAX {
            self.clients.remove(0);
        }
        self.clients.push(client);
    }

    fn answer(&mut self, client: &OwnedFd) -> Next {
        let packet = match receive(client) {
            Ok(packet) if packet.bytes.is_empty() => return Next::Close,
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
            Err(_) => return Next::Close,
        };
        let (reply, files, next) = self.carry_out(packet);
        let files: Vec<_> =
            files.iter().flat_map(|name| self.table.get(name)).flatten().map(AsFd::as_fd).collect();
        // A client that does not read its answers is closed rather than waited for.
        match send(client, &reply, &files, SendFlags::DONTWAIT) {
            Err(_) if matches!(next, Next::Keep) => Next::Close,
            _ => next,
        }
    }

    /// The answer, the name whose descriptors go with it, and what becomes of the client.
    fn carry_out(&mut self, packet: Packet) -> (Vec<u8>, Option<String>, Next) {
        let refuse = |reason| (Reply::Refused(reason).encode(), None, Next::Keep);
        let done = |payload: &[u8]| (Reply::Done(payload).encode(), None, Next::Keep);
        if packet.cut {
            return refuse("too much for one request, or no file descriptor left in the holder");
        }
        match Request::decode(&packet.bytes) {
            Err(reason) => refuse(reason),
            Ok(Request::Put(name)) => {
                if name == DOCKER_NAME {
                    self.stand_in.relieved();
                }
                let before = self.table.get(name).map_or(0, <[_]>::len);
                match self.table.put(name, packet.files) {
                    Ok(()) => {
                        stored::keep(name, before, self.table.get(name).unwrap_or_default());
                        done(&[])
                    }
                    Err(reason) => refuse(reason),
                }
            }
            Ok(Request::Get(name)) if self.table.get(name).is_some() => {
                (Reply::Done(&[]).encode(), Some(name.to_owned()), Next::Keep)
            }
            Ok(Request::Drop(name)) if self.table.get(name).is_some() => {
                stored::forget(name, self.table.get(name).map_or(0, <[_]>::len));
                self.table.remove(name);
                done(&[])
            }
            Ok(Request::Get(_) | Request::Drop(_)) => (Reply::Unknown.encode(), None, Next::Keep),
            Ok(Request::List(after)) => done(&encode_list(self.table.after(after))),
            Ok(Request::Ping) => {
                let mut payload = std::process::id().to_be_bytes().to_vec();
                payload.extend_from_slice(crate::version().as_bytes());
                done(&payload)
            }
            Ok(Request::End) => (Reply::Done(&[]).encode(), None, Next::End),
        }
    }

    /// The lock is still held: a holder that waits for it finds another file at its path and starts over.
    fn remove_files(&self) {
        for path in [&self.path, &self.lock_path] {
            // Left behind it harms nothing: both are replaced or reused.
            let _left = std::fs::remove_file(path);
        }
    }
}

enum Next {
    Keep,
    Close,
    End,
}

/// `None` while another process has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            result => result?,
        }
        // The one who had it before may have removed the file between our open and our lock.
        let ours = file.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bound beside its place, made ours alone, and only then moved there and listening: nobody else can ever connect,
/// and what lay there before is replaced in one step. The lock must be held.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let new = beside(path, ".new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(&new)?)?;
    rustix::fs::chmodat(CWD, &new, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, CLIENTS_WAITING_MAX)?;
    std::fs::rename(&new, path)?;
    Ok(socket)
}

/// The socket, bound beside its place and moved there, and the end of a pipe whose other end is closed already. An agent that
/// serves there stays: its socket is not replaced.
fn open_plugin(path: &Path) -> io::Result<Vec<OwnedFd>> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    let (closed, _) = io::pipe()?;
    Ok(vec![listener.into(), closed.into()])
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
