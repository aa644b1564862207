//! Precedence over other work on the machine, for what is measured.
#![allow(unsafe_code)] // sched_setscheduler(2), which rustix lacks.

use std::io;

/// Above every ordinary process, below what the system itself may have in SCHED_FIFO.
const PRIORITY: libc::c_int = 5;

/// Gives the calling thread precedence, and what it starts from here on; says whether the system let it.
pub fn take() -> bool {
    set(0, true).is_ok()
}

/// Gives a thread precedence, or takes it again.
///
/// # Errors
/// What sched_setscheduler(2) said.
pub fn set(thread: libc::pid_t, ahead: bool) -> io::Result<()> {
    let (policy, priority) = if ahead { (libc::SCHED_FIFO, PRIORITY) } else { (libc::SCHED_OTHER, 0) };
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads one sched_param.
    match unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
