//! A process tree with its own network, mounts and process numbers.
#![allow(unsafe_code)] // unshare(2), and pre_exec for the parent's death signal.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, mounts, requirements, underlay};
use crate::netns::Namespace;

/// Set for the process inside.
const MARK: &str = "SVC_AGENT_SANDBOX";

/// Proof of being inside. There is one way to get it, and a [`super::Bed`] is built with nothing less.
#[derive(Debug)]
pub struct Sandbox(());

impl Sandbox {
    /// To be called first in `main`, before any thread is started.
    ///
    /// Starts this program again, with the same arguments, as the first process of new process, mount and network
    /// namespaces (and of a user namespace, for who is not root); there it returns. Outside it does not return: it
    /// waits, passes SIGINT, SIGTERM and SIGHUP on, and exits as the one inside does. When the one outside is
    /// killed, the kernel kills all that is inside.
    ///
    /// Inside, `/run/netns`, `/run/svc-agent` and `/etc/netns` are empty, `/proc` is its own, `lo` is up; other
    /// files are the machine's.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Sandbox`].
    pub fn enter() -> Result<Self, Error> {
        if is_inside() {
            return Self::prepare();
        }
        let status = run_inside(std::env::args_os().skip(1).collect(), true)?;
        std::process::exit(exit_code(status));
    }

    /// For a test under the usual test harness: called at its beginning with its own full name, it returns the
    /// sandbox inside and `None` outside, after the test has passed there. It needs root.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Sandbox`]; what the test printed went to our own streams.
    pub fn of_test(test: &str) -> Result<Option<Self>, Error> {
        if is_inside() {
            return Self::prepare().map(Some);
        }
        let arguments = ["--exact", test, "--nocapture", "--include-ignored"].map(OsString::from).to_vec();
        // On a thread of its own: the calling one goes on to be used for other tests.
        let run = || run_inside(arguments, false);
        let status = std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(status) => status,
            Err(panic) => std::panic::resume_unwind(panic),
        })?;
        if status.success() {
            Ok(None)
        } else {
            Err(failed("run the test")(io::Error::other(status.to_string())))
        }
    }

    fn prepare() -> Result<Self, Error> {
        mounts::prepare()?;
        let own = Namespace::current()
            .map_err(|source| Error::Namespace { name: "the sandbox".to_owned(), source })?;
        underlay::loopback_up(&own, "the sandbox")?;
        Ok(Self(()))
    }
}

/// Removes the mark from what a bed starts: an agent in it is no sandbox's first process.
pub(super) fn unmark(command: &mut std::process::Command) {
    command.env_remove(MARK);
}

fn is_inside() -> bool {
    std::env::var_os(MARK).is_some() && std::process::id() == 1
}

/// Makes the namespaces for what the calling thread starts from here on, starts this program there and waits.
fn run_inside(arguments: Vec<OsString>, relay_signals: bool) -> Result<ExitStatus, Error> {
    requirements::require_root_or_userns()?;
    // Before the namespaces: in a new process namespace this thread can start no other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start a runtime"))?;
    unshare()?;
    runtime.block_on(async {
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).env(MARK, "1");
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        if relay_signals {
            // Else a terminal's SIGINT would come twice.
            command.process_group(0);
        }
        // SAFETY: one system call, which allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?))
        };
        let child = command.spawn().map_err(failed("start this program again"))?;
        if relay_signals { wait_and_relay(child).await } else { wait(child).await }
    })
}

fn unshare() -> Result<(), Error> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut flags = UnshareFlags::FS | UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID;
    let as_user = !requirements::is_privileged();
    if as_user {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: the table of file descriptors stays shared (no FILES).
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| failed("make namespaces (of one's own user: before any thread)")(errno.into()))?;
    if as_user {
        // user_namespaces(7): without setgroups a process may map its own user and group, and no other.
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {uid} 1")),
            ("gid_map", format!("0 {gid} 1")),
        ];
        for (file, text) in maps {
            std::fs::write(format!("/proc/self/{file}"), text).map_err(failed("map the user"))?;
        }
    }
    Ok(())
}

async fn wait(mut child: Child) -> Result<ExitStatus, Error> {
    child.wait().await.map_err(failed("wait"))
}

async fn wait_and_relay(mut child: Child) -> Result<ExitStatus, Error> {
    let listen = |kind| signal(kind).map_err(failed("listen for signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    loop {
        let signal = tokio::select! {
            status = child.wait() => return status.map_err(failed("wait")),
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hang_up.recv() => Signal::HUP,
        };
        if let Some(pid) = pid {
            // It may just have ended, which the wait will tell.
            let _ended = rustix::process::kill_process(pid, signal);
        }
    }
}

/// As a shell reports it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Sandbox { what: what.to_owned(), source }
}
