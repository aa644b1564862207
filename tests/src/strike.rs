//! Strikes an agent at a system call of its own: kills it before or after that call, or has the call fail.
//!
//! It is done from outside, by ptrace(2), to the very program that is shipped; so every operation on the kernel and
//! every write of the store is a place to strike at, and no new one can be forgotten. What only reads is passed over.
mod aim;
mod call;
mod trace;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

pub use aim::{Aim, Shot, Watch};
pub use call::{Call, Kind};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Pass,
    /// `kill -9`, and it is not done.
    KillBefore,
    /// It is done, and `kill -9` before the program has seen it.
    KillAfter,
    /// It is not done, and the program is told this error number. Since Linux 6.16.
    Fail(i32),
}

/// Skips the scenario where the kernel has no way to refuse calls for a tracer (before Linux 6.16).
pub fn require_refusals() {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 16) {
        crate::runner::skip(format!("PTRACE_SET_SYSCALL_INFO of Linux 6.16; this is {release}"));
    }
}

/// A process under watch, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Strike {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Strike {
    /// Has `judge` decide about every call of a process that changes something, from when this returns. Threads are
    /// followed, child processes are not.
    ///
    /// # Errors
    /// When the process has ended, or may not be traced.
    pub fn attach(pid: u32, judge: impl FnMut(&Call) -> Verdict + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let (ready, attached) = sync_channel(1);
        // A tracer is a thread: what it has attached to only it may wait for.
        let thread = std::thread::Builder::new().name("strike".to_owned()).spawn(move || {
            let tracer = trace::Tracer::attach(pid, judge);
            let (tracer, outcome) = match tracer {
                Ok(tracer) => (Some(tracer), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Nobody waits any more only if that thread has panicked.
            let _unheard = ready.send(outcome);
            tracer.map_or(Ok(()), |mut tracer| tracer.run(&asked))
        })?;
        attached.recv().map_err(io::Error::other)??;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Lets the process go on unwatched, if it still runs.
    ///
    /// # Errors
    /// What hindered the watch meanwhile.
    pub fn end(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the tracing thread panicked")))
    }
}

impl Drop for Strike {
    fn drop(&mut self) {
        // What hindered it was worth an error only to who asked for one.
        let _hindered = self.join();
    }
}
