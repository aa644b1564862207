//! Processes in a bed.
#![allow(unsafe_code)] // pre_exec: what a child does between fork and exec.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{Bed, Error, failure, sandbox, unknown};
use crate::netns::{self, Namespace};

/// A process in a bed. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    log: PathBuf,
}

impl Process {
    /// Its number, inside the sandbox.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to its standard output and error.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// ESRCH when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Waits for its end; `None` when it still runs after `limit`.
    ///
    /// # Errors
    /// What the wait returned.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        if wait_for_end(&self.pidfd, limit)? { self.child.wait().map(Some) } else { Ok(None) }
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Errors
    /// What the wait returned.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails when it has ended and was waited for.
        let _ended = self.kill();
    }
}

impl Bed {
    /// Starts a program in a host or container, as `ip netns exec` does: in its network namespace, with mounts of
    /// its own, with `/etc/netns/<full name>/resolv.conf` in place of `/etc/resolv.conf` where there is one. It sees
    /// the directory of its host, or of its container's host, as `/run/svc-agent`, and is killed with the bed.
    /// Standard output and error go to `<log directory>/<name>-<log>.log`, after what is there.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Do`].
    pub fn spawn(&self, name: &str, command: Command, log: &str) -> Result<Process, Error> {
        let path = self.log_directory().join(format!("{name}-{log}.log"));
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let file = open(&path).map_err(|source| failure("open the log", name, source))?;
        let both = file.try_clone().map_err(|source| failure("open the log", name, source))?;
        self.start(name, command, (file, both), path)
    }

    /// Runs a program to its end, as [`Self::spawn`] does, and returns what it wrote. Above `limit` it is killed.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Do`]; `TimedOut` in it above the limit.
    pub fn output(&self, name: &str, command: Command, limit: Duration) -> Result<Output, Error> {
        let failed = |what| move |source| failure(what, name, source);
        let unnamed = || tempfile_in(&self.log_directory()).map_err(failed("open a file for the output"));
        let (stdout, stderr) = (unnamed()?, unnamed()?);
        let copies = stdout.try_clone().and_then(|stdout| Ok((stdout, stderr.try_clone()?)));
        let copies = copies.map_err(failed("open a file for the output"))?;
        let mut process = self.start(name, command, copies, PathBuf::new())?;
        let status = process.wait(limit).map_err(failed("wait for a process"))?;
        let status = status.ok_or_else(|| failed("run a process")(io::ErrorKind::TimedOut.into()))?;
        let read = |file| read_all(file).map_err(failed("read the output"));
        Ok(Output { status, stdout: read(stdout)?, stderr: read(stderr)? })
    }

    fn start(
        &self,
        name: &str,
        mut command: Command,
        out: (File, File),
        log: PathBuf,
    ) -> Result<Process, Error> {
        let namespace = self.namespace(name)?;
        let host = if self.hosts.contains_key(name) { Some(name) } else { None };
        let host = host.or_else(|| self.containers.get(name).map(|container| container.host.as_str()));
        let run = self.run_directory(host.ok_or_else(|| unknown(name))?);
        let resolver = Path::new("/etc/netns").join(self.full_name(name)).join("resolv.conf");
        let mut binds = vec![(run, PathBuf::from("/run/svc-agent"))];
        if resolver.exists() {
            binds.push((resolver, PathBuf::from("/etc/resolv.conf")));
        }
        let failed = |source| failure("start a process", name, source);
        command.stdin(Stdio::null()).stdout(out.0).stderr(out.1);
        sandbox::unmark(&mut command);
        enter_before_exec(&mut command, namespace, &binds).map_err(failed)?;
        let mut child = self.spawner.spawn(command).map_err(failed)?;
        match pidfd_of(child.id()) {
            Ok(pidfd) => Ok(Process { child, pidfd, log }),
            Err(source) => {
                let _ended = child.kill().and_then(|()| child.wait());
                Err(failed(source))
            }
        }
    }
}

/// Starts processes from a thread that lives as long as the bed: the signal at a parent's death is sent at the death
/// of the thread that started the child, and callers' threads come and go.
pub(super) struct Spawner {
    jobs: SyncSender<Job>,
}

type Job = (Command, SyncSender<io::Result<Child>>);

impl Spawner {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(0);
        std::thread::Builder::new().name("bed-spawn".to_owned()).spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits for the answer only if the caller's thread has panicked.
                let _unheard = reply.send(command.spawn());
            }
        })?;
        Ok(Self { jobs })
    }

    fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = sync_channel(1);
        let ended = || io::Error::other("the bed's spawning thread has ended");
        self.jobs.send((command, reply)).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }
}

/// Kills every process whose network namespace is one of these, whoever started it, and waits for their end.
pub(super) fn kill_all_in(namespaces: &[Namespace], limit: Duration) -> io::Result<()> {
    let inodes: HashSet<netns::Inode> = namespaces.iter().map(Namespace::inode).collect();
    let deadline = Instant::now() + limit;
    loop {
        let members = netns::members(&inodes);
        if members.is_empty() {
            return Ok(());
        }
        for (pid, inode) in members {
            // Held before it is looked at again: the number may be another's by now.
            let Ok(pidfd) = pidfd_of(pid) else { continue };
            if netns::inode_of(pid) != Some(inode) {
                continue;
            }
            let _ended = pidfd_send_signal(&pidfd, Signal::KILL);
            if !wait_for_end(&pidfd, deadline.saturating_duration_since(Instant::now()))? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

/// What the child does before it becomes the program: only system calls, on values made here.
fn enter_before_exec(
    command: &mut Command,
    namespace: Namespace,
    binds: &[(PathBuf, PathBuf)],
) -> io::Result<()> {
    let text = |path: &PathBuf| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let binds: Vec<(CString, CString)> =
        binds.iter().map(|(from, to)| Ok((text(from)?, text(to)?))).collect::<io::Result<_>>()?;
    let enter = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        // SAFETY: the table of file descriptors stays as it is (no FILES).
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        // Names of namespaces that appear later are seen; what is mounted here is not seen outside.
        mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
        for (from, to) in &binds {
            mount_bind(from.as_c_str(), to.as_c_str())?;
        }
        Ok(())
    };
    // SAFETY: `enter` allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process has ended within the limit.
fn wait_for_end(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))
            .map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A file without a name.
fn tempfile_in(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn read_all(mut file: File) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
