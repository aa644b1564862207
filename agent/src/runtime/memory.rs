//! Keeps the process as small as what it knows: glibc's allocator is generous with it by default.
use crate::runtime::metrics::resident_bytes;

/// Growth in bytes after which freed memory is handed back.
const TRIM_AFTER: u64 = 8 << 20;

/// One arena instead of one per thread: with a few threads that allocate little, several hold more free memory than
/// they save waiting (measured: 50 MiB at 10,000 services of 10 replicas). Before the first thread starts.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    #[allow(
        unsafe_code,
        reason = "mallopt has no safe wrapper; it changes nothing but the allocator's own policy"
    )]
    // SAFETY: no other thread runs yet, and the option takes any positive value (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Hands freed memory back to the kernel after a growth; `low` is what was resident after the last time.
pub fn hand_back(low: &mut u64) {
    let resident = resident_bytes();
    if resident < low.saturating_add(TRIM_AFTER) {
        *low = (*low).min(resident);
        return;
    }
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "malloc_trim has no safe wrapper; it only gives free pages back")]
    // SAFETY: thread-safe, takes the amount to keep at the top of the heap (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
    *low = resident_bytes();
}
