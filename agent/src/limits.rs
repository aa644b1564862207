//! Limits that the system sets: a process, and all namespaces of a machine.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The kernel's own default of open files (include/asm-generic/resource.h), should it say none.
const FILES_DEFAULT: u64 = 1024;

/// Lets this process have at least so many files open, or as many as the system lets it. Returns how many.
pub fn raise_file_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|most| most.max(wanted)) };
        if setrlimit(Resource::Nofile, raised).is_err() {
            // A higher maximum needs CAP_SYS_RESOURCE; up to the present one anybody may go.
            let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(FILES_DEFAULT.max(wanted))
}

/// A number below /proc/sys, as this namespace shows it.
pub fn number(key: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}
