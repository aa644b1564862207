//! Keeps the process as small as what it knows: glibc's allocator is generous with it by default, and musl's is slow.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::metrics::resident_bytes;

/// The static program's allocator: musl's own takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Growth in bytes after which freed memory is handed back.
const TRIM_AFTER: u64 = 8 << 20;
/// Allocations of this many bytes are mapped by themselves, and so given back the moment they are freed. It is glibc's
/// own first value; set, it no longer rises to 32 MiB with the first large buffer that is freed, which would leave the
/// buffers of pushes and of table loads as holes in the heap.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 << 10;

/// One arena instead of one per thread: with a few threads that allocate little, several hold more free memory than
/// they save waiting (measured: 50 MiB at 10,000 services of 10 replicas). Before the first thread starts.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    #[allow(
        unsafe_code,
        reason = "mallopt has no safe wrapper; it changes nothing but the allocator's own policy"
    )]
    // SAFETY: no other thread runs yet, and the options take any positive value (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// What was resident after the last time that memory was handed back: of the process, however many agents are in it.
static LOW: AtomicU64 = AtomicU64::new(0);

/// Hands freed memory back to the kernel after a growth.
pub fn hand_back() {
    let (resident, low) = (resident_bytes(), LOW.load(Ordering::Relaxed));
    if resident < low.saturating_add(TRIM_AFTER) {
        LOW.fetch_min(resident, Ordering::Relaxed);
        return;
    }
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "malloc_trim has no safe wrapper; it only gives free pages back")]
    // SAFETY: thread-safe, takes the amount to keep at the top of the heap (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(target_env = "musl")]
    #[allow(unsafe_code, reason = "mi_collect has no safe wrapper; it only gives free pages back")]
    // SAFETY: thread-safe, takes whether to do all that it can (mimalloc.h).
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    LOW.store(resident_bytes(), Ordering::Relaxed);
}
