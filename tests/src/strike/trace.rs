//! The tracing itself.
#![allow(unsafe_code)] // ptrace and waitid; no crate in use wraps what is needed of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Verdict;
use super::call::{Call, Process};

/// `PTRACE_SET_SYSCALL_INFO`, since Linux 6.16; not in the crate of constants yet.
const SET_SYSCALL_INFO: libc::c_uint = 0x4212;
/// What stops at system calls have added to SIGTRAP.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// A call that there is none of: the kernel does nothing.
const NO_CALL: u64 = u64::MAX;

/// What is to be done when a call that has begun ends.
#[derive(Clone, Copy, Debug)]
enum AtEnd {
    Kill,
    Fail(i32),
}

/// A thread's tracer.
pub(super) struct Tracer<F> {
    process: Process,
    judge: F,
    at_end: HashMap<i32, AtEnd>,
    /// The call that each thread has begun, and whether the kernel begins it again by itself.
    begun: HashMap<i32, (Begun, bool)>,
}

/// Number and arguments.
type Begun = (u64, [u64; 6]);

impl<F: FnMut(&Call) -> Verdict> Tracer<F> {
    /// Attaches to every thread there is.
    pub(super) fn attach(pid: u32, judge: F) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let process = Process {
            pid,
            pidfd: pidfd_open(number, PidfdFlags::empty())?,
            memory: File::open(format!("/proc/{pid}/mem"))?,
        };
        let mut seized = HashMap::new();
        // Threads may begin meanwhile, by ones that are not traced yet.
        loop {
            let before = seized.len();
            for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                if seized.contains_key(&thread) || seize(thread).is_err() {
                    // Traced already by way of the one that began it, or ended.
                    continue;
                }
                seized.insert(thread, ());
                match request(libc::PTRACE_INTERRUPT, thread, 0) {
                    // It has ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
            if seized.len() == before {
                break;
            }
        }
        if seized.is_empty() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { process, judge, at_end: HashMap::new(), begun: HashMap::new() })
    }

    /// Until the process ends or is to be let go. This thread's end lets go of what is still traced.
    pub(super) fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        // An agent says something to others five times a second, so the flag is looked at often.
        while !stop.load(Ordering::Relaxed) {
            let Some((thread, ended)) = next_event()? else { return Ok(()) };
            if ended && thread.cast_unsigned() == self.process.pid {
                // Left for its parent to be waited for.
                return Ok(());
            }
            let Some(status) = take(thread)? else { continue };
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
            let deliver = match (signal, event) {
                (SYSCALL_STOP, _) => {
                    self.at_call(thread)?;
                    0
                }
                (_, 0) => signal,
                _ => 0,
            };
            match request(libc::PTRACE_SYSCALL, thread, deliver) {
                // Killed meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// At the begin of a call, or at its end.
    fn at_call(&mut self, thread: i32) -> io::Result<()> {
        let Some(mut info) = call_info(thread)? else { return Ok(()) };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: the kernel has filled this variant, as `op` says.
                let entry = unsafe { info.u.entry };
                let begun = (entry.nr, entry.args);
                if self.begun.insert(thread, (begun, false)) == Some((begun, true)) {
                    return Ok(());
                }
                let Some(call) = self.process.classify(entry.nr.cast_signed(), entry.args) else {
                    return Ok(());
                };
                match (self.judge)(&call) {
                    Verdict::Pass => {}
                    Verdict::KillBefore => self.kill()?,
                    Verdict::KillAfter => drop(self.at_end.insert(thread, AtEnd::Kill)),
                    Verdict::Fail(errno) => {
                        info.u.entry.nr = NO_CALL;
                        set_call_info(thread, &mut info)?;
                        self.at_end.insert(thread, AtEnd::Fail(errno));
                    }
                }
            }
            libc::PTRACE_SYSCALL_INFO_EXIT if will_restart(&info) => {
                // A lock was taken, as an example: it has not been done yet, and is no other call.
                if let Some((_, again)) = self.begun.get_mut(&thread) {
                    *again = true;
                }
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => match self.at_end.remove(&thread) {
                None => {}
                Some(AtEnd::Kill) => self.kill()?,
                Some(AtEnd::Fail(errno)) => {
                    info.u.exit =
                        libc::__c_anonymous_ptrace_syscall_info_exit { sval: -i64::from(errno), is_error: 1 };
                    set_call_info(thread, &mut info)?;
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.process.pidfd, Signal::KILL)?)
    }
}

/// ERESTARTSYS to ERESTART_RESTARTBLOCK, which no program ever sees.
fn will_restart(info: &libc::ptrace_syscall_info) -> bool {
    // SAFETY: the kernel has filled this variant, as `op` says.
    let exit = unsafe { info.u.exit };
    exit.is_error != 0 && (-516..=-512).contains(&exit.sval)
}

fn seize(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread, libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE)
}

fn request(what: libc::c_uint, thread: i32, data: i32) -> io::Result<()> {
    let data = without_provenance_mut::<libc::c_void>(usize::try_from(data).unwrap_or_default());
    // SAFETY: none of these requests writes into this process; the data is a number.
    let result = unsafe { libc::ptrace(what, thread, null_mut::<libc::c_void>(), data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `None` when the thread has been killed meanwhile.
fn call_info(thread: i32) -> io::Result<Option<libc::ptrace_syscall_info>> {
    // SAFETY: all fields are numbers.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    match information(libc::PTRACE_GET_SYSCALL_INFO, thread, &mut info) {
        Ok(()) => Ok(Some(info)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn set_call_info(thread: i32, info: &mut libc::ptrace_syscall_info) -> io::Result<()> {
    information(SET_SYSCALL_INFO, thread, info)
}

fn information(what: libc::c_uint, thread: i32, info: &mut libc::ptrace_syscall_info) -> io::Result<()> {
    let size = without_provenance_mut::<libc::c_void>(size_of::<libc::ptrace_syscall_info>());
    // SAFETY: the kernel reads or writes at most `size` bytes at `info`, which lives until this returns.
    let result = unsafe { libc::ptrace(what, thread, size, std::ptr::from_mut(info)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next thread that stopped or ended, and whether it ended; it is left as it is. `None` when none is traced any more.
fn next_event() -> io::Result<Option<(i32, bool)>> {
    loop {
        // SAFETY: all fields are numbers or pointers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // What other threads of this process have started or trace is theirs to wait for.
        let options = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: `info` lives until this returns.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
        if result == 0 {
            let ended = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED].contains(&info.si_code);
            // SAFETY: waitid has filled it.
            return Ok(Some((unsafe { info.si_pid() }, ended)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Takes a thread's event; `None` when there is none any more.
fn take(thread: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    let options = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: `status` lives until this returns.
    match unsafe { libc::waitpid(thread, &raw mut status, options) } {
        -1 => {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) }
        }
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}
